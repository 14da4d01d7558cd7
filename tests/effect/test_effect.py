"""The container: building, composing, running, and returns' functions on it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from returns.context import RequiresContextIOResult
from returns.converters import flatten
from returns.io import IO, IOFailure, IOResult, IOSuccess
from returns.iterables import Fold
from returns.pipeline import flow, managed, pipe
from returns.pointfree import (
    alt,
    apply,
    bimap,
    bind,
    bind_io,
    bind_ioresult,
    bind_result,
    compose_result,
    lash,
    map_,
)
from returns.result import Failure, Result, Success

from fnlamp.effect import CancelToken, Defect, Effect, Interrupted, Resource, Runtime, bracket, collect, do, iterate, sleep


class InstantClock:
    """A clock whose sleeps return at once and are recorded."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def now(self) -> float:
        return sum(self.slept)

    def sleep(self, seconds: float, cancel: CancelToken) -> None:
        self.slept.append(seconds)


def noted(log: list[str], word: str) -> Effect[None, Any]:
    """A side effect that is recorded."""
    return Effect.suspend(lambda: log.append(word))


def increased(n: int) -> Effect[int, Any]:
    return Effect.from_value(n + 1)


def broken() -> Any:
    raise ZeroDivisionError("a bug")


# ------------------------------------------------------------------------------- nothing runs at build time


def every_program(log: list[str]) -> list[Effect[Any, Any]]:
    """One program for each way to build one; each writes to the log when it runs."""
    call = noted(log, "call")

    def spy(word: str, result: Any) -> Callable[..., Any]:
        def function(*_: Any) -> Any:
            log.append(word)
            return result

        return function

    @do
    def block() -> Any:
        log.append("do")
        yield from call

    return [
        call.map(spy("map", 1)),
        call.bind(spy("bind", call)),
        call.tap(spy("tap", call)),
        call.then(call),
        call.zip(call),
        call.apply(Effect.from_value(spy("apply", 1))),
        Effect.from_failure(0).lash(spy("lash", call)),
        Effect.from_failure(0).alt(spy("alt", 1)),
        call.compose_result(spy("compose_result", call)),
        call.attempted(),
        call.swap(),
        call.bind_result(spy("bind_result", Success(1))),
        call.bind_io(spy("bind_io", IO(1))),
        call.bind_ioresult(spy("bind_ioresult", IOSuccess(1))),
        Effect.from_failure(0).retry(1, when=spy("when", True)),
        call.ensuring(spy("ensuring", call)),
        call.local(lambda runtime: log.append("local") or runtime),
        call.named("name"),
        Effect.attempt(spy("attempt", 1), ValueError, str),
        Effect.call(spy("call", Success(1))),
        Effect.asks(spy("asks", 1)),
        Effect.access(spy("access", call)),
        Effect.from_reader(RequiresContextIOResult(spy("reader", IOSuccess(1)))),
        bracket(call, spy("use", call), spy("release", call)),
        Resource.make(call, spy("release", call)).use(spy("use", call)),
        block(),
        collect([call, call]),
        iterate(0, lambda n: call.map(lambda _: Failure(n))),
    ]


def test_building_a_program_runs_nothing() -> None:
    log: list[str] = []
    for program in every_program(log):
        repr(program)
        program.explain()
    assert log == []


def test_a_program_runs_again_each_time_in_the_same_way_with_the_same_answer() -> None:
    for index in range(len(every_program([]))):
        log: list[str] = []
        program = every_program(log)[index]
        first = program.run()
        assert log != [], index
        once = list(log)
        assert str(program.run()) == str(first)
        assert log == 2 * once, index


# ------------------------------------------------------------------------------- combinators


