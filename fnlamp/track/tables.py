"""The SQLite index of a run: its tables, made from entries or again from the lines."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import operator
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple, final
from urllib.parse import quote

from fnlamp.fault import FaultError, FileCorrupt, FileMissing
from fnlamp.track.curves import Builder, History, Recorded
from fnlamp.track.entry import Entry, Progress, Resumed
from fnlamp.track.media import kept
from fnlamp.track.reading import NOT_LINES, blocks, corrupt
from fnlamp.track.text import number_in, value_in, value_text

VERSION: Final = 1
APPLICATION: Final = 0x666E6C70
"""SQLite's mark of the program that a file belongs to."""

_TABLES: Final = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE metric(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE scalar(
    metric INTEGER NOT NULL, lane INTEGER NOT NULL, step INTEGER NOT NULL, value REAL, epoch INTEGER, time REAL NOT NULL,
    PRIMARY KEY(metric, lane, step)) WITHOUT ROWID;
CREATE TABLE other(
    metric INTEGER NOT NULL, lane INTEGER NOT NULL, step INTEGER NOT NULL, kind TEXT NOT NULL, value TEXT NOT NULL,
    epoch INTEGER, time REAL NOT NULL,
    PRIMARY KEY(metric, lane, step)) WITHOUT ROWID;
CREATE VIEW scalars AS
    SELECT name, lane, step, value, epoch, time FROM scalar JOIN metric ON metric.id = scalar.metric;
CREATE VIEW others AS
    SELECT name, lane, step, kind, value, epoch, time FROM other JOIN metric ON metric.id = other.metric;
"""
_SCALAR: Final = "INSERT OR REPLACE INTO scalar(metric, lane, step, value, epoch, time) VALUES (?, ?, ?, ?, ?, ?)"
_OTHER: Final = "INSERT OR REPLACE INTO other(metric, lane, step, kind, value, epoch, time) VALUES (?, ?, ?, ?, ?, ?, ?)"


class Told(NamedTuple):
    """An entry as the index takes it: numbers, and texts of JSON by kind; `resumed` is the start of names to cut."""

    step: int
    epoch: int | None
    lane: int
    time: float
    scalars: Mapping[str, float]
    others: Mapping[str, tuple[str, str]]
    resumed: str | None = None


@final
class Index:
    """The open file.  Raises: `OSError`, `RuntimeError` for a file of something else, `FaultError` for corrupt lines."""

    def __init__(self, path: str) -> None:
        self._path, self._folder = path, os.path.dirname(path)
        self._lines = os.path.splitext(path)[0] + ".jsonl"
        with as_system_errors():
            self._open()

    def _open(self) -> None:
        self._ids: dict[str, int] = {}
        os.makedirs(self._folder, exist_ok=True)
        self._base = sqlite3.connect(self._path, timeout=30.0, isolation_level=None)
        try:
            self._prepare()
            self._status = os.stat(self._path)
        except BaseException:  # the caller gets no index that it could close
            self._base.close()
            raise

    def _prepare(self) -> None:
        ask = self._base.execute
        ask("PRAGMA trusted_schema = OFF")
        ask("PRAGMA synchronous = NORMAL")
        version, application = (ask(f"PRAGMA {name}").fetchone()[0] for name in ("user_version", "application_id"))
        if application == APPLICATION and version > VERSION:
            raise RuntimeError(f"expected a database of schema {VERSION} or earlier, got schema {version}; update fnlamp")
        empty = ask("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
        if application != APPLICATION and not empty:
            raise RuntimeError("expected a database that a tracker wrote, got another one, which stays as it is")
        ask(f"PRAGMA journal_mode = {'WAL' if shares_memory(self._folder) else 'TRUNCATE'}")
        ask("BEGIN IMMEDIATE")
        with self._ended():
            if ask("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0:  # no other process was faster
                for statement in _TABLES.split(";"):
                    ask(statement)
                ask("INSERT INTO meta(key, value) VALUES ('schema_version', ?), ('lines_read', 0)", (VERSION,))
                ask(f"PRAGMA application_id = {APPLICATION}")
                ask(f"PRAGMA user_version = {VERSION}")

    def write(self, entries: Iterable[Entry]) -> None:
        """Take entries, in one transaction."""
        with as_system_errors():
            if self._removed():
                self.close()
                self._open()
                self.catch_up()
            self._take(map(self._told, entries))

    def catch_up(self) -> int:
        """Read what the file of lines has beyond what was read before; returns the number of lines."""
        count = 0
        with as_system_errors(), contextlib.suppress(FileNotFoundError), open(self._lines, "rb") as file:
            start = self._base.execute("SELECT value FROM meta WHERE key = 'lines_read'").fetchone()[0]
            if start > os.fstat(file.fileno()).st_size:  # another file
                start = 0
                for table in ("scalar", "other"):
                    self._base.execute(f"DELETE FROM {table}")
            file.seek(start)
            for lines, end in blocks(self._lines, file):
                try:
                    found = [_told_in(line) for line in lines if "schema" not in line]
                except NOT_LINES:
                    raise corrupt(self._lines, f"a line before byte {end:,}") from None
                self._take(found, read=end)
                count += len(lines)
        return count

    def close(self) -> None:
        """Close the file, which is then one file that can be copied, if no other process has it open."""
        with contextlib.suppress(sqlite3.Error):
            self._base.execute("PRAGMA journal_mode = DELETE")
        self._base.close()

    def _take(self, entries: Iterable[Told], read: int | None = None) -> None:
        scalars: list[tuple[Any, ...]] = []
        others: list[tuple[Any, ...]] = []
        self._base.execute("BEGIN IMMEDIATE")
        with self._ended():
            for each in entries:
                if each.resumed is not None:
                    self._put(scalars, others)
                    self._cut(each.step, each.resumed)
                for name, value in each.scalars.items():
                    scalars.append((self._id(name), each.lane, each.step, value, each.epoch, each.time))
                for name, (kind, text) in each.others.items():
                    others.append((self._id(name), each.lane, each.step, kind, text, each.epoch, each.time))
            self._put(scalars, others)
            if read is not None:
                self._base.execute("UPDATE meta SET value = ? WHERE key = 'lines_read'", (read,))

    def _put(self, scalars: list[tuple[Any, ...]], others: list[tuple[Any, ...]]) -> None:
        self._base.executemany(_SCALAR, scalars)
        self._base.executemany(_OTHER, others)
        scalars.clear()
        others.clear()

    def _cut(self, step: int, start: str) -> None:
        """Delete later steps of the names that start so."""
        among = "step > ? AND metric IN (SELECT id FROM metric WHERE substr(name, 1, ?) = ?)"
        for table in ("scalar", "other"):
            self._base.execute(f"DELETE FROM {table} WHERE {among}", (step, len(start), start))

    def _id(self, name: str) -> int:
        found = self._ids.get(name)
        if found is None:
            self._base.execute("INSERT OR IGNORE INTO metric(name) VALUES (?)", (name,))
            found = self._ids[name] = int(self._base.execute("SELECT id FROM metric WHERE name = ?", (name,)).fetchone()[0])
        return found

    @contextlib.contextmanager
    def _ended(self) -> Iterator[None]:
        """Commit the transaction, or undo it."""
        try:
            yield
            self._base.execute("COMMIT")
        except BaseException:  # whatever ends it, an interruption too, the transaction must not stay open
            self._ids.clear()
            if self._base.in_transaction:
                self._base.execute("ROLLBACK")
            raise

    def _told(self, entry: Entry) -> Told:
        scalars = {name: value for name, value in entry.values.items() if type(value) is float}
        others, resumed = {}, None
        for name, value in entry.values.items():
            if type(value) is Resumed:
                resumed = name.removesuffix("run")
            elif type(value) not in (float, Progress):
                ((kind, content),) = json.loads(value_text(value, lambda picture: kept(self._folder, picture))).items()
                others[name] = kind, json.dumps(content)
        return Told(entry.step, entry.epoch, entry.lane, entry.time, scalars, others, resumed)

    def _removed(self) -> bool:
        try:
            return not os.path.samestat(self._status, os.stat(self._path))
        except FileNotFoundError:
            return True


def _told_in(line: Any) -> Told:
    """The entry of a line.  Raises: those of `NOT_LINES`."""
    scalars, others, resumed = {}, {}, None
    for name, value in line["values"].items():
        if not isinstance(value, dict):
            scalars[name] = number_in(value)
        elif isinstance(value_in(value, ""), Resumed):
            resumed = name.removesuffix("run")
        else:
            ((kind, content),) = value.items()
            others[name] = kind, json.dumps(content)
    return Told(
        operator.index(line["step"]), line.get("epoch"), line.get("lane", 0), line.get("time", 0.0), scalars, others, resumed
    )


def of_index(path: str) -> History:
    """What the index says: NULL is NaN.  Fails: `FileMissing`, `FileCorrupt`."""
    builder = Builder()
    try:
        os.stat(path)
        with contextlib.closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, timeout=30.0)) as base:
            base.execute("PRAGMA trusted_schema = OFF")
            for name, lane, step, value, epoch, time in base.execute(
                "SELECT name, lane, step, value, epoch, time FROM scalar JOIN metric ON id = metric ORDER BY metric, lane, step"
            ):
                at = builder.entry(step, epoch, lane, time)
                builder.scalar(name, lane, at, math.nan if value is None else float(value))
            for name, lane, step, kind, text, epoch, time in base.execute(
                "SELECT name, lane, step, kind, value, epoch, time FROM other JOIN metric ON id = metric ORDER BY time"
            ):
                value = value_in({kind: json.loads(text)}, os.path.dirname(path))
                builder.other(Recorded(name, value, step, epoch, lane, time))
    except OSError as error:
        raise FaultError(FileMissing(path, error.strerror or str(error))) from error
    except sqlite3.Error as error:
        raise FaultError(FileCorrupt(path, "a database that a tracker wrote", str(error))) from error
    except NOT_LINES:
        raise FaultError(FileCorrupt(path, "a database that a tracker wrote", "other values")) from None
    return builder.history()


@contextlib.contextmanager
def as_system_errors() -> Iterator[None]:
    """Turn what SQLite raises for a full disk or a locked file into an `OSError`, after which a tracker tries again."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise OSError(errno.EIO, str(error)) from error
    except sqlite3.DatabaseError as error:
        raise RuntimeError(str(error)) from error


def shares_memory(folder: str) -> bool:
    """Whether the file system is known to be of this machine: SQLite's write-ahead log needs memory shared by its users.

    Reference: https://www.sqlite.org/wal.html, section 1.
    """
    folder, found = os.path.realpath(folder), ("", "")
    with contextlib.suppress(OSError), open("/proc/self/mountinfo") as file:
        for line in file:
            place, _, rest = line.partition(" - ")
            point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), place.split(" ")[4])
            if f"{folder}/".startswith(f"{point.rstrip('/')}/") and len(point) >= len(found[0]):
                found = point, rest.split(" ")[0]
    return found[1] in LOCAL


LOCAL: Final = ("apfs", "bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "tmpfs", "xfs", "zfs")
