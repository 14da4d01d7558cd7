"""The points of a sweep while it runs: those of a space are known, those of a study come one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fnlamp.experiment.folder import RunRecord
from fnlamp.sweep.rungs import Progress, Rungs, stage
from fnlamp.sweep.space import Space


class Points(Protocol):
    """The points so far, and how there are more. Called while the folder of the sweep is held, except `known` and `most`."""

    @property
    def most(self) -> int:
        """How many lanes the sweep has in the end."""
        ...

    def known(self) -> Sequence[Mapping[str, Any]]:
        """The points as of the last update."""
        ...

    def update(self, records: Mapping[int, RunRecord]) -> Sequence[Mapping[str, Any]]:
        """The points so far, after the runs of the lanes have been looked at."""
        ...

    def another(self) -> Mapping[str, Any] | None:
        """A new point, or `None` if there are enough."""
        ...

    def todo(self, lanes: Sequence[Progress]) -> list[tuple[int, int | None]]:
        """The lanes that must still run, and up to which rung."""
        ...


@dataclass(frozen=True)
class KnownPoints:
    """The points of a space."""

    space: Space
    rungs: Rungs | None = None

    @property
    def most(self) -> int:
        return len(self.space)

    def known(self) -> Sequence[Mapping[str, Any]]:
        return self.space.points

    def update(self, records: Mapping[int, RunRecord]) -> Sequence[Mapping[str, Any]]:
        return self.space.points

    def another(self) -> None:
        return None

    def todo(self, lanes: Sequence[Progress]) -> list[tuple[int, int | None]]:
        """All lanes reach a rung before any of them continues."""
        numbers, until = stage(lanes, self.rungs)
        return [(number, until) for number in numbers]
