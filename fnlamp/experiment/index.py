"""The list of runs: read from their folders, with an index that may be deleted at any time.

Only the standard library is imported here: it is what `fnlamp runs list` needs.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Any, Final

from fnlamp.experiment.folder import RUN, RUNNING, SUMMARY, UNREADABLE, RunRecord, record_of, stored
from fnlamp.fault import FaultError, FileMissing, RunAmbiguous, RunMissing

NAME: Final = ".index.db"
VERSION: Final = zlib.crc32(",".join(each.name for each in fields(RunRecord)).encode()) & 0x7FFFFFFF
"""Another version of fnlamp may store other fields."""
RECENT: Final = 2 * 10**9
"""Nanoseconds: a file as new as this may change again within the resolution of its time."""


def listing(root: str, name: str | None = None) -> list[RunRecord]:
    """The runs in a folder, oldest first; a link to a folder is listed too.  Fails: `FileMissing` for no folder.

    A run that cannot be read is listed as "unreadable". What was read is kept in an index, `.index.db`, under the times and
    sizes of the files; where that cannot be written, everything is read again.
    """
    found = dict(_scanned(root, name))
    known = _known(root)
    entries = _parsed({path: known[path][1] for path, stamp in found.items() if path in known and known[path][0] == stamp})
    new = {}
    for path, stamp in found.items():
        if path not in entries:
            entries[path] = stored(os.path.join(root, path))
            if _steady(stamp, entries[path]):
                new[path] = stamp, json.dumps(entries[path], separators=(",", ":"))
    gone = [path for path in known if path not in found] if name is None else []
    if new or gone:
        _keep(root, new, gone)
    records = []
    for path, each in entries.items():
        folder = os.path.join(root, path)
        try:
            records.append(record_of(folder, each))
        except (TypeError, ValueError, KeyError, AttributeError):  # any JSON may be in the files, or in the index
            records.append(_unreadable(folder))
    return sorted(records, key=lambda each: (each.created, each.id))


def _unreadable(folder: str) -> RunRecord:
    name = os.path.basename(os.path.dirname(folder))
    return RunRecord(folder, os.path.basename(folder), name, UNREADABLE, 0.0, problem=f"{folder}: not in the schema")


def _scanned(root: str, name: str | None) -> Iterator[tuple[str, str]]:
    """The folders of runs below the root, with the times and sizes of what is read of each."""
    try:
        names = [name] if name is not None else [each.name for each in _folders(root)]
        for parent in names:
            with contextlib.suppress(NotADirectoryError, FileNotFoundError if name is None else NotADirectoryError):
                for each in _folders(os.path.join(root, parent)):
                    with contextlib.suppress(OSError):  # not a run, or removed since
                        yield f"{parent}/{each.name}", _stamp(each.path)
    except OSError as error:
        path = root if name is None or not os.path.isdir(root) else os.path.join(root, name)
        raise FaultError(FileMissing(path, error.strerror or str(error))) from error


def _folders(path: str) -> list[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        return [each for each in entries if not each.name.startswith(".") and each.is_dir()]


def _stamp(folder: str) -> str:
    """Raises: `OSError` without a `run.json`."""
    run = os.stat(f"{folder}/{RUN}")
    try:
        summary = os.stat(f"{folder}/{SUMMARY}")
    except OSError:
        return f"{run.st_mtime_ns} {run.st_ino} {run.st_size}"
    return f"{max(run.st_mtime_ns, summary.st_mtime_ns)} {run.st_ino} {run.st_size} {summary.st_ino} {summary.st_size}"


def _steady(stamp: str, entry: dict[str, Any]) -> bool:
    return entry["status"] != UNREADABLE and int(stamp.split()[0]) < time.time_ns() - RECENT


# ------------------------------------------------------------------------------- the index


def _known(root: str) -> dict[str, tuple[str, str]]:
    """What the index has: a stamp and a text for each path; nothing if it is missing, damaged, or of another version."""
    path = os.path.join(root, NAME)
    if not os.path.isfile(path):
        return {}
    try:
        with contextlib.closing(_opened(path)) as index:
            if index.execute("pragma user_version").fetchone()[0] == VERSION:
                return {run: (stamp, text) for run, stamp, text in index.execute("select path, stamp, text from run")}
    except sqlite3.OperationalError:  # locked, or a folder that cannot be written to
        return {}
    except sqlite3.DatabaseError:
        with contextlib.suppress(OSError):
            os.remove(path)
    return {}


def _parsed(texts: dict[str, str]) -> dict[str, dict[str, Any]]:
    """The objects of texts of JSON; one call of the parser is faster than thousands, and has each name once in memory."""
    try:
        return dict(zip(texts, json.loads(f"[{','.join(texts.values())}]"), strict=True))
    except ValueError:  # damaged: all are read again
        return {}


def _keep(root: str, new: dict[str, tuple[str, str]], gone: Iterable[str]) -> None:
    """Store what was read. Without an index everything still works, so no error of SQLite matters."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(_opened(os.path.join(root, NAME))) as index, index:
        if index.execute("pragma user_version").fetchone()[0] != VERSION:
            index.execute("drop table if exists run")
            index.execute(f"pragma user_version = {VERSION}")
        index.execute("create table if not exists run (path text primary key, stamp text, text text)")
        index.executemany("insert or replace into run values (?, ?, ?)", [(path, *each) for path, each in new.items()])
        index.executemany("delete from run where path = ?", [(path,) for path in gone])


def _opened(path: str) -> sqlite3.Connection:
    index = sqlite3.connect(path, timeout=1.0)
    index.execute("pragma synchronous = off")  # it can be rebuilt
    return index


# ------------------------------------------------------------------------------- one run


def chosen(records: Iterable[RunRecord], wanted: str, root: str) -> RunRecord:
    """The run whose id, or `name/id`, is this text, or else begins or ends with it.  Fails: `RunMissing`, `RunAmbiguous`."""
    records = list(records)
    exact = [each for each in records if wanted in (each.id, f"{each.name}/{each.id}")]
    similar = exact or [each for each in records if wanted and (each.id.startswith(wanted) or each.id.endswith(wanted))]
    if len(similar) == 1:
        return similar[0]
    if similar:
        raise FaultError(RunAmbiguous(root, wanted, tuple(f"{each.name}/{each.id}" for each in similar)))
    from difflib import get_close_matches

    ids = [each.id for each in records] + [each.id[-6:] for each in records]
    near = get_close_matches(wanted, ids, 3, 0.6)
    raise FaultError(RunMissing(root, wanted, tuple(each.id for each in records if {each.id, each.id[-6:]} & set(near))))


def active(record: RunRecord) -> bool:
    """Whether the run is running."""
    return record.status == RUNNING
