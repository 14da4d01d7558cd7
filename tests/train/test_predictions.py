"""The predictions of a whole stream: numbers, order, one program, faults, stops."""

from __future__ import annotations

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from outcomes import fault, value
from returns.result import Success

from fnlamp import loss, nn, optim, stream, train
from fnlamp.effect import CancelToken, Effect, Resource, Runtime
from fnlamp.fault import EmptyEpoch, Interrupted, ShapeMismatch
from fnlamp.train.execute.programs import PROGRAMS

RNG = np.random.default_rng(3)
X = RNG.normal(size=(37, 5)).astype(np.float32)
Y = RNG.integers(0, 3, 37)
QUIET = Runtime(log=None)
MODEL = train.supervised(nn.linear(6) >> nn.batch_norm() >> nn.dropout(0.5) >> nn.linear(3), loss.cross_entropy())


def trained_of(model, x=X, y=Y):
    batches = stream.minibatches(x, y, batch_size=10)
    return value(train.epochs(model=model, optimizer=optim.sgdw(0.1), train_batches=lambda c: batches, epochs=1), QUIET)


@pytest.fixture(scope="module")
def trained():
    return trained_of(MODEL)


def predicted(trained, batches, runtime=QUIET):
    return value(Effect.from_value(trained).bind(train.predict_batches(batches)), runtime)


def by_hand(trained, x=X):
    """In float64, with the running moments and without dropout."""
    parts = [jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), p) for p in (trained.params, trained.layer_state)]
    first, norm, last = parts[0].values()
    (moments,) = parts[1].values()
    hidden = x @ first["weight"] + first["bias"]
    hidden = (hidden - moments["mean"]) / np.sqrt(moments["variance"] + 1e-5) * norm["scale"] + norm["shift"]
    return hidden @ last["weight"] + last["bias"]


def host(x, size):
    """A stream without a compiled view."""
    return stream.from_items([x[i : i + size] for i in range(0, len(x), size)])


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 8, 12, 37, 64])
def test_the_rows_are_those_of_numpy_in_the_order_of_the_stream(trained, size):
    found = predicted(trained, stream.minibatches(X, Y, batch_size=size))
    assert type(found) is np.ndarray
    assert found.shape == (37, 3)
    np.testing.assert_allclose(found, by_hand(trained), rtol=2e-5, atol=2e-6)


def test_a_shuffled_stream_gives_its_own_order(trained):
    order = np.concatenate([y for _, y in stream.items(stream.minibatches(X, np.arange(37), batch_size=8, seed=5))])
    found = predicted(trained, stream.minibatches(X, Y, batch_size=8, seed=5))
    np.testing.assert_allclose(found, by_hand(trained)[order], rtol=2e-5, atol=2e-6)


@pytest.mark.broad
@pytest.mark.parametrize(
    "batches",
    [
        stream.from_arrays(X, batch_size=8),
        stream.from_arrays({"x": X}, batch_size=8).map(lambda batch: batch["x"]),
        stream.minibatches(2 * X, Y, batch_size=8).map(lambda batch, factor: (batch[0] * factor, batch[1]), 0.5),
        host(X, 8),
        host(2 * X, 8).map(lambda x: x / 2),
        Resource.from_value(host(X, 8)),
        lambda context: stream.from_arrays(X, batch_size=8),
    ],
    ids=["arrays", "mapped dict", "mapped pairs", "host", "mapped host", "resource", "factory"],
)
def test_features_come_alone_or_with_a_target_from_any_stream(trained, batches):
    np.testing.assert_allclose(predicted(trained, batches), by_hand(trained), rtol=2e-5, atol=2e-6)


def test_the_short_last_batch_compiles_nothing_of_its_own(trained):
    PROGRAMS.clear()
    gc.collect()
    predicted(trained, host(X, 8))
    assert len(PROGRAMS) == 1
    program = next(iter(PROGRAMS._values.values()))
    assert program._cache_size() == 1
    predicted(trained, stream.from_arrays(X[:21], batch_size=8))
    assert (len(PROGRAMS), program._cache_size()) == (1, 1)


def test_the_program_is_the_one_of_predict(trained):
    found = predicted(trained, stream.from_arrays(X, batch_size=8))
    np.testing.assert_array_equal(found, np.asarray(trained.predict(X, batch_size=8)))


