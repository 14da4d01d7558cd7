"""The list of runs: its index, filters and order, and folders that are damaged, old, or not runs."""

from __future__ import annotations

import json
import math
import os
import pathlib
import threading
import time
from typing import Any

import pytest
from outcomes import fault, value

from fnlamp.experiment import index as indexes
from fnlamp.experiment import runs
from fnlamp.experiment.edit import edit
from fnlamp.experiment.folder import RunRecord
from fnlamp.experiment.index import listing
from fnlamp.experiment.where import in_order, parsed, selected
from fnlamp.fault import FaultError, FileMissing, NotAFilter, UnknownColumn


def made(root: pathlib.Path, count: int, name: str = "a", **about: Any) -> list[pathlib.Path]:
    """Folders of runs that ended some time ago."""
    folders = []
    for number in range(count):
        folder = root / name / f"20260502-100000-{number % 1000:03d}-{number:06x}"
        folder.mkdir(parents=True)
        run = {"schema": 1, "id": folder.name, "name": name, "created": 1e9 + number, "ended": 1e9 + number + 1, "seconds": 1.0}
        run |= {"status": "completed", "error": None, "tags": [], "note": "", "attempts": [], "warnings": []}
        settings = {
            f"model.setting_{n}": {"value": number / (n + 1), "type": "float", "source": "default", "option": "", "needs": []}
            for n in range(20)
        }
        scalars = {f"metric.{n}": {"last": number, "step": 9, "lowest": 0.0, "highest": number} for n in range(10)}
        files = {
            "run": {**run, **about},
            "config": {"schema": 1, "settings": settings},
            "summary": {"schema": 1, "scalars": scalars},
        }
        for file, content in files.items():
            (folder / f"{file}.json").write_text(json.dumps(content))
            os.utime(folder / f"{file}.json", (1e9, 1e9))
        folders.append(folder)
    return folders


# ------------------------------------------------------------------------------- the index


def test_the_index_is_used_and_follows_every_change(tmp_path, monkeypatch):
    folders = made(tmp_path, 5)
    read = []
    stored = indexes.stored
    monkeypatch.setattr(indexes, "stored", lambda folder: read.append(folder) or stored(folder))
    assert len(listing(str(tmp_path))) == len(read) == 5
    assert listing(str(tmp_path)) == listing(str(tmp_path)) and len(read) == 5
    edit(str(folders[2]), lambda about: {**about, "note": "new"})
    assert [each.note for each in listing(str(tmp_path))] == ["", "", "new", "", ""] and len(read) == 6
    (folders[4] / "run.json").unlink()
    assert len(listing(str(tmp_path))) == 4
    os.rename(tmp_path / "a", tmp_path / "b")  # moved
    assert [os.path.dirname(each.folder) for each in listing(str(tmp_path))] == [str(tmp_path / "b")] * 4


@pytest.mark.parametrize("content", [b"", b"not a database" * 100, None])
def test_an_index_that_is_gone_or_damaged_costs_only_time(tmp_path, content):
    made(tmp_path, 3)
    before = listing(str(tmp_path))
    path = tmp_path / indexes.NAME
    assert path.exists()
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert listing(str(tmp_path)) == before == listing(str(tmp_path)) == listing(str(tmp_path))


def test_an_index_with_other_contents_or_of_another_version_is_replaced(tmp_path):
    import sqlite3

    made(tmp_path, 3)
    before = listing(str(tmp_path))
    with sqlite3.connect(tmp_path / indexes.NAME) as index:
        index.execute("update run set text = '{}' where path like '%000001'")
        index.execute("update run set text = 'x' where path like '%000002'")
    index.close()
    assert [each.status for each in listing(str(tmp_path))].count("completed") >= 2
    with sqlite3.connect(tmp_path / indexes.NAME) as index:
        index.execute("pragma user_version = 99")
    index.close()
    assert listing(str(tmp_path)) == before


