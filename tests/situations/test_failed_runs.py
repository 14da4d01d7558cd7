"""A failed run is noticed, whatever the user does with it; a program that was not run says so."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import traceback
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from returns.io import IO, IOFailure, IOResult, IOSuccess
from returns.methods import partition, unwrap_or_failure
from returns.pipeline import is_successful
from returns.primitives.exceptions import UnwrapFailedError
from returns.result import Failure, Result, Success
from returns.unsafe import unsafe_perform_io

from fnlamp.effect import Effect, FailureError, Runtime, do
from fnlamp.fault import EmptyEpoch, Fault, FaultError, Interrupted, ItemFailed, ShapeMismatch

FAULT = ShapeMismatch("[2]", "[3]", "squeeze it", where="out")
TEXT = "ShapeMismatch: out: expected [2], got [3]; squeeze it"


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


@dataclass(frozen=True)
class MuteFault(Fault):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Plain:
    def __repr__(self) -> str:
        return "<plain>"


FAILURES = [
    (FAULT, TEXT),
    (EmptyEpoch(0, 2), "EmptyEpoch: expected at least one batch per epoch, got none: 0 rows in batches of 2; "),
    ("no space left", "no space left"),
    (ValueError("x"), "ValueError: x"),
    (KeyError("x"), "KeyError: 'x'"),
    (("a", 3), "('a', 3)"),
    (None, "None"),
    (Plain(), "<plain>"),
    (MuteError(), "<MuteError, whose repr failed>"),
    (MuteFault(), "MuteFault(where='')"),
]
EACH = pytest.mark.parametrize(("failure", "text"), FAILURES, ids=[type(failure).__name__ for failure, _ in FAILURES])


def training(body: Effect[Any, Any], state: Any = "reached") -> Effect[Any, Any]:
    return body.named("training").salvaged(lambda: state)


# ------------------------------------------------------------------------------- the log


@EACH
def test_run_logs_a_failure_once(failure: Any, text: str) -> None:
    lines: list[str] = []
    result = Effect.from_failure(failure).run(Runtime(log=lines.append))
    assert isinstance(result, IOFailure)
    assert len(lines) == 1
    assert lines[0].startswith(f"failed: {text}")


def test_the_log_says_where_the_last_good_state_is() -> None:
    lines: list[str] = []
    training(Effect.from_failure(ItemFailed(3, "ValueError: no"))).run(Runtime(log=lines.append))
    assert lines == ["failed: ItemFailed: item 3 failed: ValueError: no\nthe last good state is in the failure's .state"]


def test_an_interruption_is_logged_and_a_success_and_a_silent_runtime_log_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    stopping = Runtime(log=lines.append)
    stopping.cancel.cancel()
    Effect.from_value(1).then(Effect.from_value(2)).run(stopping)
    assert lines == ["interrupted"]
    Effect.from_failure(FAULT).run(Runtime(log=None))
    Effect.from_value(1).run()
    Effect.from_failure(FAULT).lash(lambda _: Effect.from_value(1)).run()
    Effect.from_failure(FAULT).run_exit()
    assert capsys.readouterr() == ("", "")


def test_a_log_that_raises_does_not_lose_the_failure() -> None:
    def closed(line: str) -> None:
        raise BrokenPipeError

    assert Effect.from_failure(FAULT).run(Runtime(log=closed)) == IOFailure(FAULT)


SCRIPT = """
import numpy as np
from fnlamp import loss, nn, optim, stream, train
program = train.epochs(
    model=train.supervised(nn.linear(3), loss.cross_entropy()), optimizer=optim.adamw(1e-3), epochs=1,
    train_batches=lambda context: stream.minibatches(np.eye(3, dtype=np.float32), np.array([1, 2, 3]), batch_size=3),
)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "code"),
    [("program.run()", 0), ("program.run_or_raise()", 1), ("program.run().unwrap()", 1), ("program.predict(1)", 1)],
    ids=["run", "run_or_raise", "unwrap", "forgotten"],
)
def test_a_script_whose_last_line_fails_says_why(line: str, code: int) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT + line], capture_output=True, text=True, timeout=300)
    assert done.returncode == code
    said = done.stdout + done.stderr
    if line.startswith("program.predict"):
        assert "run it" in done.stderr
    else:
        assert "LabelOutOfRange" in said
        assert "expected labels from 0 to 2, got 3 in row 2" in said


# ------------------------------------------------------------------------------- run_or_raise


def test_run_or_raise_gives_the_value() -> None:
    assert Effect.suspend(lambda: 42).run_or_raise() == 42
    assert Effect.from_value(None).run_or_raise(Runtime(log=None)) is None


