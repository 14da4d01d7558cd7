"""Running moments computed again: against NumPy in float64, against torch, and what stays as it was."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from outcomes import fault, needs, value

from fnlamp import Train, loss, nn, optim, stream, surgery, train
from fnlamp.effect import CancelToken, Effect, Runtime
from fnlamp.fault import BatchTooSmall, EmptyEpoch, Interrupted, NonFinite, ShapeMismatch
from fnlamp.layer import Init, Layer

RNG = np.random.default_rng(8)
X = (RNG.normal(size=(43, 5)) * [1, 10, 0.1, 3, 1] + [0, 20, -1, 30, 0]).astype(np.float32)
Y = RNG.integers(0, 3, 43)
QUIET = Runtime(log=None)


def trained_of(layer, epochs=1, **options):
    batches = stream.minibatches(X, Y, batch_size=10, drop_last=True)
    program = train.epochs(
        **{
            "model": train.supervised(layer, loss.cross_entropy()),
            "optimizer": optim.sgdw(0.01),
            "train_batches": lambda c: batches,
            "epochs": epochs,
            **options,
        }
    )
    return value(program, QUIET)


def again(trained, batches, runtime=QUIET):
    return value(Effect.from_value(trained).bind(train.recalibrate(batches)), runtime)


def pieces(size, x=X):
    return [np.asarray(x[i : i + size], np.float64) for i in range(0, len(x), size)]


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.fixture(scope="module")
def deep():
    return trained_of(nn.linear(6) >> nn.batch_norm(0.999) >> nn.relu >> nn.batch_norm(0.0) >> nn.linear(3), epochs=2)


def by_hand(trained, batches):
    """The means over the batches, weighted by rows, of the moments of each, layer after layer, in float64."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), trained.params)
    first, norm, *_ = params.values()
    found = []
    for x in batches:
        hidden = x @ first["weight"] + first["bias"]
        one = hidden.mean(0), hidden.var(0, ddof=1)
        hidden = (hidden - one[0]) / np.sqrt(hidden.var(0) + 1e-5) * norm["scale"] + norm["shift"]
        hidden = np.maximum(hidden, 0)
        found.append((len(x), [*one, hidden.mean(0), hidden.var(0, ddof=1)]))
    rows = sum(n for n, _ in found)
    return [sum(n * moments[i] for n, moments in found) / rows for i in range(4)]