def test_threads_list_at_once_while_runs_change(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    folders = made(tmp_path, 30)
    problems = []

    def look() -> None:
        for _ in range(20):
            if len(listing(str(tmp_path))) != 30:
                problems.append("lost")

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(20):
        edit(str(folders[number]), lambda about, number=number: {**about, "note": str(number)})
    for thread in threads:
        thread.join()
    assert problems == [] and [each.note for each in listing(str(tmp_path))[:20]] == [str(number) for number in range(20)]


def test_a_folder_that_cannot_be_written_is_listed_without_an_index(tmp_path, monkeypatch):
    import sqlite3

    made(tmp_path, 2)

    def refused(*args: Any, **kwargs: Any) -> Any:
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(indexes.sqlite3, "connect", refused)
    assert len(listing(str(tmp_path))) == 2 and not (tmp_path / indexes.NAME).exists()


@pytest.mark.slow
def test_5000_runs_are_listed_in_half_a_second(tmp_path):
    made(tmp_path, 5000)
    listing(str(tmp_path))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        found = listing(str(tmp_path))
        times.append(time.perf_counter() - start)
    assert len(found) == 5000 and min(times) < 0.5, times


# ------------------------------------------------------------------------------- folders


def test_what_is_not_a_run_is_left_out_and_a_damaged_run_is_listed_with_the_reason(tmp_path):
    good, cut, text, empty = made(tmp_path, 4)
    (cut / "run.json").write_text('{"schema": 1, "id"')
    (text / "run.json").write_text('"text"')
    (empty / "run.json").write_text('{"schema": 1}')
    (tmp_path / "a" / "other").mkdir()
    (tmp_path / "a" / "file").write_text("x")
    (tmp_path / "file").write_text("x")
    found = {os.path.basename(each.folder): each for each in listing(str(tmp_path))}
    assert len(found) == 4 and found[good.name].status == "completed"
    assert all(found[each.name].status == "unreadable" and found[each.name].problem for each in (cut, text, empty))


@pytest.mark.parametrize(
    "raw",
    [
        {"created": "yesterday"},
        {"tags": None},
        {"status": "odd"},
        {"error": "text"},
        {"schema": "1"},
        {"schema": -1},
        {"schema": 10**30},
        {"created": 1e300, "seconds": "x"},
    ],
)
def test_any_json_in_a_run_is_listed(tmp_path, raw):
    made(tmp_path, 1, **raw)
    assert len(listing(str(tmp_path))) == 1


def test_a_version_0_folder_is_read_and_becomes_version_1_when_it_is_changed(tmp_path):
    folder = tmp_path / "mnist" / "f2a7"
    folder.mkdir(parents=True)
    run = {
        "uuid": "f2a7",
        "name": "mnist",
        "date": "2021-01-30T10:00:00",
        "status": "completed",
        "comment": "first",
        "tags": ["old"],
    }
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "config.json").write_text(json.dumps({"optimizer.learning_rate": 0.1, "epochs": 10}))
    (folder / "summary.json").write_text(json.dumps({"train.loss": 0.25, "validation.loss": "nan"}))
    (record,) = listing(str(tmp_path))
    assert (
        record.created == 1612000800.0 and record.status == "completed" and record.note == "first" and record.tags == ("old",)
    )
    assert record.config == {"optimizer.learning_rate": 0.1, "epochs": 10}
    assert record.last["train.loss"] == 0.25 and math.isnan(record.last["validation.loss"])
    edit(str(folder), lambda about: {**about, "note": "second"})
    assert json.loads((folder / "run.json").read_text())["schema"] == 1
    (after,) = listing(str(tmp_path))
    assert (after.note, after.config, after.created, after.last["train.loss"]) == (
        "second",
        record.config,
        record.created,
        0.25,
    )
    run["status"] = "in progress"
    (folder / "run.json").write_text(json.dumps(run))
    assert listing(str(tmp_path))[0].status == "crashed"


def test_a_pipe_and_a_huge_file_are_not_read(tmp_path, monkeypatch):
    from fnlamp.experiment import folder as folders

    pipe, huge, constant = made(tmp_path, 3)
    (pipe / "run.json").unlink()
    os.mkfifo(pipe / "run.json")
    (pipe / "lease.json").mkdir()
    (constant / "run.json").write_text((constant / "run.json").read_text().replace("1000000002.0", "NaN"))
    with (huge / "run.json").open("ab") as file:
        file.truncate(folders.MOST + 1)
    assert [each.status for each in listing(str(tmp_path))] == ["unreadable"] * 3


def test_a_folder_that_was_renamed_or_copied_is_a_run_of_its_own(tmp_path):
    from shutil import copytree

    (folder,) = made(tmp_path, 1)
    (folder / "metrics.jsonl").write_text('{"schema":1}\n{"step":1,"time":0.0,"values":{"loss":0.5}}\n')
    copytree(folder, tmp_path / "b" / folder.name)
    copytree(folder, tmp_path / "a" / "renamed")
    found = value(runs(tmp_path))
    assert {(each.name, each.id) for each in found} == {("a", folder.name), ("a", "renamed"), ("b", folder.name)}
    assert set(value(found.scalars("loss"))) == {f"a/{folder.name}", f"b/{folder.name}", "renamed"}
    assert found[f"b/{folder.name}"].name == "b"


