"""What `sweep` was given, checked, and the config of each lane."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from returns.result import Failure

from fnlamp.config import Resolved, resolve
from fnlamp.experiment.attempt import Plan
from fnlamp.experiment.folder import RunRecord
from fnlamp.experiment.git import GitState
from fnlamp.experiment.plain import settings_of
from fnlamp.experiment.where import MISSING, Column
from fnlamp.fault import FaultError, SweepChanged
from fnlamp.sweep.result import WAITING, Lane
from fnlamp.sweep.rungs import Rungs

NOT_THE_LANES: Final = ("FileUnwritable", "FolderInUse", "RunExists", "RunActive", "RunTooNew")
"""Faults that say nothing of a lane: they end the sweep, and the lane is resumed with it."""


@dataclass(frozen=True, eq=False)
class Job:
    """The arguments of `sweep`. `space` is a `Space` or a `Study`."""

    name: str
    program_of: Any
    config: Any
    space: Any
    column: Column
    lowest: bool
    rungs: Rungs | None
    root: str
    tags: tuple[str, ...]
    note: str
    outputs: Any
    described_in: str
    together: int | None = None

    @property
    def folder(self) -> str:
        """The folder with the runs of the lanes."""
        return os.path.join(self.root, self.name)

    def described(self) -> dict[str, Any]:
        """What `sweep.json` says. Which lanes there are, and how far, is in the runs."""
        return {
            "name": self.name,
            "metric": str(self.column),
            "best": "lowest" if self.lowest else "highest",
            "rungs": None if self.rungs is None else str(self.rungs),
            "lanes": len(self.space),
            **self.space.described(),
        }

    def resolved(self, number: int, point: Mapping[str, Any]) -> Resolved[Any]:
        """The config of a lane.  Fails: `ConfigError`."""
        changes = [f"{path}={value}" if isinstance(value, str) else {path: value} for path, value in point.items()]
        match resolve(self.config, *changes):
            case Failure(fault):
                raise FaultError(fault.inside(f"lane {number}"))
            case result:
                found: Resolved[Any] = result.unwrap()
                return found

    def plan(self, number: int, resolved: Resolved[Any], repository: GitState) -> Plan:
        """What the run of a lane records."""
        settings = settings_of(resolved)
        return Plan(
            self.name,
            resolved.config,
            settings,
            self.root,
            self.tags,
            self.note,
            self.described_in,
            parent=self.name,
            lane=number,
            repository=repository,
        )

    def check(self, record: RunRecord, resolved: Resolved[Any]) -> None:
        """Fails: `SweepChanged`, if the run of a lane has other settings."""
        now = {path: each["option"] or each["value"] for path, each in settings_of(resolved).items()}
        before = dict(record.config)
        for path in sorted({*before, *now}):
            if before.get(path) != now.get(path):
                values = (repr(each.get(path)) if path in each else "nothing" for each in (before, now))
                raise FaultError(SweepChanged(self.folder, record.lane or 0, path, *values))

    def value(self, record: RunRecord) -> float | None:
        """The metric of a lane so far."""
        found = self.column.of(record)
        return None if found is MISSING else float(found)

    def better(self, one: float | None, other: float | None) -> bool:
        """Whether the metric of one lane is better than that of another; one that is not finite never is."""
        if one is None or not math.isfinite(one):
            return False
        return other is None or not math.isfinite(other) or (one < other if self.lowest else one > other)

    def lane(self, number: int, point: Mapping[str, Any], record: RunRecord | None) -> Lane:
        """A lane as its run has it."""
        if record is None:
            return Lane(number, point, WAITING)
        return Lane(
            number,
            point,
            record.status,
            self.value(record),
            record.id,
            Path(record.folder),
            record.epoch,
            record.seconds,
            record.problem,
        )


def has_ended(record: RunRecord) -> bool:
    """Whether the run of a lane is not run again."""
    kind = record.problem.partition(":")[0]
    return record.status == "completed" or (record.status == "failed" and kind not in NOT_THE_LANES)
