"""Lanes side by side: the numbers of solo runs, each lane's own end, and what is left of the others."""

from __future__ import annotations

import pathlib
import random
import re
import subprocess
import sys
import threading
import time
from typing import Any

import jax
import numpy as np
import pytest
from outcomes import value
from returns.io import IOFailure, IOSuccess
from returns.result import Failure

from fnlamp import loss, nn, optim, stream, track, train
from fnlamp.config import group
from fnlamp.effect import CancelToken, Effect, Runtime
from fnlamp.experiment import Place
from fnlamp.fault import Interrupted, NonFinite
from fnlamp.sweep import Sweep, grid, halving, listed, sweep

HERE = pathlib.Path(__file__).parent
SILENT = Runtime(log=None)
RNG = np.random.default_rng(0)
X = RNG.standard_normal((64, 4)).astype(np.float32)
Y = (X @ RNG.standard_normal((4, 3))).argmax(1)


@group
class Settings:
    rate: float = 0.1
    seed: int = 0
    drop: float = 0.1
    smooth: float = 0.1
    patience: int = 9
    epochs: int = 4
    host: bool = False
    watched: bool = False


def program_of(place: Place[Settings]) -> Effect[train.Trained, Any]:
    config = place.config
    items = [(X[at : at + 16], Y[at : at + 16]) for at in range(0, 64, 16)]
    return train.resumable(
        place.checkpoints,
        lambda saved: train.epochs(
            model=train.supervised(
                nn.mlp(hidden=(8,), out=3, drop_rate=config.drop), loss.cross_entropy(label_smoothing=config.smooth)
            ),
            optimizer=optim.sgdw(config.rate, momentum=0.9),
            train_batches=lambda context: (
                stream.from_items(items) if config.host else stream.minibatches(X, Y, batch_size=16, seed=context.seed)
            ),
            validation_batches=lambda context: stream.full_batch(X, Y),
            epochs=config.epochs,
            seed=config.seed,
            folds={"stop": train.patience(config.patience, "validation_loss", threshold=1e9)},
            indicators={"loss": train.step_loss()} if config.watched else {},
            measure_every=1,
            resume=saved,
            checkpoints=train.Checkpoints(place.checkpoints),
        ),
    )


class Log(list[str]):
    """The lines of a run, and the numbers of the last one: steps of lanes, those that only fill up, and programs."""

    def counts(self) -> tuple[int, int, int]:
        found = re.fullmatch(
            r"side by side: ([\d,]+) steps of lanes(?:, ([\d,]+) more to fill up)?, in (\d+) programs", self[-1]
        )
        assert found is not None, self[-1]
        taken, more, programs = (int((each or "0").replace(",", "")) for each in found.groups())
        return taken, more, programs


def run(folder: str, space: Any, together: int, name: str = "s", **options: Any) -> tuple[Sweep[Any, Any], Log]:
    log = Log()
    made = sweep(name, program_of, Settings, space, folder=folder, together=together, **options)
    return value(made, Runtime(log=log.append)), log


def trained_of(lane: Any) -> train.Trained:
    return value(program_of(Place(lane.id, "s", lane.folder, Settings(**lane.point))), SILENT)


def solo(tmp_path: pathlib.Path, point: Any, **runtime: Any) -> train.Trained:
    place = Place("solo", "solo", tmp_path / f"solo-{sorted(point.items())}", Settings(**point))
    return value(program_of(place), Runtime(log=None, **runtime))


