"""A layer and a loss as one model: dtypes, faults, and the update that a run applies."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from returns.pipeline import is_successful
from returns.unsafe import unsafe_perform_io

from fnlamp import loss, nn, optim, stream, train
from fnlamp.arrays import array_spec
from fnlamp.effect import Runtime
from fnlamp.fault import FaultError, NonFinite, ShapeMismatch
from fnlamp.mode import Eval
from fnlamp.tag import Role

RNG = np.random.default_rng(5)
X = RNG.random((20, 3), np.float32)
Y = RNG.random((20, 2), np.float32)
HALF, FULL = jnp.dtype("bfloat16"), jnp.dtype("float32")


def outcome(model, **options):
    defaults = {"optimizer": optim.sgdw(0.05), "train_batches": lambda c: stream.minibatches(X, Y, batch_size=8), "epochs": 1}
    executor = options.pop("executor", None)
    got = train.epochs(model=model, **{**defaults, **options}).run(Runtime(log=None, executor=executor))
    return unsafe_perform_io(got.unwrap() if is_successful(got) else got.failure())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stored", "used"),
    [(HALF, FULL), (FULL, HALF), *(pytest.param(dtype, dtype, marks=pytest.mark.slow) for dtype in (HALF, FULL))],
)
def test_parameters_are_stored_in_one_dtype_and_used_in_the_other(stored, used):
    seen = []
    spy = nn.fun(lambda x: seen.append(x.dtype) or x, "spy")
    model = train.supervised(
        nn.linear(4) >> spy >> nn.tanh >> nn.linear(2), loss.mse(), precision=train.Precision(stored, used)
    )
    trained = outcome(model, epochs=20)
    assert {leaf.dtype for leaf in jax.tree.leaves(trained.params)} == {stored}
    assert used in set(seen)
    assert trained.predict(X).dtype == used
    assert trained.curve[-1].train_loss < 0.9 * trained.curve[0].train_loss
    made = model.describe(array_spec((8, 3), jnp.float32))
    assert {leaf.dtype for leaf in jax.tree.leaves(made.params)} == {stored}


def test_integers_reach_the_layer_as_they_are():
    model = train.supervised(nn.fun(lambda x: x.astype(float), "cast") >> nn.linear(2), loss.mse(), precision=train.bfloat16)
    assert model.describe(array_spec((8, 3), jnp.uint8)).spec.dtype == FULL
    seen = []
    spy = train.supervised(nn.fun(lambda x: seen.append(x.dtype) or x.astype(float), "cast") >> nn.linear(2), loss.mse())
    params, state = spy.init(jax.random.key(0), array_spec((8, 3), jnp.uint8))
    spy.forward(params, state, jnp.zeros((8, 3), jnp.uint8), Eval())
    assert set(seen) == {np.dtype("uint8")}


def test_the_description_is_that_of_what_is_made():
    model = train.supervised(
        nn.linear(4) >> nn.batch_norm() >> nn.linear(2), loss.mse(), precision=train.Precision(params=jnp.bfloat16)
    )
    params, state = model.init(jax.random.key(0), array_spec((8, 3), jnp.float32))
    made = model.describe(array_spec((8, 3), jnp.float32))
    for specs, arrays in ((made.params, params), (made.state, state)):
        assert jax.tree.map(lambda x: (x.shape, x.dtype), specs) == jax.tree.map(lambda x: (x.shape, x.dtype), arrays)


def test_a_loss_is_a_pair_of_scalars():
    def rows(prediction, target):
        return loss.LossValue(jnp.sum(jnp.square(prediction - target), axis=1), jnp.ones(prediction.shape[0]))

    found = outcome(train.supervised(nn.linear(2), rows))
    assert isinstance(found, ShapeMismatch)
    assert (found.where, found.actual) == ("rows", "total [8], weight [8]")
    with pytest.raises(TypeError, match="lonely returned"):
        outcome(train.supervised(nn.linear(2), lonely))


def lonely(prediction, target):
    return jnp.mean(prediction)


def test_a_fault_in_a_layer_says_where_it_is():
    model = train.supervised(nn.sequence(hidden=nn.linear(4), out=nn.linear(2)), loss.mse())
    params, state = model.init(jax.random.key(0), array_spec((8, 3), jnp.float32))
    with pytest.raises(FaultError) as caught:
        model.evaluate(params, state, (jnp.zeros((8, 5)), jnp.zeros((8, 2))), Eval())
    assert caught.value.fault.where == "model/hidden/linear"
    with pytest.raises(FaultError, match="a batch \\(features, target\\)"):
        model.evaluate(params, state, jnp.zeros((8, 3)), Eval())


# ------------------------------------------------------------------------------- the update of a run, by hand


def descended(schedule, rate, decay):
    """SGD on the mean squared error of a linear model, in float64."""
    w = np.asarray(
        nn.linear(2, bias=False).init(jax.random.key(0), array_spec((8, 3), jnp.float32)).params["weight"], np.float64
    )
    start = {"weight": np.asarray(w, np.float32)}
    x, y, step = X.astype(np.float64), Y.astype(np.float64), 0
    for _ in range(3):
        for at in range(0, 20, 8):
            a, b = x[at : at + 8], y[at : at + 8]
            gradient = 2 * a.T @ (a @ w - b) / b.size
            w = w - schedule(step) * rate * gradient - schedule(step) * rate * decay * w
            step += 1
    return start, w


@pytest.mark.parametrize("executor", [train.Stepwise(), train.Fused(chunk=2)], ids=str)
def test_each_step_is_the_rule_with_the_schedules_factor(executor):
    start, expected = descended(lambda step: 1 / (1 + step), 0.3, 0.1)
    trained = outcome(
        train.supervised(nn.linear(2, bias=False), loss.mse()),
        initial=start,
        optimizer=optim.sgdw(0.3, 0.1),
        schedule=lambda step: 1 / (1 + step),
        epochs=3,
        executor=executor,
    )
    np.testing.assert_allclose(trained.params["weight"], expected, rtol=2e-6, atol=1e-7)


def test_a_rate_of_zero_by_role_leaves_biases_alone():
    rate = lambda tag: 0.0 if tag.role is Role.BIAS else 0.1  # noqa: E731
    model = train.supervised(nn.linear(2), loss.mse())
    start, end = (outcome(model, optimizer=optim.sgdw(rate), epochs=n).params for n in (0, 1))
    np.testing.assert_array_equal(start["bias"], end["bias"])
    assert (start["weight"] != end["weight"]).all()


@pytest.mark.parametrize("executor", [train.Stepwise(), train.Fused(chunk=2), train.Fused()], ids=str)
def test_a_gradient_that_overflows_under_a_finite_loss_is_named_and_not_applied(executor):
    # The square root's slope is infinite at 0, which only the last batch reaches.
    def root(prediction, target):
        total = jnp.sum(jnp.sqrt(jnp.sum(jnp.square(prediction * target), axis=1)))
        return loss.LossValue(total, jnp.asarray(prediction.shape[0], jnp.float32))

    target = np.ones((20, 2), np.float32)
    target[19] = 0
    model = train.supervised(nn.linear(2, bias=False), root)
    in_order = stream.minibatches(X, target, batch_size=8)
    found = outcome(model, train_batches=lambda c: in_order, executor=executor)
    assert isinstance(found, NonFinite)
    assert (found.what, found.epoch, found.step) == ("update", 1, 3)
    good = outcome(model, train_batches=lambda c: in_order.take(2), executor=executor)
    np.testing.assert_array_equal(found.state.params["weight"], good.params["weight"])
    assert np.isfinite(found.state.predict(X)).all()


def test_a_later_epoch_that_breaks_keeps_the_curve_so_far():
    def fine_at_first(context):
        x = X.copy()
        if context.epoch == 2:
            x[9] = np.inf
        return stream.minibatches(x, Y, batch_size=8)

    found = outcome(train.supervised(nn.linear(2), loss.mse()), train_batches=fine_at_first, epochs=3)
    assert (found.what, found.epoch, found.step) == ("loss", 2, 5)
    assert [report.epoch for report in found.state.curve] == [1]
