"""What a report knows of a run: plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from fnlamp.track.entry import Alert, Figure, Histogram, Image, Rows


class Curve(Protocol):
    """The values of a metric over steps.  Shapes: `(n,)` each; `epochs` and `times` may be None.

    `steps` rise. `times` are in seconds since 1970. An epoch that is not known is negative or NaN.
    """

    @property
    def steps(self) -> np.ndarray[Any, Any]: ...
    @property
    def values(self) -> np.ndarray[Any, Any]: ...
    @property
    def epochs(self) -> np.ndarray[Any, Any] | None: ...
    @property
    def times(self) -> np.ndarray[Any, Any] | None: ...


@dataclass(frozen=True, eq=False)
class ReportRun:
    """A run as a report shows it. Everything but the `id` may be missing.

    `created` is in seconds since 1970. `settings` has a value and the text of its source, such as "default", by dotted path.
    `curves` are metrics by name; `figures` are numbers by name, shown where there is no curve. `histograms` and `images` are
    pairs of a step and a value, by name. `texts` are shown as they are, such as what `explain()` says, or a diff. `alerts` are
    triples of a step, a name and an alert.
    """

    id: str
    name: str = ""
    status: str = ""
    created: float | None = None
    note: str = ""
    tags: Sequence[str] = ()
    settings: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    histograms: Mapping[str, Sequence[tuple[int, Histogram]]] = field(default_factory=dict)
    images: Mapping[str, Sequence[tuple[int, Image | Figure]]] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, Rows] = field(default_factory=dict)
    alerts: Sequence[tuple[int, str, Alert]] = ()

    @property
    def title(self) -> str:
        """The name, or the id of a run without one."""
        return self.name or self.id


def told_apart(runs: Sequence[ReportRun]) -> list[ReportRun]:
    """The runs under names that differ: the ids if all have one name, or the name with the id where several share it.

    >>> [run.title for run in told_apart([ReportRun("1", "a"), ReportRun("2", "a")])]
    ['1', '2']
    >>> [run.title for run in told_apart([ReportRun("1", "a"), ReportRun("2", "a"), ReportRun("3", "b")])]
    ['a/1', 'a/2', 'b']
    """
    counts = Counter(run.title for run in runs)
    names = [run.title if counts[run.title] == 1 else run.id if len(counts) == 1 else f"{run.title}/{run.id}" for run in runs]
    return [replace(run, name=name) for run, name in zip(runs, names, strict=True)]
