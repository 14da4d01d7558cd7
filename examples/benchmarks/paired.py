"""Rounds in which contestants alternate, and their results: medians over paired rounds with an interval, and a target."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Rounds = dict[str, list[float]]
Contestant = Callable[[int], object]
"""Does the work of a round, given its number; its duration is measured."""


def take_turns(contestants: Mapping[str, Contestant], rounds: int, *, pause: float = 0.0) -> Rounds:
    """The seconds of every round, after one that is not counted; each round starts with another contestant.

    Before each contestant there are `pause` seconds, in which background work of the others ends.
    """
    names, seconds = list(contestants), {name: [] for name in contestants}  # type: Sequence[str], Rounds
    for number in range(rounds + 1):
        turn = number % len(names)
        for name in (*names[turn:], *names[:turn]):
            time.sleep(pause)
            started = time.perf_counter()
            contestants[name](number)
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def interval(values: Sequence[float]) -> dict[str, float]:
    """The median, with a bootstrap 95 % interval."""
    drawn = np.random.default_rng(0).choice(np.asarray(values), (10_000, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return {"median": float(np.median(values)), "low": float(low), "high": float(high)}


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(above, below, strict=True)]


def fastest(seconds: Rounds, names: Sequence[str]) -> str:
    """The name whose median round is the shortest."""
    return min(names, key=lambda name: statistics.median(seconds[name]))


@dataclass(frozen=True)
class Finding:
    """A figure and its target: `at_least` says on which side of it the median must be."""

    what: str
    unit: str
    median: float
    target: float
    at_least: bool = True
    low: float | None = None
    high: float | None = None
    note: str = ""

    @classmethod
    def of(
        cls, what: str, unit: str, values: Sequence[float], target: float, *, at_least: bool = True, note: str = ""
    ) -> Finding:
        """The median of a figure of every round."""
        return cls(what, unit, target=target, at_least=at_least, note=note, **interval(values))

    @property
    def passed(self) -> bool:
        return self.median >= self.target if self.at_least else self.median <= self.target

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}

    def __str__(self) -> str:
        spread = "" if self.low is None or self.high is None else f" ({self.low:.3g} to {self.high:.3g})"
        wanted = f"{'at least' if self.at_least else 'at most'} {self.target:g}"
        note = f"; {self.note}" if self.note else ""
        return f"{'pass' if self.passed else 'FAIL'}  {self.what}: {self.median:.4g}{spread} {self.unit}, wanted {wanted}{note}"
