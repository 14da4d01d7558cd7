"""How values are distributed over steps: quantiles in windows of steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fnlamp.fault import FaultError, ShapeMismatch
from fnlamp.given import shown
from fnlamp.track.entry import Histogram
from fnlamp.track.quantile import BASIS, quantiles

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Spread:
    """Quantiles over steps.  Shapes: `steps` `(windows,)`, `rows` `(9, windows)`, for each basis point; `broken` `(n,)`.

    `broken` are the steps of values that are not finite, which are in no quantile.
    """

    steps: Array
    rows: Array
    broken: Array


def checked_curves(name: str, given: Any, *, counted: bool = False) -> dict[str, Any]:
    """Curves, or several together, by label; with `counted` also pairs of a step and a histogram.

    Raises: `TypeError`, `ValueError`.
    """
    expected = f"{name} is a mapping from labels to curves with steps and values"
    if not isinstance(given, Mapping):
        raise TypeError(f"{expected}, got {shown(given)}")
    if not given:
        raise ValueError(f"{expected}, got none")
    for label, curve in given.items():
        if not isinstance(label, str) or not (
            _is_curve(curve) or _several(curve, _is_curve) or (counted and _several(curve, _is_counted))
        ):
            raise TypeError(f"{expected}, got {shown(curve)} for {label!r}")
    return dict(given)


def _is_curve(given: Any) -> bool:
    return hasattr(given, "steps") and hasattr(given, "values")


def _several(given: Any, one: Callable[[Any], bool]) -> bool:
    return isinstance(given, list | tuple) and bool(given) and all(map(one, given))


def _is_counted(given: Any) -> bool:
    return isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], Histogram)


def points(curve: Any, where: str) -> tuple[Array, Array]:
    """The steps and the values of a curve.  Shapes: both `(n,)`.  Fails: `ShapeMismatch`."""
    steps, values = np.asarray(curve.steps), np.asarray(curve.values)
    numbers = all(each.dtype.kind in "iuf" and each.ndim == 1 for each in (steps, values))
    if not numbers or steps.shape != values.shape:
        got = f"{steps.dtype}{list(steps.shape)} and {values.dtype}{list(values.shape)}"
        raise FaultError(ShapeMismatch("as many steps as values, all numbers", got, where=where))
    return steps.astype(np.float64), values.astype(np.float64)


def spread_of(given: Any, windows: int, where: str) -> Spread:
    """The quantiles at the basis points of a curve, of several together, or of histograms, in at most so many windows.

    If curves have no more different steps than `windows`, each step is a window. Otherwise windows are equally wide.

    >>> from types import SimpleNamespace
    >>> seeds = [SimpleNamespace(steps=np.array([1, 2]), values=np.array([seed, 10.0])) for seed in (0.0, 1.0, 2.0)]
    >>> found = spread_of(seeds, 100, "bands")
    >>> found.steps.tolist(), found.rows[[0, 4, 8]].tolist()
    ([1.0, 2.0], [[0.0, 10.0], [1.0, 10.0], [2.0, 10.0]])
    """
    if not _is_curve(given) and _is_counted(given[0]):
        return _counted(given, windows)
    pairs = [points(each, where) for each in ([given] if _is_curve(given) else given)]
    steps, values = (np.concatenate([pair[k] for pair in pairs]) for k in (0, 1))
    finite = np.isfinite(values)
    broken, steps, values = np.unique(steps[~finite]), steps[finite], values[finite]
    if not len(steps):
        return Spread(steps, np.zeros((len(BASIS), 0)), broken)
    window = _windows(steps, windows)
    order = np.argsort(window, kind="stable")
    cuts = np.flatnonzero(np.diff(window[order])) + 1
    parts, places = np.split(values[order], cuts), np.split(steps[order], cuts)
    rows = np.stack([np.percentile(part, BASIS) for part in parts], axis=1)
    return Spread(np.array([(place.min() + place.max()) / 2 for place in places]), rows, broken)


def _windows(steps: Array, windows: int) -> Array:
    """The window of each step."""
    different, which = np.unique(steps, return_inverse=True)
    if len(different) <= windows:
        return np.asarray(which)
    edges = np.linspace(different[0], different[-1], windows + 1)
    return np.asarray(np.searchsorted(edges[1:-1], steps, side="right"))


def _counted(given: Sequence[tuple[int, Histogram]], windows: int) -> Spread:
    ordered = sorted(given, key=lambda pair: pair[0])
    kept = ordered[:: max(1, -(-len(ordered) // windows))]
    rows = np.stack([quantiles(each) for _, each in kept], axis=1)
    broken = np.array([step for step, each in ordered if each.not_finite], np.float64)
    return Spread(np.array([step for step, _ in kept], np.float64), rows, broken)
