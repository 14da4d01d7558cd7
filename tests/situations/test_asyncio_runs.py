"""Ctrl-C inside `asyncio.run`, and under the handlers of other libraries, stops a run and releases what it holds."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from returns.io import IOSuccess
from returns.result import Failure, Success

from fnlamp.effect import Defect, Effect, Interrupted, Runtime, bracket, iterate, sleep

SILENT = Runtime(log=None)


@pytest.fixture(autouse=True)
def _the_default_handlers_are_there_before_and_after() -> Iterator[None]:
    defaults: dict[Any, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGUSR1: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in defaults.items()}
    yield
    after = {number: signal.getsignal(number) for number in defaults}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert after == defaults


def ctrl_c(times: int = 1) -> None:
    for _ in range(times):
        signal.raise_signal(signal.SIGINT)


def noted(log: list[Any], word: Any) -> Effect[None, Any]:
    return Effect.suspend(lambda: log.append(word))


def training(log: list[Any], steps: int = 1_000, signals: dict[int, int] | None = None) -> Effect[int, Any]:
    """A loop that holds a resource, and gets Ctrl-C at some of its steps, once or more often."""
    reached: list[int] = []

    def step(n: int) -> Effect[Any, Any]:
        def body() -> Any:
            reached.append(n)
            ctrl_c((signals or {}).get(n, 0))
            return Success(n + 1) if n < steps else Failure(n)

        return Effect.suspend(body)

    loop: Effect[int, Any] = bracket(
        Effect.suspend(lambda: log.append("acquire")),
        lambda _: iterate(0, step),
        lambda _, outcome: Effect.suspend(lambda: log.append(type(outcome))),
    )
    return loop.named("training").salvaged(lambda: reached[-1])


# ------------------------------------------------------------------------------- asyncio


def test_ctrl_c_inside_asyncio_run_is_an_interruption_and_the_coroutine_continues() -> None:
    log: list[Any] = []

    async def main() -> Any:
        outcome = training(log, signals={5: 1}).run(SILENT)
        await asyncio.sleep(0)  # asyncio has not cancelled the task: the run has taken the signal
        return outcome

    fault = asyncio.run(main())._inner_value.failure()
    assert isinstance(fault, Interrupted)
    assert fault.state == 5
    assert log == ["acquire", Interrupted]


def test_a_second_ctrl_c_inside_asyncio_run_raises_with_the_state_and_ends_asyncio() -> None:
    log: list[Any] = []

    async def main() -> Any:
        return training(log, signals={5: 2}).run(SILENT)

    with pytest.raises(KeyboardInterrupt) as caught:
        asyncio.run(main())
    assert caught.value.state == 5  # type: ignore[attr-defined]
    assert log == ["acquire", Defect]


def test_asyncios_own_handler_is_restored_after_the_run() -> None:
    async def main() -> None:
        before = signal.getsignal(signal.SIGINT)
        assert before is not signal.default_int_handler
        assert training([]).run(SILENT).unwrap()
        assert signal.getsignal(signal.SIGINT) is before
        ctrl_c()
        await asyncio.sleep(10)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())


def test_runs_one_after_the_other_and_in_a_runner() -> None:
    async def main(signals: dict[int, int]) -> Any:
        return training([], steps=10, signals=signals).run_exit(SILENT)

    with asyncio.Runner() as runner:
        outcomes = [runner.run(main(signals)) for signals in ({}, {3: 1}, {}, {4: 1})]
    assert [type(outcome) for outcome in outcomes] == [Success, Interrupted, Success, Interrupted]


def test_a_run_in_a_task_and_one_nested_in_another_run() -> None:
    async def inner() -> Any:
        return training([], signals={5: 1}).run_exit(SILENT)

    async def main() -> Any:
        return await asyncio.create_task(inner())

    assert isinstance(asyncio.run(main()), Interrupted)
    nested = Effect.suspend(lambda: asyncio.run(main())).then(Effect.from_value(1))
    assert isinstance(nested.run_exit(SILENT), Interrupted)


def test_a_run_in_a_thread_of_asyncio_is_stopped_by_its_token() -> None:
    runtime = Runtime(log=None)

    async def main() -> Any:
        endless = Effect.suspend(lambda: time.sleep(0.01))
        task = asyncio.create_task(asyncio.to_thread(iterate(0, lambda n: endless.map(lambda _: Success(n))).run_exit, runtime))
        await asyncio.sleep(0.1)
        runtime.cancel.cancel()
        return await task

    assert isinstance(asyncio.run(main()), Interrupted)


def test_a_handler_of_the_loop_is_unchanged() -> None:
    hits: list[str] = []

    async def main() -> Any:
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, hits.append, "hit")
        outcome = training([], steps=10, signals={5: 1}).run_exit(SILENT)
        await asyncio.sleep(0.05)
        asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)
        return outcome

    assert asyncio.run(main()) == Success(10)
    assert hits == ["hit"]


# ------------------------------------------------------------------------------- other libraries


class StopError(Exception):
    """The exception of another library's handler."""


def raising(number: int, frame: Any) -> None:
    raise StopError