def same(one: train.Trained, other: train.Trained) -> None:
    """To 1e-6 of the largest number of each array, and of each loss; the counts and the epochs are equal."""
    for a, b in zip(*(jax.tree.leaves((each.params, each.state.optimizer_state)) for each in (one, other)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * max(float(np.abs(b).max(initial=0)), 1e-30))
    for a, b in zip(one.curve, other.curve, strict=True):
        assert (a.epoch, a.steps, a.samples) == (b.epoch, b.steps, b.samples)
        assert (a.train_loss, a.validation_loss) == pytest.approx((b.train_loss, b.validation_loss), rel=1e-6)
    assert one.state.epoch == other.state.epoch and int(one.state.step) == int(other.state.step)


@pytest.mark.slow
def test_lanes_of_other_numbers_and_seeds_are_one_program_with_the_results_of_solo_runs(folder, tmp_path):
    points = [
        {"rate": 0.01, "seed": 0, "drop": 0.1, "smooth": 0.1},
        {"rate": 0.1, "seed": 1, "drop": 0.3, "smooth": 0.2},
        {"rate": 0.3, "seed": 2, "drop": 0.1, "smooth": 0.3},
    ]
    found, log = run(folder, listed(points), 3)
    assert log.counts() == (3 * 4 * (4 + 1), 0, 2), "one program for training, one for validation"
    for lane in found.lanes:
        same(trained_of(lane), solo(tmp_path, lane.point))
    same(found.best.value, solo(tmp_path, found.best.lane.point))


@pytest.mark.slow
def test_indicators_are_those_of_each_lane_at_each_of_its_steps(folder):
    points = [{"watched": True, "epochs": n, "rate": 0.1 * n} for n in (1, 2)]
    series = [value(run(folder, listed(points), together, name)[0].curves("loss")) for together, name in ((1, "a"), (2, "b"))]
    for one, two in zip(series[0].values(), series[1].values(), strict=True):
        assert one.steps.tolist() == two.steps.tolist() == [*range(1, len(one.steps) + 1)]
        np.testing.assert_allclose(two.values, one.values, rtol=1e-6)
    assert [len(each.steps) for each in series[1].values()] == [4, 8]


@pytest.mark.slow
def test_lanes_that_stop_leave_and_the_others_are_computed_in_smaller_programs(folder, tmp_path):
    points = [{"patience": n, "rate": rate} for n, rate in ((1, 0.1), (1, 0.2), (1, 0.3), (9, 0.1), (9, 0.2))]
    found, log = run(folder, listed(points), 5)
    assert [lane.epoch for lane in found.lanes] == [2, 2, 2, 4, 4]
    steps = (3 * 2 + 2 * 4) * (4 + 1)  # and one batch of validation for each epoch
    assert log.counts() == (steps, 0, 4), "5 lanes, then 2: two widths of two programs; 14 of 20 lane-epochs are computed"
    for lane in (found.lanes[1], found.lanes[4]):
        same(trained_of(lane), solo(tmp_path, lane.point))


@pytest.mark.slow
def test_a_lane_that_breaks_fails_alone_and_at_its_own_step(folder, tmp_path):
    points = [{"rate": rate, "drop": 0.0} for rate in (0.1, 1e30, 0.2)]
    found, _ = run(folder, listed(points), 3)
    assert [lane.status for lane in found.lanes] == ["completed", "failed", "completed"]
    alone = program_of(Place("a", "a", tmp_path / "broken", Settings(**points[1])))
    match alone.run(SILENT):
        case IOFailure(Failure(NonFinite() as broken)):
            assert found.lanes[1].problem == f"NonFinite: {broken}"
        case other:
            pytest.fail(str(other))
    for lane in (found.lanes[0], found.lanes[2]):
        same(trained_of(lane), solo(tmp_path, lane.point))


@pytest.mark.slow
def test_rungs_decide_as_in_a_sweep_of_one_lane_after_the_other(folder):
    space, rungs = grid({"rate": (0.001, 0.3, 0.01, 0.03)}), halving((1, 2), keep=0.5)
    one, _ = run(folder, space, 1, "one", rungs=rungs)
    four, log = run(folder, space, 4, "four", rungs=rungs)
    assert [(lane.status, lane.epoch) for lane in four.lanes] == [(lane.status, lane.epoch) for lane in one.lanes]
    again = 3  # a lane that continues after a rung validates once more
    assert log.counts() == ((4 * 1 + 2 * 1 + 1 * 2) * (4 + 1) + again, 0, 6), "widths 4, 2 and 1 of two programs"
    assert four.best.lane.number == one.best.lane.number
    same(four.best.value, one.best.value)


@pytest.mark.slow
def test_a_stopped_sweep_resumes_with_the_same_results(folder, tmp_path):
    token, log = CancelToken(), Log()

    def look(event: Any) -> None:
        if isinstance(event, track.Measured) and event.epoch == 2 and "validation.loss" in event.values:
            token.cancel()

    space = grid({"rate": (0.1, 0.2, 0.3)})
    made = sweep("s", program_of, Settings, space, folder=folder, together=3)
    match made.run(Runtime(log=log.append, cancel=token, observers=(look,))):
        case IOFailure(Failure(Interrupted(state=lanes))):
            assert {lane.status for lane in lanes} == {"interrupted"}
        case other:
            pytest.fail(str(other))
    assert not [each for each in threading.enumerate() if each.name == "lane"]
    found, _ = run(folder, space, 3)
    assert [lane.status for lane in found.lanes] == ["completed"] * 3
    for lane in found.lanes:
        same(trained_of(lane), solo(tmp_path, lane.point))


@pytest.mark.slow
def test_an_exception_of_a_lane_ends_the_sweep_and_the_other_lanes_keep_what_they_have(folder):
    def look(event: Any) -> None:
        if isinstance(event, track.Measured) and event.epoch == 2 and "validation.loss" in event.values:
            raise ZeroDivisionError("a bug")

    made = sweep("s", program_of, Settings, grid({"rate": (0.1, 0.2)}), folder=folder, together=2)
    with pytest.raises(ZeroDivisionError):
        made.run(Runtime(log=None, observers=(look,)))
    assert not [each for each in threading.enumerate() if each.name == "lane"]
    assert isinstance(made.run(SILENT), IOSuccess)


@pytest.mark.slow
def test_data_that_is_not_on_the_device_and_other_executors_take_one_lane_at_a_time(folder, tmp_path):
    space = grid({"host": (True,), "rate": (0.1, 0.2)})
    text = str(sweep("s", program_of, Settings, space, folder=folder, together=4).explain())
    assert "one at a time, for their data is not on the device: 2 like lane 0" in text
    found, _ = run(folder, space, 2)
    same(trained_of(found.lanes[1]), solo(tmp_path, found.lanes[1].point))
    log: list[str] = []
    made = sweep("steps", program_of, Settings, grid({"rate": (0.1,), "epochs": (1, 2)}), folder=folder, together=2)
    value(made, Runtime(log=log.append, executor=train.Stepwise()))
    assert log[0].startswith("one lane at a time")


def test_explain_says_which_lanes_train_side_by_side(folder):
    points = [{"rate": 0.1}, {"rate": 0.2, "drop": 0.3}, {"drop": 0.0}, {"host": True}]
    text = str(sweep("s", program_of, Settings, listed(points), folder=folder, together=3).explain())
    assert "side by side, up to 3 at a time: 2 like lane 0, 1 like lane 2" in text
    assert "one at a time, for their data is not on the device: 1 like lane 3" in text
    assert "to compile: 2 training programs, for each number of lanes at once" in text
    assert "one lane at a time" in str(sweep("s", program_of, Settings, listed(points[:3]), folder=folder).explain())


@pytest.mark.slow
def test_a_killed_sweep_has_the_results_of_one_that_was_not(tmp_path):
    def started(folder: pathlib.Path) -> subprocess.Popen[str]:
        command = [sys.executable, HERE / "killed_sweep.py", folder, "", "6"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        return process

    def finished(folder: pathlib.Path) -> list[list[str]]:
        output, _ = started(folder).communicate(timeout=300)
        assert output.splitlines()[-1].startswith("best"), output
        return [line.split() for line in output.splitlines()]

    began = time.monotonic()
    expected, killed = finished(tmp_path / "whole"), 0
    seconds = time.monotonic() - began  # with the start of the process, which is not killed below
    random.seed(0)
    for _ in range(4):
        process = started(tmp_path / "killed")
        time.sleep(random.uniform(0.1, 0.4) * seconds)
        killed += process.poll() is None
        process.kill()
        process.communicate()
    assert killed >= 2
    for one, other in zip(finished(tmp_path / "killed"), expected, strict=True):
        assert one[:-2] == other[:-2] and float(one[-2]) == pytest.approx(float(other[-2]), rel=1e-5)