@EACH
def test_run_or_raise_raises_the_failure_with_its_text_and_its_state(failure: Any, text: str) -> None:
    lines: list[str] = []
    with pytest.raises((FaultError, FailureError)) as caught:
        training(Effect.from_failure(failure)).run_or_raise(Runtime(log=lines.append))
    error: Any = caught.value
    assert error.state == "reached"
    assert lines == []
    if isinstance(failure, Fault):
        assert isinstance(error, FaultError)
        assert error.fault == failure
        assert error.fault.state == "reached"
    else:
        assert isinstance(error, FailureError)
        assert error.failure is failure
        assert str(error).startswith(text)
        assert error.__cause__ is (failure if isinstance(failure, Exception) else None)


def test_run_or_raise_raises_a_bug_unchanged_and_an_interruption_as_a_fault() -> None:
    with pytest.raises(ZeroDivisionError):
        Effect.suspend(lambda: 1 / 0).run_or_raise()
    stopping = Runtime(log=None)
    stopping.cancel.cancel()
    with pytest.raises(FaultError, match="interrupted") as caught:
        training(Effect.from_value(1).then(Effect.from_value(2))).run_or_raise(stopping)
    assert isinstance(caught.value.fault, Interrupted)
    assert caught.value.state == caught.value.fault.state


def test_a_state_is_dropped_with_its_failure() -> None:
    other = training(Effect.from_failure("first")).lash(lambda _: Effect.from_failure("second"))
    with pytest.raises(FailureError, match="second") as caught:
        other.run_or_raise()
    assert caught.value.state is None


def test_the_exceptions_are_pickled_and_copied() -> None:
    for failure in (FAULT, "text", ("a", 3)):
        with pytest.raises((FaultError, FailureError)) as caught:
            training(Effect.from_failure(failure)).run_or_raise()
        error: Any = caught.value
        for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
            assert type(again) is type(error)
            assert str(again) == str(error)
            assert again.state == "reached"


# ------------------------------------------------------------------------------- the container


def failed(failure: Any = FAULT) -> IOResult[Any, Any]:
    return Effect.from_failure(failure).run(Runtime(log=None))


@EACH
def test_unwrap_says_what_failed(failure: Any, text: str) -> None:
    with pytest.raises(UnwrapFailedError) as caught:
        failed(failure).unwrap()
    assert text in str(caught.value)
    assert text in "".join(traceback.format_exception(caught.value)) or isinstance(failure, MuteError | MuteFault)
    cause: Any = caught.value.__cause__
    assert (cause.fault if isinstance(failure, Fault) else cause.failure) is failure
    assert caught.value.halted_container == Failure(failure)


def test_a_failed_run_is_an_ordinary_container() -> None:
    result = failed()
    match result:
        case IOFailure(Failure(ShapeMismatch(expected=expected))):
            assert expected == "[2]"
        case _:
            pytest.fail("not matched")
    assert result == IOFailure(FAULT)
    assert IOFailure(FAULT) == result
    assert result != IOFailure("other")
    assert result != IOSuccess(FAULT)
    assert result != Failure(FAULT)
    assert result.equals(IOFailure(FAULT))
    assert hash(result) == hash(IOFailure(FAULT))
    assert len({result, IOFailure(FAULT)}) == 1
    assert repr(result) == str(result) == repr(IOFailure(FAULT))
    assert type(pickle.loads(pickle.dumps(result))) is IOFailure
    assert pickle.loads(pickle.dumps(result)) == copy.copy(result) == copy.deepcopy(result) == result


def test_the_functions_of_returns_work_on_a_failed_run() -> None:
    result = failed("no")
    assert not is_successful(result)
    assert result.failure() == IO("no")
    assert result.value_or(3) == IO(3)
    assert result.swap() == IOSuccess("no")
    assert result.map(str) == result.bind(IOSuccess) == result.bind_result(Success) == IOFailure("no")
    assert result.alt(len) == IOFailure(2)
    assert result.lash(lambda text: IOSuccess(len(text))) == IOSuccess(2)
    assert unsafe_perform_io(result) == Failure("no")  # type: ignore[arg-type]
    assert unwrap_or_failure(result) == IO("no")
    assert partition([result, IOSuccess(1)]) == ([IO(1)], [IO("no")])
    assert IOResult.do(value for value in result) == IOFailure("no")
    assert result.compose_result(lambda inner: IOResult.from_result(inner.swap())) == IOSuccess("no")


def test_containers_made_from_a_failed_run_say_what_failed_too() -> None:
    for made in (failed().map(str), failed().alt(lambda fault: fault), failed().bind(IOSuccess), failed().bind_result(Success)):
        with pytest.raises(UnwrapFailedError, match="ShapeMismatch"):
            made.unwrap()


# ------------------------------------------------------------------------------- a program that was not run

PROGRAM: Any = Effect.suspend(lambda: 42).named("train")


async def awaiting() -> Any:
    return await PROGRAM


async def entering() -> Any:
    async with PROGRAM:
        pass


def unpacking() -> Any:
    first, second = PROGRAM
    return first, second


def in_a_for_loop() -> None:
    for _ in PROGRAM:
        pass


@do
def in_a_for_loop_of_a_block() -> Any:
    for value in PROGRAM:
        yield value.map(str)