def test_predictions_may_be_a_tree(trained):
    model = train.supervised(nn.linear(3) >> nn.fun(lambda x: {"a": x, "b": x.sum(-1)}), lambda made, y: made["b"] - y)
    made = predicted(trained_of(model), host(X, 8))
    assert made["a"].shape == (37, 3)
    np.testing.assert_allclose(made["b"], made["a"].sum(-1), rtol=1e-5, atol=1e-6)


def test_batches_whose_shapes_differ_are_joined_where_the_predictions_agree():
    model = train.supervised(nn.fun(lambda x: x.mean(1, keepdims=True)) >> nn.linear(2), loss.mse())
    trained = trained_of(model, RNG.random((12, 4), np.float32), np.zeros((12, 2), np.float32))
    wide, narrow = np.ones((3, 9), np.float32), np.ones((2, 4), np.float32)
    found = predicted(trained, stream.from_iterable(lambda: [wide, narrow], spec=wide))
    np.testing.assert_allclose(found, np.repeat(found[:1], 5, 0), rtol=1e-6)


def test_a_kept_model_predicts_too(trained):
    np.testing.assert_allclose(predicted(trained.last, host(X, 8)), by_hand(trained), rtol=2e-5, atol=2e-6)


def test_on_the_device_of_the_runtime(trained):
    runtime = Runtime(log=None, device=jax.devices("cpu")[0])
    np.testing.assert_allclose(predicted(trained, host(X, 8), runtime), by_hand(trained), rtol=2e-5, atol=2e-6)


def test_what_it_fails_with(trained):
    def of(batches):
        return fault(Effect.from_value(trained).bind(train.predict_batches(batches)), QUIET)

    assert isinstance(of(stream.from_arrays(X[:0], batch_size=8)), EmptyEpoch)
    assert isinstance(of(host(X, 8).filter(lambda batch: False)), EmptyEpoch)
    assert isinstance(of(host(X[:, :4], 8)), ShapeMismatch)
    with pytest.raises(TypeError, match=r"write training\.bind\(predict_batches\(batches\)\)"):
        train.predict_batches(host(X, 8))(X)
    with pytest.raises(TypeError, match="batches"):
        train.predict_batches(X)


def test_a_prediction_without_a_row_each_is_a_fault():
    def squares(made, y):
        return loss.LossValue(jnp.square(made).sum(), jnp.float32(30))

    model = train.supervised(nn.linear(3) >> nn.fun(lambda x: x.reshape(-1)), squares)
    found = fault(Effect.from_value(trained_of(model)).bind(train.predict_batches(host(X, 8))), QUIET)
    assert isinstance(found, ShapeMismatch)
    assert "expected a prediction of 8 rows, got float32[24]; trained.predict(x, batch_size=None)" in str(found)


def test_a_stop_between_two_batches_keeps_the_trained_model(trained):
    token = CancelToken()

    def stopping(batch):
        token.cancel()
        return batch

    batches = host(X, 8).map(stopping, spec=X[:8])
    program = Effect.from_value(trained).bind(train.predict_batches(batches))
    stopped = fault(program, Runtime(log=None, cancel=token))
    assert isinstance(stopped, Interrupted)
    assert stopped.state is trained


def test_explain_says_it_and_finds_an_empty_stream():
    batches = stream.minibatches(X, Y, batch_size=10)
    training = train.epochs(model=MODEL, optimizer=optim.sgdw(0.1), train_batches=lambda c: batches, epochs=1)
    plan = training.bind(train.predict_batches(batches)).explain()
    assert "predict_batches: a prediction for every row, on 4 batches of 10 rows, the last of 7" in str(plan)
    empty = stream.minibatches(X[:0], Y[:0], batch_size=10)
    assert isinstance(training.bind(train.predict_batches(empty)).explain().fault, EmptyEpoch)


def test_half_precision_stays(trained):
    model = train.supervised(nn.linear(3), loss.cross_entropy(), precision=train.bfloat16)
    assert predicted(trained_of(model), host(X, 8)).dtype == jnp.bfloat16


def test_running_twice_gives_the_same_twice(trained):
    program = train.predict_batches(host(X, 8))(trained)
    first, second = program.run(QUIET), program.run(QUIET)
    assert isinstance(first._inner_value, Success)
    np.testing.assert_array_equal(*(outcome._inner_value.unwrap() for outcome in (first, second)))


def test_a_batch_without_rows_has_no_predictions(trained):
    batches = stream.from_items([X[:8], X[:0], X[8:11]])
    np.testing.assert_allclose(predicted(trained, batches), by_hand(trained)[:11], rtol=2e-5, atol=2e-6)
