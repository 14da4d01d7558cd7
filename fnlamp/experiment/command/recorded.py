"""What the verbs read of metrics: the histories of runs. A run that recorded nothing has an empty one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from returns.result import Success

from fnlamp.effect import Effect, Runtime
from fnlamp.experiment.folder import RunRecord
from fnlamp.experiment.runs import Runs
from fnlamp.fault import Fault, FaultError, UnknownColumn
from fnlamp.track import History, Series


def value_of(program: Effect[Any, Any]) -> Any:
    """The value of a program; its fault is raised, for `main` to say.  Fails: as the program."""
    exit = program.run_exit(Runtime(log=None))
    match exit:
        case Success(value):
            return value
    failure = getattr(exit, "failure", lambda: exit)()
    if isinstance(failure, Fault):
        raise FaultError(failure)
    raise getattr(failure, "cause", KeyboardInterrupt())


def histories(records: Sequence[RunRecord]) -> Mapping[str, History]:
    """The history of each run, by id.  Fails: `FileCorrupt`, `OutOfMemory`."""
    found: Mapping[str, History] = value_of(Runs(records).histories())
    return found


def series(histories: Mapping[str, History], name: str) -> dict[str, Series]:
    """The series of a metric in each run that has it.  Fails: `UnknownColumn`, if none has it."""
    found = {}
    for id, history in histories.items():
        if name in history.last:
            found[id] = history.scalars(name)
    if not found:
        from difflib import get_close_matches

        raise FaultError(UnknownColumn(name, tuple(get_close_matches(name, names(histories.values()), 3))))
    return found


def names(histories: Iterable[History]) -> list[str]:
    """The names of all scalars, those of validation and training first."""
    found = {name for each in histories for name in each.last}
    return sorted(found, key=lambda name: (not name.startswith("validation."), not name.startswith("train."), name))
