"""Records of a program in several processes: one run, written by process 0; what each would write by itself is refused."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import threading

import pytest

from fnlamp import experiment, sweep, track
from fnlamp.checkpoint.lock import Lock
from fnlamp.config import group
from fnlamp.effect import Effect, Runtime, together
from fnlamp.fault import FaultError, ProcessFailed, ProcessLate, RecordsOutside, SweepInCluster
from fnlamp.scale import Cluster, cluster

SCRIPT = pathlib.Path(__file__).with_name("recording.py")


def run(folder, count):
    launch = [] if count is None else ["-m", "fnlamp_command", "launch", "-n", str(count), "--grace", "16"]
    command = [sys.executable, *launch, str(SCRIPT), str(folder), "alone" if count is None else "together"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    lines = [line.partition("] ") if count else ("[0", "", line) for line in done.stdout.splitlines()]
    outcomes = {int(place[1:]): json.loads(text) for place, _, text in lines if text.startswith("{")}
    assert outcomes.keys() == {*range(count or 1)}, done.stdout + done.stderr
    return outcomes


def values(folder, name):
    """The steps and the values of a metric, in the lines of a run."""
    entries = [json.loads(line) for line in (pathlib.Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [(entry.get("step"), entry["values"][name]) for entry in entries if name in entry.get("values", {})]


@pytest.mark.slow
def test_two_processes_write_one_run_with_the_metrics_of_one_process(tmp_path):
    two, one = run(tmp_path / "two", 2), run(tmp_path / "one", None)[0]
    folders = [*(tmp_path / "two" / "runs" / "demo").iterdir()]
    assert [folder.name for folder in folders if folder.is_dir()] == [two[0]["id"]]
    assert two[1]["id"] == two[0]["id"]
    assert two[1]["folder"] == two[0]["folder"]
    record = json.loads((pathlib.Path(two[0]["folder"]) / "run.json").read_text())
    assert record["status"] == "completed"
    assert len(record["attempts"]) == 1
    losses, expected = (values(each["folder"], "train.loss") for each in (two[0], one))
    assert len(losses) == 3
    assert [step for step, _ in losses] == [step for step, _ in expected]
    assert [loss for _, loss in losses] == pytest.approx([loss for _, loss in expected], rel=1e-5)
    assert two[1]["loss"] == two[0]["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert values(two[0]["folder"], "done") == [(21, 1.0)]
    assert values(tmp_path / "two" / "lines", "loss") == [(2, 0.5)]
    for outcome in two.values():
        assert outcome["sweep"].startswith(
            "SweepInCluster: expected the sweep lanes in processes of their own, got a cluster of 2"
        )
        assert outcome["around"].startswith("expected a record of 2 processes to begin inside of their cluster")
        assert outcome["open"] == []
    assert not (tmp_path / "two" / "sweeps").exists()
    assert (two[0]["relays"], two[1]["relays"]) == (0, 1)


@pytest.mark.parametrize("around", [lambda program, folder: experiment.experiment("a", program, folder=folder), track.tracked])
def test_a_cluster_inside_of_a_record_is_refused(tmp_path, around):
    inner = cluster("127.0.0.1:1", 2, 1).use(lambda here: Effect.from_value(1))
    program = track.tracked(inner) if around is track.tracked else around(inner, str(tmp_path))
    assert program.run_exit(Runtime(log=None)).failure() == RecordsOutside(2)


@pytest.fixture
def second(monkeypatch):
    """This process as the second of two, whose first gives the texts of `first`."""
    first: list[str] = []
    here = Cluster(1, 2, 1.0)
    monkeypatch.setattr(Cluster, "meet", lambda self, name, value="", deadline=None: (first.pop(0), value))
    together.join(here)
    yield first
    together.part()


def test_the_second_process_runs_the_program_at_the_place_of_the_first_and_writes_nothing(tmp_path, second):
    second.append(json.dumps({"id": "7", "folder": str(tmp_path / "runs" / "a" / "7"), "resumed": True}))
    places = []

    def program(place):
        places.append(place)
        return track.measure({"loss": 1.0}, step=1).then(Effect.asks(lambda runtime: len(runtime.observers)))

    found = experiment.experiment("a", program, {"rate": 0.5}, folder=str(tmp_path / "runs")).run_or_raise(Runtime(log=None))
    assert (found.id, found.name, found.folder, found.warnings) == ("7", "a", tmp_path / "runs" / "a" / "7", ())
    assert found.value == 1, "with an observer, as in the process that writes"
    assert (places[0].config, places[0].resumed) == ({"rate": 0.5}, True)
    assert not [*tmp_path.iterdir()]


def test_the_second_process_fails_if_the_first_cannot_begin(tmp_path, second):
    second.append(json.dumps({"failed": "FileUnwritable: runs: Permission denied"}))
    program = experiment.experiment("a", track.measure({"loss": 1.0}, step=1), folder=str(tmp_path))
    assert program.run_exit(Runtime(log=None)).failure() == ProcessFailed(0, "FileUnwritable: runs: Permission denied")


@pytest.fixture
def first(monkeypatch):
    """This process as the first of two, whose second is lost, or where the user stops: `meet` raises what is here."""
    raised: list[BaseException] = []

    def meet(self, name, value="", deadline=None):
        raise raised[0]

    monkeypatch.setattr(Cluster, "meet", meet)
    together.join(Cluster(0, 2, 1.0))
    yield raised
    together.part()


LATE = ProcessLate((1,), "the beginning of experiment a", 120.0)


@pytest.mark.parametrize(
    ("raised", "status", "kind"), [(FaultError(LATE), "failed", "ProcessLate"), (MemoryError(), "defect", "MemoryError")]
)
def test_a_run_that_the_others_do_not_join_has_ended(tmp_path, first, raised, status, kind):
    first.append(raised)
    begun = []
    program = experiment.experiment("a", lambda place: begun.append(place), folder=str(tmp_path))
    exit = program.run_exit(Runtime(log=None))
    assert (exit.failure() if status == "failed" else exit.cause) == (LATE if status == "failed" else raised)
    (folder,) = (path.parent for path in tmp_path.glob("a/*/run.json"))
    record = json.loads((folder / "run.json").read_text())
    assert (record["status"], record["error"]["kind"], begun) == (status, kind, [])
    assert [thread for thread in threading.enumerate() if thread.name == "fnlamp lease"] == []
    Lock(str(folder)).release()  # it is free


@group
class Settings:
    rate: float = 0.1


def test_a_sweep_in_a_cluster_is_refused(tmp_path, second):
    program = sweep.sweep(
        "rates",
        lambda place: track.measure({"loss": 1.0}, step=1),
        Settings,
        sweep.grid({"rate": (0.1, 0.2)}),
        metric="loss",
        folder=str(tmp_path),
    )
    assert program.run_exit(Runtime(log=None)).failure() == SweepInCluster("rates", 2)
    assert not [*tmp_path.iterdir()]
