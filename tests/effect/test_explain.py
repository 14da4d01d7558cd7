"""Plans of programs: their lines, the order of these, and that nothing is run."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from returns.result import Result, Success

from fnlamp.effect import UNKNOWN, Effect, Explanation, Outline, bracket, do, iterate, sleep
from fnlamp.fault import EmptyEpoch


def named(name: str) -> Any:
    """A user's function, which no explanation may call."""

    def function(*_: Any) -> Any:
        raise AssertionError(f"explain ran {name}")

    function.__qualname__ = name
    return function


load, evaluate, report, checked, tell, recover, close = map(
    named, ["load", "evaluate", "report", "checked", "tell", "recover", "close"]
)


def lines(program: Effect[Any, Any]) -> list[str]:
    return program.explain().splitlines()


def outlined(outline: Outline, source: Effect[Any, Any] | None = None) -> Effect[Any, Any]:
    """A program of fnlamp, with an outline."""
    return (source or Effect.suspend(load)).outlined(lambda: outline)


class Evaluate:
    """A continuation of fnlamp, with an outline for an abstract value."""

    def __call__(self, value: Any) -> Any:
        raise AssertionError("explain ran a continuation")

    def outline(self, value: Any) -> Outline:
        return Outline((f"evaluate {value}",), value="a score")


def test_names_and_functions_are_shown_in_the_order_of_the_program_and_none_is_run() -> None:
    program = (
        Effect.suspend(load)
        .named("data")
        .map(evaluate)
        .bind(report)
        .bind_result(checked)
        .tap(tell)
        .lash(recover)
        .alt(partial(close, 1))
        .ensuring(close)
    )
    assert lines(program) == [
        "data:",
        "load",
        "then evaluate",
        "then report",
        "then checked",
        "then, on the side, tell",
        "on its outcome: recover",
        "on its outcome: close",
        "whatever the outcome: close",
    ]


def test_then_is_looked_into() -> None:
    program = Effect.suspend(load).then(Effect.asks(evaluate).named("second").map(report)).map(close)
    assert lines(program) == ["load", "second:", "evaluate", "then report", "then close"]


def test_a_bracket_shows_what_is_acquired_how_it_is_used_and_released() -> None:
    assert lines(bracket(Effect.suspend(load), evaluate, close)) == ["acquire", "load", "use: evaluate", "release: close"]


def test_do_blocks_loops_and_sleeps_are_shown_by_name() -> None:
    @do
    def experiment() -> Any:
        load()
        yield

    assert lines(experiment().then(iterate(0, evaluate)).then(sleep(1))) == [
        "experiment: a do block, not looked into",
        "iterate",
        "sleep",
    ]


def test_the_change_of_a_runtime_and_a_function_of_it_are_not_run() -> None:
    assert lines(Effect.access(load).local(evaluate)) == ["load"]


def test_a_certain_failure_is_shown() -> None:
    assert lines(Effect.from_failure("no")) == ["fails with 'no'"]


def test_an_outline_is_shown_and_its_value_passed_on() -> None:
    train = outlined(Outline(("train a model",), value="a model"))
    assert lines(train.bind(Evaluate()).map(report)) == ["train a model", "evaluate a model", "then report"]
    assert lines(train.tap(Evaluate()).bind(Evaluate())) == ["train a model", "evaluate a model", "evaluate a model"]
    assert lines(train.ensuring(close).bind(Evaluate())) == [
        "train a model",
        "whatever the outcome: close",
        "evaluate a model",
    ]


def test_steps_after_a_users_function_are_unknown() -> None:
    train = outlined(Outline(("train a model",), value="a model"))
    assert lines(train.map(report).bind(Evaluate()))[-1] == f"evaluate {UNKNOWN!r}" == "evaluate unknown"
    assert lines(train.lash(recover).bind(Evaluate()))[-1] == "evaluate unknown"
    assert lines(Effect.suspend(load).bind(Evaluate()))[-1] == "evaluate unknown"


def test_a_certain_fault_is_reported_and_ends_the_plan() -> None:
    train = outlined(Outline(("train a model",), fault=EmptyEpoch()))
    explanation = train.bind(Evaluate()).map(report).explain()
    assert explanation.fault == EmptyEpoch()
    assert explanation.splitlines() == ["train a model", f"this run would fail: EmptyEpoch: {EmptyEpoch()}"]
    assert Effect.from_failure(EmptyEpoch()).then(Effect.suspend(load)).explain().fault == EmptyEpoch()
    assert train.ensuring(close).explain().fault == EmptyEpoch()


def test_a_fault_that_a_handler_may_recover_is_not_certain() -> None:
    train = outlined(Outline(("train a model",), fault=EmptyEpoch()))
    assert train.lash(recover).explain().fault is None
    assert train.attempted().explain().fault is None


def test_a_program_without_a_certain_fault_has_none() -> None:
    assert Effect.from_value(1).explain().fault is None


def test_an_explanation_is_a_string_that_shows_itself() -> None:
    explanation = Explanation("first\nsecond")
    assert repr(explanation) == "first\nsecond"
    assert explanation == "first\nsecond"
    assert explanation.fault is None


@pytest.mark.parametrize(
    "step",
    [
        lambda e: e.bind(report),
        lambda e: e.map(report),
        lambda e: e.lash(recover),
        lambda e: e.named("name"),
        lambda e: e.then(Effect.suspend(load)),
        lambda e: Effect.suspend(load).then(e),
        lambda e: e.ensuring(close),
        lambda e: e.tap(tell),
    ],
    ids=["bind", "map", "lash", "named", "then", "then to the right", "ensuring", "tap"],
)
@pytest.mark.parametrize("deep", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_many_thousand_steps_are_explained_without_overflow(step: Any, deep: int) -> None:
    program: Effect[int, Any] = Effect.suspend(load)
    for _ in range(deep):
        program = step(program)
    assert len(lines(program)) == deep + 1


def test_explaining_does_not_change_what_a_run_does() -> None:
    def twice(n: int) -> Result[int, str]:
        return Success(2 * n)

    program = Effect.from_value(21).bind_result(twice).named("twice")
    before = program.run()
    program.explain()
    assert program.run() == before
