"""Runs resumed from saves: streams that differ by epoch, other data, and accumulators and states of registered classes."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from outcomes import fault, value

from fnlamp import Init, Layer, Role, Tag, Train, checkpoint, data, loss, nn, optim, stream, train
from fnlamp.effect import Runtime
from fnlamp.fault import ProgramDiffers

QUIET = Runtime(log=None)
X = np.random.default_rng(0).normal(size=(44, 6)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int32)
EPOCHS = 4


def program(train_batches=None, **given):
    settings = {
        "model": train.supervised(nn.linear(4) >> nn.dropout(0.2) >> nn.linear(2), loss.cross_entropy()),
        "optimizer": optim.adamw(0.05),
        "train_batches": train_batches or (lambda context: stream.minibatches(X, Y, batch_size=8, seed=context.seed)),
        "validation_batches": lambda context: stream.minibatches(X, Y, batch_size=16),
        "epochs": EPOCHS,
        "seed": 3,
    }
    return train.epochs(**settings | given)


def saves_of(folder, **given):
    """The run, and its saves: one for each epoch, and some within."""
    policy = train.Checkpoints(folder, steps=1, keep=checkpoint.keep_all)
    whole = value(program(checkpoints=policy, **given), Runtime(train.Fused(chunk=2), log=None))
    return whole, [value(checkpoint.read(save.path)) for save in value(checkpoint.saves(folder))]


def same(one, other):
    for name in ("params", "layer_state", "kept"):
        ours, theirs = ([np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(weights(each, name))] for each in (one, other))
        assert ours == theirs, name
    assert [dataclasses.replace(report, seconds=0) for report in one.curve] == [
        dataclasses.replace(report, seconds=0) for report in other.curve
    ]


def weights(trained, name):
    if name != "kept":
        return getattr(trained, name)
    return {fold: (kept.epoch, kept.params, kept.layer_state) for fold, kept in trained.kept.items()}


def noise(seed):
    return np.random.default_rng(seed).normal(size=X.shape).astype(np.float32)


def flipped(generator, item):
    return item[0] * np.float32(generator.choice([-1, 1])), item[1]


FACTORIES = {
    "batch size": lambda context: stream.minibatches(X, Y, batch_size=8 if context.epoch < 3 else 11, seed=context.seed),
    "rows": lambda context: stream.minibatches(X[: 11 * context.epoch], Y[: 11 * context.epoch], batch_size=8),
    "seed": lambda context: stream.minibatches(X + noise(context.seed), Y, batch_size=8, seed=context.seed),
    "loss": lambda context: stream.minibatches(X * np.float32(context.best_validation_loss or 1), Y, batch_size=8),
    "shard": lambda context: stream.minibatches(X, Y, batch_size=4).every_nth(2, context.epoch % 2),
    "loader": lambda context: data.loader(
        data.array_dataset(X, Y), batch_size=8 if context.epoch < 3 else 11, shuffle=True, seed=context.seed, augment=flipped
    ),
    "arrays in a loader": lambda context: data.loader(
        data.array_dataset(X + noise(context.seed), Y), batch_size=8, shuffle=True, seed=context.seed
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", FACTORIES)
def test_a_stream_that_differs_by_epoch_is_resumed_from_every_save(tmp_path, kind):
    whole, saves = saves_of(tmp_path, train_batches=FACTORIES[kind])
    assert {save.tree["epoch"] for save in saves} == {*range(1, EPOCHS + 2)}
    for save in saves:
        same(value(program(FACTORIES[kind], resume=save), QUIET), whole)


OTHERS = {
    "rows in memory": (None, lambda context: stream.minibatches(2 * X, Y, batch_size=8, seed=context.seed), "data"),
    "batch size": (None, lambda context: stream.minibatches(X, Y, batch_size=11, seed=context.seed), "batch size"),
    "a loader's batch size": (
        lambda context: data.loader(data.array_dataset(X, Y), batch_size=8, shuffle=True, seed=context.seed, augment=flipped),
        lambda context: data.loader(data.array_dataset(X, Y), batch_size=11, shuffle=True, seed=context.seed, augment=flipped),
        "batch size",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", OTHERS)
def test_other_data_is_a_fault_at_the_start_of_an_epoch_too(tmp_path, kind):
    first, other, what = OTHERS[kind]
    _, saves = saves_of(tmp_path, train_batches=first)
    save = next(save for save in saves if save.tree["epoch"] == 3 and save.tree["stream_state"] is None)
    found = fault(program(other, resume=save), QUIET)
    assert isinstance(found, ProgramDiffers)
    assert what in [name for name, _, _ in found.differing]


class Moments(NamedTuple):
    mean: Any
    count: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Registered:
    mean: Any
    count: Any


@pytest.mark.parametrize("kind", [Moments, Registered])
def test_a_fold_whose_accumulator_is_of_a_registered_class_is_resumed(tmp_path, kind):
    def step(acc, report):
        mean = acc.mean + (report.train_loss - acc.mean) / (acc.count + 1)
        return kind(mean, acc.count + 1), train.Verdict(rate=1 / (1 + float(mean)))

    folds = {"mean": train.Fold(kind(0.0, 0), step, "mean")}
    whole, saves = saves_of(tmp_path, folds=folds)
    for save in saves[::3]:
        resumed = value(program(folds=folds, resume=save), QUIET)
        same(resumed, whole)
        assert resumed.state.folds["mean"] == whole.state.folds["mean"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Moments, Registered])
def test_weights_that_a_fold_kept_have_the_models_own_classes_after_a_resume(tmp_path, kind):
    def init(key, spec):
        out = jax.ShapeDtypeStruct((spec.shape[0], 2), spec.dtype)
        weight = {"weight": jax.random.normal(key, (spec.shape[-1], 2))}
        return Init(weight, kind(jnp.zeros(2), jnp.zeros(())), out, {"weight": Tag("own", Role.WEIGHT)})

    def apply(params, state, x, mode):
        y = x @ params["weight"]
        return (
            (y, kind(0.9 * state.mean + 0.1 * y.mean(0), state.count + 1))
            if isinstance(mode, Train)
            else (y - state.mean, state)
        )

    given = {"model": train.supervised(Layer(init, apply, "own"), loss.cross_entropy()), "folds": {"best": train.best()}}
    whole, saves = saves_of(tmp_path, **given)
    for save in saves[1::3]:
        resumed = value(program(resume=save, **given), QUIET)
        same(resumed, whole)
        assert isinstance(resumed.kept["best"].layer_state, kind)
        np.testing.assert_array_equal(resumed.kept["best"].predict(X), whole.kept["best"].predict(X))
