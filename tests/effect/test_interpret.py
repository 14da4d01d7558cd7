"""The interpreter: depth, brackets, interruption, and the places where it may run."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from returns.io import IOFailure, IOResult, IOSuccess
from returns.result import Failure, Result, Success

from fnlamp.effect import (
    CancelToken,
    Defect,
    Effect,
    Exit,
    Interrupted,
    Runtime,
    SystemClock,
    bracket,
    collect,
    do,
    iterate,
    sleep,
)


@pytest.fixture(autouse=True)
def _the_default_handlers_are_there_before_and_after() -> Iterator[None]:
    """No test leaves a guard behind."""
    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
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


def broken() -> Any:
    raise ZeroDivisionError("a bug")


def state_of(result: IOResult[Any, Any]) -> Any:
    """The state of an interruption from `run`."""
    fault = result._inner_value.failure()
    assert isinstance(fault, Interrupted)
    return fault.state


# ------------------------------------------------------------------------------- depth

DEEP = 100_000
ZERO: Effect[int, Any] = Effect.from_value(0)


def chained(step: Callable[[Effect[int, Any]], Effect[int, Any]], start: Effect[int, Any] = ZERO) -> Effect[int, Any]:
    for _ in range(DEEP):
        start = step(start)
    return start


def right_recursion(n: int) -> Effect[int, Any]:
    return Effect.from_value(n) if n == DEEP else Effect.from_value(n + 1).bind(right_recursion)


@do
def counting_block() -> Any:
    total = 0
    for _ in range(DEEP):
        total += yield from Effect.from_value(1)
    return total


@do
def block_around(effect: Effect[int, Any]) -> Any:
    return (yield from effect)


def ever_failing() -> Effect[int, int]:
    tries: list[None] = []
    return Effect.suspend(lambda: tries.append(None)).bind(lambda _: Effect.from_failure(len(tries)))


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda: chained(lambda e: e.bind(lambda n: Effect.from_value(n + 1))), lambda: IOSuccess(DEEP)),
        (lambda: chained(lambda e: e.map(lambda n: n + 1)), lambda: IOSuccess(DEEP)),
        (lambda: chained(lambda e: e.tap(Effect.from_value)), lambda: IOSuccess(0)),
        (lambda: chained(lambda e: e.then(ZERO)), lambda: IOSuccess(0)),
        (lambda: chained(lambda e: ZERO.then(e)), lambda: IOSuccess(0)),
        (
            lambda: chained(lambda e: e.lash(lambda n: Effect.from_failure(n + 1)), Effect.from_failure(0)),
            lambda: IOFailure(DEEP),
        ),
        (lambda: chained(lambda e: e.alt(lambda n: n + 1), Effect.from_failure(0)), lambda: IOFailure(DEEP)),
        (lambda: chained(lambda e: e.swap()), lambda: IOSuccess(0)),
        (lambda: chained(lambda e: e.named("name")), lambda: IOSuccess(0)),
        (lambda: chained(lambda e: e.ensuring(lambda _: ZERO)), lambda: IOSuccess(0)),
        (lambda: chained(lambda e: e.local(lambda runtime: runtime)), lambda: IOSuccess(0)),
        (lambda: chained(lambda e: e.retry(1)), lambda: IOSuccess(0)),
        (lambda: chained(block_around), lambda: IOSuccess(0)),
        (lambda: right_recursion(0), lambda: IOSuccess(DEEP)),
        (lambda: collect([Effect.from_value(1)] * DEEP).map(sum), lambda: IOSuccess(DEEP)),
        (lambda: iterate(0, lambda n: Effect.from_value(Success(n + 1) if n < DEEP else Failure(n))), lambda: IOSuccess(DEEP)),
        (counting_block, lambda: IOSuccess(DEEP)),
        (lambda: ever_failing().retry(DEEP), lambda: IOFailure(DEEP + 1)),
    ],
    ids=[
        *("bind", "map", "tap", "then", "then to the right", "lash", "alt", "swap", "named", "ensuring", "local", "retry"),
        *("do", "right recursion", "collect", "iterate", "yields of one do", "tries of one retry"),
    ],
)
@pytest.mark.parametrize("deep", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_many_thousand_steps_do_not_overflow(
    build: Callable[[], Effect[Any, Any]],
    expected: Callable[[], IOResult[Any, Any]],
    deep: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(globals(), "DEEP", deep)
    assert build().run() == expected()


# ------------------------------------------------------------------------------- brackets


def bracketed(how: str, log: list[Any], runtime: Runtime) -> Effect[Any, Any]:
    """A resource whose use ends in the given way, with a step after it."""

    def body(_: Runtime) -> Result[str, str]:
        match how:
            case "bug":
                raise ZeroDivisionError("a bug")
            case "cancel token":
                runtime.cancel.cancel()
            case "Ctrl-C":
                ctrl_c()
        return Failure("no") if how == "failure" else Success("value")

    def use(resource: str) -> Effect[str, str]:
        log.append(f"use {resource}")
        if how == "use raises":
            raise ZeroDivisionError("a bug")
        return Effect.call(body).bind(lambda value: Effect.from_value(value))

    def release(resource: str, exit: Exit[str, str]) -> Effect[None, Any]:
        return noted(log, (f"release {resource}", type(exit)))

    return bracket(Effect.from_value("file"), use, release)


BRACKET_TABLE = [
    ("success", Success),
    ("failure", Failure),
    ("bug", Defect),
    ("cancel token", Interrupted),
    ("Ctrl-C", Interrupted),
    ("use raises", Defect),
]


@pytest.mark.parametrize(("how", "kind"), BRACKET_TABLE, ids=[how for how, _ in BRACKET_TABLE])
def test_a_release_runs_exactly_once_whatever_the_outcome_and_is_given_it(how: str, kind: type) -> None:
    log: list[Any] = []
    runtime = Runtime()
    assert type(bracketed(how, log, runtime).run_exit(runtime)) is kind
    assert log == ["use file", ("release file", kind)]


def test_when_acquiring_fails_there_is_nothing_to_use_or_to_release() -> None:
    log: list[Any] = []
    for acquire in (Effect.from_failure("no"), Effect.suspend(broken)):
        bracket(acquire, lambda _: noted(log, "use"), lambda *_: noted(log, "release")).run_exit()
    assert log == []


def test_acquiring_and_releasing_are_not_interrupted() -> None:
    log: list[Any] = []
    acquire = Effect.suspend(ctrl_c).then(noted(log, "acquired")).then(noted(log, "whole"))
    release = noted(log, "release").then(sleep(0)).then(noted(log, "released"))
    exit = bracket(acquire, lambda _: noted(log, "use"), lambda *_: release).run_exit()
    assert isinstance(exit, Interrupted)
    assert log == ["acquired", "whole", "release", "released"]


def test_a_poll_of_the_cancel_token_during_a_release_does_not_stop_it() -> None:
    log: list[Any] = []

    def polling(runtime: Runtime) -> Result[None, Any]:
        log.append(runtime.cancel.requested)
        return Success(None)

    def nested() -> None:
        log.append(Effect.call(polling).run())

    release = Effect.call(polling).then(Effect.suspend(nested))
    exit = Effect.suspend(ctrl_c).then(Effect.call(polling)).ensuring(lambda _: release).run_exit()
    assert isinstance(exit, Interrupted)
    assert log == [False, False, IOSuccess(None)]


def test_a_release_that_breaks_after_a_success_surfaces() -> None:
    with pytest.raises(ZeroDivisionError):
        bracket(ZERO, Effect.from_value, lambda *_: Effect.suspend(broken)).run()
    assert bracket(ZERO, Effect.from_value, lambda *_: Effect.from_failure("close")).run() == IOFailure("close")


def test_a_release_that_breaks_after_a_bug_adds_a_note_to_it() -> None:
    def worse() -> None:
        raise ValueError("cannot close")

    with pytest.raises(ZeroDivisionError, match="a bug") as caught:
        bracket(ZERO, lambda _: Effect.suspend(broken), lambda *_: Effect.suspend(worse)).run()
    assert len(caught.value.__notes__) == 1
    assert "the release failed too" in caught.value.__notes__[0]
    assert "cannot close" in caught.value.__notes__[0]


@pytest.mark.parametrize("release", [Effect.from_failure("close"), Effect.suspend(broken)], ids=["failure", "bug"])
def test_the_first_failure_wins_over_that_of_the_release(release: Effect[Any, Any]) -> None:
    assert bracket(ZERO, lambda _: Effect.from_failure("use"), lambda *_: release).run() == IOFailure("use")


def test_a_release_that_cannot_be_built_is_a_bug_of_the_release() -> None:
    with pytest.raises(ZeroDivisionError):
        bracket(ZERO, Effect.from_value, lambda *_: broken()).run()


# ------------------------------------------------------------------------------- interruption


def polling(stop_at: int, log: list[Any]) -> Effect[int, Any]:
    """A long loop that polls the token before each step, and gets Ctrl-C at one of them."""

    def loop(runtime: Runtime) -> Result[int, Any] | Interrupted:
        for step in range(1_000):
            if runtime.cancel.requested:
                return Interrupted(step)
            if step == stop_at:
                ctrl_c()
            log.append(step)
        return Success(1_000)

    return Effect.call(loop)


def test_ctrl_c_lets_a_polling_call_stop_with_its_state() -> None:
    log: list[Any] = []
    program = polling(3, log).bind(lambda _: noted(log, "next")).ensuring(lambda outcome: noted(log, type(outcome)))
    assert state_of(program.run()) == 4
    assert log == [0, 1, 2, 3, Interrupted]


def test_ctrl_c_stops_the_program_at_its_next_step() -> None:
    log: list[Any] = []
    program = Effect.suspend(ctrl_c).then(noted(log, "next"))
    assert state_of(program.run()) is None
    assert log == []


def test_ctrl_c_ends_an_endless_loop() -> None:
    count: list[None] = []

    def turn(_: int) -> Effect[Result[int, int], Any]:
        if len(count) == 500:
            ctrl_c()
        return Effect.suspend(lambda: count.append(None)).map(lambda _: Success(0))

    assert isinstance(iterate(0, turn).run_exit(), Interrupted)
    assert len(count) == 500


def test_ctrl_c_in_the_last_step_is_an_interruption_with_the_value() -> None:
    assert state_of(Effect.suspend(lambda: ctrl_c() or "value").run()) == "value"


def test_no_handler_sees_ctrl_c() -> None:
    log: list[Any] = []

    def seen(_: Any) -> Any:
        log.append("seen")
        return ZERO

    stop = Effect.suspend(ctrl_c).then(ZERO)
    for program in (stop.lash(seen), stop.alt(seen), stop.compose_result(seen), stop.attempted(), stop.retry(3, when=seen)):
        assert isinstance(program.then(noted(log, "next")).run_exit(), Interrupted)
    assert log == []


def test_the_cancel_token_stops_a_run_before_its_first_step() -> None:
    runtime = Runtime()
    runtime.cancel.cancel()
    log: list[Any] = []
    assert isinstance(noted(log, "ran").run_exit(runtime), Interrupted)
    assert log == []


def test_the_cancel_token_can_be_used_from_within_and_does_not_leave_the_run() -> None:
    runtime = Runtime()
    program = Effect.asks(lambda inner: inner.cancel.cancel()).then(ZERO)
    assert isinstance(program.run_exit(runtime), Interrupted)
    assert not runtime.cancel.requested
    assert ZERO.run(runtime) == IOSuccess(0)


def test_a_run_after_an_interrupted_one_is_fresh() -> None:
    runtime = Runtime()
    signals = [1]
    program = Effect.suspend(lambda: signals and ctrl_c(signals.pop())).then(ZERO)
    assert isinstance(program.run_exit(runtime), Interrupted)
    assert program.run(runtime) == IOSuccess(0)


def test_salvage_adds_the_state_that_an_interruption_lacks() -> None:
    stop = Effect.suspend(ctrl_c).then(ZERO)
    salvaged: Effect[int, Any] = stop.salvaged(lambda: "half")
    assert state_of(salvaged.run()) == "half"
    assert state_of(salvaged.ensuring(lambda _: ZERO).map(str).named("outer").run()) == "half"
    known: Effect[int, Any] = polling(3, []).salvaged(lambda: "half")
    assert state_of(known.run()) == 4
    untouched: Effect[int, Any] = ZERO.salvaged(broken)
    assert untouched.run() == IOSuccess(0)


def test_a_second_ctrl_c_raises_in_the_users_code_and_releases_run() -> None:
    log: list[Any] = []

    def stubborn() -> None:
        ctrl_c(2)
        log.append("not reached")

    use = Effect.suspend(stubborn).lash(lambda _: noted(log, "seen"))
    program = bracket(ZERO, lambda _: use, lambda _, outcome: noted(log, (type(outcome), type(outcome.cause))))
    with pytest.raises(KeyboardInterrupt):
        program.run()
    assert log == [(Defect, KeyboardInterrupt)]


def test_a_second_ctrl_c_does_not_stop_a_release_and_a_third_does() -> None:
    log: list[Any] = []

    def slow(signals: int) -> None:
        ctrl_c(signals)
        log.append(f"released after {signals}")

    def program(signals: int) -> Effect[Any, Any]:
        return bracket(ZERO, Effect.from_value, lambda *_: Effect.suspend(lambda: slow(signals))).then(noted(log, "next"))

    assert isinstance(program(2).run_exit(), Interrupted)
    with pytest.raises(KeyboardInterrupt):
        program(3).run()
    assert log == ["released after 2"]


def test_signals_during_the_restoration_of_handlers_leave_none_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    install = signal.signal

    def noisy(number: int, handler: Any) -> Any:
        if handler is signal.default_int_handler:
            ctrl_c(3)
        return install(number, handler)

    with monkeypatch.context() as patch:
        patch.setattr(signal, "signal", noisy)
        assert isinstance(ZERO.run_exit(), Interrupted)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def run_with_signals_at(moments: set[int], program: Effect[Any, Any]) -> int:
    """Run it with Ctrl-C at these moments (there is one at each line, call and return); returns the number of moments."""
    count = 0

    def trace(frame: Any, event: str, arg: Any) -> Any:
        nonlocal count
        count += 1
        if count in moments:
            handler: Any = signal.getsignal(signal.SIGINT)
            handler(signal.SIGINT, frame)
        return trace

    before = sys.gettrace()
    gc.disable()  # hypothesis counts the collector's time in a callback, where Python drops exceptions
    try:
        sys.settrace(trace)
        program.run_exit()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
        gc.enable()
    return count


@pytest.mark.parametrize("use", [ZERO, Effect.from_failure("no"), Effect.suspend(broken)], ids=["success", "failure", "bug"])
@pytest.mark.parametrize("stride", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_two_signals_at_any_time_leak_nothing_and_leave_no_handler(use: Effect[Any, Any], stride: int) -> None:
    held: list[None] = []
    acquire, release = Effect.suspend(lambda: held.append(None)), Effect.suspend(held.pop)
    program = bracket(acquire, lambda _: bracket(acquire, lambda _: use, lambda *_: release), lambda *_: release)
    moments = run_with_signals_at(set(), program)
    assert moments > 100
    for first in range(1, moments, 20 * stride):
        for second in range(first + 1, moments + 1, stride):
            run_with_signals_at({first, second}, program)
            assert held == [], (first, second)
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, (first, second)


def test_sigterm_stops_a_program_unless_the_runtime_leaves_it_out() -> None:
    terminate = Effect.suspend(lambda: signal.raise_signal(signal.SIGTERM)).then(ZERO)
    assert isinstance(terminate.run_exit(Runtime()), Interrupted)
    handler = Effect.suspend(lambda: signal.getsignal(signal.SIGTERM))
    assert handler.run() != IOSuccess(signal.SIG_DFL)
    assert handler.run(Runtime(signals=(signal.SIGINT,))) == IOSuccess(signal.SIG_DFL)


def test_another_librarys_handler_is_unchanged() -> None:
    hits: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: hits.append(number))
    foreign = signal.getsignal(signal.SIGINT)
    assert Effect.suspend(ctrl_c).then(ZERO).run() == IOSuccess(0)
    assert hits == [signal.SIGINT]
    assert signal.signal(signal.SIGINT, signal.default_int_handler) is foreign


def test_handlers_are_restored_on_every_outcome() -> None:
    handler = Effect.suspend(lambda: signal.getsignal(signal.SIGINT))
    assert handler.run() != IOSuccess(signal.default_int_handler)
    for program in (
        ZERO,
        Effect.from_failure(0),
        Effect.suspend(broken),
        Effect.suspend(ctrl_c),
        Effect.suspend(lambda: ctrl_c(2)),
    ):
        program.run_exit()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_ends_a_sleep() -> None:
    clock = SystemClock()
    start = clock.now()
    threading.Timer(0.05, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)).start()
    assert isinstance(sleep(60).then(ZERO).run_exit(), Interrupted)
    assert clock.now() - start < 10


@pytest.mark.slow
@pytest.mark.parametrize("signals", [500, pytest.param(5_000, marks=pytest.mark.slow)])
def test_thousands_of_signals_from_outside_leak_nothing(signals: int) -> None:
    script = Path(__file__).with_name("sigint_stress.py")
    run = subprocess.run([sys.executable, str(script), str(signals)], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert report["sent"] >= report["handled"] >= signals
    assert report["interrupted runs"] >= signals // 5
    assert report["acquired"] >= signals
    assert report["leaked"] == 0
    assert report["handler restored"] is True


# ------------------------------------------------------------------------------- where it may run


def test_a_program_runs_in_a_thread_and_is_cancelled_from_another() -> None:
    runtime = Runtime()
    started = threading.Event()
    exits: list[Any] = []

    def loop(inner: Runtime) -> Interrupted:
        started.set()
        while not inner.cancel.requested:
            inner.clock.sleep(0.001, inner.cancel)
        return Interrupted("stopped")

    thread = threading.Thread(target=lambda: exits.extend([ZERO.run(), Effect.call(loop).run(runtime)]))
    thread.start()
    assert started.wait(10)
    runtime.cancel.cancel()
    thread.join(10)
    assert exits[0] == IOSuccess(0)
    assert state_of(exits[1]) == "stopped"


def test_a_program_runs_inside_another() -> None:
    assert Effect.suspend(lambda: ZERO.map(str).run()).run() == IOSuccess(IOSuccess("0"))


def test_ctrl_c_in_a_nested_run_stops_both() -> None:
    log: list[Any] = []
    inner = Effect.suspend(ctrl_c).then(noted(log, "inner"))
    outer = Effect.suspend(lambda: log.append(type(inner.run_exit()))).then(noted(log, "outer"))
    assert isinstance(outer.run_exit(), Interrupted)
    assert log == [Interrupted]


def test_a_run_that_raises_inside_a_release_leaves_the_shields_as_they_were() -> None:
    nested = bracket(ZERO, Effect.from_value, lambda *_: Effect.suspend(lambda: ctrl_c(3)))
    log: list[Any] = []
    # The third signal breaks the nested release, and with it the outer one; the steps after it are interrupted as usual.
    exit = ZERO.ensuring(lambda _: Effect.suspend(nested.run)).then(noted(log, "next")).run_exit()
    assert isinstance(exit, Defect)
    assert isinstance(exit.cause, KeyboardInterrupt)
    assert log == []


def test_a_program_runs_inside_a_running_event_loop_as_in_a_notebook() -> None:
    async def cell() -> IOResult[int, Any]:
        return ZERO.run()

    assert asyncio.run(cell()) == IOSuccess(0)


@pytest.mark.parametrize("transform", [jax.jit, jax.grad, jax.vmap], ids=["jit", "grad", "vmap"])
def test_running_inside_a_jax_transformation_raises(transform: Any) -> None:
    log: list[Any] = []

    def function(x: jax.Array) -> jax.Array:
        noted(log, "ran").run()
        return x

    with pytest.raises(RuntimeError, match="inside a JAX transformation"):
        transform(function)(jnp.zeros(3) if transform is jax.vmap else 0.0)
    assert log == []


def test_building_a_program_inside_a_jax_transformation_is_fine() -> None:
    assert jax.jit(lambda x: (Effect.from_value(x).map(str), x)[1])(1.0) == 1.0


def test_a_changed_runtime_may_have_its_own_cancel_token() -> None:
    own = CancelToken()
    deaf = Effect.suspend(ctrl_c).then(ZERO).local(lambda runtime: replace(runtime, cancel=own))
    log: list[Any] = []
    assert isinstance(deaf.tap(lambda _: noted(log, "next")).run_exit(), Interrupted)
    assert log == []
