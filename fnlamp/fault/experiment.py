"""Experiments: runs that cannot be found, read, resumed or removed, and questions about them that have no answer."""

from __future__ import annotations

from dataclasses import dataclass

from fnlamp.fault.base import Fault


@dataclass(frozen=True)
class RunMissing(Fault):
    """A folder of runs has no run of that id. `near` are the ids like it.

    >>> print(RunMissing("runs", "9f3", ("20260502-100000-123-9f4c1a",)))
    runs: expected a run whose id is 9f3, or begins or ends with it, got none; near ids: 20260502-100000-123-9f4c1a
    """

    folder: str
    id: str
    near: tuple[str, ...] = ()

    def __str__(self) -> str:
        near = f"; near ids: {', '.join(self.near)}" if self.near else ""
        wanted = f"a run whose id is {self.id}, or begins or ends with it," if self.id else "at least one run that matches,"
        return self._say(f"{self.folder}: expected {wanted} got none{near}")


@dataclass(frozen=True)
class RunAmbiguous(Fault):
    """Several runs have an id that begins or ends with this text.

    >>> print(RunAmbiguous("runs", "2026", ("20260502-100000-123-9f4c1a", "20260502-100001-007-0a1b2c")))
    runs: expected one run whose id begins or ends with 2026, got 2: 20260502-100000-123-9f4c1a, 20260502-100001-007-0a1b2c
    """

    folder: str
    id: str
    found: tuple[str, ...]

    def __str__(self) -> str:
        more = ", ..." if len(self.found) > 5 else ""
        ids = ", ".join(self.found[:5]) + more
        return self._say(
            f"{self.folder}: expected one run whose id begins or ends with {self.id}, got {len(self.found):,}: {ids}"
        )


@dataclass(frozen=True)
class RunActive(Fault):
    """A run is still running, in the process that `owner` names; it is neither removed nor resumed.

    >>> print(RunActive("runs/mnist/20260502-100000-123-9f4c1a", "process 42 on node3"))
    runs/mnist/20260502-100000-123-9f4c1a: expected a run that has ended, got one that runs in process 42 on node3; ...
    """

    folder: str
    owner: str

    def __str__(self) -> str:
        return self._say(
            f"{self.folder}: expected a run that has ended, got one that runs in {self.owner}; wait for it, or stop it"
        )


@dataclass(frozen=True)
class RunTooNew(Fault):
    """A run folder was written in a later version of its schema than this fnlamp reads.

    >>> print(RunTooNew("runs/mnist/1", 2, 1))
    runs/mnist/1: expected a run folder in version 1 of the schema or an earlier one, got version 2; update fnlamp
    """

    folder: str
    version: int
    known: int

    def __str__(self) -> str:
        return self._say(
            f"{self.folder}: expected a run folder in version {self.known} of the schema or an earlier one, "
            f"got version {self.version}; update fnlamp"
        )


@dataclass(frozen=True)
class NotInside(Fault):
    """A run's folder leads out of the folder of runs, by a link; nothing outside is removed.

    >>> print(NotInside("runs/mnist/1", "/data/1"))
    runs/mnist/1: expected a folder inside the folder of runs, got a link to /data/1; remove that by hand
    """

    folder: str
    target: str

    def __str__(self) -> str:
        return self._say(
            f"{self.folder}: expected a folder inside the folder of runs, got a link to {self.target}; remove that by hand"
        )


@dataclass(frozen=True)
class UnknownColumn(Fault):
    """No run has a setting, metric or field of that name. `near` are the names like it.

    >>> print(UnknownColumn("validation.acuracy", ("validation.accuracy",)))
    validation.acuracy: expected a field, a metric, or config. and a setting, got none of that name; near names: ...
    """

    name: str
    near: tuple[str, ...] = ()

    def __str__(self) -> str:
        near = f"; near names: {', '.join(self.near)}" if self.near else ""
        return self._say(f"{self.name}: expected a field, a metric, or config. and a setting, got none of that name{near}")


@dataclass(frozen=True)
class NotAFilter(Fault):
    """A text is not a comparison of a name with a value.

    >>> print(NotAFilter("accuracy", "no comparison"))
    accuracy: expected a comparison such as config.learning_rate<0.1, got no comparison
    """

    text: str
    actual: str

    def __str__(self) -> str:
        return self._say(f"{self.text}: expected a comparison such as config.learning_rate<0.1, got {self.actual}")


@dataclass(frozen=True)
class QueryFailed(Fault):
    """SQLite refused a query of a run's metrics, which may only read.

    >>> print(QueryFailed("drop table scalar", "not authorized"))
    drop table scalar: expected one query that reads, got an error of SQLite: not authorized
    """

    query: str
    reason: str

    def __str__(self) -> str:
        return self._say(f"{self.query}: expected one query that reads, got an error of SQLite: {self.reason}")
