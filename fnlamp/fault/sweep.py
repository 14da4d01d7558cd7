"""Sweeps: ones that were changed between two calls, and ones without a best lane."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fnlamp.fault.base import Fault


@dataclass(frozen=True)
class SweepChanged(Fault):
    """The folder has a sweep of this name with other lanes. More lanes may be added behind those that are there.

    >>> print(SweepChanged("runs/rates", 3, "optimizer.learning_rate", "0.1", "0.2"))
    runs/rates: lane 3 was recorded with optimizer.learning_rate = 0.1, and is 0.2 now; give the sweep another name, or ...
    """

    folder: str
    lane: int
    what: str
    before: str
    now: str

    def __str__(self) -> str:
        return self._say(
            f"{self.folder}: lane {self.lane} was recorded with {self.what} = {self.before}, and is {self.now} now; "
            "give the sweep another name, or put new points behind the old ones"
        )


@dataclass(frozen=True)
class SweepInCluster(Fault):
    """A sweep runs inside of a cluster, whose processes run the same program; lanes are shared by processes of their own.

    >>> print(SweepInCluster("rates", 4))
    expected the sweep rates in processes of their own, got a cluster of 4; start it in each process without cluster(...), ...
    """

    name: str
    processes: int

    def __str__(self) -> str:
        return self._say(
            f"expected the sweep {self.name} in processes of their own, got a cluster of {self.processes}; start it in each "
            "process without cluster(...), where they share its lanes by its folder, or run one experiment for each point"
        )


@dataclass(frozen=True)
class MetricMissing(Fault):
    """A lane completed, and did not record the metric of its sweep. `near` are the names like it, or those that there are.

    >>> print(MetricMissing("validation.acuracy", 0, ("validation.accuracy",)))
    lane 0: expected a value of validation.acuracy, got none; names there: validation.accuracy
    """

    metric: str
    lane: int
    near: tuple[str, ...] = ()

    def __str__(self) -> str:
        names = ", ".join(self.near) or "none"
        return self._say(f"lane {self.lane}: expected a value of {self.metric}, got none; names there: {names}")


@dataclass(frozen=True)
class NoBestLane(Fault):
    """No lane of a sweep completed with a metric that is a number. `problems` says why, by lane.

    >>> print(NoBestLane("validation.loss", {0: "NonFinite: ...", 1: "NonFinite: ..."}))
    expected a lane that completes with a number as validation.loss, got none of 2; lane 0: NonFinite: ...
    """

    metric: str
    problems: Mapping[int, str] = field(default_factory=dict)

    def __str__(self) -> str:
        first = "".join(f"; lane {lane}: {problem}" for lane, problem in [*self.problems.items()][:1])
        return self._say(
            f"expected a lane that completes with a number as {self.metric}, got none of {len(self.problems):,}{first}"
        )


@dataclass(frozen=True)
class EmptySweep(Fault):
    """A space has no points, as after a `where` that leaves out all of them.

    >>> print(EmptySweep("rates"))
    rates: expected a space with at least one point, got none
    """

    name: str

    def __str__(self) -> str:
        return self._say(f"{self.name}: expected a space with at least one point, got none")
