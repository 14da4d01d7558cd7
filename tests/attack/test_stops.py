"""Every stop ends a wait for a batch within a second, and everything is released."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from returns.result import Success

from fnlamp import stream
from fnlamp.data import loader, processes, threads
from fnlamp.effect import Defect, Effect, Interrupted, Runtime
from fnlamp.effect.runtime import GLANCE, polled
from fnlamp.effect.signals import Guard

SOON = 1.0


@pytest.fixture(autouse=True)
def _nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


class Waits:
    """A slow item, after some fast ones."""

    def __init__(self, seconds: float, free: int = 2) -> None:
        self.seconds, self.free = seconds, free

    def __len__(self) -> int:
        return 20

    def __getitem__(self, row: int) -> Any:
        if row >= self.free:
            time.sleep(self.seconds)
        return np.float32(row)


SPEC = stream.from_items([np.zeros(1, np.float32)]).spec
LONG = Waits(6.0)


def slow_stream() -> Any:
    return stream.from_function(20, lambda i: np.array([LONG[i]], np.float32), spec=SPEC)


def reading(log: list[int]) -> Callable[[Any], Effect[Any, Any]]:
    def use(batches: Any) -> Effect[Any, Any]:
        def step(count: int, batch: Any) -> int:
            log.append(count + 1)
            return count + 1

        return stream.fold(batches, 0, step)

    return use


WAITS: dict[str, Callable[[list[int]], Effect[Any, Any]]] = {
    "processes": lambda log: loader(LONG, batch_size=1, workers=2).use(reading(log)),
    "shared processes": lambda log: processes(1).use(lambda team: loader(LONG, batch_size=1, workers=team).use(reading(log))),
    "threads": lambda log: threads(2).use(lambda team: loader(LONG, batch_size=1, workers=team).use(reading(log))),
    "prefetch": lambda log: slow_stream().prefetch(1).use(reading(log)),
    "prefetch of processes": lambda log: loader(LONG, batch_size=1, workers=1).use(lambda s: s.prefetch(1).use(reading(log))),
    "staged": lambda log: stream.staged(
        20,
        batch_size=1,
        bucket=2,
        load=lambda rows: [LONG[rows[-1]]],
        spec=SPEC,
        batch=lambda loaded, at: np.zeros(1, np.float32),
    ).use(reading(log)),
}
EACH = pytest.mark.parametrize("build", WAITS.values(), ids=WAITS.keys())


def stop_later(log: list[int], stop: Callable[[], object]) -> list[float]:
    """Stop during the wait for the second batch; the list gets the time."""
    at: list[float] = []

    def watch() -> None:
        while not log:
            time.sleep(0.005)
        time.sleep(0.3)
        at.append(time.monotonic())
        stop()

    threading.Thread(target=watch, daemon=True).start()
    return at


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
@EACH
def test_a_cancel_from_another_thread_ends_the_wait(build: Any) -> None:
    log: list[int] = []
    runtime = Runtime(log=None)
    at = stop_later(log, runtime.cancel.cancel)
    exit = build(log).run_exit(runtime)
    assert isinstance(exit, Interrupted)
    assert exit.state == len(log)
    assert time.monotonic() - at[0] < 2 * SOON  # includes the release of a stuck thread


@EACH
def test_the_first_ctrl_c_ends_the_wait(build: Any) -> None:
    log: list[int] = []
    at = stop_later(log, interrupt)
    exit = build(log).run_exit(Runtime(log=None))
    assert isinstance(exit, Interrupted)
    assert exit.state == len(log)
    assert time.monotonic() - at[0] < 2 * SOON


@EACH
def test_a_ctrl_c_at_the_end_of_a_glance_ends_the_wait_too(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`SimpleQueue.get(timeout=...)` waits without end if the handler outlasts the timeout."""
    handle = Guard.handle

    def slowly(guard: Guard, number: int, frame: Any) -> None:
        handle(guard, number, frame)
        time.sleep(2 * GLANCE)

    monkeypatch.setattr(Guard, "handle", slowly)
    test_the_first_ctrl_c_ends_the_wait(build)


