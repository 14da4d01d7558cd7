"""Plots of a table of runs: a metric against a hyperparameter, and all hyperparameters next to each other."""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Final

import numpy as np

from fnlamp.effect import Effect
from fnlamp.extra import need
from fnlamp.given import path_of, several, shown, text
from fnlamp.plots.curves import COLOURS, crosses, legend
from fnlamp.plots.draw import PlotFault, drawn

DECADES: Final = 50.0
"""An axis of positive numbers whose largest is so many times its smallest is logarithmic."""


@dataclass(frozen=True, eq=False)
class Scale:
    """An axis: `names` of categories, or numbers from `low` to `high`, which `log` spaces by their ratio.

    Shapes: `values` `(rows,)`: numbers, or places of categories; NaN where a row has none.
    """

    values: np.ndarray[Any, Any]
    names: tuple[str, ...]
    low: float
    high: float
    log: bool

    def share(self) -> np.ndarray[Any, Any]:
        """Where the values are between the ends, from 0 to 1."""
        return self.place(np.where(np.isfinite(self.values), self.values, np.nan))

    def place(self, values: Any) -> np.ndarray[Any, Any]:
        """Where numbers are between the ends."""
        change = np.log10 if self.log else np.asarray
        low, high, at = change(self.low), change(self.high), change(np.asarray(values, np.float64))
        return np.asarray((at - low) / (high - low) if high > low else at - low + 0.5)


def scale_of(column: Sequence[Any]) -> Scale:
    """The axis of a column: numbers if all its values are, else categories; None is no value, and truth values are categories.

    >>> rates = scale_of([1e-4, 1e-2, None, 1e-3])
    >>> rates.log, rates.share().round(3).tolist()
    (True, [0.0, 1.0, nan, 0.5])
    >>> scale_of(["adamw", "lion", "adamw"]).names
    ('adamw', 'lion')
    """
    known = [each for each in column if each is not None]
    if all(isinstance(each, numbers.Real) and not isinstance(each, bool | np.bool_) for each in known):
        values = np.array([math.nan if each is None else float(each) for each in column])
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
        return Scale(values, (), low, high, log=low > 0 and high / low >= DECADES)
    names = tuple(dict.fromkeys(str(each) for each in known))
    places = [math.nan if each is None else float(names.index(str(each))) for each in column]
    return Scale(np.array(places), names, 0.0, float(len(names) - 1), log=False)


def scatter(
    table: Mapping[str, Sequence[Any]],
    x: str,
    y: str,
    *,
    colour: str | None = None,
    path: str | PathLike[str] | None = None,
) -> Effect[Path | None, PlotFault]:
    """Draw a column of a table against another, a point for each row, such as a metric against a hyperparameter.

    `table` has columns of equal length by name, as `runs.table()`. Numbers that span decades are on a logarithmic axis; texts,
    truth values and columns of mixed types are categories. Rows without a value, None, are left out; a `y` that is not finite
    is a cross at the top. It draws to the file `path`, or on the display without a path. Yields the path.
    Fails: `FileUnwritable`; `NoDisplay`; `ExtraMissing` without the extra `plots`.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "scatter.svg")
    >>> table = {"rate": [1e-4, 1e-3, 1e-2], "loss": [0.5, 0.2, float("nan")]}
    >>> scatter(table, x="rate", y="loss", path=path).map(lambda path: path.name).run()
    <IOResult: <Success: scatter.svg>>
    """
    columns = checked_table("scatter: table", table)
    wanted = {"x": x, "y": y} | ({} if colour is None else {"colour": colour})
    scales = {key: scale_of(column(columns, name, f"scatter: {key}")) for key, name in wanted.items()}
    file = None if path is None else Path(path_of(path, "scatter: path"))

    def fill(figure: Any) -> None:
        axes = figure.subplots()
        across, up = scales["x"], scales["y"]
        for name, group, style in _groups(scales.get("colour"), len(across.values)):
            shown_points = group & np.isfinite(across.values) & np.isfinite(up.values)
            drawn_points = axes.scatter(
                across.values[shown_points], up.values[shown_points], label=name, **_part(style, shown_points)
            )
            if "c" in style:
                figure.colorbar(drawn_points, ax=axes, label=colour)
        axes.set(xscale="log" if across.log else "linear", yscale="log" if up.log else "linear")
        for axis, scale, name in ((axes.xaxis, across, x), (axes.yaxis, up, y)):
            axis.set_label_text(name, parse_math=False)
            if scale.names:
                axis.set_ticks(range(len(scale.names)), scale.names, parse_math=False)
        absent = [each is None for each in columns[y]]
        crosses(axes, across.values[~np.isfinite(up.values) & ~np.array(absent) & np.isfinite(across.values)], "black")
        if scales.get("colour") is not None and scales["colour"].names:
            legend(axes, len(scales["colour"].names))

    return Effect.checked(lambda: drawn(fill, file))


