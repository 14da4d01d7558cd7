"""Quantiles of numbers and of histograms, as bands over steps show them."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from fnlamp.track.entry import Histogram

BASIS: Final = (0.0, 6.68, 15.87, 30.85, 50.0, 69.15, 84.13, 93.32, 100.0)
"""Percentages at which bands begin and end: those of a normal distribution at 1.5, 1 and 0.5 deviations from its mean."""


def quantiles(given: Histogram, percents: Any = BASIS) -> np.ndarray[Any, Any]:
    """The quantiles of the numbers that a histogram counts, taken as uniform within each bin; NaN if it counts none.

    Shapes: float64, like `percents`.

    >>> quantiles(Histogram(np.array([0.0, 1.0, 3.0]), np.array([2, 2])), [0, 25, 50, 75, 100]).tolist()
    [0.0, 0.5, 1.0, 2.0, 3.0]
    """
    edges, counts = np.asarray(given.edges, np.float64), np.asarray(given.counts, np.float64)
    wanted = np.asarray(percents, np.float64) / 100
    filled = np.flatnonzero(counts > 0)
    if not len(filled):
        return np.full(wanted.shape, np.nan)
    reached = np.cumsum(counts[filled]) / counts.sum()
    # A bin without counts is a jump: the quantile at its share is the upper edge of the bin before.
    at = np.minimum(np.searchsorted(reached, wanted, side="left"), len(filled) - 1)
    before = np.concatenate([[0.0], reached[:-1]])[at]
    share = np.clip((wanted - before) / (reached[at] - before), 0.0, 1.0)
    low, high = edges[filled[at]], edges[filled[at] + 1]
    return np.asarray(low + share * (high - low))