@pytest.mark.slow
@EACH
def test_a_run_in_another_thread_is_cancelled(build: Any) -> None:
    log: list[int] = []
    runtime = Runtime(log=None)
    exits: list[Any] = []
    thread = threading.Thread(target=lambda: exits.append(build(log).run_exit(runtime)), daemon=True)
    thread.start()
    stop_later(log, runtime.cancel.cancel)
    thread.join(10)
    assert isinstance(exits[0], Interrupted)


@pytest.mark.parametrize("signals", [(signal.SIGTERM,), (), (signal.SIGINT,)])
def test_ctrl_c_stops_a_nested_run_with_its_own_signals(signals: Any) -> None:
    log: list[int] = []
    at = stop_later(log, interrupt)
    inner: list[Any] = []

    def nested() -> None:
        inner.append(WAITS["processes"](log).run_exit(Runtime(log=None, signals=signals)))

    assert isinstance(Effect.suspend(nested).then(Effect.from_value(1)).run_exit(Runtime(log=None)), Interrupted)
    assert isinstance(inner[0], Interrupted)
    assert time.monotonic() - at[0] < 2 * SOON


def test_sigterm_stops_a_run_that_names_it() -> None:
    log: list[int] = []
    at = stop_later(log, lambda: os.kill(os.getpid(), signal.SIGTERM))
    exit = WAITS["processes"](log).run_exit(Runtime(log=None, signals=(signal.SIGINT, signal.SIGTERM)))
    assert isinstance(exit, Interrupted)
    assert time.monotonic() - at[0] < 2 * SOON


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_the_caller_ignores_stays_ignored(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_IGN)  # as nohup, or a shell's `&`, starts a program
    try:
        run = Effect.suspend(lambda: os.kill(os.getpid(), number)).map(lambda _: "done")
        assert run.run_exit(Runtime(log=None, signals=(signal.SIGINT, signal.SIGTERM))) == Success("done")
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_a_users_own_wait_can_poll_the_token() -> None:
    def wait() -> None:
        polled.wait(lambda seconds: time.sleep(seconds))

    runtime = Runtime(log=None)
    threading.Timer(0.2, runtime.cancel.cancel).start()
    program: Effect[Any, Any] = Effect.suspend(wait).salvaged(lambda: "reached")
    started = time.monotonic()
    exit = program.run_exit(runtime)
    assert isinstance(exit, Interrupted)
    assert exit.state == "reached"
    assert time.monotonic() - started < SOON


@pytest.mark.slow
def test_the_position_gives_the_same_batch_again_after_a_stop() -> None:
    def use(batches: Any) -> Effect[Any, Any]:
        token = Runtime(log=None)

        def again() -> list[float]:
            threading.Timer(0.2, token.cancel.cancel).start()
            stopped = Effect.suspend(lambda: batches.step(3)).run_exit(token)
            assert isinstance(stopped, Interrupted)
            return [float(batches.step(i).item[0]) for i in (3, 4, 2)]

        return Effect.suspend(again)

    slowly = Waits(0.6, free=0)
    programs: list[Effect[Any, Any]] = [
        loader(slowly, batch_size=1, workers=1).use(use),
        threads(1).use(lambda team: loader(slowly, batch_size=1, workers=team).use(use)),
        stream.from_function(20, lambda i: np.array([slowly[i]], np.float32), spec=SPEC).prefetch(1).use(use),
    ]
    for program in programs:
        assert program.run_exit(Runtime(log=None)) == Success([3.0, 4.0, 2.0])


@pytest.mark.slow
def test_the_position_gives_its_batch_after_an_exception_in_the_parent() -> None:
    def use(batches: Any) -> Effect[Any, Any]:
        def again() -> list[float]:
            def impatient(number: int, frame: Any) -> None:
                raise TimeoutError

            before = signal.signal(signal.SIGALRM, impatient)
            for _ in range(2):
                signal.setitimer(signal.ITIMER_REAL, 0.2)
                with pytest.raises(TimeoutError):
                    Effect.suspend(lambda: batches.step(3)).run(Runtime(log=None))
            signal.signal(signal.SIGALRM, before)
            return [float(batches.step(i).item[0]) for i in (3, 4, 2)]

        return Effect.suspend(again)

    exit = loader(Waits(0.8, free=0), batch_size=1, workers=1).use(use).run_exit(Runtime(log=None))
    assert exit == Success([3.0, 4.0, 2.0]), exit.cause if isinstance(exit, Defect) else exit