def parallel_coordinates(
    table: Mapping[str, Sequence[Any]],
    columns: Sequence[str],
    metric: str,
    *,
    path: str | PathLike[str] | None = None,
) -> Effect[Path | None, PlotFault]:
    """Draw a line for each row of a table through an axis for each column, coloured by the metric, whose axis is the last.

    `table` has columns of equal length by name, as `runs.table()`. Numbers that span decades are on a logarithmic axis; texts,
    truth values and columns of mixed types are categories. A line has a gap where its row has no value, and is dashed and grey
    if its metric is not finite. It draws to the file `path`, or on the display without a path. Yields the path.
    Fails: `FileUnwritable`; `NoDisplay`; `ExtraMissing` without the extra `plots`.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "parallel.svg")
    >>> table = {"rate": [1e-4, 1e-3, 1e-2], "rule": ["adamw", "lion", "adamw"], "loss": [0.5, 0.2, 0.3]}
    >>> parallel_coordinates(table, ["rate", "rule"], "loss", path=path).map(lambda path: path.name).run()
    <IOResult: <Success: parallel.svg>>
    """
    given = checked_table("parallel_coordinates: table", table)
    names = several("parallel_coordinates: columns", columns)
    if not names:
        raise ValueError("parallel_coordinates: columns has at least one name, got none")
    scales = [scale_of(column(given, name, "parallel_coordinates: columns")) for name in names]
    last = scale_of(column(given, metric, "parallel_coordinates: metric"))
    file = None if path is None else Path(path_of(path, "parallel_coordinates: path"))

    def fill(figure: Any) -> None:
        axes = figure.subplots()
        lines = np.stack([each.share() for each in (*scales, last)], axis=1)
        colours = need("matplotlib", "plots").colormaps["viridis"]
        for line, at in zip(lines, last.share(), strict=True):
            style = {"color": colours(float(at))} if np.isfinite(at) else {"color": "0.6", "linestyle": "--"}
            axes.plot(range(len(line)), line, marker=".", linewidth=1.2, alpha=0.8, **style)
        for place, scale in enumerate((*scales, last)):
            axes.axvline(place, color="black", linewidth=0.8)
            for value, label in _ticks(scale):
                box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
                at = place + 0.03, float(scale.place(value))
                axes.text(*at, label, fontsize="small", va="center", parse_math=False, bbox=box, zorder=5)
        axes.set_xticks(range(len(scales) + 1), [*names, metric], parse_math=False)
        axes.set(ylim=(-0.05, 1.05), xlim=(-0.1, len(scales) + 0.35), yticks=[])
        for side in ("left", "right", "top", "bottom"):
            axes.spines[side].set_visible(False)

    size = {"figsize": (max(6.4, 1.8 * (len(scales) + 1)), 4.8)}
    return Effect.checked(lambda: drawn(fill, file, **size))


def checked_table(name: str, given: Any) -> dict[str, list[Any]]:
    """Columns of equal length by name.  Raises: `TypeError`, `ValueError`."""
    expected = f"{name} is a mapping from names to columns of equal length, as runs.table()"
    if not isinstance(given, Mapping):
        raise TypeError(f"{expected}, got {shown(given)}")
    for key, values in given.items():
        if not isinstance(key, str) or isinstance(values, str | bytes) or not hasattr(values, "__iter__"):
            raise TypeError(f"{expected}, got {shown(values)} for {key!r}")
    columns = {key: list(values) for key, values in given.items()}
    if len(lengths := {len(values) for values in columns.values()}) != 1 or lengths == {0}:
        raise ValueError(f"{expected}, at least one row, got lengths {sorted(lengths) or 'of none'}")
    return columns


def column(columns: Mapping[str, list[Any]], name: Any, argument: str) -> list[Any]:
    """A column.  Raises: `ValueError` with the near names if there is none."""
    if text(argument, name) not in columns:
        near = difflib.get_close_matches(name, columns, 3) or list(columns)[:10]
        raise ValueError(f"{argument} is the name of a column, got {name!r}; names here: {', '.join(map(repr, near))}")
    return columns[name]


def _groups(scale: Scale | None, rows: int) -> list[tuple[str | None, Any, dict[str, Any]]]:
    """The points that share a label, and how they are coloured."""
    if scale is None:
        return [(None, np.ones(rows, bool), {"color": COLOURS[0]})]
    if scale.names:
        return [(name, scale.values == place, {"color": COLOURS[place % 8]}) for place, name in enumerate(scale.names)]
    norm = "log" if scale.log else "linear"
    return [(None, np.isfinite(scale.values), {"c": scale.values, "cmap": "viridis", "norm": norm})]


def _part(style: dict[str, Any], kept: Any) -> dict[str, Any]:
    return {key: value[kept] if key == "c" else value for key, value in style.items()}


def _ticks(scale: Scale) -> list[tuple[float, str]]:
    """The values that an axis names."""
    if scale.names:
        return [(float(place), name) for place, name in enumerate(scale.names)]
    ticker = need("matplotlib.ticker", "plots")
    if scale.log:
        powers = range(math.ceil(math.log10(scale.low) - 1e-9), math.floor(math.log10(scale.high) + 1e-9) + 1)
        return [(10.0**power, f"{10.0**power:g}") for power in powers]
    found = ticker.MaxNLocator(5).tick_values(scale.low, scale.high) if scale.high > scale.low else [scale.low]
    return [(float(each), f"{each:.4g}") for each in found if scale.low <= each <= scale.high]
