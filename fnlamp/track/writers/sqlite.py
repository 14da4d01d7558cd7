"""The writer of a SQLite index."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from typing import Any

from fnlamp.effect import Effect
from fnlamp.fault import FaultError, FileCorrupt, FileUnwritable, printable
from fnlamp.track.entry import Entry
from fnlamp.track.place import index_file
from fnlamp.track.tables import Index
from fnlamp.track.writers.output import Output, called


def sqlite(path: str | PathLike[str]) -> Output:
    """Write entries into tables of SQLite: a path that ends in `.db`, or `metrics.db` in this folder.

    A metric, lane and step has one row, so that a resumed run writes nothing twice. NaN is NULL. The lines beside the file, if
    there are any, are read first as far as they are missing here: the file may be deleted. The views `scalars` and `others` are
    for queries.

    >>> from fnlamp import track
    >>> import sqlite3, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> track.tracked(track.measure({"loss": 0.5}, step=10), track.sqlite(folder)).run()
    <IOResult: <Success: Tracked(value=None, warnings=())>>
    >>> with contextlib.closing(sqlite3.connect(f"{folder}/metrics.db")) as base:
    ...     base.execute("SELECT name, step, value FROM scalars").fetchall()
    [('loss', 10, 0.5)]
    """
    name = os.path.abspath(index_file(path))

    @contextlib.contextmanager
    def open_sqlite() -> Iterator[Callable[[Sequence[Entry]], Any]]:
        with contextlib.closing(Index(name)) as index:
            index.catch_up()
            yield index.write

    return called(f"sqlite({path})", open_sqlite)


def index(path: str | PathLike[str]) -> Effect[int, FileUnwritable | FileCorrupt]:
    """Bring the SQLite index of a run up to date with its lines, or make it; the value is how many lines were read.

    Lines that were read before are not read again. The file is the one that `sqlite` writes.
    Fails: `FileUnwritable`, also for a database of something else; `FileCorrupt`, for the lines.
    """
    name = index_file(path)

    def run() -> int:
        try:
            with contextlib.closing(Index(os.path.abspath(name))) as found:
                return found.catch_up()
        except (OSError, RuntimeError) as error:
            raise FaultError(FileUnwritable(name, getattr(error, "strerror", None) or str(error))) from error

    return Effect.checked(run).named(f"index {printable(name)}")