def half(n: int) -> Result[int, str]:
    return Success(n // 2) if n % 2 == 0 else Failure("odd")


FOUR: Effect[int, str] = Effect.from_value(4)
NO: Effect[int, str] = Effect.from_failure("no")


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (FOUR, IOSuccess(4)),
        (NO, IOFailure("no")),
        (Effect.from_result(Success(4)), IOSuccess(4)),
        (Effect.from_result(Failure("no")), IOFailure("no")),
        (Effect.from_io(IO(4)), IOSuccess(4)),
        (Effect.from_failed_io(IO("no")), IOFailure("no")),
        (Effect.from_ioresult(IOSuccess(4)), IOSuccess(4)),
        (Effect.from_ioresult(IOFailure("no")), IOFailure("no")),
        (Effect.call(lambda runtime: Success(4)), IOSuccess(4)),
        (Effect.call(lambda runtime: Failure("no")), IOFailure("no")),
        (FOUR.map(lambda n: n + 1), IOSuccess(5)),
        (NO.map(lambda n: n + 1), IOFailure("no")),
        (FOUR.bind(increased), IOSuccess(5)),
        (FOUR.bind(lambda n: Effect.from_failure(n)), IOFailure(4)),
        (NO.bind(increased), IOFailure("no")),
        (FOUR.tap(increased), IOSuccess(4)),
        (FOUR.tap(lambda n: Effect.from_failure("tap")), IOFailure("tap")),
        (FOUR.then(Effect.from_value(5)), IOSuccess(5)),
        (NO.then(FOUR), IOFailure("no")),
        (FOUR.zip(Effect.from_value(5)), IOSuccess((4, 5))),
        (FOUR.zip(NO), IOFailure("no")),
        (FOUR.apply(Effect.from_value(str)), IOSuccess("4")),
        (NO.apply(Effect.from_failure("second")), IOFailure("no")),
        (FOUR.lash(lambda error: Effect.from_value(0)), IOSuccess(4)),
        (NO.lash(lambda error: Effect.from_value(error + "!")), IOSuccess("no!")),
        (NO.lash(lambda error: Effect.from_failure(1)), IOFailure(1)),
        (FOUR.alt(len), IOSuccess(4)),
        (NO.alt(len), IOFailure(2)),
        (FOUR.compose_result(lambda result: Effect.from_value(result)), IOSuccess(Success(4))),
        (NO.compose_result(lambda result: Effect.from_value(result)), IOSuccess(Failure("no"))),
        (FOUR.attempted(), IOSuccess(Success(4))),
        (NO.attempted(), IOSuccess(Failure("no"))),
        (FOUR.swap(), IOFailure(4)),
        (NO.swap(), IOSuccess("no")),
        (FOUR.bind_result(half), IOSuccess(2)),
        (Effect.from_value(3).bind_result(half), IOFailure("odd")),
        (NO.bind_result(half), IOFailure("no")),
        (FOUR.bind_io(IO), IOSuccess(4)),
        (FOUR.bind_ioresult(IOResult.from_value), IOSuccess(4)),
        (FOUR.bind_ioresult(IOResult.from_failure), IOFailure(4)),
        (NO.bind_ioresult(IOResult.from_value), IOFailure("no")),
        (FOUR.named("four"), IOSuccess(4)),
        (NO.named("none"), IOFailure("no")),
        (FOUR.ensuring(lambda _: Effect.from_value("ignored")), IOSuccess(4)),
        (FOUR.ensuring(lambda _: Effect.from_failure("finalizer")), IOFailure("finalizer")),
        (NO.ensuring(lambda _: Effect.from_failure("finalizer")), IOFailure("no")),
    ],
)
def test_each_combinator_behaves(program: Effect[Any, Any], expected: IOResult[Any, Any]) -> None:
    assert program.run() == expected


def test_after_a_failure_nothing_more_runs() -> None:
    log: list[str] = []
    program = noted(log, "a").then(NO).map(lambda _: log.append("map")).then(noted(log, "b")).tap(lambda _: noted(log, "c"))
    assert program.run() == IOFailure("no")
    assert log == ["a"]


def test_ensuring_gives_its_finalizer_the_outcome() -> None:
    seen: list[Any] = []
    for program in (FOUR, NO):
        program.ensuring(lambda outcome: Effect.suspend(partial(seen.append, outcome))).run()
    assert seen == [Success(4), Failure("no")]


