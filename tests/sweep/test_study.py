"""Studies of Optuna: trials are lanes, and none is lost, run twice or left running."""

from __future__ import annotations

import json
import os
import pathlib
import random
import subprocess
import sys
import time
from typing import Any

import pytest
from bowls import SILENT, Model, Settings, bowl, told
from outcomes import fault, value

from fnlamp import extra
from fnlamp.effect import CancelToken, Effect, Runtime
from fnlamp.experiment import Place
from fnlamp.fault import Broken, ExtraMissing, FileMissing, NonFinite, SweepChanged, UnknownField
from fnlamp.sweep import choice, halving, integers, log_uniform, optuna, sweep, uniform

HERE = pathlib.Path(__file__).parent
RATES = {"rate": log_uniform(0.01, 1.0)}


def journal_of(folder: str, name: str = "s") -> Any:
    api = pytest.importorskip("optuna")
    api.logging.set_verbosity(api.logging.ERROR)
    backend = api.storages.journal.JournalFileBackend(os.path.join(folder, name, "study.log"))
    return api.load_study(study_name=name, storage=api.storages.JournalStorage(backend))


def study(folder: str, program: Any = bowl, trials: int = 12, axes: Any = RATES, **options: Any) -> Any:
    return sweep("s", program, Settings, optuna(axes, trials=trials), **{"metric": "loss", "folder": folder, **options})


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_trials_are_lanes_and_a_resumed_study_repeats_none(folder):
    first = value(study(folder, trials=6), SILENT)
    found = value(study(folder, trials=12), SILENT)
    assert found.lanes[:6] == first.lanes
    rates = [lane.point["rate"] for lane in found.lanes]
    assert len(set(rates)) == 12 and abs(found.best.value - 0.2) < 0.1
    trials = journal_of(folder).trials
    assert [(each.number, each.params["rate"], each.value) for each in trials] == [
        (lane.number, lane.point["rate"], lane.value) for lane in found.lanes
    ]
    assert value(study(folder, trials=12), SILENT).best == found.best


