"""Every failed outcome holds the last good state; an exception that cannot take it is raised unchanged."""

from __future__ import annotations

import pickle
import signal
from dataclasses import dataclass
from typing import Any

import pytest
from returns.result import Failure, Success

from fnlamp.effect import Defect, Effect, Interrupted, Runtime, bracket
from fnlamp.fault import Fault, FaultError, ItemFailed, NonFinite, WorkerLost


def training(body: Any, state: Any = "reached") -> Effect[Any, Any]:
    """A run that has a last good state, such as `epochs`."""

    def salvage() -> Any:
        if isinstance(state, Exception):
            raise state
        return state() if callable(state) else state

    return body.named("training").salvaged(salvage)


def raising(error: BaseException) -> Effect[Any, Any]:
    def body() -> None:
        raise error

    return Effect.suspend(body)


@dataclass(frozen=True)
class Mine(Fault):
    what: str


FAULTS = [ItemFailed(3, "ValueError"), WorkerLost(3, -9), Mine("disk full"), NonFinite("loss", 1, 2)]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_a_fault_holds_the_last_good_state_and_is_equal_to_the_one_without(fault: Fault) -> None:
    exit = training(Effect.from_failure(fault)).run_exit()
    assert exit == Failure(fault)
    assert type(exit) is Failure
    assert exit.failure().state == "reached"
    assert type(exit.failure()) is type(fault)


def test_a_state_that_a_fault_has_is_kept_and_the_innermost_run_wins() -> None:
    own = NonFinite("loss", 1, 2, "own")
    assert training(Effect.from_failure(own)).run_exit().failure().state == "own"  # type: ignore[union-attr]
    nested = training(training(Effect.from_failure(Mine("x")), "inner"), "outer").run_exit()
    assert nested.failure().state == "inner"  # type: ignore[union-attr]
    bug = training(training(raising(ValueError()), "inner"), "outer").run_exit()
    assert isinstance(bug, Defect)
    assert bug.state == bug.cause.state == "inner"  # type: ignore[attr-defined]


def test_a_failure_that_is_not_a_fault_is_unchanged_and_so_is_a_success() -> None:
    assert training(Effect.from_failure("no")).run_exit() == Failure("no")
    assert training(Effect.from_value(1)).run_exit() == Success(1)


def test_a_lash_sees_the_state() -> None:
    program = training(Effect.from_failure(Mine("x"))).lash(lambda fault: Effect.from_value(fault.state))
    assert program.run_exit() == Success("reached")


def test_without_a_state_nothing_is_added() -> None:
    assert training(Effect.from_failure(Mine("x")), None).run_exit().failure().state is None  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="bug") as caught:
        training(raising(ValueError("bug")), None).run()
    assert not hasattr(caught.value, "state")


def test_a_bug_has_the_state_as_an_attribute_and_says_so() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        training(raising(ZeroDivisionError("bug"))).run()
    assert caught.value.state == "reached"  # type: ignore[attr-defined]
    assert caught.value.__notes__ == ["in effect 'training'", "the last good state is in this exception's .state"]


def test_a_second_ctrl_c_has_the_state() -> None:
    def stubborn() -> None:
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)

    released: list[Any] = []
    program = bracket(
        Effect.from_value(1),
        lambda _: training(Effect.suspend(stubborn)),
        lambda _, outcome: Effect.suspend(lambda: released.append(outcome)),
    )
    with pytest.raises(KeyboardInterrupt) as caught:
        program.run()
    assert caught.value.state == "reached"  # type: ignore[attr-defined]
    assert released[0].state == "reached"


@pytest.mark.parametrize("presses", [1, 2, 30])
def test_further_ctrl_cs_while_the_state_is_fetched_do_not_lose_it(presses: int) -> None:
    def salvage() -> str:
        for _ in range(presses):
            signal.raise_signal(signal.SIGINT)
        return "reached"

    stop = Effect.suspend(lambda: signal.raise_signal(signal.SIGINT)).then(Effect.from_value(1))
    exit = training(stop, salvage).run_exit()
    assert isinstance(exit, Interrupted)
    assert exit.state == "reached"


def test_an_exception_that_is_raised_again_has_the_state_of_its_last_run() -> None:
    error = ValueError("one for all")
    for state in ("first", "second"):
        with pytest.raises(ValueError, match="one for all"):
            training(raising(error), state).run()
        assert error.state == state  # type: ignore[attr-defined]
    assert error.__notes__.count("the last good state is in this exception's .state") == 1


def test_a_fault_that_is_raised_holds_the_state_too() -> None:
    with pytest.raises(FaultError) as caught:
        training(raising(FaultError(Mine("x")))).run()
    assert caught.value.state == caught.value.fault.state == "reached"


class SlottedError(Exception):
    __slots__ = ("state",)


class StatefulError(Exception):
    def __init__(self) -> None:
        self.state = "its own"


class RefusingError(Exception):
    def __setattr__(self, name: str, value: Any) -> None:
        raise RuntimeError("read only")


class ExitingError(Exception):
    def __setattr__(self, name: str, value: Any) -> None:
        raise SystemExit(3)

    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __repr__(self) -> str:
        raise KeyboardInterrupt


class NotelessError(Exception):
    def add_note(self, note: str) -> None:
        raise RuntimeError("no notes")


class OddNotesError(Exception):
    __notes__ = 3  # type: ignore[assignment]


class GetlessError(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise LookupError(name)


HOSTILE = [SlottedError, StatefulError, RefusingError, ExitingError, NotelessError, OddNotesError, GetlessError]


@pytest.mark.parametrize("kind", HOSTILE, ids=lambda kind: kind.__name__)
def test_an_exception_that_takes_no_state_is_raised_itself(kind: type[Exception]) -> None:
    error = kind()
    released: list[Any] = []
    program = training(raising(error)).named("outer").ensuring(lambda end: Effect.suspend(lambda: released.append(end)))
    with pytest.raises(kind) as caught:
        program.run()
    assert caught.value is error
    exit = program.run_exit()
    assert isinstance(exit, Defect)
    assert exit.cause is error
    assert exit.state == "reached"  # although the exception cannot hold it
    assert len(released) == 2


@pytest.mark.parametrize("kind", HOSTILE, ids=lambda kind: kind.__name__)
def test_a_release_with_an_exception_that_takes_no_note_does_not_hide_the_first_bug(kind: type[Exception]) -> None:
    program = raising(ZeroDivisionError("first")).ensuring(lambda _: raising(kind()))
    with pytest.raises(ZeroDivisionError, match="first") as caught:
        program.run()
    assert "the release failed too" in caught.value.__notes__[0]


def test_a_state_that_cannot_be_made_is_logged_and_does_not_hide_the_failure() -> None:
    lines: list[str] = []
    program = training(Effect.from_failure(Mine("x")), RuntimeError("deleted"))
    assert program.run_exit(Runtime(log=lines.append)) == Failure(Mine("x"))
    assert lines == ["cannot get the last good state of training: RuntimeError('deleted')"]


def test_faults_with_a_state_are_pickled_and_replaced() -> None:
    for fault in FAULTS:
        held = training(Effect.from_failure(fault)).run_exit().failure()  # type: ignore[union-attr]
        again = pickle.loads(pickle.dumps(held))
        assert (again, again.state) == (fault, "reached")
        assert held.inside("there").state == "reached"
        assert held.inside("there").where == "there"
        assert "reached" not in repr(held)
