"""Successive halving finds the lane that the whole sweep finds, in a fraction of its steps.

On sets of scikit-learn; on sets of the Penn Machine Learning Benchmarks if FNLAMP_PMLB names their folder.
"""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from outcomes import value

from fnlamp import loss, nn, optim, stream, train
from fnlamp.config import group
from fnlamp.effect import Effect, Runtime
from fnlamp.experiment import Place
from fnlamp.sweep import grid, halving, sweep

SILENT = Runtime(log=None)
SPACE = grid({"rate": np.geomspace(1e-4, 1.0, 9), "width": (4, 16, 64)})


@group
class Settings:
    rate: float = 0.1
    width: int = 16


def bundled(name: str) -> tuple[Any, Any]:
    datasets = pytest.importorskip("sklearn.datasets")
    return getattr(datasets, f"load_{name}")(return_X_y=True)  # type: ignore[no-any-return]


def pmlb(name: str) -> tuple[Any, Any]:
    folder = os.environ.get("FNLAMP_PMLB")
    if folder is None:
        pytest.skip("FNLAMP_PMLB names no folder with sets as NAME.tsv.gz")
    with gzip.open(Path(folder) / f"{name}.tsv.gz", "rt") as file:
        header, *lines = (line.rstrip("\n").split("\t") for line in file)
    target = header.index("target")
    rows = np.array(lines, float)
    return np.delete(rows, target, 1), rows[:, target]


def program_on(x: Any, y: Any) -> Any:
    """A program on standardised features, a third of the rows for validation."""
    order = np.random.default_rng(0).permutation(len(x))
    x = ((x - x.mean(0)) / np.maximum(x.std(0), 1e-6)).astype(np.float32)[order]
    _, y = np.unique(y, return_inverse=True)
    y, cut = y[order].astype(np.int32), 2 * len(x) // 3
    classes = int(y.max()) + 1

    def program_of(place: Place[Settings]) -> Effect[train.Trained, Any]:
        config = place.config
        return train.resumable(
            place.checkpoints,
            lambda saved: train.epochs(
                model=train.supervised(nn.sequence(nn.linear(config.width), nn.relu, nn.linear(classes)), loss.cross_entropy()),
                optimizer=optim.adamw(config.rate),
                train_batches=lambda context: stream.minibatches(x[:cut], y[:cut], batch_size=32, seed=context.seed),
                validation_batches=lambda context: stream.full_batch(x[cut:], y[cut:]),
                epochs=27,
                resume=saved,
                checkpoints=train.Checkpoints(place.checkpoints, epochs=None),
            ),
        )

    return program_of


def check(program_of: Any, folder: str) -> None:
    metric = "lowest(validation.loss)"
    whole = value(sweep("whole", program_of, Settings, SPACE, metric=metric, folder=folder), SILENT)
    rungs = halving((3, 9))
    halved = value(sweep("halved", program_of, Settings, SPACE, metric=metric, folder=folder, rungs=rungs), SILENT)
    assert halved.best.lane.number == whole.best.lane.number and halved.best.lane.value == whole.best.lane.value
    epochs = [sum(lane.epoch or 0 for lane in found.lanes) for found in (whole, halved)]
    assert epochs == [27 * 27, 27 * 3 + 9 * 6 + 3 * 18] and epochs[1] <= epochs[0] / 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wine", "breast_cancer"])
def test_halving_picks_the_lane_of_the_whole_sweep(folder, name):
    check(program_on(*bundled(name)), folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["segmentation", "dermatology"])
def test_halving_picks_the_lane_of_the_whole_sweep_on_pmlb(folder, name):
    check(program_on(*pmlb(name)), folder)