@pytest.mark.broad
@pytest.mark.parametrize("size", [10, 9, 43])
def test_the_moments_are_the_means_over_the_batches(deep, size):
    found = again(deep, stream.from_arrays(X, batch_size=size))
    first, second = found.layer_state.values()
    made = first["mean"], first["variance"], second["mean"], second["variance"]
    for ours, theirs in zip(made, by_hand(deep, pieces(size)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-5)
        assert ours.dtype == jnp.float32


@pytest.mark.broad
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.999, 0.99999])
def test_a_decay_near_one_loses_no_digits(decay):
    found = again(trained_of(nn.batch_norm(decay) >> nn.linear(3)), stream.from_arrays(X, batch_size=10, drop_last=True))
    moments = found.layer_state["0"]
    batches = pieces(10)[:4]
    np.testing.assert_allclose(moments["mean"], np.mean([b.mean(0) for b in batches], 0), rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(moments["variance"], np.mean([b.var(0, ddof=1) for b in batches], 0), rtol=1e-5)


def test_nothing_else_changes(deep):
    found = again(deep, stream.minibatches(X, Y, batch_size=10))
    for name in ("model", "params", "curve", "state", "kept"):
        assert getattr(found, name) is getattr(deep, name)
    assert found.layer_state is not deep.layer_state
    same(found.last.layer_state, found.layer_state)
    kept = again(deep.last, stream.minibatches(X, Y, batch_size=10))
    assert isinstance(kept, train.Kept)
    same(kept.layer_state, found.layer_state)


@pytest.mark.parametrize("executor", [train.Stepwise(), train.Fused(chunk=2)], ids=str)
def test_every_executor_finds_the_same(deep, executor):
    runtime = Runtime(log=None, executor=executor)
    batches = stream.from_arrays(X, batch_size=10)
    same(again(deep, batches, runtime).layer_state, again(deep, batches).layer_state)


@needs("torch")
def test_the_moments_are_torchs(deep):
    import torch

    module = torch.nn.Sequential(
        torch.nn.Linear(5, 6), torch.nn.BatchNorm1d(6), torch.nn.ReLU(), torch.nn.BatchNorm1d(6), torch.nn.Linear(6, 3)
    )
    first, norm, second, last = deep.params.values()
    with torch.no_grad():
        for layer, ours in zip((module[0], module[4]), (first, last), strict=True):
            layer.weight.copy_(torch.tensor(np.array(ours["weight"]).T))
            layer.bias.copy_(torch.tensor(np.array(ours["bias"])))
        for layer, ours in zip((module[1], module[3]), (norm, second), strict=True):
            layer.weight.copy_(torch.tensor(np.array(ours["scale"])))
            layer.bias.copy_(torch.tensor(np.array(ours["shift"])))
    batches = [torch.tensor(X[i : i + 10]) for i in range(0, 40, 10)]  # torch gives a short batch a full weight
    torch.optim.swa_utils.update_bn(batches, module)
    found = again(deep, stream.from_arrays(X, batch_size=10, drop_last=True))
    for layer, moments in zip((module[1], module[3]), found.layer_state.values(), strict=True):
        np.testing.assert_allclose(moments["mean"], layer.running_mean.numpy(), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(moments["variance"], layer.running_var.numpy(), rtol=1e-5, atol=1e-6)


def test_without_batch_norm_it_is_the_same_model():
    trained = trained_of(nn.linear(3))
    assert again(trained, stream.from_arrays(X, batch_size=10)) is trained


def counting(decay=0.9):
    """A layer with a running mean, a count, an array that training does not move, and a root mean square, which is no mean."""

    def init(key, spec):
        state = {"count": jnp.zeros((), jnp.int32), "fixed": jnp.ones(2), "mean": jnp.zeros(5), "rms": jnp.ones(5)}
        return Init({}, state, spec, {})

    def apply(params, state, x, mode):
        if not isinstance(mode, Train):
            return x, state
        square = decay * jnp.square(state["rms"]) + (1 - decay) * jnp.mean(jnp.square(x), 0)
        return x, {
            "count": state["count"] + 1,
            "fixed": state["fixed"],
            "mean": decay * state["mean"] + (1 - decay) * x.mean(0),
            "rms": jnp.sqrt(square),
        }

    return Layer(init, apply, "counting")


def test_state_that_is_no_running_mean_is_left_and_named():
    trained, lines = trained_of(nn.sequence(own=counting(), out=nn.linear(3))), []
    found = again(trained, stream.from_arrays(X, batch_size=43), Runtime(log=lines.append)).layer_state["own"]
    before = trained.layer_state["own"]
    for name in ("count", "fixed", "rms"):
        same(found[name], before[name])
    np.testing.assert_allclose(found["mean"], X.astype(np.float64).mean(0), rtol=2e-6, atol=1e-6)
    left = "own/count, own/fixed, own/rms"
    assert lines == [f"recalibrate: left as they are, since they are not running means of batches: {left}"]


def test_averaged_parameters_are_evaluated_with_moments_of_their_own():
    average = optim.Optimizer(
        **{**vars(optim.sgdw(0.5)), "evaluated": lambda state, params: jax.tree.map(lambda p: p / 2, params), "name": "half"}
    )
    trained = trained_of(nn.linear(6) >> nn.batch_norm() >> nn.linear(3), optimizer=average)
    found = again(trained, stream.from_arrays(X, batch_size=43))
    hidden = X.astype(np.float64) @ np.asarray(trained.params["0"]["weight"], np.float64) + np.asarray(
        trained.params["0"]["bias"], np.float64
    )
    np.testing.assert_allclose(found.layer_state["1"]["mean"], hidden.mean(0), rtol=1e-4, atol=1e-4)
    assert found.state is trained.state


@pytest.mark.slow
def test_dropout_draws_the_same_in_every_run(deep):
    trained = trained_of(nn.dropout(0.5) >> nn.batch_norm() >> nn.linear(3))
    batches = stream.from_arrays(X, batch_size=10)
    first = again(trained, batches)
    same(first.layer_state, again(trained, batches).layer_state)
    assert (np.asarray(first.layer_state["1"]["variance"]) > X.var(0)).sum() >= 4  # that of x * mask / 0.5


def test_what_it_fails_with(deep):
    def of(batches):
        return fault(Effect.from_value(deep).bind(train.recalibrate(batches)), QUIET)

    assert isinstance(of(stream.from_arrays(X[:0], batch_size=8)), EmptyEpoch)
    assert isinstance(of(stream.from_items([X]).filter(lambda x: False)), EmptyEpoch)
    assert isinstance(of(stream.from_arrays(X, batch_size=42)), BatchTooSmall)
    assert isinstance(of(stream.from_arrays(X[:, :4], batch_size=42)), ShapeMismatch)
    bad = of(stream.from_items([X[:10], np.full((10, 5), np.nan, np.float32)]))
    assert isinstance(bad, NonFinite)
    assert (bad.step, bad.state) == (2, deep)


def test_a_stop_keeps_the_trained_model(deep):
    token = CancelToken()

    def stopping(batch):
        token.cancel()
        return batch

    batches = stream.from_items([X[:10], X[10:20]]).map(stopping, spec=X[:10])
    program = Effect.from_value(deep).bind(train.recalibrate(batches))
    stopped = fault(program, Runtime(log=None, cancel=token))
    assert isinstance(stopped, Interrupted)
    assert stopped.state is deep


@pytest.mark.slow
def test_moments_after_frozen_parameters() -> None:
    """Frozen parameters are state that a step passes on: they stay as they are, and the moments behind them are found."""
    trained = trained_of(surgery.freeze(nn.linear(4, bias=False)) >> nn.batch_norm() >> nn.linear(3))
    found = again(trained, stream.from_arrays(X, batch_size=len(X)))
    weight = np.asarray(trained.layer_state["0"]["frozen"]["weight"])
    np.testing.assert_array_equal(found.layer_state["0"]["frozen"]["weight"], weight)
    hidden = X.astype(np.float64) @ weight
    np.testing.assert_allclose(found.layer_state["1"]["mean"], hidden.mean(0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.layer_state["1"]["variance"], hidden.var(0, ddof=1), rtol=1e-4)
