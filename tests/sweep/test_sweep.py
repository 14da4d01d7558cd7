"""A sweep and its lanes: every outcome of a lane is recorded, none is run twice, and what differs is said."""

from __future__ import annotations

import gc
import json
import math
import os
import pathlib
import re
import signal
import threading
import weakref
from typing import Any

import numpy as np
import pytest
from bowls import SILENT, Model, Settings, bowl, told
from outcomes import fault, value

from fnlamp import track
from fnlamp.effect import CancelToken, Effect, Interrupted, Runtime, collect
from fnlamp.experiment import Place, lease, runs
from fnlamp.fault import (
    Broken,
    EmptySweep,
    FileUnwritable,
    MetricMissing,
    NoBestLane,
    NonFinite,
    SweepChanged,
    TypeMismatch,
    UnknownField,
)
from fnlamp.sweep import grid, halving, listed, median_stopping, sweep


def the_json(path: Any, name: str = "run.json") -> dict[str, Any]:
    return json.loads(pathlib.Path(path, name).read_text())


# ------------------------------------------------------------------------------- lanes


def test_each_lane_is_a_run_with_its_config_parent_and_number(folder):
    space = grid({"rate": (0.1, 0.2, 0.4), "seed": (0, 1)})
    found = value(sweep("rates", bowl, Settings, space, metric="loss", folder=folder, tags=["x"]), SILENT)
    assert (found.best.lane.number, found.best.value, found.best.config.double) == (2, 0.2, 0.4)
    assert [lane.value for lane in found.lanes] == [(rate - 0.2) ** 2 for rate in (0.1, 0.1, 0.2, 0.2, 0.4, 0.4)]
    about = the_json(found.lanes[3].folder)
    assert (about["parent"], about["lane"], about["status"], about["tags"]) == ("rates", 3, "completed", ["x"])
    settings = the_json(found.lanes[3].folder, "config.json")["settings"]
    assert (settings["seed"]["source"], settings["double"]["value"]) == ("overridden", 0.4)
    assert "test_each_lane_is_a_run" in (found.lanes[3].folder / "source" / "test_sweep.py").read_text()
    listed = value(runs(folder, where=["parent=rates", "lane>3"]))
    assert [each.lane for each in listed] == [4, 5]
    table = found.table()
    assert table["rate"] == [0.1, 0.1, 0.2, 0.2, 0.4, 0.4] and table["loss"] == [lane.value for lane in found.lanes]
    assert {number: series.values.tolist() for number, series in value(found.curves("loss")).items()} == {
        lane.number: [lane.value] for lane in found.lanes
    }


def test_called_again_it_runs_nothing_and_more_points_behind_are_added(folder):
    ran = []

    def program(place: Place[Settings]) -> Effect[Any, Any]:
        return Effect.suspend(lambda: None if place.resumed else ran.append(place.config.seed)).then(bowl(place))

    def called(count: int) -> Any:
        return sweep("s", program, Settings, grid({"seed": range(count)}), metric="loss", folder=folder)

    first = value(called(2), SILENT)
    assert value(called(2), SILENT) == first and ran == [0, 1]
    assert len(value(called(4), SILENT).lanes) == 4 and ran == [0, 1, 2, 3]
    changed = fault(called(3), SILENT)
    assert isinstance(changed, SweepChanged) and changed.lane == 3


def test_another_space_or_config_under_the_name_is_a_fault_that_says_what_differs(folder):
    def called(config: Any, *rates: float) -> Any:
        return sweep("s", bowl, config, grid({"rate": rates}), metric="loss", folder=folder)

    value(called(Settings, 0.1, 0.2), SILENT)
    other = fault(called(Settings, 0.1, 0.3), SILENT)
    assert (other.lane, other.what, other.before, other.now) == (1, "double", "0.4", "0.6")
    assert fault(called(Settings(seed=5), 0.1, 0.2), SILENT).what == "seed"


def test_a_moved_folder_is_the_same_sweep(folder):
    moved = f"{folder}-moved"
    first = value(sweep("s", bowl, Settings, grid({"rate": (0.1, 0.2)}), metric="loss", folder=folder), SILENT)
    os.rename(folder, moved)
    again = value(sweep("s", bowl, Settings, grid({"rate": (0.1, 0.2)}), metric="loss", folder=moved), SILENT)
    assert [lane.id for lane in again.lanes] == [lane.id for lane in first.lanes]
    assert again.best.value == first.best.value and str(again.best.lane.folder).startswith(moved)


