"""The command `fnlamp runs`: each verb, its JSON, its exit codes, and what it never touches."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import pathlib
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from outcomes import value

from fnlamp import checkpoint, track
from fnlamp.effect import Effect, Runtime, collect
from fnlamp.experiment import experiment, git, lease, surroundings
from fnlamp.experiment.command import output, sql
from fnlamp.experiment.command.main import VERBS, main
from fnlamp.experiment.index import listing

SILENT = Runtime(log=None)
LOSSES = {"first": [1.0, 0.5, 0.25], "second": [1.0, math.nan]}


@pytest.fixture
def root(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Two runs of one experiment, of which the second failed, with three saves each, and one of another."""
    monkeypatch.setattr(git, "state_of", lambda *folders: git.GitState({"missing": "not looked at"}, b"the diff"))
    monkeypatch.setattr(surroundings, "packages", lambda: {"jax": "0"})
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    for number, (name, losses) in enumerate(LOSSES.items(), 1):

        def program(place: Any, losses: list[float] = losses) -> Effect[Any, Any]:
            told = collect([track.measure({"train.loss": loss}, step=step) for step, loss in enumerate(losses, 1)])
            saves = collect([checkpoint.save(place.checkpoints, step, {"a": np.zeros(3)}) for step in (1, 2, 3)])
            return told.then(saves).then(Effect.from_failure("no") if losses[-1] != losses[-1] else Effect.from_value(1))

        config = {"rate": number / 10, "same": 1}
        experiment("a", program, config, folder=tmp_path / "runs", tags=[name], note=f"the {name}").run(SILENT)
    value(experiment("b", track.measure({"other": 1.0}, step=1), folder=tmp_path / "runs"), SILENT)
    return tmp_path / "runs"


