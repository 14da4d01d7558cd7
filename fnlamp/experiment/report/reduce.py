"""A long curve as some hundred buckets that hide no extreme."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fnlamp.experiment.report.run import Curve

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Reduced:
    """The points of a curve in buckets of consecutive points.  Shapes: `(buckets,)` each.

    `first` and `last` are the steps at the ends of a bucket. `low`, `high` and `mean` are over its finite values, and NaN
    if it has none. `epochs` and `times`, in seconds since the start, are of the point in its middle. `broken` has a row
    `(first bucket, last bucket, NaNs, infinities)` of each stretch of buckets with values that are not finite.
    """

    first: Array
    last: Array
    low: Array
    high: Array
    mean: Array
    epochs: Array | None
    times: Array | None
    broken: tuple[tuple[int, int, int, int], ...]


@dataclass(frozen=True)
class Extent:
    """The numbers of a curve: the last value, and the lowest and the highest finite one with their steps."""

    points: int
    last: float
    low: float
    low_step: int
    high: float
    high_step: int
    nans: int
    infinities: int


def reduced(curve: Curve, buckets: int, start: float = 0.0) -> Reduced:
    """The curve in at most `buckets` buckets; each point is its own bucket if there are no more of them.

    >>> from types import SimpleNamespace
    >>> values = np.array([3.0, 9.0, 1.0, np.nan, 2.0, 2.0])
    >>> few = reduced(SimpleNamespace(steps=np.arange(6), values=values, epochs=None, times=None), 2)
    >>> few.first.tolist(), few.last.tolist(), few.low.tolist(), few.high.tolist(), few.broken
    ([0, 3], [2, 5], [1.0, 2.0], [9.0, 2.0], ((1, 1, 1, 0),))
    """
    steps, values = np.asarray(curve.steps), np.asarray(curve.values, np.float64)
    if not len(steps):
        none = np.zeros(0)
        return Reduced(steps, steps, none, none, none, None, None, ())
    edges = np.unique(np.linspace(0, len(steps), min(buckets, len(steps)) + 1).astype(np.int64))
    starts, ends = edges[:-1], edges[1:]
    finite = np.isfinite(values)
    some = np.add.reduceat(finite, starts, dtype=np.int64)
    low = np.minimum.reduceat(np.where(finite, values, np.inf), starts)
    high = np.maximum.reduceat(np.where(finite, values, -np.inf), starts)
    with np.errstate(all="ignore"):
        sums = np.add.reduceat(np.where(finite, values, 0.0), starts) / some
        mean = np.where(np.isfinite(sums), np.clip(sums, low, high), low / 2 + high / 2)  # a sum may overflow
    nothing, middle = some == 0, (starts + ends - 1) // 2
    epochs, times = _known(curve.epochs, spread), _known(curve.times, lambda each: each - start)
    low, high, mean = (np.where(nothing, np.nan, each) for each in (low, high, mean))
    within = None if epochs is None else epochs[middle]
    since = None if times is None else times[middle]
    broken = _stretches(np.add.reduceat(np.isnan(values), starts, dtype=np.int64), ends - starts - some)
    return Reduced(steps[starts], steps[ends - 1], low, high, mean, within, since, broken)


def extent(curve: Curve) -> Extent:
    """The numbers of a curve with at least one point; where no value is finite, lowest and highest are NaN."""
    values, steps = np.asarray(curve.values, np.float64), curve.steps
    finite = np.flatnonzero(np.isfinite(values))
    nans = int(np.isnan(values).sum())
    infinities = len(values) - len(finite) - nans
    if not len(finite):
        return Extent(len(values), float(values[-1]), np.nan, 0, np.nan, 0, nans, infinities)
    low, high = finite[np.argmin(values[finite])], finite[np.argmax(values[finite])]
    least, most = (float(values[low]), int(steps[low])), (float(values[high]), int(steps[high]))
    return Extent(len(values), float(values[-1]), *least, *most, nans, infinities)


def spread(epochs: Array) -> Array:
    """Where points are on an axis of epochs: those of epoch 3 are spread evenly from 2 to 3, and the last one is at 3.

    >>> spread(np.array([1, 1, 2])).tolist()
    [0.5, 1.0, 2.0]
    """
    change = np.flatnonzero(np.diff(epochs)) + 1
    counts = np.diff(np.concatenate([[0], change, [len(epochs)]]))
    within = np.arange(len(epochs)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.asarray(epochs - 1 + (within + 1) / np.repeat(counts, counts))


def _known(given: Array | None, change: Any) -> Array | None:
    """The numbers, changed; None if one of them is not known."""
    numbers = None if given is None else np.asarray(given, np.float64)
    return None if numbers is None or not bool((numbers >= 0).all()) else np.asarray(change(numbers))


def _stretches(nans: Array, broken: Array) -> tuple[tuple[int, int, int, int], ...]:
    """Neighbouring buckets with values that are not finite, as one row."""
    at = np.flatnonzero(broken)
    groups = np.split(at, np.flatnonzero(np.diff(at) > 1) + 1) if len(at) else []
    return tuple((int(g[0]), int(g[-1]), int(nans[g].sum()), int((broken - nans)[g].sum())) for g in groups)