@do
def listed_in_a_block() -> Any:
    yield list(PROGRAM)


def in_a_with() -> None:
    with PROGRAM:
        pass


MISUSES: dict[str, Any] = {
    "len": lambda: len(PROGRAM),
    "index": lambda: PROGRAM[0],
    "slice": lambda: PROGRAM[:3],
    "key": lambda: PROGRAM["loss"],
    "set item": lambda: PROGRAM.__setitem__(0, 1),
    "in": lambda: 3 in PROGRAM,
    "if": lambda: 1 if PROGRAM else 2,
    "not": lambda: not PROGRAM,
    "and": lambda: PROGRAM and 1,
    "unpacking": unpacking,
    "for": in_a_for_loop,
    "for in a block": lambda: in_a_for_loop_of_a_block().run(),
    "list in a block": lambda: listed_in_a_block().run(),
    "star": lambda: print(*PROGRAM),
    "tuple": lambda: tuple(PROGRAM),
    "list": lambda: list(PROGRAM),
    "dict": lambda: dict(PROGRAM),
    "zip": lambda: list(zip(PROGRAM, [1], strict=False)),
    "next": lambda: next(PROGRAM),
    "reversed": lambda: reversed(PROGRAM),
    "sorted": lambda: sorted(PROGRAM),
    "less": lambda: PROGRAM < 3,
    "greater": lambda: 3 > PROGRAM,
    "add": lambda: PROGRAM + 1,
    "radd": lambda: 1 + PROGRAM,
    "sum": lambda: sum([PROGRAM, PROGRAM]),
    "subtract": lambda: 1 - PROGRAM,
    "multiply": lambda: 2 * PROGRAM,
    "matmul": lambda: np.ones(2) @ PROGRAM,
    "divide": lambda: PROGRAM / 2,
    "power": lambda: PROGRAM**2,
    "negative": lambda: -PROGRAM,
    "abs": lambda: abs(PROGRAM),
    "round": lambda: round(PROGRAM),
    "float": lambda: float(PROGRAM),
    "int": lambda: int(PROGRAM),
    "range": lambda: range(PROGRAM),
    "array": lambda: np.asarray(PROGRAM),
    "array of numbers": lambda: np.mean(PROGRAM),
    "shift": lambda: PROGRAM >> PROGRAM,
    "or": lambda: PROGRAM | 1,
    "with": in_a_with,
    "call with data": lambda: PROGRAM(np.ones(3)),
    "await": lambda: awaiting().send(None),
    "async with": lambda: entering().send(None),
    "format": lambda: f"{PROGRAM:.3f}",
}


@pytest.mark.parametrize("use", MISUSES.values(), ids=MISUSES.keys())
def test_using_a_description_as_its_value_says_that_it_was_not_run(use: Any) -> None:
    with pytest.raises(
        TypeError, match="an Effect .*description of a program, which has not run; run it, value = program.run_or"
    ):
        use()


@pytest.mark.parametrize("name", ["predict", "params", "curve", "shape", "unwrap", "failure", "loss", "value_or", "state"])
def test_an_attribute_of_the_value_says_that_it_was_not_run(name: str) -> None:
    with pytest.raises(AttributeError, match=rf"'Effect' object has no attribute '{name}'.*value.{name}") as caught:
        getattr(PROGRAM, name)
    assert "run it" in str(caught.value)
    assert not hasattr(PROGRAM, name)


def test_the_protocols_of_every_python_object_still_work() -> None:
    assert repr(PROGRAM) == str(PROGRAM) == f"{PROGRAM}" == "<Effect: train>"
    assert PROGRAM == PROGRAM
    assert PROGRAM != 3
    assert len({PROGRAM, PROGRAM}) == 1
    assert copy.copy(PROGRAM).run() == IOSuccess(42)
    pure = Effect.from_value(1)
    assert pickle.loads(pickle.dumps(pure)).run() == IOSuccess(1)
    assert not hasattr(PROGRAM, "__wrapped__")
    assert not hasattr(PROGRAM, "_repr_html_")
    with pytest.raises(AttributeError, match="has no attribute '_private'"):
        PROGRAM._private  # noqa: B018


def test_a_program_is_called_like_a_reader() -> None:
    assert PROGRAM() == PROGRAM(None) == PROGRAM(Runtime()) == PROGRAM.to_reader()(Runtime()) == IOSuccess(42)


@pytest.mark.parametrize("runtime", ["cpu", print, 3, {"log": None}, Runtime, lambda line: None])
def test_running_with_anything_but_a_runtime_says_what_to_write(runtime: Any) -> None:
    for run in (PROGRAM.run, PROGRAM.run_or_raise, PROGRAM.run_exit):
        with pytest.raises(TypeError, match="a program is run with a Runtime, got "):
            run(runtime)


def test_the_types_of_results_are_those_of_returns() -> None:
    value: Result[int, Any] = Effect.from_value(1).run()._inner_value
    assert type(value) is Success
    assert type(Effect.from_value(1).run()) is IOSuccess