@pytest.fixture
def call(root: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs a command line; returns the exit code, what it printed, and its errors; with --json, the JSON."""

    def run(*words: str) -> Any:
        code = main(["runs", words[0], "--folder", str(root), *words[1:]])
        out, error = capsys.readouterr()
        return code, json.loads(out, parse_constant=pytest.fail) if "--json" in words and code == 0 else out, error

    return run


def ids(root: pathlib.Path) -> list[str]:
    return [each.id for each in listing(str(root))]


# ------------------------------------------------------------------------------- looking


def test_list(call, root):
    code, text, _ = call("list")
    assert code == 0 and [line.split()[0] for line in text.splitlines()[1:]] == [id[-6:] for id in ids(root)]
    assert text.splitlines()[0].split() == [
        "id",
        "name",
        "status",
        "created",
        "time",
        "tags",
        "note",
        "step",
        "config.rate",
        "config.same",
        "train.loss",
        "other",
    ]
    assert [line.split()[2] for line in text.splitlines()[1:]] == ["completed", "failed", "completed"]
    _, found, _ = call("list", "a", "--json", "--where", "train.loss>0")
    (run,) = found["runs"]
    assert run["config"] == {"rate": 0.1, "same": 1} and run["tags"] == ["first"] and run["status"] == "completed"
    assert run["lane"] is None and run["parent"] == ""
    assert run["metrics"] == {"train.loss": {"last": 0.25, "lowest": 0.25, "highest": 1.0}}
    assert [each["id"] for each in call("list", "--json", "--sort", "config.rate", "--reverse", "--name", "a")[1]["runs"]] == [
        ids(root)[1],
        ids(root)[0],
    ]
    assert len(call("list", "--json", "--limit", "1")[1]["runs"]) == 1
    assert call("list", "--tag", "none")[1] == "no runs\n"
    assert call("list", "--columns", "config.rate,lowest(train.loss)")[1].splitlines()[1].split()[-2:] == ["0.1", "0.25"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("list", "--where", "config.rat<1"), "near names: config.rate"),
        (("list", "--where", "rate"), "expected a comparison"),
        (("list", "--sort", "los"), "got none of that name"),
        (("list", "none"), "none: cannot be read"),
        (("show", "x"), "expected a run whose id is x"),
        (("show", "2"), "expected one run"),
        (("compare", "--tag", "none"), "expected at least one run"),
        (("plot", "--metric", "train.los"), "near names: train.loss"),
        (("sql", "2", "select 1"), "expected one run"),
    ],
)
def test_a_fault_is_a_line_and_exit_code_1(call, words, message):
    code, text, error = call(*words)
    assert code == 1 and text == "" and error.startswith("fnlamp: ") and message in error


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["runs"],
        ["runs", "no"],
        ["runs", "list", "--limit", "-1"],
        ["runs", "list", "--status", "odd"],
        ["runs", "rm"],
        ["no"],
    ],
)
def test_wrong_usage_is_exit_code_2(words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2


def test_every_verb_has_help_and_json(capsys):
    for verb in VERBS:
        with pytest.raises(SystemExit) as caught:
            main(["runs", verb, "--help"])
        assert caught.value.code == 0 and "--json" in capsys.readouterr().out


def test_show(call, root):
    first, second, _ = ids(root)
    text = call("show", first[-6:])[1]
    assert "the first" in text and "config" not in text and "rate" in text and "given" in text and "train.loss" in text
    assert "failed (str: no)" in call("show", second)[1]
    found = call("show", first, "--json")[1]
    assert (
        found["settings"]["rate"]["value"] == 0.1 and found["attempts"][0]["status"] == "completed" and found["error"] is None
    )
    assert call("show", first, "--diff")[1] == "the diff\n"
    assert "not looked into" in call("show", first, "--explain")[1]
    assert call("show", second, "--error")[1] == "str: no\n"
    alert = Effect.asks(lambda runtime: runtime.tell(track.Alerted("loss", track.Alert("it rises"), 7)))
    id = value(experiment("c", alert, folder=root), SILENT).id
    assert call("show", id, "--alerts", "--json")[1]["alerts"] == [
        {"step": 7, "name": "loss", "level": "warning", "text": "it rises"}
    ]
    assert "it rises" in call("show", id, "--alerts")[1]


def test_a_run_that_is_named_twice_is_meant_once(call, root):
    first, second, _ = ids(root)
    assert call("compare", first, "a", first[-6:], "--json")[1]["runs"] == [first, second]
    assert call("at", "1", first, first)[0] == 0


def test_texts_of_show_as_json(call, root):
    first, second, _ = ids(root)
    assert call("show", first, "--diff", "--json")[1] == {"id": first, "diff": "the diff"}
    assert call("show", first, "--explain", "--json")[1]["explain"].splitlines()
    assert call("show", first, "--error", "--json")[1] == {"id": first, "error": ""}
    assert "no" in call("show", second, "--error", "--json")[1]["error"]


def test_compare(call, root):
    first, second, _ = ids(root)
    text = call("compare", first, second)[1]
    assert "config.rate" in text and "config.same" not in text
    assert "config.same" in call("compare", first, second, "--all")[1]
    found = call("compare", second, first, "--json")[1]
    assert found["runs"] == [second, first] and found["config"] == {"rate": [0.2, 0.1]}
    assert found["metrics"]["train.loss"]["last"] == ["nan", 0.25]


def test_at(call, root):
    first, second, third = ids(root)
    found = call("at", "2", "--json")[1]
    assert found == {"step": 2, "runs": {first: {"train.loss": 0.5}, second: {"train.loss": "nan"}, third: {"other": 1.0}}}
    assert "0.5" in call("at", "2", first)[1]
    assert call("at", "0", first, "--json")[1]["runs"] == {first: {}}


def test_plot(call, root, tmp_path):
    first, second, _ = ids(root)
    text = call("plot", first, second, "--log")[1]
    assert "train.loss" in text and "o" in text and "!" in text and first in text
    found = call("plot", "--name", "a", "--json")[1]
    assert found["metrics"]["train.loss"][second] == {"steps": [1, 2], "values": [1.0, "nan"]}
    path = tmp_path / "curves.png"
    assert call("plot", "--out", str(path))[0] == 0 and path.read_bytes().startswith(b"\x89PNG")
    assert call("plot", "--out", str(tmp_path / "curves.odd"))[0] == 1


def test_note_and_tag(call, root):
    first = ids(root)[0]
    assert call("note", first, "a new\nnote", "--json")[1] == {"id": first, "note": "a new\nnote"}
    assert call("note", first)[1] == "a new\nnote\n"
    assert call("note", first, "")[0] == 0 and listing(str(root))[0].note == ""
    assert call("tag", first, "x", "first", "--remove", "y", "--json")[1] == {"id": first, "tags": ["first", "x"]}
    assert call("tag", first, "--remove", "x")[1] == "first\n" and listing(str(root))[0].tags == ("first",)


def test_export(call, root, tmp_path):
    import pyarrow.parquet

    first, second, _ = ids(root)
    path = tmp_path / "scalars.csv"
    assert call("export", "--name", "a", "--out", str(path), "--json")[1] == {"path": str(path), "rows": 5}
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    assert [(row["run"], row["metric"], int(row["step"]), float(row["value"])) for row in rows[:4]] == [
        (first, "train.loss", 1, 1.0),
        (first, "train.loss", 2, 0.5),
        (first, "train.loss", 3, 0.25),
        (second, "train.loss", 1, 1.0),
    ]
    assert rows[4]["value"] == "nan"
    parquet = tmp_path / "scalars.parquet"
    assert call("export", "--name", "a", "--out", str(parquet))[0] == 0
    table = pyarrow.parquet.read_table(parquet)
    np.testing.assert_array_equal(table["value"].to_numpy(), [1.0, 0.5, 0.25, 1.0, math.nan])
    for ending in ("csv", "parquet"):
        assert call("export", "--what", "runs", "--out", str(tmp_path / f"runs.{ending}"))[0] == 0
    assert pyarrow.parquet.read_table(tmp_path / "runs.parquet")["config.rate"].to_pylist() == [0.1, 0.2, None]


def test_report(call, root, tmp_path):
    first, second, _ = ids(root)
    path = tmp_path / "report.html"
    found = call("report", "--name", "a", "--out", str(path), "--json")[1]
    assert found == {"path": str(path), "bytes": path.stat().st_size, "runs": 2}
    page = path.read_text()
    assert (
        page.startswith("<!doctype html>") and first in page and second in page and "train.loss" in page and "://" not in page
    )
    assert "the diff" not in page
    assert call("report", first, "--out", str(path), "--title", "<Mine>")[0] == 0
    page = path.read_text()
    assert "the diff" in page and "&lt;Mine&gt;" in page and "<Mine>" not in page and "given" in page


def test_output_never_obeys_what_a_run_says(call, root):
    first = ids(root)[0]
    call("note", first, "\x1b[2J\udce9")
    for verb in ("list", "show", "note", "compare"):
        text = call(verb, *([first] if verb != "list" else []))[1]
        assert "\x1b" not in text and "\\x1b[2J" in text


def test_a_closed_pipe_is_no_error(root, monkeypatch):
    monkeypatch.setattr(output, "say", lambda text: (_ for _ in ()).throw(BrokenPipeError))
    monkeypatch.setattr(os, "dup2", lambda *descriptors: None)
    assert main(["runs", "list", "--folder", str(root)]) == 0


# ------------------------------------------------------------------------------- SQL


def test_sql(call, root):
    first, second, _ = ids(root)
    query = "select name, step, value from scalars order by step"
    expected = [["train.loss", 1, 1.0], ["train.loss", 2, 0.5], ["train.loss", 3, 0.25]]
    assert call("sql", first, query, "--json")[1] == {"columns": ["name", "step", "value"], "rows": expected}
    (root / "a" / first / "metrics.db").unlink()
    assert call("sql", first, query, "--json")[1]["rows"] == expected  # made again from the lines
    assert len(call("sql", first, query, "--limit", "1")[1].splitlines()) == 2
    assert call("sql", second, query, "--json")[1]["rows"][1] == ["train.loss", 2, None]
    assert "error of SQLite" in call("sql", first, "delete from scalars")[2]


def test_sql_reads_and_cannot_write(tmp_path):
    path = tmp_path / "metrics.db"
    with sqlite3.connect(path) as database:
        database.execute("create table scalar (step integer, value real)")
        database.executemany("insert into scalar values (?, ?)", [(1, 0.5), (2, None)])
    database.close()
    assert sql.query(str(path), "select step, value from scalar order by step") == (["step", "value"], [(1, 0.5), (2, None)])
    assert sql.query(str(path), "with recursive n(i) as (select 1 union all select i + 1 from n) select i from n", 2)[1] == [
        (1,),
        (2,),
    ]
    before = path.read_bytes()
    other = tmp_path / "other.db"
    for text in (
        "delete from scalar",
        "drop table scalar",
        "create table x (a)",
        "pragma query_only = off",
        "pragma journal_mode = wal",
        f"attach '{other}' as other",
        f"vacuum into '{other}'",
        "select load_extension('x')",
        "select 1; delete from scalar",
        "nonsense",
        "select '\0'",
        "",
    ):
        try:
            assert sql.query(str(path), text) == ([], []), text
        except sql.FaultError as error:
            assert isinstance(error.fault, sql.QueryFailed), text
    assert path.read_bytes() == before and not other.exists()


# ------------------------------------------------------------------------------- removing


def test_rm_asks_and_removes_only_what_it_says(call, root, monkeypatch):
    first, second, third = ids(root)
    assert call("rm", first)[0] == 1 and len(ids(root)) == 3  # no terminal to ask
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    code, text, _ = call("rm", first)
    assert code == 1 and "remove 1 runs" in text and len(ids(root)) == 3
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert call("rm", first)[0] == 0 and ids(root) == [second, third]
    assert call("rm", "--status", "failed", "--yes", "--json")[1]["kept"] == []
    assert ids(root) == [third] and not (root / "a").exists()


def test_rm_leaves_a_running_run_and_what_is_outside(call, root, tmp_path):
    first, second, third = ids(root)
    lease.write(str(root / "a" / first), lease.mine())
    outside = tmp_path / "outside"
    os.rename(root / "b" / third, outside)
    os.symlink(outside, root / "b" / third)
    (root / "a" / second / "checkpoints" / "link").symlink_to(tmp_path)
    (tmp_path / "precious").write_text("x")
    code, _, error = call("rm", first, second, third, "--yes")
    assert code == 1 and "expected a run that has ended" in error and "got a link to" in error
    assert set(ids(root)) == {first, third} and (outside / "run.json").exists() and (tmp_path / "precious").exists()
    os.symlink(tmp_path / "elsewhere", root / "c")
    os.makedirs(tmp_path / "elsewhere")
    os.rename(outside, tmp_path / "elsewhere" / "moved")
    assert call("rm", third, "--name", "c", "--yes")[0] == 1 and (tmp_path / "elsewhere" / "moved" / "run.json").exists()


def test_clean_keeps_the_newest_saves_and_running_runs(call, root):
    first, second, _ = ids(root)
    lease.write(str(root / "a" / second), lease.mine())
    old = root / "a" / first / "checkpoints" / ".save-0123456789abcdef.part"
    old.write_text("x")
    os.utime(old, (0, 0))
    (root / "a" / ".removed-x").mkdir()
    begun = root / "a" / "20260502-100000-123-9f4c1a"  # a process was killed before it wrote anything
    begun.mkdir()
    os.utime(begun, (0, 0))
    (root / "a" / "mine").mkdir()

    def saves(id: str) -> list[str]:
        return sorted(path.name[:12] for path in (root / "a" / id / "checkpoints").glob("*.npz"))

    assert "would remove" in call("clean", "--dry-run")[1] and len(saves(first)) == 3
    found = call("clean", "--json")[1]
    assert len(found["removed"]) == 5 and found["bytes"] > 1000 and not begun.exists() and (root / "a" / "mine").exists()
    assert saves(first) == ["000000000003"] and len(saves(second)) == 3 and not old.exists()
    assert call("clean", "--keep", "0")[0] == 0 and saves(first) == []


def test_clean_does_not_name_files_that_are_still_there(call, root, monkeypatch):
    def refused(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "remove", refused)
    assert call("clean", "a", "--keep", "0", "--json")[1] == {"removed": [], "bytes": 0}


# ------------------------------------------------------------------------------- as a command


def test_the_command_lists_and_shows_runs_without_importing_jax(root):
    for words in (["list", "--json"], ["show", ids(root)[0], "--json"], ["compare", "--json"]):
        code = f"""
import sys, fnlamp_command
sys.argv = ["fnlamp", "runs", *{words}, "--folder", {str(root)!r}]
code = fnlamp_command.main()
assert not {{"jax", "numpy", "returns", "rich"}} & {{*sys.modules}}, "imported"
sys.exit(code)
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "") and json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("verb", [["plot"], ["at", "1"], ["note", "RUN", "x"], ["rm", "RUN", "--yes"], ["clean"]])
def test_every_other_verb_runs_as_a_process(root, verb):
    words = [ids(root)[0] if word == "RUN" else word for word in verb]
    command = [sys.executable, "-m", "fnlamp_command", "runs", *words, "--folder", str(root)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
