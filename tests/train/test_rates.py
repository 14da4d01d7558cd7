"""The learning-rate range test: its curve against NumPy's own run, where it ends, what it suggests."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from outcomes import fault, value

from fnlamp import loss, nn, optim, plots, stream, train
from fnlamp.effect import CancelToken, Resource, Runtime
from fnlamp.fault import EmptyEpoch, Interrupted, NonFinite, ShapeMismatch
from fnlamp.mode import name_key, seed_key

RNG = np.random.default_rng(2)
X = RNG.normal(size=(40, 3)).astype(np.float32)
Y = (X @ [[1.0], [-2.0], [0.5]]).astype(np.float32)
QUIET = Runtime(log=None)
MODEL = train.supervised(nn.linear(1), loss.mse())


def search(**options):
    defaults = {
        "model": MODEL,
        "optimizer": lambda rate: optim.sgdw(rate),
        "train_batches": lambda context: stream.minibatches(X, Y, batch_size=8),
        "lowest": 1e-4,
        "highest": 100.0,
        "steps": 60,
    }
    return train.learning_rate_range(**{**defaults, **options})


def by_hand(rates, size=8):
    """Plain gradient descent in float64 from the same parameters: the loss of each batch before its update."""
    params, _ = MODEL.init(name_key(seed_key(0), "init"), jax.ShapeDtypeStruct((8, 3), np.float32))
    weight, bias = (np.asarray(params[name], np.float64) for name in ("weight", "bias"))
    losses = []
    for i, rate in enumerate(rates):
        at = i % (len(X) // size) * size
        x, error = X[at : at + size].astype(np.float64), None
        error = x @ weight + bias - Y[at : at + size]
        losses.append(np.mean(error**2))
        weight = weight - rate * 2 * x.T @ error / size
        bias = bias - rate * 2 * error.mean(0)
    return np.array(losses)


@pytest.fixture(scope="module")
def found():
    return value(search(), QUIET)


def test_the_curve_is_that_of_gradient_descent_with_a_growing_rate(found):
    rates = np.geomspace(1e-4, 100, 60)[: len(found.rates)]
    np.testing.assert_allclose(found.rates, rates, rtol=1e-12)
    np.testing.assert_allclose(found.losses, by_hand(rates), rtol=2e-4)
    smoothed, total = [], 0.0
    for i, each in enumerate(found.losses):
        total = 0.9 * total + 0.1 * each
        smoothed.append(total / (1 - 0.9 ** (i + 1)))
    np.testing.assert_allclose(found.smoothed, smoothed, rtol=1e-12)


def test_it_ends_where_the_smoothed_loss_is_four_times_its_lowest(found):
    assert found.diverged
    assert len(found.rates) < 60
    assert found.smoothed[-1] > 4 * found.smoothed.min()
    before = np.minimum.accumulate(found.smoothed)[:-1]
    assert (found.smoothed[:-1] <= 4 * before).all()


def test_the_suggested_rate_trains_and_ten_times_the_last_does_not(found):
    def trained(rate):
        batches = stream.minibatches(X, Y, batch_size=8)
        return train.epochs(model=MODEL, optimizer=optim.sgdw(rate), train_batches=lambda c: batches, epochs=10)

    good = value(trained(found.suggested), QUIET).curve
    assert good[-1].train_loss < 0.5 * good[0].train_loss
    assert isinstance(fault(trained(10 * found.rates[-1]), QUIET), NonFinite)


def test_what_is_suggested_by_definition():
    rates = np.geomspace(1e-3, 1, 7)
    losses = np.array([2.0, 1.9, 1.2, 1.0, 0.9, 1.5, 4.0])
    found = train.RateRange(rates, losses, losses, True)
    assert found.suggested == rates[4] / 10
    assert found.steepest == rates[2]  # from 1.9 to 1.0 in two steps
    rising = train.RateRange(rates, losses[::-1], np.arange(7.0), True)
    assert (rising.suggested, rising.steepest) == (None, None)
    assert repr(rising) == "<RateRange: 7 rates up to 1, where the loss diverged; suggested: none>"
    assert "suggested: 0.01>" in repr(found)


def test_a_curve_that_does_not_diverge_has_every_step():
    found = value(search(highest=1e-2, steps=12), QUIET)
    assert (len(found.rates), found.diverged) == (12, False)
    assert found.rates[-1] == pytest.approx(1e-2)


def test_a_loss_that_is_not_finite_is_the_end_of_the_curve():
    found = value(search(lowest=1e30, highest=1e38, steps=8), QUIET)
    assert found.diverged
    assert len(found.rates) == 1
    assert np.isfinite(found.losses).all()


def test_a_first_step_that_is_not_finite_is_a_fault():
    bad = np.where(np.arange(40)[:, None] == 0, np.inf, Y).astype(np.float32)
    batches = stream.minibatches(X, bad, batch_size=8)
    assert isinstance(fault(search(train_batches=lambda c: batches), QUIET), NonFinite)


def test_negative_losses_diverge_only_upwards():
    model = train.supervised(nn.linear(1), lambda made, y: (made - y)[:, 0] ** 2 - 100.0)
    found = value(search(model=model, highest=1e-2, steps=12), QUIET)
    assert (len(found.rates), found.diverged) == (12, False)


def test_one_pass_over_a_stream_that_must_be_acquired_is_enough():
    opened = []

    def batches(context):
        pieces = stream.from_items([(X[i : i + 8], Y[i : i + 8]) for i in range(0, 40, 8)])
        return Resource.from_value(pieces).map(lambda made: opened.append(1) or made)

    found = value(search(train_batches=batches), QUIET)
    assert opened == [1]
    np.testing.assert_array_equal(found.losses, value(search(), QUIET).losses)


def test_running_twice_gives_the_same_twice_and_an_executor_changes_nothing(found):
    again = value(search(), Runtime(log=None, executor=train.Fused(chunk=7)))
    np.testing.assert_array_equal(found.losses, again.losses)


def test_explain_says_every_step_and_the_rates():
    plan = str(search().explain())
    assert "train 1 epoch of 60 steps of 8 rows" in plan
    assert "schedule: 0.0001 at first, 100 at most, 100 at last" in plan


def test_steps_that_an_optimizer_skips_are_not_in_the_curve():
    bad = np.where(np.arange(40)[:, None] == 9, np.nan, Y).astype(np.float32)
    batches = stream.minibatches(X, bad, batch_size=8)
    skipping = {"optimizer": lambda rate: optim.skip_non_finite(optim.sgdw(rate), at_most=3), "steps": 10, "highest": 1e-2}
    found = value(search(train_batches=lambda c: batches, **skipping), QUIET)
    np.testing.assert_allclose(found.rates, np.delete(np.geomspace(1e-4, 1e-2, 10), [1, 6]), rtol=1e-12)
    assert np.isfinite(found.losses).all()


def test_what_it_fails_with():
    empty = stream.minibatches(X[:0], Y[:0], batch_size=8)
    assert isinstance(fault(search(train_batches=lambda c: empty), QUIET), EmptyEpoch)
    wrong = stream.minibatches(X, Y[:, 0], batch_size=8)
    assert isinstance(fault(search(train_batches=lambda c: wrong), QUIET), ShapeMismatch)
    assert isinstance(search(train_batches=lambda c: wrong).explain().fault, ShapeMismatch)
    for given, message in (
        (optim.sgdw(0.1), "optimizer is a function from a rate to an optimizer, as optim.adamw"),
        (lambda: None, "takes 0 positional arguments|too many positional arguments"),
        (lambda rate: rate, "a function that returned 1.0"),
    ):
        with pytest.raises(TypeError, match=message):
            search(optimizer=given)
    with pytest.raises(ValueError, match="highest"):
        search(lowest=1.0, highest=0.5)


def test_a_stop_has_the_curve_so_far():
    token = CancelToken()
    taken = []

    def counted(batch):
        taken.append(1)
        if len(taken) == 4:
            token.cancel()
        return batch

    batches = stream.from_items([(X[i : i + 8], Y[i : i + 8]) for i in range(0, 40, 8)])
    program = search(train_batches=lambda c: batches.map(counted, spec=batches.spec))
    stopped = fault(program, Runtime(log=None, cancel=token))
    assert isinstance(stopped, Interrupted)
    assert len(stopped.state.rates) == 4


def test_the_picture(found, tmp_path):
    path = tmp_path / "rates.png"
    assert value(plots.rate_range(found, path=path)) == path
    assert path.read_bytes().startswith(b"\x89PNG")
    flat = train.RateRange(np.ones(1), np.ones(1), np.ones(1), False)
    assert value(plots.rate_range(flat, path=path)) == path