@pytest.mark.slow
@pytest.mark.parametrize("lowest", [True, False])
def test_lanes_that_a_rung_stops_are_pruned_trials_with_their_values(folder, lowest):
    ran = []

    def program(place: Place[Settings]) -> Effect[Any, Any]:
        ran.append(place.id)
        loss = (place.config.rate - 0.2) ** 2 * (1 if lowest else -1)
        return told(3 * loss, 2 * loss, loss)

    options = {"rungs": halving((1, 2), keep=0.5), "lowest": lowest}
    found = value(study(folder, program, trials=8, **options), SILENT)
    trials = journal_of(folder).trials
    states = {"completed": "COMPLETE", "stopped": "PRUNED"}
    assert [each.state.name for each in trials] == [states[lane.status] for lane in found.lanes]
    first = [3 * (lane.point["rate"] - 0.2) ** 2 for lane in found.lanes]
    for number, (trial, lane) in enumerate(zip(trials, found.lanes, strict=True)):
        before = sorted(first[: number + 1])[: max(1, (number + 1) // 2)]  # the better half of those so far
        assert (lane.epoch == 1) == (first[number] not in before)
        values = {epoch: (4 - epoch) * first[number] / 3 * (1 if lowest else -1) for epoch in range(1, 3)}
        reported = {epoch: values[epoch] for epoch in values if epoch <= (lane.epoch or 0)}
        assert trial.intermediate_values == pytest.approx(reported) and trial.value == pytest.approx(lane.value)
    assert 2 <= sum(lane.status == "stopped" for lane in found.lanes) <= 7
    count = len(ran)
    assert value(study(folder, program, trials=8, **options), SILENT).lanes == found.lanes and len(ran) <= count + 1


def test_axes_of_each_kind_reach_the_config(folder):
    models = choice((Model(width=3), Model(width=5)))
    axes = {"rate": uniform(0.1, 0.3), "seed": integers(1, 3), "act": choice(("relu", "gelu")), "model": models}
    seen = []

    def program(place: Place[Settings]) -> Effect[Any, Any]:
        config = place.config
        seen.append((config.seed, config.act, config.model.width))
        return bowl(place)

    value(study(folder, program, trials=12, axes=axes), SILENT)
    assert {each[0] for each in seen} == {1, 2, 3} and {each[1] for each in seen} == {"r", "g"}
    assert {each[2] for each in seen} == {3, 5}


def test_a_lane_that_fails_is_a_failed_trial_and_one_that_is_stopped_is_resumed(folder):
    token, ran = CancelToken(), []

    def program(place: Place[Settings]) -> Effect[Any, Any]:
        ran.append(place.id)
        number = len(set(ran)) - 1
        if number == 1:
            return Effect.from_failure(NonFinite(Broken.LOSS, 1, 2))
        stop = Effect.suspend(lambda: token.cancel() if number == 3 else None)
        return bowl(place).tap(lambda _: stop).tap(lambda _: told(1.0) if number == 3 and not place.resumed else bowl(place))

    study(folder, program, trials=5).run(Runtime(log=None, cancel=token))
    assert [each.state.name for each in journal_of(folder).trials] == ["COMPLETE", "FAIL", "COMPLETE", "RUNNING"]
    found = value(study(folder, program, trials=5), SILENT)
    assert [each.state.name for each in journal_of(folder).trials] == ["COMPLETE", "FAIL", *["COMPLETE"] * 3]
    assert len(found.lanes) == 5 and ran[3] == ran[4]


def test_what_a_killed_process_leaves_of_the_journal_is_mended(folder):
    value(study(folder, trials=3), SILENT)
    path = pathlib.Path(folder, "s", "study.log")
    lines = path.read_bytes().splitlines(keepends=True)
    created = [n for n, line in enumerate(lines) if json.loads(line)["op_code"] == 4]  # CREATE_TRIAL
    path.write_bytes(b"".join(lines[: created[-1] + 1]) + lines[-1][:9])  # trial 2 has no value yet, and half a line follows
    for run in pathlib.Path(folder, "s").glob("*/run.json"):
        if json.loads(run.read_text())["lane"] == 2:
            run.unlink()
    assert [lane.number for lane in value(study(folder, trials=4), SILENT).lanes] == [0, 1, 2, 3]
    assert [each.state.name for each in journal_of(folder).trials] == ["COMPLETE"] * 4


def test_another_metric_a_lost_journal_and_a_missing_extra_are_faults(folder, monkeypatch):
    assert isinstance(fault(study(folder, axes={"rat": uniform(0, 1)}), SILENT), UnknownField)
    value(study(folder, trials=2), SILENT)
    assert isinstance(fault(study(folder, trials=2, metric="lowest(loss)"), SILENT), SweepChanged)
    os.remove(os.path.join(folder, "s", "study.log"))
    assert isinstance(fault(study(folder, trials=2), SILENT), FileMissing)

    def missing(module: str) -> Any:
        raise ModuleNotFoundError(name="optuna")

    monkeypatch.setattr(extra.importlib, "import_module", missing)
    assert isinstance(fault(study(folder, trials=2), SILENT), ExtraMissing)


@pytest.mark.slow
def test_three_processes_on_one_study_with_kills_lose_no_trial(tmp_path):
    script = HERE / "killed_sweep.py"

    def started() -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, script, tmp_path, "40"], stdout=subprocess.PIPE, text=True)

    random.seed(1)
    processes = [started() for _ in range(3)]
    for n in range(4):
        while len([*(tmp_path / "killed").glob("*/run.json")]) < 8 * (n + 1):
            time.sleep(0.1)
        time.sleep(random.uniform(0.0, 0.5))
        assert processes[n % 3].poll() is None, "finished before it could be killed"
        processes[n % 3].kill()
        processes[n % 3].communicate()
        processes[n % 3] = started()
    outputs = [each.communicate(timeout=300)[0] for each in processes]
    assert len({*outputs}) == 1 and outputs[0].splitlines()[-1].startswith("best")
    trials = journal_of(str(tmp_path), "killed").trials
    assert [each.number for each in trials] == list(range(40)) and {each.state.name for each in trials} == {"COMPLETE"}
    runs = [json.loads(path.read_text()) for path in (tmp_path / "killed").glob("*/run.json")]
    assert sorted(each["lane"] for each in runs) == list(range(40)) and {each["status"] for each in runs} == {"completed"}
    assert sum(len(each["attempts"]) > 1 for each in runs) >= 1  # one was killed, and resumed
