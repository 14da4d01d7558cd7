"""Runs as a report shows them, made by formulas."""

from __future__ import annotations

from typing import Any

import numpy as np

from fnlamp.experiment.report import ReportRun
from fnlamp.track import Alert, Histogram, Image, Rows
from fnlamp.track.curves import Series

EVIL = '</script><img src=x onerror="window.broken=1"><b>&amp;'
"""A name that would leave its element if it was not escaped."""


def series(values: Any, every: int = 1, per_epoch: int = 0) -> Series:
    """Values at each `every` steps, half a second apart."""
    values = np.asarray(values, np.float64)
    steps = every * np.arange(1, len(values) + 1)
    epochs = (steps - 1) // per_epoch + 1 if per_epoch else np.full(len(values), -1)
    return Series(steps, values, 1.7e9 + steps / 2, epochs)


def decay(points: int, number: int, noise: float = 0.02) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(number)
    return np.asarray(np.exp(-np.arange(points) / (points / 5)) + 0.1 + 0.01 * number + noise * rng.random(points))


def made(number: int, points: int = 1000, **changed: Any) -> ReportRun:
    """A run with a rate of its own and a batch size that all share; run 2 ends as NaN."""
    loss = decay(points, number)
    if number == 2:
        loss[points * 3 // 4 :] = np.nan
    given: dict[str, Any] = {
        "name": f"run {number}",
        "status": ["completed", "running", "crashed"][number % 3],
        "created": 1.7e9 + 60 * number,
        "settings": {
            "batch_size": (32, "default"),
            "rule": (["adamw", "sgdw"][number % 2], "overridden by the command line"),
            "learning_rate": (10.0 ** -(number % 7), "overridden by the command line"),
        },
        "curves": {
            "train.loss": series(loss, 1, points // 10),
            "validation.loss": series(decay(10, number), points // 10, points // 10),
        },
    }
    return ReportRun(f"id-{number}", **{**given, **changed})


def full(number: int = 0) -> ReportRun:
    """A run with everything that a report can show, under hostile names."""
    edges = np.linspace(-3.0, 3.0, 31)
    draws = [np.random.default_rng(step).standard_normal(500) / (1 + step / 100) for step in range(0, 300, 50)]
    counted = [(50 * i, Histogram(edges, np.histogram(each, edges)[0], int(i == 2))) for i, each in enumerate(draws)]
    return made(
        number,
        name=EVIL,
        note=EVIL,
        tags=("baseline", EVIL),
        settings={
            EVIL: (EVIL, "overridden by the command line"),
            "path": ("a\x00b\ud800", "default"),
            "rate": (0.1, "default"),
        },
        figures={"parameters": 101_770, EVIL: float("nan")},
        curves={EVIL: series([3.0, np.inf, 1.0, np.nan]), "train.loss": series(decay(1000, 1))},
        histograms={"gradients.weight": counted},
        images={EVIL: [(5, Image(np.arange(64, dtype=np.uint8).reshape(8, 8)))]},
        texts={EVIL: EVIL},
        tables={EVIL: Rows((EVIL, "count"), ((EVIL, 3), (None, 2.5)))},
        alerts=[(400, EVIL, Alert(EVIL, "error"))],
    )
