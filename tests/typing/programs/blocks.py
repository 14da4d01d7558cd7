"""The same kind of program as a `@do` block, whose errors are declared once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Never, assert_type

from returns.io import IOFailure, IOSuccess

from fnlamp.effect import Do, Effect, collect, do, sleep


@dataclass(frozen=True)
class Missing:
    path: str


@dataclass(frozen=True)
class Diverged:
    step: int


def load(path: str) -> Effect[list[float], Missing]:
    return Effect.from_value([1.0, 2.0]) if path else Effect.from_failure(Missing(path))


def fit(rows: list[float], rate: float) -> Effect[float, Diverged]:
    return Effect.from_value(rate * sum(rows)) if rate < 1 else Effect.from_failure(Diverged(0))


@do
def experiment(path: str, *, rates: tuple[float, ...]) -> Do[str, Missing | Diverged]:
    """Train once for each learning rate, and report the best."""
    rows = yield from load(path)
    assert_type(rows, list[float])
    best = 0.0
    for rate in rates:
        score = yield from fit(rows, rate)
        assert_type(score, float)
        best = max(best, score)
        yield from sleep(0)
    both = yield from load(path).zip(fit(rows, 0.5))
    assert_type(both, tuple[list[float], float])
    tried = yield from fit(rows, 2.0).attempted()
    count = yield from collect([fit(rows, rate) for rate in rates]).map(len)
    assert_type(count, int)
    return f"best of {count}: {best}, and {tried}"


@do
def harmless() -> Do[int, Never]:
    """A block that cannot fail."""
    first = yield from Effect.suspend(lambda: 20)
    second = yield from Effect.from_value(22)
    return first + second


@do
def outer() -> Do[int, Missing | Diverged]:
    """A block with fewer errors is a step of one with more."""
    number = yield from harmless()
    text = yield from experiment("data.csv", rates=(0.1,))
    return number + len(text)


assert_type(experiment("a", rates=()), Effect[str, Missing | Diverged])
assert_type(harmless(), Effect[int, Never])
assert_type(outer().map(str).lash(lambda error: harmless()), Effect[str | int, Never])


def main() -> None:
    program = experiment("data.csv", rates=(0.1, 0.5))
    expected = IOSuccess("best of 2: 1.5, and <Failure: Diverged(step=0)>")
    assert program.run() == expected
    assert program.run() == expected
    assert experiment("", rates=()).run() == IOFailure(Missing(""))
    assert experiment("a", rates=(2.0,)).run() == IOFailure(Diverged(0))
    assert harmless().run() == IOSuccess(42)


if __name__ == "__main__":
    main()
