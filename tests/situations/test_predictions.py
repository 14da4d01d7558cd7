"""Predictions: integers that the device cannot hold, batches of bounded memory, features of every valid and invalid form."""

from __future__ import annotations

import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import loss, nn, optim, stream, train
from fnlamp.effect import Runtime
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((20, 3)).astype(np.float32), np.arange(20) % 2
IDS = RNG.integers(0, 7, (20, 4))


def trained(layer, x, y=Y):
    program = train.epochs(
        model=train.supervised(layer, loss.cross_entropy()),
        optimizer=optim.sgdw(0.1),
        train_batches=lambda context: stream.minibatches(x, y, batch_size=8),
        epochs=1,
    )
    return program.run(Runtime(log=None)).unwrap()._inner_value


@pytest.fixture(scope="module")
def dense():
    return trained(nn.linear(2), X)


@pytest.fixture(scope="module")
def words():
    return trained(nn.embedding(7, 5) >> nn.flatten >> nn.linear(2), IDS)


LARGE = [IDS + 2**32, IDS - 2**33, (IDS + 2**32).astype(np.uint64), np.full((1, 4), 2**31), [[2**40] * 4]]


@pytest.mark.parametrize("wrong", LARGE)
def test_integers_that_32_bits_cannot_hold_are_a_fault_as_in_training(words, wrong):
    for give in (words.predict, lambda x: words.predict(x, batch_size=None), lambda x: words.predict(x, batch_size=1)):
        with pytest.raises(FaultError) as caught:
            give(wrong)
        assert isinstance(caught.value.fault, DtypeMismatch)


@pytest.mark.parametrize("rows", [0, 1, 5, 20])
@pytest.mark.parametrize("batch_size", [1, 3, 7, 20, 256, None])
def test_batches_give_what_one_batch_gives(dense, rows, batch_size):
    expected = X[:rows].astype(np.float64) @ np.asarray(dense.params["weight"], np.float64) + np.asarray(dense.params["bias"])
    found = dense.predict(X[:rows], batch_size=batch_size)
    assert found.shape == (rows, 2)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", [list, np.asarray, jnp.asarray, lambda x: x.astype(np.float64), lambda x: x[:, ::-1][:, ::-1]])
def test_features_in_every_form(dense, form):
    np.testing.assert_allclose(dense.predict(form(X) if form is not list else X.tolist()), dense.predict(X), rtol=1e-6)


def test_a_prediction_that_depends_on_the_other_rows_can_be_made_in_one_batch():
    centred = trained(nn.fun(lambda x: x - x.mean(0)) >> nn.linear(2), X)
    whole = (X - X.mean(0)) @ np.asarray(centred.params["1"]["weight"]) + np.asarray(centred.params["1"]["bias"])
    np.testing.assert_allclose(centred.predict(X, batch_size=None), whole, rtol=1e-5, atol=1e-6)


def test_a_prediction_of_several_parts_and_of_trees_of_features():
    layer = nn.fun(lambda x: x["a"] + x["b"]) >> nn.linear(2) >> nn.fun(lambda y: {"scores": y, "top": y.argmax(-1)})

    def first(prediction, target):
        return loss.cross_entropy()(prediction["scores"], target)

    program = train.epochs(
        model=train.supervised(layer, first),
        optimizer=optim.sgdw(0.1),
        train_batches=lambda context: stream.minibatches({"a": X, "b": X}, Y, batch_size=8),
        epochs=1,
    )
    made = program.run(Runtime(log=None)).unwrap()._inner_value
    whole, parts = (made.predict({"a": X, "b": X}, batch_size=size) for size in (None, 3))
    assert {name: leaf.shape for name, leaf in parts.items()} == {"scores": (20, 2), "top": (20,)}
    np.testing.assert_allclose(whole["scores"], parts["scores"], rtol=1e-6)


@pytest.mark.parametrize("wrong", [X[:, :2], X[0, :2], np.zeros((2, 4), np.float32), np.zeros((2, 3, 1), np.float32)])
def test_features_of_another_shape_are_a_fault(dense, wrong):
    with pytest.raises(FaultError) as caught:
        dense.predict(wrong)
    assert isinstance(caught.value.fault, ShapeMismatch)


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "8", True])
def test_a_batch_size_is_a_whole_number(dense, wrong):
    with pytest.raises((TypeError, ValueError), match="batch_size"):
        dense.predict(X, batch_size=wrong)


PEAK = """
import resource, numpy as np
from fnlamp import loss, nn, optim, stream, train
from fnlamp.effect import Runtime
x = np.zeros((4000, 28, 28, 1), np.float32)
layer = nn.conv2d(32, 3) >> nn.relu >> nn.conv2d(32, 3) >> nn.relu >> nn.global_avg_pool >> nn.linear(10)
made = train.epochs(
    model=train.supervised(layer, loss.cross_entropy()), optimizer=optim.sgdw(0.1), epochs=1,
    train_batches=lambda c: stream.minibatches(x[:64], np.zeros(64, int), batch_size=64),
).run(Runtime(log=None)).unwrap()._inner_value
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
made.predict(x)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows():
    done = subprocess.run([sys.executable, "-c", PEAK], check=True, capture_output=True, text=True, env={**os.environ})
    assert float(done.stdout) < 500  # MiB; the activations of all rows at once take 800
