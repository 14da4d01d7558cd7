"""Lanes that train: one compilation, the numbers of solo runs, and rungs that change nothing."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import jax
import jax.monitoring
import numpy as np
import pytest
from outcomes import value

from fnlamp import loss, nn, optim, stream, train
from fnlamp.config import group
from fnlamp.effect import Effect, Runtime
from fnlamp.experiment import Place
from fnlamp.fault import EmptyEpoch, NonFinite
from fnlamp.sweep import grid, halving, sweep

SILENT = Runtime(log=None)
RNG = np.random.default_rng(0)
X = RNG.standard_normal((64, 4)).astype(np.float32)
Y = (X @ RNG.standard_normal((4, 3))).argmax(1)


@group
class Settings:
    rate: float = 0.1
    seed: int = 0
    width: int = 8
    epochs: int = 4


def program_of(place: Place[Settings]) -> Effect[train.Trained, Any]:
    config = place.config
    return train.resumable(
        place.checkpoints,
        lambda saved: train.epochs(
            model=train.supervised(nn.mlp(hidden=(config.width,), out=3), loss.cross_entropy()),
            optimizer=optim.sgdw(config.rate),
            train_batches=lambda context: stream.minibatches(X, Y, batch_size=16, seed=context.seed),
            validation_batches=lambda context: stream.full_batch(X, Y),
            epochs=config.epochs,
            seed=config.seed,
            resume=saved,
            checkpoints=train.Checkpoints(place.checkpoints),
        ),
    )


@pytest.fixture
def compiled():
    names: list[str] = []

    def listen(event: str, duration: float, **about: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


def solo(tmp_path: pathlib.Path, **changed: Any) -> train.Trained:
    place = Place("solo", "solo", tmp_path / f"solo-{changed}", Settings(**changed))
    return value(program_of(place), SILENT)


def same(one: train.Trained, other: train.Trained) -> bool:
    leaves = [jax.tree.leaves((each.params, each.state.optimizer_state)) for each in (one, other)]
    return all(a.tobytes() == b.tobytes() for a, b in zip(*(map(np.asarray, each) for each in leaves), strict=True))


def trained_of(lane: Any, **changed: Any) -> train.Trained:
    """What a completed lane trained, from its checkpoints."""
    return value(program_of(Place(lane.id, "s", lane.folder, Settings(**changed))), SILENT)


@pytest.mark.slow
def test_rates_and_seeds_compile_once_and_have_the_numbers_of_solo_runs(folder, tmp_path, compiled):
    first = solo(tmp_path, rate=0.3, seed=7)
    assert compiled and first.curve
    compiled.clear()
    rates = (0.01, 0.1, 1.0)
    space = grid({"rate": rates, "seed": (0, 1)})
    found = value(sweep("s", program_of, Settings, space, folder=folder), SILENT)
    assert compiled == []
    for lane in (found.lanes[0], found.lanes[3], found.best.lane):
        assert same(trained_of(lane, **lane.point), solo(tmp_path, **lane.point))
    assert same(found.best.value, solo(tmp_path, **found.best.lane.point))


def test_a_lane_whose_loss_is_not_finite_fails_alone(folder):
    found = value(sweep("s", program_of, Settings, grid({"rate": (0.1, 1e30), "epochs": (1,)}), folder=folder), SILENT)
    assert [lane.status for lane in found.lanes] == ["completed", "failed"]
    assert found.lanes[1].problem.startswith(NonFinite.__name__)


def test_a_promoted_lane_is_bitwise_that_of_an_uninterrupted_run(folder, tmp_path):
    space = grid({"rate": (0.001, 0.3, 0.01)})
    found = value(sweep("s", program_of, Settings, space, folder=folder, rungs=halving((1, 2), keep=0.67)), SILENT)
    assert sorted(lane.epoch or 0 for lane in found.lanes) == [1, 2, 4]
    best = found.best
    assert same(best.value, solo(tmp_path, **best.lane.point)) and len(best.value.curve) == 4
    steps = value(found.curves("train.loss"))[best.lane.number].steps.tolist()
    assert steps == [4, 8, 12, 16]


def test_explain_says_what_is_compiled_and_what_it_costs(folder, compiled):
    space = grid({"width": (8, 16), "rate": (0.01, 0.1, 1.0)})
    text = str(sweep("s", program_of, Settings, space, folder=folder, rungs=halving((1, 2))).explain())
    assert compiled == [] and not os.path.exists(folder)
    assert "sweep s: 6 lanes" in text and "width: 8, 16\n" in text and "halving" in text
    assert "2 training programs; lanes of one differ in numbers alone: 3 like lane 0, 3 like lane 3" in text
    assert f"in all: {6 * 4 * 4} steps" in text and "bytes on the device" in text


def test_explain_of_programs_without_training_and_of_ones_that_are_sure_to_fail(folder):
    def failing(place: Place[Settings]) -> Effect[Any, Any]:
        few = stream.minibatches(X[:0], Y[:0], batch_size=16)
        return train.epochs(
            model=train.supervised(nn.linear(3), loss.cross_entropy()),
            optimizer=optim.sgdw(0.1),
            train_batches=lambda context: few,
            epochs=1,
        )

    space = grid({"seed": (0, 1)})
    assert isinstance(sweep("s", failing, Settings, space, folder=folder).explain().fault, EmptyEpoch)
    plain = sweep("s", lambda place: Effect.from_value(1), Settings, space, folder=folder).explain()
    assert "not looked into" in plain and plain.fault is None