def test_a_text_chooses_an_option_and_a_group_takes_a_group(folder):
    space = listed([{"act": "gelu"}, {"model": Model(width=9)}, {"model.width": 7, "seed": 3}])
    seen = []

    def program(place: Place[Settings]) -> Effect[Any, Any]:
        seen.append((place.config.act, place.config.model.width, place.config.seed))
        return told(1.0)

    value(sweep("s", program, Settings, space, metric="loss", folder=folder), SILENT)
    assert seen[:3] == [("g", 4, 0), ("r", 9, 0), ("r", 7, 3)]


@pytest.mark.parametrize(
    ("space", "kind", "said"),
    [
        (grid({"rat": (0.1,)}), UnknownField, "lane 0: rat: expected a field of Settings.*near names: rate"),
        (grid({"model": (1, 2)}), TypeMismatch, "lane 0: model: expected Model"),
        (grid({"rate": (0.1, 0.2)}).where(lambda point: False), EmptySweep, "at least one point"),
    ],
)
def test_a_wrong_space_is_a_fault_before_anything_runs(folder, space, kind, said):
    program = sweep("s", bowl, Settings, space, metric="loss", folder=folder)
    assert isinstance(program.explain().fault, kind)
    found = fault(program, SILENT)
    assert isinstance(found, kind) and not os.path.exists(folder)
    assert re.search(said, str(found))


# ------------------------------------------------------------------------------- metrics and faults


def test_lanes_that_fail_or_have_no_number_are_never_the_best(folder):
    losses = {0: 5.0, 1: math.nan, 2: None, 3: 4.0, 4: -math.inf}

    def program(place: Place[Settings]) -> Effect[Any, Any]:
        loss = losses[place.config.seed]
        broken = NonFinite(Broken.LOSS, 1, 2)
        return told(0.0).then(Effect.from_failure(broken)) if loss is None else told(loss)

    called = sweep("s", program, Settings, grid({"seed": range(5)}), metric="loss", folder=folder)
    found = value(called, SILENT)
    assert found.best.lane.number == 3
    assert [lane.status for lane in found.lanes] == [*("completed", "completed", "failed"), *["completed"] * 2]
    assert found.lanes[2].problem.startswith("NonFinite: ") and math.isnan(found.lanes[1].value)
    again = value(called, SILENT)  # the failed lane is not run again
    assert [(lane.id, lane.seconds) for lane in again.lanes] == [(lane.id, lane.seconds) for lane in found.lanes]
    highest = sweep("s", program, Settings, grid({"seed": range(5)}), metric="highest(loss)", lowest=False, folder=folder)
    assert value(highest, SILENT).best.lane.number == 0


def test_without_a_lane_that_completes_with_a_number_the_sweep_fails(folder):
    def failing(place: Place[Settings]) -> Effect[Any, Any]:
        return Effect.from_failure(NonFinite(Broken.LOSS, 1, place.config.seed))

    def called(name: str, program: Any, metric: str = "loss") -> Any:
        return fault(sweep(name, program, Settings, grid({"seed": (1, 2)}), metric=metric, folder=folder), SILENT)

    found = called("a", failing)
    assert isinstance(found, NoBestLane) and found.problems[1].startswith("NonFinite: ") and len(found.state) == 2
    assert called("b", lambda place: told(math.nan)).problems == {0: "completed, loss nan", 1: "completed, loss nan"}
    missing = called("c", lambda place: told(1.0), "los")
    assert isinstance(missing, MetricMissing) and missing.near == ("loss",)
    assert [lane.status for lane in missing.state] == ["completed", "waiting"]  # it ends after the first lane


def test_a_bug_ends_the_sweep_and_is_run_again_once_it_is_gone(folder):
    broken = [True]

    def program(place: Place[Settings]) -> Effect[Any, Any]:
        if place.config.seed == 1 and broken:
            raise ZeroDivisionError
        return told(1.0)

    called = sweep("s", program, Settings, grid({"seed": range(3)}), metric="loss", folder=folder)
    with pytest.raises(ZeroDivisionError):
        called.run(SILENT)
    broken.clear()
    assert [lane.status for lane in value(called, SILENT).lanes] == ["completed"] * 3