def test_local_changes_the_runtime_for_its_program_only() -> None:
    device = Effect.asks(lambda runtime: runtime.device)
    changed = device.local(lambda runtime: Runtime(device="inner", cancel=runtime.cancel))
    assert device.zip(changed).zip(device).run(Runtime(device="outer")) == IOSuccess((("outer", "inner"), "outer"))
    failed = changed.bind(Effect.from_failure).lash(lambda _: device)
    assert failed.run(Runtime(device="outer")) == IOSuccess("outer")


def test_attempt_turns_only_the_named_exceptions_into_failures() -> None:
    assert Effect.attempt(lambda: int("4"), ValueError, str).run() == IOSuccess(4)
    assert Effect.attempt(lambda: {}["x"], (IndexError, KeyError), lambda error: error.args).run() == IOFailure(("x",))
    with pytest.raises(ZeroDivisionError):
        Effect.attempt(broken, ValueError, str).run()


def test_a_program_converts_from_and_to_a_reader_of_returns() -> None:
    reader: RequiresContextIOResult[Any, Any, Runtime] = RequiresContextIOResult(lambda runtime: IOSuccess(runtime.device))
    assert Effect.from_reader(reader).run(Runtime(device="cpu")) == IOSuccess("cpu")
    assert Effect.from_reader(RequiresContextIOResult.from_failure("no")).run() == IOFailure("no")
    assert Effect.asks(lambda runtime: runtime.device).to_reader()(Runtime(device="gpu")) == IOSuccess("gpu")
    assert NO.to_reader().map(str)(Runtime()) == IOFailure("no")


# ------------------------------------------------------------------------------- retry


def busy(times: int, tries: list[int]) -> Effect[str, str]:
    """Fails that many times, then works."""

    def attempt(_: Runtime) -> Result[str, str]:
        tries.append(len(tries))
        return Failure("busy") if len(tries) <= times else Success("done")

    return Effect.call(attempt)


def test_retry_waits_longer_each_time_until_the_program_works() -> None:
    clock, tries = InstantClock(), list[int]()
    program = busy(3, tries).retry(5, delay=lambda attempt: 2.0**attempt)
    assert program.run(Runtime(clock=clock)) == IOSuccess("done")
    assert clock.slept == [1, 2, 4]
    assert len(tries) == 4


def test_retry_gives_up_with_the_last_failure() -> None:
    tries = list[int]()
    assert busy(9, tries).retry(2).run(Runtime(clock=InstantClock())) == IOFailure("busy")
    assert len(tries) == 3


def test_retry_tries_again_only_if_when_is_true() -> None:
    tries = list[int]()
    assert busy(9, tries).retry(5, when=lambda error: error != "busy").run() == IOFailure("busy")
    assert len(tries) == 1


# ------------------------------------------------------------------------------- returns' functions


def test_the_pointfree_functions_of_returns_work_in_a_flow() -> None:
    program: Any = flow(
        Effect.from_value(1),
        bind(increased),
        map_(lambda n: n * 10),
        lash(lambda error: Effect.from_value(0)),
        alt(str),
        bind_result(Success),
        bind_ioresult(IOSuccess),
        bind_io(IO),
        compose_result(Effect.from_result),
        bimap(lambda n: n + 1, str),
        apply(Effect.from_value(lambda n: n + 1)),
    )
    assert program.run() == IOSuccess(22)
    later: Any = pipe(Effect.from_value, bind(increased), bimap(str, str))
    assert later(1).run() == IOSuccess("2")


def test_fold_collect_stops_at_the_first_failure_and_collect_all_continues() -> None:
    log: list[str] = []
    one, no, three = (noted(log, word).then(effect) for word, effect in [("1", FOUR), ("2", NO), ("3", FOUR)])
    empty: Effect[tuple[int, ...], str] = Effect.from_value(())
    assert Fold.collect([one, three], empty).run() == IOSuccess((4, 4))
    log.clear()
    assert Fold.collect([one, no, three], empty).run() == IOFailure("no")
    assert log == ["1", "2"]
    assert Fold.collect_all([one, no, three], empty).run() == IOSuccess((4, 4))
    assert Fold.collect([FOUR] * 2_000, empty).map(len).run() == IOSuccess(2_000)


