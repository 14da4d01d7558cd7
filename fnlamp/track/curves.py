"""What a run recorded, as values: series of scalars, and other values by step."""

from __future__ import annotations

import difflib
from array import array
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NoReturn, TypeAlias, final

import numpy as np

from fnlamp.track.entry import Alert, Media, Value

NO_EPOCH: Final = -1


@dataclass(frozen=True, eq=False)
class Series:
    """The values of one scalar, one for each step, in the order of steps.

    Shapes: all `(n,)`; `steps` and `epochs` int64, `values` and `times` float64. `epochs` has -1 where none was given.
    """

    steps: np.ndarray[Any, Any]
    values: np.ndarray[Any, Any]
    times: np.ndarray[Any, Any]
    epochs: np.ndarray[Any, Any]

    def __len__(self) -> int:
        return len(self.steps)


@dataclass(frozen=True)
class Recorded:
    """A value that is not a scalar, with its name and where it was recorded; images and figures are `Media`."""

    name: str
    value: Value | Media
    step: int
    epoch: int | None
    lane: int
    time: float


Key: TypeAlias = tuple[int, str]  # the lane and the name


@final
class History:
    """What a run recorded: after resumes, what counts. Of two values of one name, lane and step, the later one counts.

    >>> history = History({(0, "loss"): Series(np.array([1, 2]), np.array([0.5, 0.25]), np.zeros(2), np.full(2, -1))}, ())
    >>> history.names, history.last, history.at(1), history.scalars("loss").values
    (('loss',), {'loss': 0.25}, {'loss': 0.5}, array([0.5 , 0.25]))
    """

    def __init__(self, series: Mapping[Key, Series], others: tuple[Recorded, ...]) -> None:
        self._series, self._others = series, others

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of all scalars and other values, sorted."""
        return tuple(sorted({name for _, name in self._series} | {each.name for each in self._others}))

    @cached_property
    def lanes(self) -> tuple[int, ...]:
        """The lanes that have values, sorted."""
        return tuple(sorted({lane for lane, _ in self._series} | {each.lane for each in self._others}))

    @cached_property
    def last(self) -> Mapping[str, float]:
        """The value of each scalar at its last step, of lane 0."""
        return {name: float(each.values[-1]) for (lane, name), each in sorted(self._series.items()) if lane == 0 and len(each)}

    @cached_property
    def alerts(self) -> tuple[Recorded, ...]:
        """The alerts of all lanes, in the order in which they were recorded."""
        return tuple(each for each in self._others if isinstance(each.value, Alert))

    def scalars(self, name: str, lane: int = 0) -> Series:
        """The series of a scalar.  Raises: `KeyError` for a name that has none."""
        return self._series[lane, name] if (lane, name) in self._series else self._missing(name, lane)

    def values(self, name: str, lane: int = 0) -> tuple[Recorded, ...]:
        """The values of a name that are not scalars, in the order of steps.  Raises: `KeyError` for a name that has none."""
        found = [each for each in self._others if (each.lane, each.name) == (lane, name)]
        return tuple(sorted(found, key=lambda each: each.step)) or self._missing(name, lane)

    def at(self, step: int, lane: int = 0) -> Mapping[str, Value | Media]:
        """The value of each name at this step, or at the last step before that has one."""
        found: dict[str, tuple[int, Value | Media]] = {}
        others = (each for each in self._others if each.lane == lane and each.step <= step)
        for each in sorted(others, key=lambda each: each.step):
            found[each.name] = each.step, each.value
        for (of, name), series in sorted(self._series.items()):
            before = bisect_right(series.steps, step) - 1
            if of == lane and before >= 0 and found.get(name, (-1,))[0] <= series.steps[before]:
                found[name] = int(series.steps[before]), float(series.values[before])
        return {name: value for name, (_, value) in sorted(found.items())}

    def __repr__(self) -> str:
        return f"<History: {len(self.names)} names, {sum(map(len, self._series.values())):,} scalars>"

    def _missing(self, name: str, lane: int) -> NoReturn:
        near = difflib.get_close_matches(str(name), self.names, 3) or self.names[:10]
        kind = "" if lane == 0 else f" in lane {lane}"
        raise KeyError(f"no such values of {name!r}{kind}; names here: {', '.join(map(repr, near)) or 'none'}")


class _Column:
    """The values of one scalar in the order of lines: the number of the entry of each, and the value."""

    __slots__ = ("cuts", "entries", "values")

    def __init__(self) -> None:
        self.entries, self.values = array("q"), array("d")
        self.cuts: list[tuple[int, int]] = []  # of the values before this one, those of later steps than this do not count


@final
class Builder:
    """Takes values in the order in which they were recorded; `history` is what counts of them."""

    def __init__(self) -> None:
        self._steps, self._epochs, self._times = array("q"), array("q"), array("d")
        self._columns: dict[Key, _Column] = {}
        self._others: dict[tuple[Key, int, bool], Recorded] = {}
        self.lane: dict[str, _Column] = {}
        self._lanes: dict[int, dict[str, _Column]] = {0: self.lane}

    def entry(self, step: int, epoch: int | None, lane: int, time: float) -> int:
        """Begin an entry, whose values follow; returns its number."""
        self.lane = self._lanes.setdefault(lane, {})
        self._steps.append(step)
        self._epochs.append(NO_EPOCH if epoch is None else epoch)
        self._times.append(time)
        return len(self._steps) - 1

    def column(self, name: str, lane: int) -> _Column:
        """The column of a scalar."""
        found = self.lane[name] = self._columns[lane, name] = _Column()
        return found

    def scalar(self, name: str, lane: int, at: int, value: float) -> None:
        """Take a scalar of the entry with this number."""
        column = self.lane.get(name) or self.column(name, lane)
        column.entries.append(at)
        column.values.append(value)

    def other(self, each: Recorded) -> None:
        """Take a value that is not a scalar."""
        key = (each.lane, each.name), each.step, isinstance(each.value, Alert)
        self._others.pop(key, None)  # the later one comes later in the order, too
        self._others[key] = each

    def resumed(self, step: int, start: str) -> None:
        """Of what was taken so far under names that start so, later steps do not count."""
        for (_, name), column in self._columns.items():
            if name.startswith(start):
                column.cuts.append((len(column.entries), step))
        self._others = {key: each for key, each in self._others.items() if each.step <= step or not each.name.startswith(start)}

    def history(self) -> History:
        """What counts."""
        steps, epochs, times = np.array(self._steps, np.int64), np.array(self._epochs, np.int64), np.array(self._times)
        series = {}
        for key, column in self._columns.items():
            entries, values = np.array(column.entries), np.array(column.values)
            kept = _kept(steps[entries], column.cuts) if len(entries) else entries
            entries, values = entries[kept], values[kept]
            if len(entries):
                series[key] = Series(steps[entries], values, times[entries], epochs[entries])
        return History(series, tuple(self._others.values()))


def _kept(steps: np.ndarray[Any, Any], cuts: list[tuple[int, int]]) -> np.ndarray[Any, Any]:
    """The places of the values that count, in the order of steps."""
    counts = np.ones(len(steps), bool)
    for end, step in cuts:
        counts[:end] &= steps[:end] <= step
    places = np.flatnonzero(counts)
    places = places[np.argsort(steps[places], kind="stable")]
    ordered = steps[places]
    return places[np.append(ordered[1:] != ordered[:-1], True)] if len(places) else places