def test_a_cancelled_sweep_has_its_finished_lanes_and_continues(folder):
    token, ran = CancelToken(), []

    def program(place: Place[Settings]) -> Effect[Any, Any]:
        ran.append(place.config.seed)
        stop = Effect.suspend(lambda: token.cancel() if place.config.seed == 2 and not place.resumed else None)
        return told(1.0).then(stop).then(told(1.0))

    called = sweep("s", program, Settings, grid({"seed": range(4)}), metric="loss", folder=folder)
    found = fault(called, Runtime(log=None, cancel=token))
    assert isinstance(found, Interrupted)
    assert [lane.status for lane in found.state] == ["completed", "completed", "interrupted", "waiting"]
    assert [lane.status for lane in value(called, SILENT).lanes] == ["completed"] * 4
    assert ran[:5] == [0, 1, 2, 2, 3]


def test_a_full_disk_ends_the_sweep_and_is_no_outcome_of_a_lane(folder):
    full = [True]

    def program(place: Place[Settings]) -> Effect[Any, Any]:
        return Effect.from_failure(FileUnwritable("a", "No space left on device")) if full else told(1.0)

    called = sweep("s", program, Settings, grid({"seed": range(2)}), metric="loss", folder=folder)
    assert isinstance(fault(called, SILENT), FileUnwritable)
    full.clear()
    assert [lane.status for lane in value(called, SILENT).lanes] == ["completed"] * 2


@pytest.mark.slow
def test_only_the_value_of_the_best_lane_is_kept(folder):
    alive = []

    class Value:
        pass

    def program(place: Place[Settings]) -> Effect[Any, Any]:
        def made(_: Any) -> Value:
            gc.collect()
            made = Value()
            alive.append((weakref.ref(made), sum(ref() is not None for ref, _ in alive)))
            return made

        return told(abs(place.config.seed - 3)).map(made)

    found = value(sweep("s", program, Settings, grid({"seed": range(5)}), metric="loss", folder=folder), SILENT)
    assert found.best.lane.number == 3 and max(count for _, count in alive) <= 2


# ------------------------------------------------------------------------------- several at once


