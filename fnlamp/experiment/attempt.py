"""One attempt of a run, from the claim of its folder to its end. If it never ends properly, its lease shows that."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from returns.result import Failure, Success

from fnlamp.checkpoint.lock import Lock
from fnlamp.checkpoint.replace import reason_of, writing
from fnlamp.effect import Defect, Exit
from fnlamp.effect.failed import text_of
from fnlamp.experiment import git, lease, surroundings
from fnlamp.experiment.edit import edit, write_json, write_new, write_often
from fnlamp.experiment.folder import (
    CONFIG,
    CRASHED,
    DIFF,
    ENVIRONMENT,
    LINES,
    RUN,
    RUNNING,
    SOURCE,
    SUMMARY,
    UNTRACKED,
    read_run,
)
from fnlamp.experiment.place import Place, create
from fnlamp.experiment.summary import Summary, read, scalars_of
from fnlamp.fault import FaultError, FileUnwritable, RunActive, printable

MOST_TEXT: Final = 20_000
"""Characters of an error or a traceback."""


@dataclass(frozen=True)
class Plan:
    """What `experiment` was given, checked: everything that an attempt records of the caller.

    A lane of a sweep has the name of the sweep as its parent, a number, and the state of the repository that all lanes share.
    """

    name: str
    config: Any
    settings: dict[str, dict[str, Any]]
    root: str
    tags: tuple[str, ...]
    note: str
    described_in: str
    parent: str = ""
    lane: int | None = None
    repository: git.GitState | None = None


@dataclass
class Attempt:
    """A claimed run folder. `warnings` are added while it runs; `paused` is what `run.json` says if the sweep stops it."""

    place: Place[Any]
    number: int
    lock: Lock
    begun: float
    monotonic: float
    figures: Summary
    pid: int = field(default_factory=os.getpid)
    warnings: list[Any] = field(default_factory=list)
    tracker: Any = None
    beats: Beats | None = None
    ended: bool = False
    lane: bool = False
    paused: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        return str(self.place.folder)

    def file(self, name: str) -> str:
        """The name of a file of this attempt: later attempts of a run keep what earlier ones wrote."""
        stem, dot, ending = name.partition(".")
        return name if self.number == 1 else f"{stem}.{self.number}{dot}{ending}"


class Beats(threading.Thread):
    """Gives a sign of life every few seconds, until it is stopped."""

    def __init__(self, folder: str, lock: Lock) -> None:
        super().__init__(name="fnlamp lease", daemon=True)
        self._folder, self._lock, self._stop_asked = folder, lock, threading.Event()

    def run(self) -> None:
        while not self._stop_asked.wait(lease.BEAT):
            with contextlib.suppress(OSError):  # such as a folder that was removed; the next beat tries again
                lease.write(self._folder, lease.mine())
                self._lock.beat()

    def stop(self) -> None:
        self._stop_asked.set()
        self.join()


# ------------------------------------------------------------------------------- the beginning


def begin(plan: Plan) -> Attempt:
    """Create the folder of a run and record what is known before it starts.  Fails: `FileUnwritable`."""
    now = time.time()
    folder = create(plan.root, plan.name, now)
    try:
        return _claimed(plan, folder, now, None)
    except BaseException:  # a stop too: a run that did not begin leaves no folder
        shutil.rmtree(folder, ignore_errors=True)
        raise


def resumed(plan: Plan, folder: str) -> Attempt:
    """Continue a run in its folder.  Fails: `RunActive`, `FolderInUse`, and as `read_run` and `edit`."""
    owner = lease.owner(folder)
    if owner is not None:
        raise FaultError(RunActive(folder, owner))
    return _claimed(plan, folder, time.time(), read_run(folder))


def _claimed(plan: Plan, folder: str, now: float, before: dict[str, dict[str, Any]] | None) -> Attempt:
    try:
        lock = Lock(folder)
        lease.write(folder, lease.mine())
    except OSError as error:
        raise FaultError(FileUnwritable(folder, reason_of(error))) from error
    number = 1 + (0 if before is None else max(1, len(before[RUN]["attempts"])))
    place = Place(os.path.basename(folder), plan.name, Path(folder), plan.config, before is not None)
    figures = Summary({}) if before is None else Summary(before[SUMMARY], os.path.join(folder, LINES))
    attempt = Attempt(place, number, lock, now, time.monotonic(), figures, lane=plan.lane is not None)
    try:
        _record(plan, attempt, before)
    except BaseException:  # a stop too: the claim is given up
        lease.remove(folder)
        lock.release()
        raise
    attempt.beats = Beats(folder, lock)
    attempt.beats.start()
    return attempt


def _record(plan: Plan, attempt: Attempt, before: dict[str, dict[str, Any]] | None) -> None:
    """What is known before the program starts. `run.json` is there first: a kill meanwhile leaves a run that has crashed."""
    folder = attempt.folder
    first: dict[str, Any] = {
        "id": attempt.place.id,
        "name": plan.name,
        "created": attempt.begun,
        "ended": None,
        "seconds": None,
        "status": RUNNING,
        "error": None,
        "tags": list(plan.tags),
        "note": plan.note,
        "attempts": [],
        "warnings": [],
    }
    if plan.lane is not None:
        first |= {"parent": plan.parent, "lane": plan.lane}
    this = {"created": attempt.begun, "status": RUNNING, "pid": os.getpid(), "argv": surroundings.arguments()}
    if before is None:
        with writing(folder):
            write_often(folder, RUN, {**first, "attempts": [this]})  # the last line here makes it durable
    else:
        this["changed"] = _changed(before[CONFIG].get("settings", {}), plan.settings)
        edit(folder, lambda run: {**run, **_again(run, plan), "attempts": [*_ended(run), this]})
    with writing(folder):
        around = _surroundings(plan, attempt)
    if plan.lane is None:
        write_json(folder, CONFIG, {"settings": plan.settings})
    else:  # a disk takes as long to make a file durable as a small lane's epoch
        with writing(folder):
            write_often(folder, CONFIG, {"settings": plan.settings})
    edit(folder, lambda run: {**run, "attempts": [*run["attempts"][:-1], {**run["attempts"][-1], **around}]})


def _again(run: dict[str, Any], plan: Plan) -> dict[str, Any]:
    tags = list(dict.fromkeys([*run["tags"], *plan.tags]))
    return {"status": RUNNING, "error": None, "ended": None, "tags": tags, "note": plan.note or run["note"]}


def _ended(run: dict[str, Any]) -> list[dict[str, Any]]:
    """The earlier attempts; one that is still said to run has crashed."""
    earlier = run["attempts"] or [{"created": run["created"], "status": run["status"]}]
    return [{**each, "status": CRASHED if each["status"] == RUNNING else each["status"]} for each in earlier]


def _changed(before: dict[str, Any], now: dict[str, Any]) -> dict[str, list[Any]]:
    values = {path: [each.get(path, {}).get("value") for each in (before, now)] for path in sorted({*before, *now})}
    return {path: pair for path, pair in values.items() if pair[0] != pair[1]}


def _surroundings(plan: Plan, attempt: Attempt) -> dict[str, Any]:
    """Write the diff, the source and the environment; returns what belongs into `run.json`."""
    folder = attempt.folder
    state = plan.repository or repository_of(plan.described_in, plan.root)
    if state.diff:
        write_new(folder, attempt.file(DIFF), state.diff)
    if state.untracked:
        write_often(folder, attempt.file(UNTRACKED), {"files": state.untracked})
    sources = surroundings.sources(plan.described_in)
    if sources:
        os.makedirs(os.path.join(folder, attempt.file(SOURCE)), exist_ok=True)
        for name, content in sources.items():
            write_new(folder, os.path.join(attempt.file(SOURCE), name), content)
    machine, versions = surroundings.machine(), surroundings.versions()
    around = {"variables": surroundings.environment(), "packages": surroundings.packages()}
    write_often(folder, attempt.file(ENVIRONMENT), {**machine, **around})
    short = {"host": surroundings.printed(machine["host"]), "python": machine["python"], "versions": versions}
    facts = {name: surroundings.printed(each) if isinstance(each, str) else each for name, each in state.facts.items()}
    program = surroundings.printed(plan.described_in)
    return {
        **short,
        "git": facts,
        "program": program,
        "working_folder": surroundings.printed(os.getcwd()),
        "devices": surroundings.devices(),
    }


def repository_of(described_in: str, root: str) -> git.GitState:
    """The state of the repository of a program; the folder of runs is no part of it."""
    known = os.path.isfile(described_in)
    return git.state_of(os.path.dirname(os.path.abspath(described_in)) if known else os.getcwd(), root)


# ------------------------------------------------------------------------------- the end


def end(attempt: Attempt, exit: Exit[Any, Any]) -> None:
    """Record the outcome; once. What cannot be recorded is a warning: it does not change the outcome of the program."""
    if attempt.ended or os.getpid() != attempt.pid:  # a forked child may leave the program, too
        return
    attempt.ended = True
    if attempt.beats is not None:
        attempt.beats.stop()
    seconds = time.monotonic() - attempt.monotonic
    status, error = outcome(exit)
    attempt.warnings.extend(() if attempt.tracker is None else attempt.tracker.warnings)
    if attempt.figures.partial:
        _refresh(attempt)

    ended = {"ended": time.time(), "seconds": seconds, "status": status, "error": error}
    if status == "interrupted":
        ended |= attempt.paused

    def change(run: dict[str, Any]) -> dict[str, Any]:
        this = run["attempts"][-1]
        this = {**this, **ended, "devices": surroundings.devices() or this.get("devices", [])}
        warnings = [*run["warnings"], *(printable(text_of(each)) for each in attempt.warnings)]
        total = {"seconds": (run["seconds"] or 0.0) + seconds}
        return {**run, **ended, **total, "warnings": warnings, "attempts": [*run["attempts"][:-1], this]}

    try:
        edit(attempt.folder, change)
    except FaultError as failed:
        attempt.warnings.append(failed.fault)
    with contextlib.suppress(OSError):
        lease.remove(attempt.folder)
    attempt.lock.release()


def _refresh(attempt: Attempt) -> None:
    history = read(os.path.join(attempt.folder, LINES))
    if history is not None:
        with contextlib.suppress(OSError):
            write_often(attempt.folder, SUMMARY, {**attempt.figures.stored(), "scalars": scalars_of(history)})


def outcome(exit: Exit[Any, Any]) -> tuple[str, dict[str, str] | None]:
    """The status of an outcome, and what went wrong."""
    match exit:
        case Success():
            return "completed", None
        case Failure(fault):
            return "failed", _error(type(fault).__name__, lambda: str(fault))
        case Defect(cause):
            status = "interrupted" if isinstance(cause, KeyboardInterrupt) else "defect"
            lines = "".join(traceback.format_exception(cause))
            return status, {**_error(type(cause).__name__, lambda: str(cause)), "traceback": _cut(lines)}
        case _:
            return "interrupted", None


def _error(kind: str, text: Callable[[], str]) -> dict[str, str]:
    try:
        found = text()
    except Exception:  # the caller's class may have a `__str__` that raises
        found = "its text cannot be shown"
    return {"kind": kind, "text": _cut(printable(found))}


def _cut(text: str) -> str:
    text = surroundings.printed(text)
    return text if len(text) <= MOST_TEXT else f"{text[: MOST_TEXT // 2]}\n...\n{text[-MOST_TEXT // 2 :]}"
