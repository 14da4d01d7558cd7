"""Plots of metrics over steps: learning curves of several runs, and how their values are distributed."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Final

import numpy as np

from fnlamp.effect import Effect
from fnlamp.given import flag, number, path_of, text, whole
from fnlamp.plots.draw import PlotFault, drawn
from fnlamp.plots.spread import checked_curves, points, spread_of

COLOURS: Final = ("#3b349c", "#be8419", "#447e51", "#cc2a8d", "#059bf3", "#803705", "#7e16e3", "#441e2a")
"""Eight colours that differ for any colour vision."""
DASHES: Final = ("-", "--", ":", "-.")
"""More curves than colours also differ in dashes."""


def compare(
    curves: Mapping[str, Any],
    *,
    metric: str = "",
    smooth: float = 0.0,
    log: bool = False,
    path: str | PathLike[str] | None = None,
) -> Effect[Path | None, PlotFault]:
    """Draw the learning curves of several runs; to the file `path`, or on the display without a path.

    `curves` has a curve with `steps` and `values` for each label, such as what `runs.scalars("train.loss")` yields. With
    `smooth` above 0, the exponential mean of a curve, `m <- smooth m + (1 - smooth) v` with the correction of its start, is
    drawn over it. A value that is not finite is a gap, and a cross at the top. Yields the path.
    Fails: `ShapeMismatch`; `FileUnwritable`; `NoDisplay`; `ExtraMissing` without the extra `plots`.

    >>> import pathlib, tempfile
    >>> from fnlamp import track
    >>> curve = track.Series(np.arange(3), np.array([2.0, 1.0, 0.5]), np.zeros(3), np.zeros(3))
    >>> path = pathlib.Path(tempfile.mkdtemp(), "curves.svg")
    >>> compare({"a": curve}, metric="train.loss", path=path).map(lambda path: path.name).run()
    <IOResult: <Success: curves.svg>>
    """
    given = checked_curves("compare: curves", curves)
    weight = number("compare: smooth", smooth, "a share from 0 to below 1", lambda each: 0 <= each < 1)
    label, scale = text("compare: metric", metric), "log" if flag("compare: log", log) else "linear"
    file = None if path is None else Path(path_of(path, "compare: path"))

    def fill(figure: Any, found: list[tuple[str, Any, Any]]) -> None:
        axes = figure.subplots()
        for place, (name, steps, values) in enumerate(found):
            style = {"color": COLOURS[place % 8], "linestyle": DASHES[place // 8 % len(DASHES)]}
            marker = {"marker": "."} if len(steps) < 20 else {}
            if weight:
                axes.plot(steps, values, alpha=0.3, linewidth=0.8, **style)
            axes.plot(steps, smoothed(values, weight), label=name, **style, **(marker if not weight else {}))
            crosses(axes, steps[~np.isfinite(values)], style["color"])
        axes.set(xlabel="step", yscale=scale)
        axes.set_ylabel(label, parse_math=False)
        legend(axes, len(found))

    def draw() -> Path | None:
        found = [(name, *points(one, "compare")) for name, each in given.items() for one in _curves(each)]
        return drawn(lambda figure: fill(figure, found), file)

    return Effect.checked(draw)


def bands(
    curves: Mapping[str, Any],
    *,
    metric: str = "",
    windows: int = 100,
    log: bool = False,
    path: str | PathLike[str] | None = None,
) -> Effect[Path | None, PlotFault]:
    """Draw how values are distributed over steps: the median as a line, and four bands around it.

    `curves` has for each label a curve with `steps` and `values`; several, such as those of seeds, whose values count
    together; or pairs of a step and a `track.Histogram`. Values are taken together in at most `windows` windows of steps. The
    bands reach from 0 to 100, 6.68 to 93.32, 15.87 to 84.13 and 30.85 to 69.15 % of them: for a normal distribution, the last
    three are 1.5, 1 and 0.5 standard deviations around the mean. Values that are not finite count nowhere, and are a cross at
    the top. It draws to the file `path`, or on the display without a path. Yields the path.
    Fails: `ShapeMismatch`; `FileUnwritable`; `NoDisplay`; `ExtraMissing` without the extra `plots`.

    >>> import pathlib, tempfile
    >>> from fnlamp import track
    >>> def seed(number):
    ...     return track.Series(np.arange(50), np.random.default_rng(number).random(50), np.zeros(50), np.zeros(50))
    >>> path = pathlib.Path(tempfile.mkdtemp(), "bands.svg")
    >>> bands({"adamw": [seed(0), seed(1), seed(2)]}, path=path).map(lambda path: path.name).run()
    <IOResult: <Success: bands.svg>>
    """
    given, most = checked_curves("bands: curves", curves, counted=True), whole("bands: windows", windows)
    label, scale = text("bands: metric", metric), "log" if flag("bands: log", log) else "linear"
    file = None if path is None else Path(path_of(path, "bands: path"))

    def fill(figure: Any, found: dict[str, Any]) -> None:
        axes = figure.subplots()
        for place, (name, spread) in enumerate(found.items()):
            colour = COLOURS[place % 8]
            for low, high in ((0, 8), (1, 7), (2, 6), (3, 5)):
                axes.fill_between(spread.steps, spread.rows[low], spread.rows[high], color=colour, alpha=0.16, linewidth=0)
            axes.plot(spread.steps, spread.rows[4], color=colour, label=name)
            crosses(axes, spread.broken, colour)
        axes.set(xlabel="step", yscale=scale)
        axes.set_ylabel(label, parse_math=False)
        legend(axes, len(found))

    def draw() -> Path | None:
        found = {name: spread_of(each, most, "bands") for name, each in given.items()}
        return drawn(lambda figure: fill(figure, found), file)

    return Effect.checked(draw)


def smoothed(values: Any, weight: float) -> Any:
    """The exponential mean of the finite values so far, with the correction of its start; NaN where a value is not finite.

    >>> smoothed(np.array([1.0, np.nan, 3.0]), 0.5).round(3).tolist()
    [1.0, nan, 2.333]
    """
    total, share, means = 0.0, 0.0, np.full(len(values), np.nan)
    if not weight:
        return np.where(np.isfinite(values), values, np.nan)
    for place in np.flatnonzero(np.isfinite(values)):
        total, share = weight * total + (1 - weight) * values[place], weight * share + 1 - weight
        means[place] = total / share
    return means


def crosses(axes: Any, steps: Any, colour: str) -> None:
    """Mark steps at the top of the axes."""
    if len(steps):
        axes.plot(steps, np.full(len(steps), 0.98), "x", color=colour, transform=axes.get_xaxis_transform())


def legend(axes: Any, entries: int) -> None:
    """The names of what is drawn, as they are; more than 40 would hide it."""
    if entries <= 40:
        for each in axes.legend(fontsize="small", ncols=1 + entries // 15).get_texts():
            each.set_parse_math(False)


def _curves(given: Any) -> list[Any]:
    return [given] if hasattr(given, "steps") else list(given)
