"""An experiment: a program whose run is recorded in a folder."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Final, Generic, TypeVar, cast, overload

from returns.result import Result, Success

from fnlamp import track
from fnlamp.checkpoint.replace import expanded
from fnlamp.config import Resolved
from fnlamp.effect import Effect, Exit, Outline, Runtime, Unknown, bracket
from fnlamp.effect.node import name_of
from fnlamp.effect.together import Records, joined
from fnlamp.experiment import attempt as attempts
from fnlamp.experiment import shared, summary
from fnlamp.experiment.attempt import Attempt, Plan
from fnlamp.experiment.edit import write_new
from fnlamp.experiment.folder import DATABASE, EXPLAIN, LINES, RUNNING
from fnlamp.experiment.index import chosen, listing
from fnlamp.experiment.place import Place, checked_name
from fnlamp.experiment.plain import checked_config, settings_of
from fnlamp.fault import (
    FaultError,
    FileCorrupt,
    FileMissing,
    FileUnwritable,
    FolderInUse,
    MeetingFault,
    RunActive,
    RunAmbiguous,
    RunMissing,
    RunTooNew,
    printable,
)
from fnlamp.given import function, instance, several, shown, text

A = TypeVar("A")
C = TypeVar("C")
E = TypeVar("E")

ExperimentFault = (
    FileUnwritable | FileMissing | FileCorrupt | FolderInUse | RunActive | RunMissing | RunAmbiguous | RunTooNew | MeetingFault
)
"""The faults of an experiment besides those of its program. Without `resume`, only `FileUnwritable`, `FolderInUse` and, in a
cluster, `MeetingFault` occur."""

LATEST: Final = "latest"


@dataclass(frozen=True)
class Run(Generic[A]):
    """A finished run: the value of its program, its id and folder, and a warning for each thing that could not be recorded."""

    value: A
    id: str
    name: str
    folder: Path
    warnings: tuple[Any, ...] = ()


Writers = Sequence[track.Output] | Callable[[Place[Any]], Sequence[track.Output]]


@overload
def experiment(
    name: str,
    program: Effect[A, E] | Callable[[Place[None]], Effect[A, E]],
    config: None = None,
    *,
    folder: str | PathLike[str] = "runs",
    tags: Iterable[str] = (),
    note: str = "",
    writers: Writers = (),
    resume: str | None = None,
) -> Effect[Run[A], E | ExperimentFault]: ...
@overload
def experiment(
    name: str,
    program: Effect[A, E] | Callable[[Place[C]], Effect[A, E]],
    config: Resolved[C],
    *,
    folder: str | PathLike[str] = "runs",
    tags: Iterable[str] = (),
    note: str = "",
    writers: Writers = (),
    resume: str | None = None,
) -> Effect[Run[A], E | ExperimentFault]: ...
@overload
def experiment(
    name: str,
    program: Effect[A, E] | Callable[[Place[C]], Effect[A, E]],
    config: C,
    *,
    folder: str | PathLike[str] = "runs",
    tags: Iterable[str] = (),
    note: str = "",
    writers: Writers = (),
    resume: str | None = None,
) -> Effect[Run[A], E | ExperimentFault]: ...
def experiment(
    name: str,
    program: Any,
    config: Any = None,
    *,
    folder: str | PathLike[str] = "runs",
    tags: Iterable[str] = (),
    note: str = "",
    writers: Any = (),
    resume: str | None = None,
) -> Effect[Run[Any], Any]:
    """The program whose run is recorded in a new folder, `runs/NAME/ID`: `docs/reference/run-folder.md` lists what is in it.

    `program` is an `Effect`, or a function of the run's `Place` that returns one, as for `Checkpoints(place.checkpoints)`.
    `config` is what `config.resolve` yields, a dataclass or a dict; its value is `place.config`. `writers` are those of `track`
    besides lines, SQLite and the summary, or a function of the place that returns them. Whatever the outcome, it is recorded.

    `resume` is the id of a run of this name, or its beginning or end: that run is continued in its folder. With
    `resume="latest"`, the newest run with the same config that is neither running nor completed is continued, if there is one.
    The program itself resumes from its checkpoints, as `train.resumable(place.checkpoints, ...)` does.

    Inside of `cluster(...).use`, all processes run the program, at the same `Place`, and process 0 alone records it.

    Nothing is written, and git is not called, before the program is run. No socket is opened.
    Fails: as the program; `FileUnwritable`; `FolderInUse`; with `resume` also `RunMissing`, `RunAmbiguous`, `RunActive`,
    `RunTooNew`, `FileMissing` and `FileCorrupt`; in a cluster also `MeetingFault`, if another process is lost, late or failed.
    Raises: `TypeError`, `ValueError` at once for wrong arguments.

    >>> import tempfile
    >>> from fnlamp import track
    >>> program = experiment("demo", track.measure({"loss": 0.5}, step=10), {"rate": 0.1}, folder=tempfile.mkdtemp())
    >>> run = program.run_or_raise(Runtime(log=None))
    >>> run.name, [path.name for path in run.folder.glob("*.jsonl")]
    ('demo', ['metrics.jsonl'])
    """
    if not isinstance(program, Effect) and not callable(program):
        raise TypeError(f"experiment: program is an Effect, or a function of a Place that returns one, got {shown(program)}")
    plan = Plan(
        checked_name(name),
        config.config if isinstance(config, Resolved) else checked_config(config),
        settings_of(config),
        expanded(folder, "experiment: folder"),
        several("experiment: tags", tags),
        text("experiment: note", note),
        sys._getframe(1).f_code.co_filename,
    )
    outputs = checked_writers(writers)
    if resume is not None:
        text("experiment: resume", resume, 'the id of a run, "latest" or None')

    def claim(runtime: Runtime) -> Result[Attempt, Any]:
        return _begun(plan, resume, runtime)

    def whole(runtime: Runtime) -> Effect[Run[Any], Any]:
        here = joined()
        if here is None:
            return recorded(claim, program, outputs)
        if here.process == 0:
            first = partial(shared.claimed, plan, here, claim)
            return recorded(first, program, outputs, lambda attempt: shared.announce(plan, here, attempt.place))
        return shared.followed(plan, here, program).map(lambda two: Run(two[0], two[1].id, plan.name, two[1].folder))

    return Effect.access(whole).named(f"experiment {plan.name}").outlined(lambda: _outline(plan, program, resume))


def checked_writers(writers: Any, of: str = "experiment") -> Callable[[Place[Any]], Sequence[track.Output]]:
    """The function of a place that returns the writers.  Raises: `TypeError`."""
    if callable(writers):
        _takes_a_place(writers, of)
        return lambda place: _outputs(writers(place), of)
    found = _outputs(instance(f"{of}: writers", writers, Sequence, "a sequence of writers, or a function of a Place"), of)
    return lambda place: found


def _takes_a_place(writers: Callable[..., Any], of: str) -> None:
    """Raises: `TypeError` for a single writer, which is a function without parameters."""
    try:
        parameters = inspect.signature(writers).parameters
    except (TypeError, ValueError):  # some functions written in C have none
        return
    if not parameters:
        raise TypeError(f"{of}: writers is a sequence of writers, or a function of a Place, got one writer; give it in a list")


def _outputs(writers: Any, of: str) -> tuple[track.Output, ...]:
    return tuple(function(f"{of}: writers", each, "a sequence of writers, such as track.csv_file(folder)") for each in writers)


def recorded(
    claim: Callable[[Runtime], Result[Attempt, Any]],
    program: Any,
    outputs: Any,
    announce: Callable[[Attempt], object] = lambda attempt: None,
) -> Effect[Run[Any], Any]:
    """The run of a program in the folder that is claimed when it begins.

    `announce` is called after the claim and before the program. Its fault is an outcome of the run, and is recorded.
    """

    def use(attempt: Attempt) -> Effect[Run[Any], Any]:
        return Effect.checked(lambda: announce(attempt)).then(_recorded(attempt, program, outputs))

    def release(attempt: Attempt, exit: Exit[Any, Any]) -> Effect[None, Any]:
        return Effect.suspend(lambda: attempts.end(attempt, exit))

    return bracket(Effect.call(claim), use, release)


def _begun(plan: Plan, resume: str | None, runtime: Runtime) -> Result[Attempt, Any]:
    plan = replace(plan, root=os.path.abspath(plan.root))  # a program may change the working directory
    attempt = attempts.begin(plan) if resume is None else _continued(plan, resume)
    with contextlib.suppress(Exception):  # a closed log must not stop the program
        runtime.say(printable(f"{'continuing run' if attempt.place.resumed else 'run'} {attempt.folder}"))
    return Success(attempt)


def _continued(plan: Plan, resume: str) -> Attempt:
    there = os.path.isdir(os.path.join(plan.root, plan.name))
    records = listing(plan.root, plan.name) if there else []
    if resume != LATEST:
        return attempts.resumed(plan, chosen(records, resume, os.path.join(plan.root, plan.name)).folder)
    values = {path: each["option"] or each["value"] for path, each in plan.settings.items()}
    for record in reversed(records):
        if record.status not in ("completed", RUNNING, "unreadable") and record.config == values:
            with contextlib.suppress(FaultError):  # another process has just continued this one
                return attempts.resumed(plan, record.folder)
    return attempts.begin(plan)


# ------------------------------------------------------------------------------- the run itself


class Recorder(Records):
    """The observer of one experiment. An experiment inside another takes its place: each records its own."""

    def __init__(self, tracker: Callable[[Any], object]) -> None:
        self._tracker = tracker

    def __call__(self, event: Any) -> None:
        self._tracker(event)


def _recorded(attempt: Attempt, program: Any, outputs: Callable[[Place[Any]], Sequence[track.Output]]) -> Effect[Run[Any], Any]:
    """Build the program, run it with the writers, and record how it ended."""
    folder = attempt.folder
    own = (
        track.lines(os.path.join(folder, LINES)),
        track.sqlite(os.path.join(folder, DATABASE)),
        summary.writer(folder, attempt.figures),
    )

    def built() -> tuple[Effect[Any, Any], tuple[track.Output, ...]]:
        return _built(attempt, program), (*own, *outputs(attempt.place))

    def tracked(effect: Effect[Any, Any], tracker: track.Tracker) -> Effect[Any, Any]:
        attempt.tracker = tracker

        def change(runtime: Runtime) -> Runtime:
            others = [each for each in runtime.observers if not isinstance(each, Recorder)]
            return replace(runtime, observers=(*others, Recorder(tracker)))

        return effect.local(change)

    def finished(result: Result[Any, Any]) -> Effect[Run[Any], Any]:
        return (
            Effect.suspend(lambda: attempts.end(attempt, cast(Exit[Any, Any], result)))
            .then(Effect.from_result(result))
            .map(run)
        )

    def run(value: Any) -> Run[Any]:
        return Run(value, attempt.place.id, attempt.place.name, attempt.place.folder, tuple(attempt.warnings))

    both = Effect.suspend(built)
    return both.bind(lambda two: track.tracker(*two[1]).use(lambda each: tracked(two[0], each))).compose_result(finished)


def _built(attempt: Attempt, program: Any) -> Effect[Any, Any]:
    """The program, after its explanation has been recorded; those of lanes are all alike, and the sweep has one."""
    effect = program if isinstance(program, Effect) else program(attempt.place)
    if not isinstance(effect, Effect):
        raise TypeError(f"{name_of(program)} returned {type(effect).__name__}: the program of an experiment is an Effect")
    if attempt.lane:
        return effect
    try:
        explanation = str(effect.explain())
    except Exception:  # it calls the caller's stream factories; the run itself will say what is wrong
        explanation = f"explain() failed:\n{traceback.format_exc()}"
    with contextlib.suppress(FaultError):
        write_new(attempt.folder, attempt.file(EXPLAIN), explanation.encode("utf-8", "backslashreplace"))
    return effect


def _outline(plan: Plan, program: Any, resume: str | None) -> Outline:
    start = (
        f"a run in {plan.root}/{plan.name}" if resume is None else f"the run {resume} of {plan.name} in {plan.root}, continued"
    )
    lines = (printable(f"experiment {plan.name}: {start}, with {len(plan.settings):,} settings"),)
    if isinstance(program, Effect):
        plan_of = program.explain()
        return Outline((*lines, *plan_of.splitlines()), Unknown("the folder of a run is unknown"), plan_of.fault)
    return Outline((*lines, f"then the program that {name_of(program)} returns"), Unknown("the folder of a run is unknown"))
