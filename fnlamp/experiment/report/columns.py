"""The columns of the table of runs, and the settings that all runs share."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from fnlamp.experiment.report.markup import shown
from fnlamp.experiment.report.reduce import Extent, extent
from fnlamp.experiment.report.run import ReportRun

Cell = float | int | str | None


@dataclass(frozen=True)
class Column:
    """A value for each run, None where it has none; a metric also has the lowest and the highest value."""

    label: str
    kind: Literal["run", "setting", "metric", "figure"]
    values: tuple[Cell, ...]
    low: tuple[Cell, ...] = ()
    high: tuple[Cell, ...] = ()
    sources: tuple[str, ...] = field(default=())


def columns(runs: Sequence[ReportRun], extents: Sequence[dict[str, Extent]]) -> list[Column]:
    """What differs among the runs: their status, the settings that are not equal in all, metrics and figures."""
    found = [
        _of_runs("status", [run.status or None for run in runs]),
        _of_runs("created", [moment(run.created) for run in runs]),
    ]
    found += [
        _of_runs("tags", [", ".join(run.tags) or None for run in runs]),
        _of_runs("note", [run.note or None for run in runs]),
    ]
    found = [column for column in found if any(cell is not None for cell in column.values)]
    for path in differing(runs):
        pairs = [run.settings.get(path) for run in runs]
        cells = tuple(None if pair is None else cell(pair[0]) for pair in pairs)
        found.append(Column(path, "setting", cells, sources=tuple("" if pair is None else pair[1] for pair in pairs)))
    for name in metrics(runs):
        pairs_of_runs = [(each.get(name), run.figures.get(name)) for each, run in zip(extents, runs, strict=True)]
        last, low, high = (
            tuple(figure if each is None else getattr(each, part) for each, figure in pairs_of_runs)
            for part in ("last", "low", "high")
        )
        found.append(Column(name, "metric", last, low, high))
    names = [name for name in dict.fromkeys(name for run in runs for name in run.figures) if name not in metrics(runs)]
    return found + [Column(name, "figure", tuple(run.figures.get(name) for run in runs)) for name in names]


def _of_runs(label: str, values: Sequence[Cell]) -> Column:
    return Column(label, "run", tuple(values))


def measured(run: ReportRun) -> dict[str, Extent]:
    """The numbers of each curve that has a point."""
    return {name: extent(curve) for name, curve in run.curves.items() if len(curve.steps)}


def metrics(runs: Sequence[ReportRun]) -> list[str]:
    """The names of all curves; those of one kind, as `train.loss` and `validation.loss`, are neighbours."""
    names = {name for run in runs for name, curve in run.curves.items() if len(curve.steps)}
    return sorted(names, key=lambda name: (name.count(".") != 1, name.rpartition(".")[2], name))


def differing(runs: Sequence[ReportRun]) -> list[str]:
    """The paths of the settings that are not equal in all runs; those with the most values first."""
    if len(runs) < 2:
        return []
    paths = dict.fromkeys(path for run in runs for path in run.settings)
    counts = {path: len({repr(run.settings[path][0]) if path in run.settings else "" for run in runs}) for path in paths}
    return sorted((path for path in paths if counts[path] > 1), key=lambda path: -counts[path])


def common(runs: Sequence[ReportRun]) -> dict[str, tuple[Any, str]]:
    """The settings that are equal in all runs, with the source in the first."""
    other = set(differing(runs))
    return {path: pair for path, pair in (runs[0].settings.items() if runs else ()) if path not in other}


def cell(value: Any) -> Cell:
    """A setting's value as a number or a text."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return value if isinstance(value, str) else repr(value)
    return int(value) if isinstance(value, numbers.Integral) and abs(int(value)) < 2**53 else float(value)


def written(value: Cell) -> str:
    """The text of a cell."""
    return "" if value is None else value if isinstance(value, str) else shown(value)


def exact(value: Cell) -> str:
    """The text of a setting: what somebody chose has all its digits.

    >>> exact(0.00030001), exact(1234567), exact(3.0)
    ('0.00030001', '1234567', '3.0')
    """
    return "" if value is None else value if isinstance(value, str) else repr(value)


def moment(seconds: float | None) -> str | None:
    """Seconds since 1970 as a text that sorts by time.

    >>> moment(1_700_000_000)
    '2023-11-14 22:13:20 UTC'
    """
    if seconds is None or not math.isfinite(seconds):
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):  # a year that no calendar has
        return None
