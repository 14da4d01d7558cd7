"""The files of a run folder, and how they are read: the schema, version 1. `docs/reference/run-folder.md` describes it.

Only the standard library is imported here: `fnlamp runs list` reads thousands of these.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fnlamp.experiment import lease
from fnlamp.experiment.migrate import migrated
from fnlamp.fault import FaultError, FileCorrupt, FileMissing, printable

RUN: Final = "run.json"
CONFIG: Final = "config.json"
SUMMARY: Final = "summary.json"
ENVIRONMENT: Final = "environment.json"
EXPLAIN: Final = "explain.txt"
DIFF: Final = "source.diff"
UNTRACKED: Final = "untracked.json"
SOURCE: Final = "source"
LINES: Final = "metrics.jsonl"
DATABASE: Final = "metrics.db"
CHECKPOINTS: Final = "checkpoints"
SWEEP: Final = "sweep.json"
"""In the folder around those of the lanes."""

MOST: Final = 64 * 2**20
"""Bytes of a file of JSON that is read."""

RUNNING, CRASHED, UNREADABLE = "running", "crashed", "unreadable"
STATUSES: Final = (RUNNING, "completed", "failed", "interrupted", "stopped", "defect", CRASHED, UNREADABLE)
"""`failed` is a fault, `defect` an exception that nobody declared; `stopped` is a lane that its sweep has stopped at a rung; a
run whose process is gone has crashed."""


@dataclass(frozen=True)
class RunRecord:
    """What a run folder says of its run.

    `status` is "running", "completed", "failed", "interrupted", "stopped" (by its sweep), "defect" (an exception), "crashed"
    (its process is gone) or "unreadable"; `problem` says why. `created` and `ended` are in seconds since 1970, `seconds` is how
    long the run took, over all attempts that have ended, and `began` is when the last attempt did. `parent` and `lane` are
    those of a lane of a sweep.
    `config` has each setting at its dotted path. `last`, `lowest` and `highest` are figures of each metric, at most a few
    seconds old while the run is running.
    """

    folder: str
    id: str
    name: str
    status: str
    created: float
    ended: float | None = None
    seconds: float | None = None
    tags: tuple[str, ...] = ()
    note: str = ""
    problem: str = ""
    step: int | None = None
    epoch: int | None = None
    parent: str = ""
    lane: int | None = None
    began: float | None = None
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    last: Mapping[str, float] = field(default_factory=dict, repr=False)
    lowest: Mapping[str, float] = field(default_factory=dict, repr=False)
    highest: Mapping[str, float] = field(default_factory=dict, repr=False)

    @property
    def elapsed(self) -> float | None:
        """The seconds of all attempts, up to now while the run is running. Time between attempts does not count."""
        if self.status != RUNNING or self.began is None:
            return self.seconds
        return (self.seconds or 0.0) + max(0.0, time.time() - self.began)


def read_json(folder: str, name: str) -> dict[str, Any]:
    """A file of a run folder.  Fails: `FileMissing`, `FileCorrupt`."""
    path = os.path.join(folder, name)
    try:
        found = json.loads(_content(path), parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        raise FaultError(FileCorrupt(path, "a JSON object", str(error))) from error
    except OSError as error:
        raise FaultError(FileMissing(path, error.strerror or str(error))) from error
    if not isinstance(found, dict):
        raise FaultError(FileCorrupt(path, "a JSON object", type(found).__name__))
    return found


def _content(path: str) -> bytes:
    """Raises: `OSError`, `ValueError` for anything but a regular file of a sensible size: a pipe may never end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MOST:
            raise ValueError(f"a regular file of at most {MOST:,} bytes is needed")
        return file.read(MOST)


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def is_run(folder: str) -> bool:
    """Whether this is the folder of a run."""
    return os.path.isfile(os.path.join(folder, RUN))


def read_run(folder: str) -> dict[str, dict[str, Any]]:
    """The contents of `run.json`, `config.json` and `summary.json` in the present schema.

    The last two may be missing, as in a run that has just begun.  Fails: `FileMissing`, `FileCorrupt`, `RunTooNew`.
    """
    files = {RUN: read_json(folder, RUN)}
    for name in (CONFIG, SUMMARY):
        files[name] = {}
        with contextlib.suppress(FaultError):
            files[name] = read_json(folder, name)
    return migrated(folder, files)


def stored(folder: str) -> dict[str, Any]:
    """The fields of a `RunRecord` as they are stored, all JSON; of a folder that cannot be read, as much as is known."""
    try:
        files = read_run(folder)
        return _fields(files[RUN], files[CONFIG], files[SUMMARY])
    except (FaultError, TypeError, ValueError, AttributeError, KeyError) as error:  # any JSON may be in the files
        problem = str(error.fault) if isinstance(error, FaultError) else f"{folder}: not in the schema ({error})"
        created = 0.0
        with contextlib.suppress(OSError):
            created = os.stat(folder).st_mtime
        return {"status": UNREADABLE, "created": created, "problem": printable(problem)}


def _fields(run: dict[str, Any], config: dict[str, Any], summary: dict[str, Any]) -> dict[str, Any]:
    settings, scalars = config.get("settings", {}), summary.get("scalars", {})
    error = run["error"]
    return {
        "status": run["status"] if run["status"] in STATUSES else UNREADABLE,
        "created": float(run["created"]),
        "ended": run["ended"],
        "seconds": run["seconds"],
        "tags": [str(each) for each in run["tags"]],
        "note": str(run["note"]),
        "problem": f"{error['kind']}: {error['text']}" if error else "",
        "step": summary.get("step"),
        "epoch": summary.get("epoch"),
        "parent": str(run.get("parent", "")),
        "lane": run["lane"] if type(run.get("lane")) is int else None,
        "began": float(run["attempts"][-1]["created"] if run["attempts"] else run["created"]),
        "config": {path: each["option"] or each["value"] for path, each in settings.items()},
        **{kind: {name: each[kind] for name, each in scalars.items()} for kind in ("last", "lowest", "highest")},
    }


def record_of(folder: str, fields: Mapping[str, Any]) -> RunRecord:
    """The record of a run, with its status as of now."""
    status = fields["status"]
    if status == RUNNING and lease.owner(folder) is None:
        # The process may have ended properly since the file was read.
        fields = stored(folder)
        status = CRASHED if fields["status"] == RUNNING else fields["status"]
    parent, base = os.path.split(folder)
    at = {"folder": folder, "id": base, "name": os.path.basename(parent)}  # a folder may have been renamed, or copied
    figures = {kind: number_of(fields.get(kind, {})) for kind in ("last", "lowest", "highest")}
    return RunRecord(**{**fields, **figures, **at, "status": status, "tags": tuple(fields.get("tags", ()))})


def number_of(figures: Mapping[str, Any]) -> dict[str, float]:
    """Figures from JSON, in which NaN and infinity are strings."""
    return {name: float(value) for name, value in figures.items() if value is not None}
