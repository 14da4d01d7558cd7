"""Rounds in which contestants alternate, and their results: medians over paired rounds with an interval, and a target."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import fnlamp

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


def report(description: str | None, measure: Callable[[int, float, Path | None], list[Finding]]) -> None:
    """The command line of a benchmark of one model: measure, print, and write the figures where they are asked for."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the steps of an epoch")
    parser.add_argument("--data", type=Path, default=os.environ.get("FNLAMP_MNIST"), help="folder of MNIST's IDX files")
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    fnlamp.keep_memory()
    findings = measure(given.rounds, given.scale, given.data)
    print(*findings, sep="\n")
    if given.json:
        given.json.write_text(json.dumps([finding.as_json() for finding in findings], indent=2))
