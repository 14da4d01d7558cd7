"""A sweep: one program for each point of a space, as runs of one experiment."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from os import PathLike
from typing import Any, TypeVar, overload

from fnlamp.checkpoint.replace import expanded
from fnlamp.config.group import is_group
from fnlamp.effect import Effect
from fnlamp.effect.together import joined
from fnlamp.experiment import ExperimentFault, Place
from fnlamp.experiment.experiment import Writers, checked_writers
from fnlamp.experiment.place import checked_name
from fnlamp.experiment.where import column
from fnlamp.fault import (
    ConfigError,
    DeviceOutOfMemory,
    EmptySweep,
    ExtraMissing,
    FaultError,
    MetricMissing,
    NoBestLane,
    SweepChanged,
    SweepInCluster,
)
from fnlamp.given import flag, function, instance, several, shown, text, whole
from fnlamp.sweep.job import Job
from fnlamp.sweep.outline import outline
from fnlamp.sweep.points import KnownPoints
from fnlamp.sweep.result import Sweep
from fnlamp.sweep.rungs import Rungs
from fnlamp.sweep.space import Space
from fnlamp.sweep.study import Study, StudyPoints
from fnlamp.sweep.work import Worker

A = TypeVar("A")
C = TypeVar("C")
E = TypeVar("E")

SweepFault = (
    ExperimentFault
    | ConfigError
    | EmptySweep
    | SweepChanged
    | SweepInCluster
    | MetricMissing
    | NoBestLane
    | ExtraMissing
    | DeviceOutOfMemory
)
"""The faults of a sweep besides those of its programs."""


@overload
def sweep(
    name: str,
    program_of: Callable[[Place[C]], Effect[A, E]],
    config: type[C],
    space: Space | Study,
    *,
    metric: str = "validation.loss",
    lowest: bool = True,
    rungs: Rungs | None = None,
    together: int | None = None,
    folder: str | PathLike[str] = "runs",
    tags: Iterable[str] = (),
    note: str = "",
    writers: Writers = (),
) -> Effect[Sweep[A, C], E | SweepFault]: ...
@overload
def sweep(
    name: str,
    program_of: Callable[[Place[C]], Effect[A, E]],
    config: C,
    space: Space | Study,
    *,
    metric: str = "validation.loss",
    lowest: bool = True,
    rungs: Rungs | None = None,
    together: int | None = None,
    folder: str | PathLike[str] = "runs",
    tags: Iterable[str] = (),
    note: str = "",
    writers: Writers = (),
) -> Effect[Sweep[A, C], E | SweepFault]: ...
def sweep(
    name: str,
    program_of: Any,
    config: Any,
    space: Any,
    *,
    metric: str = "validation.loss",
    lowest: bool = True,
    rungs: Rungs | None = None,
    together: int | None = None,
    folder: str | PathLike[str] = "runs",
    tags: Iterable[str] = (),
    note: str = "",
    writers: Any = (),
) -> Effect[Sweep[Any, Any], Any]:
    """The program that runs `program_of(place)` for the config at each point of the space, and yields all lanes and the best.

    Each lane is a run of the experiment `name`, as `experiment(name, program_of, resolve(config, point))` would be, with its
    number. The name is the sweep: called again, by this process or by several at once, it runs the lanes that are not finished,
    and resumes those that were stopped. Points may be added behind those that are there.

    `metric` is the last value of a metric, or `lowest(...)` or `highest(...)` of all its values; the best lane is that with the
    lowest, or with `lowest=False` the highest. `rungs` says after which epochs which lanes stop: `halving`, `median_stopping`;
    in a study these are pruned trials. `together` is how many lanes train side by side, with their steps in one program by
    `vmap`; by default 1 on a CPU, and 16 elsewhere.
    A program that resumes from its checkpoints, as `train.resumable(place.checkpoints, ...)` does, loses nothing at a rung or
    by a kill.

    A fault of a lane, such as `NonFinite`, is that lane's; a bug ends the sweep. Ctrl-C stops it: the outcome is `Interrupted`,
    with a tuple of lanes as its state.
    Fails: `ConfigError` for a wrong path or value, before anything runs; `EmptySweep`; `SweepChanged`; `SweepInCluster`;
    `MetricMissing`; `NoBestLane` if no lane completes; `DeviceOutOfMemory` if the lanes do not fit side by side; as
    `experiment`.
    Raises: `TypeError`, `ValueError` at once for wrong arguments.

    >>> import tempfile
    >>> from fnlamp import track
    >>> from fnlamp.config import group
    >>> from fnlamp.sweep import grid
    >>> @group
    ... class Settings:
    ...     rate: float = 0.1
    >>> def program_of(place):
    ...     return track.measure({"loss": (place.config.rate - 0.2) ** 2}, step=1)
    >>> rates = sweep("rates", program_of, Settings, grid({"rate": (0.1, 0.2, 0.4)}), metric="loss", folder=tempfile.mkdtemp())
    >>> best = rates.run_or_raise(Runtime(log=None)).best
    >>> best.lane.number, best.config
    (1, Settings(rate=0.2))
    """
    function("sweep: program_of", program_of, "a function of a Place that returns an Effect")
    if not is_group(config if isinstance(config, type) else type(config)):
        raise TypeError(f"sweep: config is a group, a class under @group or an object of one, got {shown(config)}")
    instance("sweep: space", space, (Space, Study), "a Space, such as grid({...}), or a study, as optuna({...}, trials=20)")
    if rungs is not None:
        instance("sweep: rungs", rungs, Rungs, "rungs, such as halving((1, 3, 9)), or None")
    measured = column(text("sweep: metric", metric))
    if measured.kind not in ("last", "lowest", "highest"):
        raise ValueError(f"sweep: metric is the name of a metric, such as validation.loss, got {metric!r}")
    job = Job(
        checked_name(name, "sweep"),
        program_of,
        config,
        space,
        measured,
        flag("sweep: lowest", lowest),
        rungs,
        expanded(folder, "sweep: folder"),
        several("sweep: tags", tags),
        text("sweep: note", note),
        checked_writers(writers, "sweep"),
        sys._getframe(1).f_code.co_filename,
        None if together is None else whole("sweep: together", together),
    )
    try:
        check(job)
    except FaultError as error:
        failed: Effect[Any, Any] = Effect.from_failure(error.fault)
        return failed.named(f"sweep {job.name}")
    return Effect.access(lambda runtime: _run(job)).named(f"sweep {job.name}").outlined(lambda: outline(job))


def check(job: Job) -> None:
    """Fails: `EmptySweep`; `ConfigError`, if the config of a lane cannot be resolved."""
    if not len(job.space):
        raise FaultError(EmptySweep(job.name))
    points = [{path: axis.at(0.5) for path, axis in job.space.axes.items()}] if isinstance(job.space, Study) else job.space
    for number, point in enumerate(points):
        job.resolved(number, point)


def _run(job: Job) -> Effect[Sweep[Any, Any], Any]:
    if (here := joined()) is not None:  # lanes are claimed, stopped and drawn by each process as it comes to them
        return Effect.from_failure(SweepInCluster(job.name, here.processes))
    job = replace(job, root=os.path.abspath(job.root))  # a program may change the working directory
    points = StudyPoints(job.space, job) if isinstance(job.space, Study) else KnownPoints(job.space, job.rungs)
    worker = Worker(job, points)
    return Effect.call(worker.run).salvaged(worker.lanes)