def test_a_handler_that_raises_ends_the_run_and_releases() -> None:
    log: list[Any] = []
    signal.signal(signal.SIGINT, raising)
    with pytest.raises(StopError) as caught:
        training(log, signals={5: 1}).run(SILENT)
    assert signal.getsignal(signal.SIGINT) is raising
    assert caught.value.state == 5  # type: ignore[attr-defined]
    assert log == ["acquire", Defect]
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_handler_that_raises_while_something_is_acquired_or_released_waits() -> None:
    log: list[Any] = []

    def whole(word: str, signals: int) -> Effect[Any, Any]:
        return Effect.suspend(lambda: ctrl_c(signals)).then(noted(log, word))

    signal.signal(signal.SIGINT, raising)
    for acquire, release in ((1, 0), (0, 1), (1, 1)):
        program = bracket(whole("acquired", acquire), Effect.from_value, lambda *_, n=release: whole("released", n))
        with pytest.raises(StopError):
            program.run(SILENT)
        assert log == ["acquired", "released"]
        log.clear()
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM])
def test_other_signals_whose_handlers_raise_release_too(number: signal.Signals) -> None:
    log: list[Any] = []
    before = signal.signal(number, raising)
    program = bracket(
        Effect.suspend(lambda: signal.raise_signal(number)).then(noted(log, "acquired")),
        lambda _: Effect.suspend(lambda: log.append("used")),
        lambda *_: Effect.suspend(lambda: log.append("released")),
    )
    with pytest.raises(StopError):
        program.run(SILENT)
    assert log in (["acquired", "released"], ["acquired", "used", "released"])
    assert signal.signal(number, before) is raising


def test_a_handler_that_only_counts_is_called_each_time_and_the_run_continues() -> None:
    hits: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: hits.append(number))
    assert training([], steps=10, signals={2: 1, 4: 2}).run(SILENT) == IOSuccess(10)
    assert len(hits) == 3
    released = bracket(Effect.from_value(1), Effect.from_value, lambda *_: Effect.suspend(lambda: ctrl_c(4)))
    assert released.run(SILENT) == IOSuccess(1)
    assert len(hits) == 7
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_handler_that_the_program_installs_stays() -> None:
    def mine(number: int, frame: Any) -> None:
        pass

    Effect.suspend(lambda: signal.signal(signal.SIGUSR1, mine)).run(SILENT)
    assert signal.signal(signal.SIGUSR1, signal.SIG_DFL) is mine


def test_ignored_signals_stay_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert training([], steps=10, signals={2: 3}).run(SILENT) == IOSuccess(10)
    assert signal.signal(signal.SIGINT, signal.default_int_handler) is signal.SIG_IGN


def test_the_signals_of_the_outer_run_stop_a_nested_run_with_its_own_signals() -> None:
    inner = training([], signals={5: 1})
    both: list[Any] = []
    outer = Effect.suspend(lambda: both.append(inner.run_exit(Runtime(log=None, signals=(signal.SIGTERM,)))))
    assert isinstance(outer.then(Effect.from_value(1)).run_exit(SILENT), Interrupted)
    assert isinstance(both[0], Interrupted)
    assert both[0].state == 5
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    def terminated() -> Any:
        program = Effect.suspend(lambda: signal.raise_signal(signal.SIGTERM)).then(Effect.from_value(1))
        return program.run_exit(Runtime(log=None, signals=(signal.SIGTERM,)))

    assert isinstance(Effect.suspend(terminated).then(Effect.from_value(1)).run_exit(SILENT), Interrupted)


# ------------------------------------------------------------------------------- at every line


def run_with_signals_at(moments: set[int], program: Effect[Any, Any], kind: Any) -> int:
    """Run it with a signal at these moments (there is one at each line, call and return); returns the number of moments."""
    count = 0

    def trace(frame: Any, event: str, arg: Any) -> Any:
        nonlocal count
        count += 1
        if count in moments:
            handler: Any = signal.getsignal(signal.SIGINT)
            handler(signal.SIGINT, frame)
        return trace

    before = sys.gettrace()
    gc.disable()
    try:
        sys.settrace(trace)
        program.run_exit(SILENT)
    except kind:
        pass
    finally:
        sys.settrace(before)
        gc.enable()
    return count


@pytest.mark.parametrize("signals", [1, 2])
def test_another_librarys_handler_that_raises_at_any_line_leaks_nothing(signals: int) -> None:
    held: list[None] = []
    acquire, release = Effect.suspend(lambda: held.append(None)), Effect.suspend(held.pop)
    program = bracket(
        acquire, lambda _: bracket(acquire, lambda _: Effect.from_value(1), lambda *_: release), lambda *_: release
    )
    signal.signal(signal.SIGINT, raising)
    moments = run_with_signals_at(set(), program, StopError)
    assert moments > 100
    for first in range(1, moments + 1, 1 if signals == 1 else 37):
        for second in range(first + 1, moments + 1, 3) if signals == 2 else (0,):
            run_with_signals_at({first, second}, program, StopError)
            assert held == [], (first, second)
            assert signal.getsignal(signal.SIGINT) is raising, (first, second)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_third_ctrl_c_breaks_a_release_that_hangs_and_not_those_that_have_not_begun() -> None:
    log: list[str] = []

    def hanging() -> None:
        ctrl_c(3)
        log.append("not reached")

    def resource(use: Effect[Any, Any], name: str, release: Any) -> Effect[Any, Any]:
        return bracket(Effect.from_value(name), lambda _: use, lambda *_: Effect.suspend(release))

    inner = resource(Effect.from_value(1), "inner", hanging)
    program = resource(resource(inner, "middle", lambda: log.append("middle")), "outer", lambda: log.append("outer"))
    with pytest.raises(KeyboardInterrupt):
        program.run(SILENT)
    assert log == ["middle", "outer"]


def test_a_signal_from_another_process_ends_a_wait_at_once() -> None:
    started = time.monotonic()
    threading.Timer(0.1, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)).start()

    async def main() -> Any:
        return sleep(60).then(Effect.from_value(1)).run_exit(SILENT)

    assert isinstance(asyncio.run(main()), Interrupted)
    assert time.monotonic() - started < 5
