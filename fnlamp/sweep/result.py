"""What a sweep yields: its lanes, and the best one with the value of its program."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from fnlamp import track
from fnlamp.effect import Effect
from fnlamp.experiment import Runs, RunsFault, runs
from fnlamp.experiment.importance import importance
from fnlamp.fault import ExtraMissing

A = TypeVar("A")
C = TypeVar("C")

WAITING: Final = "waiting"


@dataclass(frozen=True)
class Lane:
    """One lane: the run of the program at one point of the space.

    `status` is that of its run, such as "completed", "failed", or "stopped" at a rung; "waiting" before it begins. `value` is
    that of the metric so far, `None` without one.
    """

    number: int
    point: Mapping[str, Any]
    status: str = WAITING
    value: float | None = None
    id: str = ""
    folder: Path | None = None
    epoch: int | None = None
    seconds: float | None = None
    problem: str = ""


@dataclass(frozen=True)
class Best(Generic[A, C]):
    """The best lane, its config, and the value of its program, such as a `Trained`."""

    lane: Lane
    config: C
    value: A = field(repr=False)


@dataclass(frozen=True)
class Sweep(Generic[A, C]):
    """A finished sweep. Only the best lane's value is kept; of all lanes there are the runs in the folder.

    `root` is the folder of runs, in which this sweep's are those of the experiment `name`.
    """

    name: str
    root: Path
    metric: str
    best: Best[A, C]
    lanes: tuple[Lane, ...] = field(repr=False)

    def table(self) -> dict[str, list[Any]]:
        """A column for each setting that a lane changes, and for its status, metric, epochs, seconds and run.

        >>> from pathlib import Path
        >>> lanes = Lane(0, {"rate": 0.1}, "completed", 0.5), Lane(1, {"rate": 0.2}, "failed")
        >>> Sweep("rates", Path("runs"), "loss", Best(lanes[0], None, None), lanes).table()["rate"]
        [0.1, 0.2]
        """
        paths = list(dict.fromkeys(path for lane in self.lanes for path in lane.point))
        return {
            "lane": [lane.number for lane in self.lanes],
            **{path: [lane.point.get(path) for lane in self.lanes] for path in paths},
            "status": [lane.status for lane in self.lanes],
            self.metric: [lane.value for lane in self.lanes],
            "epoch": [lane.epoch for lane in self.lanes],
            "seconds": [lane.seconds for lane in self.lanes],
            "problem": [lane.problem for lane in self.lanes],
            "id": [lane.id for lane in self.lanes],
        }

    def importance(self) -> Effect[dict[str, float], ExtraMissing]:
        """The share of the metric's variance that each setting of the space explains, largest first, with the extra `sweep`.

        By functional ANOVA; empty for fewer than four lanes with a metric.
        Hutter, Hoos & Leyton-Brown 2014, "An efficient approach for assessing hyperparameter importance".
        Fails: `ExtraMissing`.
        """
        values = [math.nan if lane.value is None else lane.value for lane in self.lanes]
        return Effect.checked(lambda: importance([lane.point for lane in self.lanes], values))

    def runs(self) -> Effect[Runs, RunsFault]:
        """The recorded runs of the lanes, by number.  Fails: `FileMissing`."""
        ids = {lane.id for lane in self.lanes}
        return runs(self.root, self.name, sort="lane").map(lambda found: Runs([each for each in found if each.id in ids]))

    def curves(self, metric: str) -> Effect[Mapping[int, track.Series], Any]:
        """The series of a metric by lane, for lanes that have it.  Fails: `UnknownColumn` if none has; as `Runs.scalars`."""
        numbers = {lane.id: lane.number for lane in self.lanes}
        series = self.runs().bind(lambda found: found.scalars(metric))
        return series.map(lambda by_id: {numbers[id]: each for id, each in by_id.items()})
