"""`fnlamp runs sql`: a query of a run's `metrics.db` that can only read."""

from __future__ import annotations

import argparse
import contextlib
import os
import sqlite3
from typing import Any
from urllib.parse import quote

from fnlamp.experiment.command import output, pick
from fnlamp.experiment.folder import DATABASE, RUNNING
from fnlamp.fault import FaultError, FileMissing, QueryFailed


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="RUN", help="the id of a run, or its beginning or end")
    parser.add_argument("query", help='such as "select name, step, value from scalars"')
    parser.add_argument("--limit", type=int, default=1000, help="rows that are printed; 0 is all (default: 1000)")
    pick.common(parser)


def run(options: argparse.Namespace) -> None:
    record = pick.the_run(options)
    path = os.path.join(record.folder, DATABASE)
    if record.status != RUNNING:  # a running run writes it itself
        catch_up(path)
    columns, rows = query(path, options.query, options.limit)
    if options.json:
        output.say_json({"columns": columns, "rows": rows})
    else:
        output.say_table(columns, [[_cell(each) for each in row] for row in rows])


def catch_up(path: str) -> None:
    """Make the database from the lines, if it is missing, as far as it lacks some; in a folder that can be written to."""
    from fnlamp.experiment.command.recorded import value_of
    from fnlamp.track import index

    with contextlib.suppress(FaultError):
        value_of(index(path))


def query(path: str, text: str, limit: int = 0) -> tuple[list[str], list[tuple[Any, ...]]]:
    """The columns and rows of a query.  Fails: `FileMissing`, `QueryFailed`.

    The file is opened read-only, and SQLite refuses to write, and to attach other files.
    """
    if not os.path.isfile(path):
        raise FaultError(FileMissing(path, "No such file or directory"))
    try:
        with contextlib.closing(opened(path)) as database:
            found = database.execute(text)
            rows = found.fetchmany(limit) if limit > 0 else found.fetchall()
            return [each[0] for each in found.description or ()], rows
    except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
        raise FaultError(QueryFailed(text, str(error))) from error


def opened(path: str) -> sqlite3.Connection:
    """A connection that can only read.  Raises: `sqlite3.Error`."""
    uri = f"file:{quote(os.path.abspath(path))}?mode=ro"
    database = sqlite3.connect(uri, uri=True, timeout=10.0)
    try:
        database.execute("select count(*) from sqlite_master").fetchone()
    except sqlite3.OperationalError:  # in a folder that cannot be written to, a write-ahead log has no shared memory
        database.close()
        database = sqlite3.connect(f"{uri}&immutable=1", uri=True)
    database.execute("pragma trusted_schema = off")  # a view of the file calls no function with side effects
    database.execute("pragma query_only = on")
    database.set_authorizer(_allowed)
    database.set_progress_handler(lambda: 0, 100_000)  # Python sees Ctrl-C in a long query
    return database


_READS = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)


def _allowed(action: int, first: str | None, second: str | None, *rest: str | None) -> int:
    harmless = action in _READS and second != "load_extension"
    return sqlite3.SQLITE_OK if harmless else sqlite3.SQLITE_DENY


def _cell(value: Any) -> str:
    return output.cell(value.hex() if isinstance(value, bytes) else value)