def test_flatten_and_managed_of_returns_work() -> None:
    assert flatten(Effect.from_value(Effect.from_value(1))).run() == IOSuccess(1)
    log: list[str] = []
    program: Any = managed(lambda n: increased(n), lambda n, result: noted(log, f"release {n} after {result}"))(FOUR)
    assert program.run() == IOSuccess(5)
    assert log == ["release 4 after <Success: 5>"]


# ------------------------------------------------------------------------------- mistakes are reported


def forgetful(n: Any, *_: Any) -> Any:
    return n * 2


@pytest.mark.parametrize(
    "program",
    [
        FOUR.bind(forgetful),
        FOUR.tap(forgetful),
        NO.lash(lambda error: Effect.from_value(4)).bind(forgetful),
        FOUR.compose_result(lambda result: FOUR.bind(forgetful)),
        bracket(FOUR, forgetful, lambda *_: FOUR),
        iterate(4, forgetful),
    ],
)
def test_a_function_that_returns_no_effect_is_named_with_its_result(program: Effect[Any, Any]) -> None:
    with pytest.raises(TypeError, match=r"^forgetful returned int, expected Effect"):
        program.run()


def test_a_handler_that_returns_no_effect_is_named_too() -> None:
    with pytest.raises(TypeError, match=r"^len returned int, expected Effect"):
        NO.lash(len).run()


def test_a_call_that_returns_no_result_is_named() -> None:
    with pytest.raises(TypeError, match=r"^forgetful returned str, expected Success or Failure"):
        Effect.access(lambda _: Effect.call(partial(forgetful, "a"))).run()


def test_an_effect_has_no_truth_value() -> None:
    with pytest.raises(TypeError, match="only a description"):
        bool(FOUR)


def test_the_repr_is_short_and_has_the_name() -> None:
    assert repr(FOUR) == "<Effect: pure>"
    assert repr(FOUR.map(str).lash(increased)) == "<Effect: pure and 2 more>"
    assert repr(FOUR.named("load").map(str)) == "<Effect: load and 1 more>"
    deep = FOUR
    for _ in range(100_000):
        deep = deep.bind(increased)
    assert len(repr(deep)) < 40


# ------------------------------------------------------------------------------- outcomes


def test_run_gives_an_ioresult_and_raises_bugs() -> None:
    assert FOUR.run() == IOSuccess(4)
    assert NO.run() == IOFailure("no")
    with pytest.raises(ZeroDivisionError, match="a bug"):
        Effect.suspend(broken).run()
    interrupted = Effect.call(lambda _: Interrupted("half")).run().swap()._inner_value.unwrap()
    assert isinstance(interrupted, Interrupted)
    assert interrupted.state == "half"


def test_run_exit_gives_every_outcome_as_a_value() -> None:
    assert FOUR.run_exit() == Success(4)
    assert NO.run_exit() == Failure("no")
    match Effect.suspend(broken).run_exit():
        case Defect(ZeroDivisionError()):
            pass
        case other:
            pytest.fail(f"{other}")
    match Effect.call(lambda _: Interrupted("half")).run_exit():
        case Interrupted("half"):
            pass
        case other:
            pytest.fail(f"{other}")


def test_a_bug_carries_the_names_of_the_steps_around_it() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        Effect.suspend(broken).named("epoch 3").map(str).named("train").run()
    assert caught.value.__notes__ == ["in effect 'epoch 3'", "in effect 'train'"]


@pytest.mark.parametrize(
    ("stop", "kind"),
    [(Effect.suspend(broken), Defect), (Effect.call(lambda _: Interrupted()), Interrupted)],
    ids=["bug", "interruption"],
)
def test_bugs_and_interruptions_are_seen_by_no_handler(stop: Effect[Any, Any], kind: type) -> None:
    log: list[str] = []

    def seen(_: Any) -> Any:
        log.append("seen")
        return FOUR

    for program in (
        stop.lash(seen),
        stop.alt(seen),
        stop.compose_result(seen),
        stop.attempted(),
        stop.swap(),
        stop.retry(3, when=seen),
        stop.retry(3, delay=lambda _: log.append("delay") or 0.0),
        sleep(0).then(stop).bind(seen),
    ):
        assert isinstance(program.run_exit(), kind)
    assert log == []