def test_no_folder_is_a_fault_and_an_empty_one_has_no_runs(tmp_path):
    assert isinstance(fault(runs(tmp_path / "none")), FileMissing)
    assert isinstance(fault(runs(tmp_path, "none")), FileMissing)
    assert len(value(runs(tmp_path))) == 0


# ------------------------------------------------------------------------------- filters

RUNS = [
    RunRecord(
        "r/a/1",
        "20260502-1-aaa",
        "a",
        "completed",
        1e9,
        tags=("x", "y"),
        config={"rate": 0.1, "opt": "adam", "deep": True},
        last={"loss": 0.5},
        lowest={"loss": 0.2},
        highest={"loss": 0.9},
    ),
    RunRecord(
        "r/a/2",
        "20260502-2-aab",
        "a",
        "crashed",
        2e9,
        tags=("x",),
        config={"rate": 1, "opt": "sgd", "size": [1, 2]},
        last={"loss": math.nan},
        lowest={"loss": 0.3},
        highest={"loss": 0.3},
    ),
    RunRecord("r/b/3", "20260502-3-bbb", "b", "failed", 3e9, note="odd One", config={"rate": "nan", "opt": None}),
]


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("config.rate<0.5", [0]),
        ("config.rate <= 1", [0, 1]),
        ("config.rate>=1e0", [1]),
        ("config.rate=0.1", [0]),
        ("config.rate=nan", [2]),
        ("config.rate!=0.1", [1, 2]),
        ("config.opt=adam", [0]),
        ('config.opt="adam"', [0]),
        ("config.opt=none", [2]),
        ("config.opt~A", [0]),
        ("config.deep=true", [0]),
        ("config.deep=1", []),
        ("config.size=[1, 2]", [1]),
        ("loss<0.6", [0]),
        ("loss=nan", [1]),
        ("loss!=nan", [0]),
        ("lowest(loss)<0.25", [0]),
        ("highest( loss )>0.2", [0, 1]),
        ('"loss"<1', [0]),
        ("status=crashed", [1]),
        ("status!=crashed", [0, 2]),
        ("tags=x", [0, 1]),
        ("tags!=y", [1, 2]),
        ("note~one", [2]),
        ("created>2030-01-01", [1, 2]),
        ("created<2001-09-09T01:46:41", [0]),
        ("name=a", [0, 1]),
    ],
)
def test_filters(where, found):
    assert [RUNS.index(each) for each in selected(RUNS, [where])] == found


@pytest.mark.parametrize(
    "text",
    ["", "loss", "loss<", "<0.1", "config.opt<adam", "loss<true", "__import__('os')", "created>yesterday", "a b<1", "last(<1"],
)
def test_another_text_is_a_fault(text):
    with pytest.raises(FaultError) as caught:
        parsed(text)
    assert isinstance(caught.value.fault, NotAFilter) and caught.value.fault.text == text


def test_an_unknown_name_is_a_fault_with_the_near_ones():
    for text, near in [
        ("config.rat<1", "config.rate"),
        ("los<1", "loss"),
        ("rate<1", "config.rate"),
        ("lowest(lss)<1", "loss"),
    ]:
        with pytest.raises(FaultError) as caught:
            selected(RUNS, [text])
        assert isinstance(caught.value.fault, UnknownColumn) and near in caught.value.fault.near, text
    assert selected([], ["config.rat<1"]) == []


def test_the_order_puts_runs_without_the_value_last():
    assert [in_order(RUNS, "loss", reverse=reverse)[0] for reverse in (False, True)] == [RUNS[0]] * 2
    assert [RUNS.index(each) for each in in_order(RUNS, "created", reverse=True)] == [2, 1, 0]
    assert [RUNS.index(each) for each in in_order(RUNS, "config.rate")] == [0, 1, 2]


def test_tables_have_a_value_for_each_run():
    from fnlamp.experiment import Runs

    table = Runs(RUNS).table()
    assert {len(column) for column in table.values()} == {3}
    assert table["config.size"] == [None, [1, 2], None] and table["lowest(loss)"] == [0.2, 0.3, None]
    assert Runs(RUNS)["bbb"] is RUNS[2] and Runs(RUNS)["20260502-1"] is RUNS[0] and len(Runs(RUNS)[1:]) == 2
    with pytest.raises(KeyError, match="got 3"):
        Runs(RUNS)["2026"]
    with pytest.raises(KeyError, match="no run has the setting 'rats'"):
        Runs(RUNS).config("rats")
