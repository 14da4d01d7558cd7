"""Programs as generator functions, and loops."""

from __future__ import annotations

import inspect
import signal
from typing import Any

import pytest
from returns.io import IOFailure, IOSuccess
from returns.result import Failure, Result, Success

from fnlamp.effect import Do, Effect, Interrupted, Resource, collect, do, iterate


def noted(log: list[str], word: str) -> Effect[str, Any]:
    return Effect.suspend(lambda: log.append(word) or word)


@do
def halves(n: int) -> Do[int, str]:
    """Divide by two as long as that is possible."""
    steps = 0
    while n != 1:
        n = yield from Effect.from_value(n // 2) if n % 2 == 0 else Effect.from_failure(f"{n} is odd")
        steps += 1
    return steps


def test_a_block_yields_its_return_value_and_may_loop() -> None:
    assert halves(64).run() == IOSuccess(6)
    assert halves(48).run() == IOFailure("3 is odd")
    assert halves(1).run() == IOSuccess(0)


def test_a_block_runs_again_each_time() -> None:
    program = halves(64)
    assert program.run() == program.run() == program.zip(program).map(max).run() == IOSuccess(6)


def test_a_block_keeps_the_name_and_the_docstring_of_its_function() -> None:
    assert halves.__name__ == "halves"
    assert halves.__doc__ == "Divide by two as long as that is possible."
    assert repr(halves(1)) == "<Effect: halves>"


def test_calling_a_block_runs_nothing_of_it() -> None:
    log: list[str] = []

    @do
    def block() -> Do[None, Any]:
        log.append("started")
        yield from Effect.from_value(None)

    program = block()
    assert log == []
    program.run()
    assert log == ["started"]


@pytest.mark.parametrize("how", ["success", "failure", "bug", "interruption"])
def test_a_block_that_ends_early_is_closed_and_its_finally_runs_once(how: str) -> None:
    log: list[str] = []

    def end() -> Result[None, str]:
        if how == "bug":
            raise ZeroDivisionError
        if how == "interruption":
            signal.raise_signal(signal.SIGINT)
        return Failure("no") if how == "failure" else Success(None)

    @do
    def block() -> Do[None, str]:
        try:
            yield from Effect.call(lambda _: end())
            yield from noted(log, "went on")
        finally:
            log.append("closed")

    program = block()
    for _ in range(2):
        log.clear()
        program.run_exit()
        assert log == (["went on", "closed"] if how == "success" else ["closed"])


def test_a_block_is_closed_at_the_failure_and_not_later() -> None:
    log: list[str] = []

    @do
    def inner() -> Do[None, str]:
        try:
            yield from Effect.from_failure("no")
        finally:
            log.append("inner closed")

    @do
    def outer() -> Do[str, Any]:
        return (yield from inner().lash(lambda _: noted(log, "recovered")))

    assert outer().run() == IOSuccess("recovered")
    assert log == ["inner closed", "recovered"]


def test_a_block_is_closed_by_the_run_and_not_by_the_garbage_collector() -> None:
    kept: list[Any] = []

    def block() -> Do[None, str]:
        yield from Effect.from_failure("no")

    def keeping() -> Do[None, str]:
        kept.append(block())
        return kept[-1]

    assert do(keeping)().run() == IOFailure("no")
    assert inspect.getgeneratorstate(kept[0]) == inspect.GEN_CLOSED


def test_a_bug_while_a_block_is_closed_is_raised() -> None:
    @do
    def block() -> Do[None, str]:
        try:
            yield from Effect.from_failure("no")
        finally:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        block().run()


def test_an_exception_inside_a_block_is_a_bug_with_the_name_of_the_block() -> None:
    @do
    def block() -> Do[None, Any]:
        yield from Effect.from_value(None)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        block().lash(lambda _: Effect.from_value(None)).run()
    assert len(caught.value.__notes__) == 1
    assert "block" in caught.value.__notes__[0]


def test_a_bug_in_a_step_is_not_caught_inside_the_block() -> None:
    @do
    def block() -> Do[str, Any]:
        try:
            yield from Effect.suspend(lambda: 1 // 0)
        except ZeroDivisionError:
            return "swallowed"
        return "went on"

    with pytest.raises(ZeroDivisionError):
        block().run()


def test_a_block_must_yield_effects() -> None:
    @do
    def block() -> Any:
        yield 5

    with pytest.raises(TypeError, match=r"block returned int, expected Effect"):
        block().run()


def test_a_function_without_a_yield_is_named() -> None:
    @do
    def forgetful() -> Any:
        return Effect.from_value(1)

    with pytest.raises(TypeError, match=r"forgetful returned Effect: a @do function needs a yield from"):
        forgetful().run()


def test_a_resource_is_used_from_a_block() -> None:
    log: list[str] = []
    file = Resource.make(noted(log, "open"), lambda *_: noted(log, "close"))

    @do
    def block() -> Do[str, Any]:
        content = yield from file.use(lambda name: noted(log, "read").map(lambda word: f"{name} {word}"))
        yield from noted(log, "after")
        return content

    assert block().run() == IOSuccess("open read")
    assert log == ["open", "read", "close", "after"]


def test_collect_runs_in_order_and_stops_at_the_first_failure() -> None:
    log: list[str] = []
    assert collect(noted(log, word) for word in "abc").run() == IOSuccess(("a", "b", "c"))
    log.clear()
    assert collect([noted(log, "a"), Effect.from_failure("no"), noted(log, "b")]).run() == IOFailure("no")
    assert log == ["a"]
    assert collect([]).run() == IOSuccess(())


def test_collect_of_a_generator_runs_again() -> None:
    program = collect(Effect.from_value(n) for n in range(3))
    assert program.run() == program.run() == IOSuccess((0, 1, 2))


def test_iterate_continues_with_each_state_and_ends_with_a_value_or_a_failure() -> None:
    states: list[int] = []

    def body(n: int) -> Effect[Result[int, str], str]:
        states.append(n)
        return (
            Effect.from_failure("negative") if n < 0 else Effect.from_value(Success(n - 3) if n > 2 else Failure(f"left {n}"))
        )

    assert iterate(7, body).run() == IOSuccess("left 1")
    assert states == [7, 4, 1]
    assert iterate(-1, body).run() == IOFailure("negative")


def test_interruption_ends_a_block_of_blocks() -> None:
    log: list[str] = []

    @do
    def inner() -> Do[None, Any]:
        try:
            yield from Effect.suspend(lambda: signal.raise_signal(signal.SIGINT))
            yield from noted(log, "inner went on")
        finally:
            log.append("inner closed")

    @do
    def outer() -> Do[None, Any]:
        try:
            yield from inner()
            yield from noted(log, "outer went on")
        finally:
            log.append("outer closed")

    assert isinstance(outer().run_exit(), Interrupted)
    assert log == ["inner closed", "outer closed"]
