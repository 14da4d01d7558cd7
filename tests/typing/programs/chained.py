"""Chained steps with different errors: the checkers infer the union, and what handlers leave of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Never, assert_type

from returns.io import IO, IOFailure, IOResult, IOSuccess
from returns.result import Failure, Result, Success

from fnlamp.effect import (
    Defect,
    Effect,
    Exit,
    Interrupted,
    Resource,
    Runtime,
    ask,
    bracket,
    collect,
    iterate,
    sleep,
)


@dataclass(frozen=True)
class Missing:
    path: str


@dataclass(frozen=True)
class Diverged:
    step: int


@dataclass(frozen=True)
class Unwritable:
    reason: str


@dataclass(frozen=True)
class Model:
    weight: float


def load(path: str) -> Effect[list[float], Missing]:
    return Effect.from_value([1.0, 2.0]) if path else Effect.from_failure(Missing(path))


def fit(rows: list[float]) -> Effect[Model, Diverged]:
    def loop(runtime: Runtime) -> Result[Model, Diverged] | Interrupted:
        if runtime.cancel.requested:
            return Interrupted(Model(0.0))
        return Success(Model(sum(rows))) if rows else Failure(Diverged(0))

    return Effect.call(loop)


def save(model: Model) -> Effect[None, Unwritable]:
    return Effect.attempt(lambda: None, OSError, lambda error: Unwritable(str(error)))


def describe(model: Model) -> str:
    return f"weight {model.weight}"


program = load("data.csv").bind(fit).tap(save).map(describe)
assert_type(program, Effect[str, Missing | Diverged | Unwritable])

# ------------------------------------------------------------------------------- each combinator

assert_type(Effect.from_value(1), Effect[int, Never])
assert_type(Effect.from_failure("no"), Effect[Never, str])
assert_type(Effect.suspend(lambda: 1), Effect[int, Never])
assert_type(Effect.attempt(lambda: 1, (OSError, ValueError), str), Effect[int, str])
assert_type(Effect.asks(lambda runtime: runtime.log is None), Effect[bool, Never])
assert_type(Effect.access(lambda runtime: fit([])), Effect[Model, Diverged])
assert_type(program.then(fit([])), Effect[Model, Missing | Diverged | Unwritable])
assert_type(load("a").zip(fit([])), Effect[tuple[list[float], Model], Missing | Diverged])
assert_type(load("a").alt(lambda missing: missing.path), Effect[list[float], str])
assert_type(load("a").lash(lambda missing: fit([])), Effect[list[float] | Model, Diverged])
assert_type(load("a").lash(lambda missing: Effect.from_value(None)), Effect[list[float] | None, Never])
assert_type(load("a").attempted(), Effect[Result[list[float], Missing], Never])
assert_type(load("a").swap(), Effect[Missing, list[float]])
assert_type(load("a").retry(3, delay=lambda attempt: 2.0**attempt), Effect[list[float], Missing])
assert_type(load("a").ensuring(lambda outcome: save(Model(0.0))), Effect[list[float], Missing])
assert_type(load("a").named("load").local(lambda runtime: runtime), Effect[list[float], Missing])


def checked(rows: list[float]) -> Result[float, Diverged]:
    return Success(rows[0]) if rows else Failure(Diverged(0))


def counted(rows: list[float]) -> IO[int]:
    return IO(len(rows))


def written(rows: list[float]) -> IOResult[int, Unwritable]:
    return IOResult.from_value(len(rows))


assert_type(load("a").bind_result(checked), Effect[float, Missing | Diverged])
assert_type(load("a").bind_io(counted), Effect[int, Missing])
assert_type(load("a").bind_ioresult(written), Effect[int, Missing | Unwritable])
assert_type(collect([fit([]), fit([1.0])]), Effect[tuple[Model, ...], Diverged])
assert_type(sleep(1.0).then(load("a")), Effect[list[float], Missing])
assert_type(ask().bind(lambda runtime: load("a")), Effect[list[float], Missing])


def turn(n: int) -> Effect[Result[int, str], Diverged]:
    return Effect.from_value(Success(n + 1) if n < 10 else Failure("done"))


assert_type(iterate(0, turn), Effect[str, Diverged])

# ------------------------------------------------------------------------------- resources


def close(path: str, exit: Exit[list[float], Missing]) -> Effect[None, Never]:
    return Effect.suspend(lambda: None)


assert_type(bracket(Effect.from_value("a"), load, close), Effect[list[float], Missing])
file = Resource.make(load("a"), lambda rows, outcome: Effect.suspend(rows.clear))
assert_type(file, Resource[list[float], Missing])
assert_type(file.map(len).use(lambda n: fit([float(n)])), Effect[Model, Missing | Diverged])
assert_type(file.bind(lambda rows: Resource.from_value(rows[0])), Resource[float, Missing])

# ------------------------------------------------------------------------------- the edge


def widened(narrow: Effect[bool, Missing]) -> Effect[int, Missing | Diverged]:
    """An effect of a narrower error and value is one of a wider."""
    return narrow


def outcome(exit: Exit[str, Missing | Diverged | Unwritable]) -> str:
    """Both checkers see that every outcome is handled: without a case they would miss a return."""
    match exit:
        case Success(text):
            assert_type(text, str)
            return text
        case Failure(fault):
            return said(fault)
        case Interrupted() | Defect():
            return "stopped"


def said(fault: Missing | Diverged | Unwritable) -> str:
    match fault:
        case Missing(path):
            return path
        case Diverged(step):
            return str(step)
        case Unwritable(reason):
            return reason


def main() -> None:
    result = program.run()
    assert_type(result, IOResult[str, Missing | Diverged | Unwritable | Interrupted])
    assert result == IOSuccess("weight 3.0")
    assert outcome(program.run_exit()) == "weight 3.0"
    assert load("").bind(fit).run() == IOFailure(Missing(""))
    assert outcome(load("").bind(fit).map(describe).run_exit()) == ""
    assert iterate(0, turn).run() == IOSuccess("done")


if __name__ == "__main__":
    main()
