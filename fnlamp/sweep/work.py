"""The work of one process on a sweep: lane after lane, until none is left. Several processes may work on one.

What a lane has reached is in its run folder alone. Which lane is next is decided, and its folder claimed, while the folder of
the sweep is held: no lane is run twice, and one whose process was killed is resumed by whoever is next.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, cast

from returns.result import Failure, Result, Success

from fnlamp import track
from fnlamp.checkpoint.replace import writing
from fnlamp.effect import CancelToken, Defect, Effect, Exit, Interrupted, Runtime
from fnlamp.experiment import attempt as attempts
from fnlamp.experiment import lease
from fnlamp.experiment.attempt import Attempt
from fnlamp.experiment.edit import alone, write_json
from fnlamp.experiment.experiment import Recorder, recorded
from fnlamp.experiment.folder import LINES, RUN, SWEEP, RunRecord, read_json
from fnlamp.experiment.git import GitState
from fnlamp.experiment.index import listing
from fnlamp.experiment.place import Place
from fnlamp.fault import FaultError, FolderInUse, MetricMissing, NoBestLane, RunActive, SweepChanged, printable
from fnlamp.sweep.job import NOT_THE_LANES, Job, has_ended
from fnlamp.sweep.points import Points
from fnlamp.sweep.result import Best, Lane, Sweep
from fnlamp.sweep.rungs import NONE, Progress, after
from fnlamp.sweep.together import Turn, at_once, side_by_side
from fnlamp.train import Fused

PATIENCE: Final = 0.2
"""Seconds between two looks at lanes that other processes run."""


@dataclass
class Task:
    """The lane that this process runs, up to an epoch or to its end."""

    number: int
    attempt: Attempt
    until: int | None


@dataclass
class Worker:
    """One process at a sweep. Only the value of the best of its own lanes is kept."""

    job: Job
    points: Points
    kept: tuple[int, float | None, Any] | None = None
    repository: GitState = field(default_factory=lambda: GitState({}))
    said: bool = False
    checked: set[str] = field(default_factory=set)
    curves: dict[str, tuple[Any, Progress]] = field(default_factory=dict)

    def run(self, runtime: Runtime) -> Result[Sweep[Any, Any], Any] | Interrupted:
        """All lanes, then the best one.  Fails: `SweepFault`."""
        with writing(self.job.folder):
            os.makedirs(self.job.folder, exist_ok=True)
        self.repository = attempts.repository_of(self.job.described_in, self.job.root)
        with alone(self.job.folder):
            write_json(self.job.folder, SWEEP, self.job.described())
        if (together := self.together(runtime)) > 1:
            return side_by_side(self, together, runtime)
        while not runtime.cancel.requested:
            match self.next(runtime):
                case Turn.RAN:
                    pass
                case Turn.WAIT:
                    self.wait(runtime)
                case Turn.DONE:
                    return self.finished(runtime)
                case outcome:
                    return outcome
        return Interrupted()

    def together(self, runtime: Runtime) -> int:
        """How many lanes train side by side."""
        count = min(at_once(self.job.together, runtime.device), self.points.most)
        if count > 1 and not isinstance(runtime.executor, Fused | None):
            runtime.say(f"one lane at a time: lanes train side by side with train.Fused alone, not {runtime.executor}")
            return 1
        return count

    def next(self, runtime: Runtime) -> Turn | Result[Any, Any] | Interrupted:
        """Claim a lane and run it.  An outcome ends the sweep.  Raises: the exception of a lane."""
        task: list[Task] = []
        left: list[bool] = []

        def claim(_: Runtime) -> Result[Attempt, Any]:
            found, more = self.claimed()
            left.append(more)
            task.extend(() if found is None else (found,))
            return Failure(None) if found is None else Success(found.attempt)

        exit = recorded(claim, self.job.program_of, self.job.outputs).run_exit(_inside(runtime, task))
        if isinstance(exit, Defect):
            raise exit.cause
        if not task and isinstance(exit, Failure) and left:
            return Turn.WAIT if left[0] else Turn.DONE
        if not task:
            return cast("Failure[Any] | Interrupted", exit)  # the lane could not be claimed
        ended = self.ended(task[0], exit, runtime)
        return Turn.RAN if ended is None else ended

    def wait(self, runtime: Runtime) -> None:
        if not self.said:
            runtime.say("waiting for lanes that other processes run")
        self.said = True
        runtime.sleep(PATIENCE)

    # ---- which lane is next

    def claimed(self) -> tuple[Task | None, bool]:
        """A lane, claimed, or `None`; and whether lanes are left, which other processes then run.  Fails: `SweepFault`."""
        with alone(self.job.folder):
            records = self.records()
            points = self.points.update(records)
            self.check(records, points)
            todo = self.points.todo([self.progress(records.get(n)) for n in range(len(points))])
            for number, until in todo:
                if (attempt := self.begun(number, points[number], records.get(number))) is not None:
                    return Task(number, attempt, until), True
            if (point := self.points.another()) is not None:
                attempt = self.begun(len(points), point, None)
                return (None if attempt is None else Task(len(points), attempt, after(0, self.job.rungs))), True
            return None, bool(todo)

    def check(self, records: Mapping[int, RunRecord], points: Sequence[Mapping[str, Any]]) -> None:
        """Fails: `SweepChanged`, if a lane was recorded with other settings than it has now."""
        for number, record in records.items():
            if record.id not in self.checked and record.config:
                self.job.check(record, self.job.resolved(number, points[number]))
                self.checked.add(record.id)

    def records(self) -> dict[int, RunRecord]:
        """The run of each lane that has begun.  Fails: `FileMissing`, `SweepChanged`."""
        records = {each.lane: each for each in listing(self.job.root, self.job.name) if each.lane is not None}
        most = self.points.most
        for number in sorted(number for number in records if number >= most):
            raise FaultError(SweepChanged(self.job.folder, number, "number of points", f"at least {number + 1}", str(most)))
        return records

    def begun(self, number: int, point: Mapping[str, Any], record: RunRecord | None) -> Attempt | None:
        """The run of a lane, begun or resumed; `None` if another process has it."""
        if record is not None and lease.owner(record.folder):
            return None
        resolved = self.job.resolved(number, point)
        plan = self.job.plan(number, resolved, self.repository)
        if record is None:
            return attempts.begin(plan)
        return _resumed(plan, record.folder)

    def progress(self, record: RunRecord | None) -> Progress:
        """How far a lane is."""
        if record is None:
            return NONE
        ended, known = has_ended(record), self.curves.get(record.folder)
        if self.job.rungs is None or not (ended or record.status == "stopped"):
            # A lane that runs again is beyond its last rung: others that continue may run meanwhile.
            return Progress(ended=ended) if known is None else replace(known[1], waits=False)
        stamp = record.status, record.ended
        if self.curves.get(record.folder, (None,))[0] != stamp:
            reached = int(read_json(record.folder, RUN).get("rung", 0))
            waits = record.status == "stopped"
            self.curves[record.folder] = stamp, Progress(reached, ended, self.curve(record.folder), waits)
        return self.curves[record.folder][1]

    def curve(self, folder: str) -> tuple[tuple[int, float], ...]:
        """The metric so far after each epoch; lower is better."""
        history = track.history(os.path.join(folder, LINES)).run_exit(Runtime(log=None, signals=()))
        try:
            series = history.unwrap().scalars(self.job.column.name) if isinstance(history, Success) else None
        except KeyError:
            series = None
        if series is None:
            return ()
        values = series.values.tolist()
        if self.job.column.kind != "last":
            values = list(accumulate(values, min if self.job.column.kind == "lowest" else max))
        sign = 1.0 if self.job.lowest else -1.0
        return tuple((epoch, sign * value) for epoch, value in zip(series.epochs.tolist(), values, strict=True) if epoch > 0)

    # ---- what becomes of a lane

    def ended(self, task: Task, exit: Exit[Any, Any], runtime: Runtime) -> Result[Any, Any] | Interrupted | None:
        """Take the outcome of a lane: `None` if the sweep continues."""
        if isinstance(exit, Failure) and type(exit.failure()).__name__ in NOT_THE_LANES:
            return exit
        record = self.records().get(task.number)
        if record is not None:
            runtime.say(self.line(task, record))
        if isinstance(exit, Interrupted) and record is not None and record.status == "stopped":
            return Failure(self.missing(task.number, record)) if self.job.value(record) is None else None
        if isinstance(exit, Interrupted):
            # Not the state of the lane: that of the sweep is its lanes.
            return None if record is not None and record.status == "completed" else Interrupted()
        if isinstance(exit, Success) and record is not None:
            value = self.job.value(record)
            if value is None:
                return Failure(self.missing(task.number, record))
            if self.kept is None or self.job.better(value, self.kept[1]):
                self.kept = task.number, value, exit.unwrap().value
        return None

    def missing(self, number: int, record: RunRecord) -> MetricMissing:
        names = sorted(record.last)
        near = difflib.get_close_matches(self.job.column.name, names, 3) or names[:10]
        return MetricMissing(self.job.column.name, number, tuple(near))

    def line(self, task: Task, record: RunRecord) -> str:
        point = ", ".join(f"{path}={value}" for path, value in self.points.known()[task.number].items())
        value = self.job.value(record)
        figure = "" if value is None else f" {self.job.column} {value:.6g},"
        ending = f", {record.problem}" if record.problem else ""
        seconds = f"{record.seconds or 0:.1f} s"
        return printable(f"lane {task.number} of {self.points.most}: {point}:{figure} {record.status} after {seconds}{ending}")

    # ---- the end

    def lanes(self) -> tuple[Lane, ...]:
        """The lanes as they are now."""
        records = self.records()
        return tuple(self.job.lane(n, point, records.get(n)) for n, point in enumerate(self.points.known()))

    def finished(self, runtime: Runtime) -> Result[Sweep[Any, Any], Any]:
        """The sweep with its best lane; that lane's program is run again if another process, or an earlier one, ran it."""
        lanes = self.lanes()
        best: Lane | None = None
        for lane in lanes:
            if lane.status == "completed" and self.job.better(lane.value, None if best is None else best.value):
                best = lane
        if best is None:
            why = {lane.number: lane.problem or f"{lane.status}, {self.job.column} {lane.value}" for lane in lanes}
            return Failure(NoBestLane(str(self.job.column), why))
        config = self.job.resolved(best.number, best.point).config
        if self.kept is not None and self.kept[0] == best.number:
            value: Result[Any, Any] = Success(self.kept[2])
        else:
            value = self.again(best, config, runtime)
        root = Path(self.job.root)
        return value.map(lambda found: Sweep(self.job.name, root, str(self.job.column), Best(best, config, found), lanes))

    def again(self, best: Lane, config: Any, runtime: Runtime) -> Result[Any, Any]:
        """The value of a completed lane: its program, which finds itself finished if it resumes from its checkpoints."""
        place = Place(best.id, self.job.name, best.folder or Path(), config, resumed=True)
        others = tuple(each for each in runtime.observers if not isinstance(each, Recorder))
        program = Effect.suspend(lambda: self.job.program_of(place)).bind(lambda program: program)
        # Another process may be at the same checkpoints, for the same reason.
        program = program.retry(600, delay=lambda _: PATIENCE, when=lambda fault: isinstance(fault, FolderInUse))
        found: Any = program.run_exit(replace(runtime, log=None, observers=others))
        if isinstance(found, Defect):
            raise found.cause
        return Success(found.state) if isinstance(found, Interrupted) else found


def _resumed(plan: Any, folder: str) -> Attempt | None:
    try:
        return attempts.resumed(plan, folder)
    except FaultError as error:
        if isinstance(error.fault, RunActive | FolderInUse):
            return None
        raise


def _inside(runtime: Runtime, task: list[Task]) -> Runtime:
    """The runtime of a lane. Its own token stops it at a rung, after the epoch, as Ctrl-C would."""
    token, trains = CancelToken(runtime.cancel), False

    def look(event: Any) -> None:
        nonlocal trains
        trains = trains or isinstance(event, track.Started)
        until = task[0].until if task else None
        if until is None or not isinstance(event, track.Measured) or event.epoch is None or event.epoch < until:
            return
        if not trains or "epoch.steps" in event.values:  # not the indicators of a step of that epoch
            task[0].attempt.paused = {"status": "stopped", "rung": until}
            token.cancel()

    return replace(runtime, cancel=token, log=None, observers=(*runtime.observers, look))
