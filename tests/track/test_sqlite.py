"""The SQLite index: the numbers of the lines, once each, made again if it is deleted."""

import contextlib
import importlib
import math
import sqlite3

import numpy as np
from outcomes import fault, value
from telling import VALUES, tracked

from fnlamp import track
from fnlamp.effect import Effect
from fnlamp.fault import FileCorrupt, FileMissing, FileUnwritable


def rows(folder, query="SELECT name, lane, step, value FROM scalars ORDER BY name, lane, step"):
    with contextlib.closing(sqlite3.connect(folder / "metrics.db")) as base:
        return base.execute(query).fetchall()


def events(seed=0):
    told = [track.Measured({"a": math.nan, 'b"; DROP TABLE scalar; --': math.inf, "c/é": -1.5}, 1, 1)]
    told += [track.Measured({"a": step / 3}, step, lane=2) for step in range(5)]
    return [*told, track.Measured(VALUES | {"a": track.Text("also a text")}, 3), track.Measured({"a": 7}, 1, lane=2)]


def of_lines(folder):
    history = value(track.history(folder))
    found = []
    for name in history.names:
        for lane in history.lanes:
            with contextlib.suppress(KeyError):
                series = history.scalars(name, lane)
                numbers = [None if math.isnan(x) else x for x in series.values.tolist()]
                found += [(name, lane, step, x) for step, x in zip(series.steps.tolist(), numbers, strict=True)]
    return found


def test_it_has_the_numbers_of_the_lines(tmp_path):
    assert not value(tracked(tmp_path, *events(), writers=(track.sqlite(tmp_path),))).warnings
    assert rows(tmp_path) == of_lines(tmp_path)
    assert ("a", 0, 1, None) in rows(tmp_path)
    kinds = dict(rows(tmp_path, "SELECT name, kind FROM others"))
    assert kinds == {**{name: name for name in VALUES}, "a": "text"}
    assert (
        rows(tmp_path, "PRAGMA user_version") == rows(tmp_path, "SELECT value FROM meta WHERE key = 'schema_version'") == [(1,)]
    )


def test_history_reads_the_same_from_it(tmp_path):
    value(tracked(tmp_path, *events(), writers=(track.sqlite(tmp_path),)))
    one, other = value(track.history(tmp_path)), value(track.history(tmp_path / "metrics.db"))
    assert one.names == other.names
    assert one.lanes == other.lanes
    for name, lane in (("a", 0), ("a", 2), ("c/é", 0)):
        for field in ("steps", "values", "times", "epochs"):
            pair = (getattr(each.scalars(name, lane), field) for each in (one, other))
            assert np.array_equal(*pair, equal_nan=True)
    assert [each.value for each in one.values("text")] == [each.value for each in other.values("text")]
    assert one.alerts == other.alerts
    assert isinstance(fault(track.history(tmp_path / "no.db")), FileMissing)
    (tmp_path / "text.db").write_bytes(b"no database, this is text" * 100)
    assert isinstance(fault(track.history(tmp_path / "text.db")), FileCorrupt)


def test_deleting_it_loses_nothing(tmp_path):
    value(tracked(tmp_path, *events(), writers=(track.sqlite(tmp_path),)))
    before = rows(tmp_path), rows(tmp_path, "SELECT * FROM others ORDER BY name")
    (tmp_path / "metrics.db").unlink()
    assert value(track.index(tmp_path)) == 1 + len(events())
    assert (rows(tmp_path), rows(tmp_path, "SELECT * FROM others ORDER BY name")) == before
    assert value(track.index(tmp_path)) == 0
    (tmp_path / "metrics.db").unlink()
    value(tracked(tmp_path, track.Measured({"d": 1}, 9), writers=(track.sqlite(tmp_path),)))
    assert rows(tmp_path) == sorted([*before[0], ("d", 0, 9, 1.0)]) == of_lines(tmp_path)


def test_a_resume_deletes_later_steps(tmp_path):
    steps = [track.Measured({"x": step, "y.x": step}, step) for step in range(10)]
    value(tracked(tmp_path, *steps, writers=(track.sqlite(tmp_path),)))
    again = [track.Started(4), track.Measured({"x": -5}, 5), track.Started(3, "y."), track.Measured({"x": -6}, 6)]
    value(tracked(tmp_path, *again, writers=(track.sqlite(tmp_path),)))
    expected = [*(("x", 0, s, float(s)) for s in range(5)), ("x", 0, 5, -5.0), ("x", 0, 6, -6.0)]
    assert rows(tmp_path) == expected + [("y.x", 0, s, float(s)) for s in range(4)] == of_lines(tmp_path)
    (tmp_path / "metrics.db").unlink()
    value(track.index(tmp_path))
    assert rows(tmp_path) == of_lines(tmp_path)


def test_it_is_removed_during_the_run(tmp_path):
    def remove():
        written = False
        while not written:
            with contextlib.suppress(sqlite3.OperationalError):  # no such table, until there is
                written = bool(rows(tmp_path))
        (tmp_path / "metrics.db").unlink()

    program = track.measure({"x": 1}, step=1).then(Effect.suspend(remove)).then(track.measure({"y": 2}, step=2))
    assert not value(track.tracked(program, track.lines(tmp_path), track.sqlite(tmp_path))).warnings
    assert rows(tmp_path) == [("x", 0, 1, 1.0), ("y", 0, 2, 2.0)]


def test_a_network_file_system_gets_no_write_ahead_log(tmp_path, monkeypatch):
    index = importlib.import_module("fnlamp.track.tables")
    seen = []
    real = index.Index.write

    def write(self, entries):
        seen.append(self._base.execute("PRAGMA journal_mode").fetchone()[0])
        real(self, entries)

    monkeypatch.setattr(index.Index, "write", write)
    for local in (True, False):
        monkeypatch.setattr(index, "shares_memory", lambda folder, local=local: local)
        value(tracked(tmp_path, track.Measured({"x": 1}, 1), writers=(track.sqlite(tmp_path),)))
    assert seen == ["wal", "truncate"]


def test_a_database_of_something_else_stays_as_it_is(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "metrics.db")) as base:
        base.execute("CREATE TABLE mine(x)")
        base.commit()
    (warning,) = value(tracked(tmp_path, *events(), writers=(track.sqlite(tmp_path),))).warnings
    assert "stays as it is" in warning.reason
    assert rows(tmp_path, "SELECT name FROM sqlite_schema") == [("mine",)]
    assert isinstance(fault(track.index(tmp_path)), FileUnwritable)
    (tmp_path / "metrics.db").write_bytes(b"no database, this is text" * 100)
    assert isinstance(fault(track.index(tmp_path)), FileUnwritable)
    assert of_lines(tmp_path)


def test_corrupt_lines_are_a_fault(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"schema":1}\n{"step":1,"values":{"x":"abc"}}\n')
    assert isinstance(fault(track.index(tmp_path)), FileCorrupt)


def test_other_programs_may_read_while_it_is_written(tmp_path):
    def read():
        while not (tmp_path / "metrics.db").exists():
            pass
        with contextlib.closing(sqlite3.connect(f"file:{tmp_path}/metrics.db?mode=ro", uri=True)) as base:
            for _ in range(200):
                base.execute("SELECT count(*) FROM sqlite_schema").fetchone()

    assert not value(track.tracked(Effect.suspend(read).then(track.measure({"x": 1})), track.sqlite(tmp_path))).warnings
