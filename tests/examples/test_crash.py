"""The run that is killed at random moments, in a small form; and that the script finds a run that did not come back."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "benchmarks"
MODULES = {path.stem for path in FOLDER.glob("*.py")}


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for name in MODULES:
        sys.modules.pop(name, None)


def killed(benchmarks, tmp_path, *options):
    out = tmp_path / "figures.json"
    status = benchmarks("crash").main([*options, "--work", str(tmp_path / "work"), "--json", str(out)])
    return status, json.loads(out.read_text())


@pytest.mark.slow
def test_a_run_that_is_killed_ends_as_if_it_was_not(benchmarks, tmp_path):
    status, figures = killed(benchmarks, tmp_path, "--kills", "2", "--epochs", "2", "--jobs", "1")
    assert (status, figures["problems"]) == (0, [])
    assert figures["stops"] >= 2


@pytest.mark.slow
@pytest.mark.parametrize(("stops", "options"), [(20, []), (8, ["--sigterm"])])
def test_a_run_that_is_stopped_many_times_ends_as_if_it_was_not(benchmarks, tmp_path, stops, options):
    status, figures = killed(benchmarks, tmp_path, "--kills", str(stops), "--seed", "2", *options)
    assert (status, figures["problems"]) == (0, [])
    assert figures["stops"] >= stops


def run(folder, *, outcome=None, epochs=(1, 2), most=0, part=None):
    """The files of a run."""
    (folder / "saves").mkdir(parents=True)
    (folder / "outcome.json").write_text(json.dumps({"params/weight": "float32[2] 0", "curve": "[]"} | (outcome or {})))
    lines = [json.dumps({"epoch": epoch, "least": epoch, "most": epoch + most, "order": epoch}) for epoch in epochs]
    (folder / "records.jsonl").write_text("".join(f"{line}\n" for line in lines))
    if part:
        (folder / "saves" / part).touch()
    return folder


@pytest.mark.parametrize(
    ("differing", "found"),
    [
        ({}, []),
        ({"outcome": {"params/weight": "float32[2] 1"}}, ["other bytes in 1: params/weight"]),
        ({"epochs": (1, 2, 2)}, ["records of epochs [1, 2, 2] differ"]),
        ({"epochs": (1,)}, ["records of epochs [1] differ"]),
        ({"most": 1}, ["records of epochs [1, 2] differ", "a row was not seen once per epoch"]),
        ({"part": ".save-0.part"}, ["unfinished files ['.save-0.part']"]),
    ],
)
def test_a_run_that_differs_is_found(benchmarks, tmp_path, differing, found):
    crash = benchmarks("crash")
    assert crash.differences(run(tmp_path / "whole"), run(tmp_path / "killed", **differing)) == found


def test_a_run_without_an_outcome_is_found(benchmarks, tmp_path):
    (tmp_path / "killed").mkdir()
    (found,) = benchmarks("crash").differences(run(tmp_path / "whole"), tmp_path / "killed")
    assert found.startswith("FileNotFoundError")


def test_a_status_that_is_not_expected_and_a_late_end_are_found(benchmarks, tmp_path, monkeypatch):
    crash = benchmarks("crash")
    trials = crash.Trials(tmp_path, tmp_path, 1.0, crash.signal.SIGTERM, 2, 0)
    monkeypatch.setattr(crash.Process, "left", lambda self: [])
    process = crash.Process.__new__(crash.Process)
    for phase, status, seconds, found in (
        ("training", 3, 1.0, []),
        ("start", -15, 0.1, []),
        ("ended", -15, 0.1, []),
        ("training", -15, 0.1, ["status -15 after SIGTERM in training"]),
        ("training", 3, 31.0, ["31.0 s from SIGTERM to the end"]),
    ):
        assert trials.judged(crash.Stop(phase, False, seconds, status), process) == found