def test_two_at_once_share_the_lanes(folder):
    ran, together = [], threading.Barrier(2)

    def program(place: Place[Settings]) -> Effect[Any, Any]:
        def call() -> None:
            ran.append(place.config.seed)
            if place.config.seed < 2:
                together.wait(20)  # both are at work

        return Effect.suspend(call).then(bowl(place)) if not place.resumed else bowl(place)

    called = sweep("s", program, Settings, grid({"seed": range(6), "rate": (0.2,)}), metric="loss", folder=folder)
    found = []
    threads = [threading.Thread(target=lambda: found.append(value(called, SILENT))) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(ran) == list(range(6)) and found[0] == found[1] and found[0].best.value == 0.2


def test_the_lane_of_a_killed_process_is_resumed(folder, monkeypatch):
    called = sweep("s", bowl, Settings, grid({"rate": (0.1, 0.2)}), metric="loss", folder=folder)
    first = value(called, SILENT)
    dead = first.lanes[1].folder
    (dead / "run.json").write_text(json.dumps({**the_json(dead), "status": "running"}))
    lease.write(str(dead), {**lease.mine(), "pid": 2**22 + 1})
    again = value(called, SILENT)
    assert [lane.id for lane in again.lanes] == [lane.id for lane in first.lanes]
    assert [each["status"] for each in the_json(dead)["attempts"]] == ["completed", "completed"]


# ------------------------------------------------------------------------------- rungs


def lane_of(place: Place[Settings], steps: list[Any]) -> Effect[Any, Any]:
    """Epochs whose losses fall; it resumes from the number of epochs in a file."""
    done, seed = place.checkpoints / "epochs", place.config.seed

    def epoch(n: int) -> Effect[Any, Any]:
        def save() -> None:
            place.checkpoints.mkdir(exist_ok=True)
            done.write_text(str(n))
            steps.append((seed, n))

        loss = np.array([5, 3, 8, 1, 9, 2, 7, 4, 6])[seed] + 1 / n
        told = Effect.asks(lambda runtime: runtime.tell(track.Measured({"loss": loss}, n, n)))
        return Effect.suspend(save).then(told)

    def left() -> Effect[Any, Any]:
        begin = int(done.read_text()) if done.exists() else 0
        return collect([epoch(n) for n in range(begin + 1, 10)]).map(lambda _: seed)

    return Effect.access(lambda _: left())


def test_halving_stops_lanes_and_finds_the_same_best_as_all(folder):
    steps: list[Any] = []
    space = grid({"seed": range(9)})
    called = sweep(
        "s", lambda place: lane_of(place, steps), Settings, space, metric="loss", folder=folder, rungs=halving((1, 3))
    )
    found = value(called, SILENT)
    assert found.best.value == found.best.lane.number == 3
    assert [lane.epoch for lane in found.lanes] == [1, 3, 1, 9, 1, 3, 1, 1, 1]
    assert {lane.status for lane in found.lanes if lane.number != 3} == {"stopped"}
    assert len(steps) == len(set(steps)) == 9 * 1 + 3 * 2 + 1 * 6  # no epoch is run twice
    assert value(called, SILENT).lanes == found.lanes and len(steps) == 21
    kept = [pathlib.Path(lane.folder, "metrics.jsonl").read_text().count('"loss"') for lane in found.lanes]
    assert kept == [1, 3, 1, 9, 1, 3, 1, 1, 1]


def test_the_median_rule_stops_lanes(folder):
    steps: list[Any] = []
    called = sweep(
        *("s", lambda place: lane_of(place, steps), Settings, grid({"seed": range(9)})),
        metric="loss",
        folder=folder,
        rungs=median_stopping((2,)),
    )
    assert [lane.epoch for lane in value(called, SILENT).lanes] == [9, 9, 2, 9, 2, 9, 2, 9, 2]


def test_an_interrupted_sweep_with_rungs_decides_as_one_that_was_not(folder):
    steps: list[Any] = []
    space = grid({"seed": range(9)})
    for after in (3, 5, 8, 10, 14):
        token = CancelToken()

        def program(place: Place[Settings], token: CancelToken = token, after: int = after) -> Effect[Any, Any]:
            return Effect.suspend(lambda: token.cancel() if len(steps) >= after else None).then(lane_of(place, steps))

        sweep("s", program, Settings, space, metric="loss", folder=folder, rungs=halving((1, 3))).run(
            Runtime(log=None, cancel=token)
        )
    found = value(
        sweep("s", lambda place: lane_of(place, steps), Settings, space, metric="loss", folder=folder, rungs=halving((1, 3))),
        SILENT,
    )
    assert [lane.epoch for lane in found.lanes] == [1, 3, 1, 9, 1, 3, 1, 1, 1] and found.best.value == 3


def test_a_rung_before_the_first_value_of_the_metric_is_a_fault(folder):
    called = sweep(
        *("s", lambda place: told(1.0, 2.0), Settings, grid({"seed": range(2)})),
        metric="validation.loss",
        folder=folder,
        rungs=halving((1,)),
    )
    found = fault(called, SILENT)
    assert isinstance(found, MetricMissing) and found.near == ("loss",)


@pytest.mark.skipif(not hasattr(signal, "raise_signal"), reason="sends a signal to itself")
def test_ctrl_c_in_a_lane_stops_the_sweep(folder):
    def program(place: Place[Settings]) -> Effect[Any, Any]:
        strike = place.config.seed == 7 and not place.resumed
        return told(1.0).then(Effect.suspend(lambda: signal.raise_signal(signal.SIGINT) if strike else None)).then(told(1.0))

    called = sweep("s", program, Settings, grid({"seed": range(9)}), metric="loss", folder=folder)
    found = fault(called, Runtime(log=None))
    assert isinstance(found, Interrupted)
    assert [lane.status for lane in found.state] == [*["completed"] * 7, "interrupted", "waiting"]
    assert [lane.status for lane in value(called, SILENT).lanes] == ["completed"] * 9


def test_a_changed_lane_is_a_fault_before_another_one_runs(folder):
    ran = []

    def program(place: Place[Settings]) -> Effect[Any, Any]:
        ran.append(place.config.rate)
        return bowl(place)

    value(sweep("s", program, Settings, grid({"rate": (0.1, 0.2)}), metric="loss", folder=folder), SILENT)
    changed = sweep("s", program, Settings, grid({"rate": (0.1, 0.3, 0.4)}), metric="loss", folder=folder)
    assert isinstance(fault(changed, SILENT), SweepChanged) and ran == [0.1, 0.2]
