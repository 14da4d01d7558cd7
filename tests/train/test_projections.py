"""Optimizers around an optimizer, in the loop: averages are what validation uses, skipped steps leave no trace."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from outcomes import fault, value

from fnlamp import Eval, loss, nn, optim, stream, train
from fnlamp.effect import Runtime
from fnlamp.fault import NonFinite

QUIET = Runtime(log=None)
RNG = np.random.default_rng(6)
X = RNG.standard_normal((32, 5)).astype(np.float32)
Y = (X[:, :1] - X[:, 1:2]).astype(np.float32)
LAYER = nn.linear(8) >> nn.batch_norm() >> nn.tanh >> nn.linear(1)
SPOILT = np.where(np.arange(32)[:, None] == 11, np.inf, X).astype(np.float32)  # one row of the second batch

AVERAGES = {
    "ema": lambda rule: optim.ema(rule, 0.9),
    "swa": lambda rule: optim.swa(rule, start=5, every=2),
    "lookahead": lambda rule: optim.lookahead(rule, 3),
    "schedule_free": optim.schedule_free,
}


def describe(**options):
    defaults = {
        "model": train.supervised(LAYER, loss.mse()),
        "optimizer": optim.sgdw(0.05, momentum=0.9),
        "train_batches": lambda context: stream.minibatches(X, Y, batch_size=8, seed=context.seed),
        "validation_batches": lambda context: stream.full_batch(X, Y),
        "epochs": 3,
    }
    return train.epochs(**{**defaults, **options})


def same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.mark.slow
@pytest.mark.parametrize("name", AVERAGES)
def test_validation_and_predictions_use_the_average_and_training_continues_without_it(name):
    optimizer = AVERAGES[name](optim.sgdw(0.05, momentum=0.9))
    trained = value(describe(optimizer=optimizer), QUIET)
    state = trained.state
    same(trained.params, optimizer.evaluated(state.optimizer_state, state.params))
    pairs = zip(*map(jax.tree.leaves, (trained.params, state.params)), strict=True)
    assert any((np.asarray(a) != np.asarray(b)).any() for a, b in pairs) or name == "lookahead"
    evaluation = value(train.evaluate(stream.full_batch(X, Y))(trained), QUIET)
    assert trained.curve[-1].validation_loss == pytest.approx(evaluation.loss, rel=1e-6)
    prediction = trained.model.forward(trained.params, trained.layer_state, jnp.asarray(X), Eval())[0]
    np.testing.assert_allclose(trained.predict(X), prediction, rtol=1e-5, atol=1e-6)
    same(value(describe(initial=trained, epochs=0), QUIET).params, trained.params)


@pytest.mark.broad
@pytest.mark.parametrize("name", AVERAGES)
def test_executors_and_resuming_give_the_same_bits(name):
    program = describe(optimizer=AVERAGES[name](optim.adamw(0.01)))
    whole = value(program, QUIET)
    same(value(program, Runtime(log=None, executor=train.Stepwise())).state, whole.state)
    part = value(describe(optimizer=AVERAGES[name](optim.adamw(0.01)), epochs=1), QUIET)
    same(value(describe(optimizer=AVERAGES[name](optim.adamw(0.01)), resume=part), QUIET).state, whole.state)


@pytest.mark.broad
@pytest.mark.parametrize("name", ["ema", "swa"])
def test_an_average_changes_no_bit_of_training(name):
    plain, averaged = (value(describe(optimizer=o), QUIET) for o in (optim.sgdw(0.05), AVERAGES[name](optim.sgdw(0.05))))
    same(averaged.state.params, plain.params)
    assert [r.train_loss for r in averaged.curve] == [r.train_loss for r in plain.curve]


def test_the_best_of_an_average_is_the_average():
    optimizer = AVERAGES["ema"](optim.sgdw(0.05))
    seen = {}
    hook = lambda report, trained: seen.update({report.epoch: jax.tree.map(np.array, trained.params)})  # noqa: E731
    trained = value(describe(optimizer=optimizer, folds={"best": train.best()}, on_epoch=hook), QUIET)
    same(trained.kept["best"].params, seen[trained.kept["best"].epoch])


@pytest.mark.broad
@pytest.mark.parametrize("executor", [train.Stepwise(), train.Fused(chunk=3)], ids=str)
def test_a_skipped_step_leaves_no_trace_but_its_count(executor):
    batches = lambda context: stream.minibatches(SPOILT, Y, batch_size=8)  # noqa: E731
    without = lambda context: stream.from_items([(X[i : i + 8], Y[i : i + 8]) for i in (0, 16, 24)])  # noqa: E731
    runtime = Runtime(log=None, executor=executor)
    rule = optim.skip_non_finite(optim.sgdw(0.05, momentum=0.9))
    skipping = value(describe(optimizer=rule, train_batches=batches), runtime)
    plain = value(describe(optimizer=rule, train_batches=without), runtime)
    same((skipping.params, skipping.layer_state), (plain.params, plain.layer_state))
    drop = {"seconds": 0.0, "skipped": 0}
    assert [replace(r, **drop) for r in skipping.curve] == [replace(r, **drop) for r in plain.curve]
    assert [r.skipped for r in skipping.curve] == [1, 2, 3]
    assert str(skipping.curve[-1]).endswith("Skipped Steps: 3")


def test_too_many_skipped_steps_in_a_row_end_the_run_with_the_last_good_state():
    spoilt = lambda context: stream.minibatches(np.full_like(X, np.nan) if context.epoch == 2 else X, Y, batch_size=8)  # noqa: E731
    rule = optim.skip_non_finite(optim.sgdw(0.05), at_most=2)
    found = fault(describe(optimizer=rule, train_batches=spoilt), QUIET)
    assert isinstance(found, NonFinite)
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves((found.state.params, found.state.layer_state)))


def test_an_epoch_of_skipped_steps_alone_is_a_fault_and_not_an_average():
    spoilt = lambda context: stream.minibatches(np.full_like(X, np.nan), Y, batch_size=8)  # noqa: E731
    found = fault(describe(optimizer=optim.skip_non_finite(optim.sgdw(0.05), at_most=100), train_batches=spoilt), QUIET)
    assert isinstance(found, NonFinite)


def test_float16_finds_its_loss_scale_in_epochs_of_one_step():
    options = {
        "model": train.supervised(LAYER, loss.mse(), precision=train.float16),
        "train_batches": lambda context: stream.full_batch(X, 30 * Y),
        "train_metrics": {"mae": loss.mae()},
        "folds": {"best": train.best("train_loss")},
    }
    trained = value(describe(**options, epochs=12), QUIET)
    assert [report.steps for report in trained.curve[:4]] == [0, 0, 0, 0]
    assert trained.curve[-1].skipped == sum(report.steps == 0 for report in trained.curve) < 12
    for report in trained.curve:
        assert np.isnan(report.train_loss) == np.isnan(report.train_loss_of_batches) == (report.steps == 0)
        assert set(report.train_metrics) == ({"mae"} if report.steps else set())
    assert trained.curve[trained.kept["best"].epoch - 1].steps == 1
    part = value(describe(**options, epochs=3), QUIET)
    same(value(describe(**options, epochs=12, resume=part), QUIET).state, trained.state)


@pytest.mark.slow
def test_float16_finds_its_loss_scale_and_trains():
    features = RNG.standard_normal((256, 8)).astype(np.float32)
    labels = (features[:, :3]).argmax(axis=1)
    batches = lambda context: stream.minibatches(features, labels, batch_size=32, seed=context.seed)  # noqa: E731
    layer = nn.linear(32) >> nn.relu >> nn.linear(3)

    def run(precision):
        model = train.supervised(layer, loss.cross_entropy(), precision=precision)
        options = {"train_batches": batches, "validation_batches": batches, "metrics": {"accuracy": loss.accuracy}}
        return value(describe(model=model, optimizer=optim.adamw(0.01), epochs=8, **options), QUIET)

    full, half, brain = map(run, (train.float32, train.float16, train.bfloat16))
    for other in (half, brain):
        assert abs(other.curve[-1].validation_metrics["accuracy"] - full.curve[-1].validation_metrics["accuracy"]) <= 0.03
    assert half.state.optimizer_state["loss_scale"] >= 1
    assert {leaf.dtype.name for leaf in jax.tree.leaves(half.params)} == {"float32"}


def test_scaling_keeps_gradients_that_float16_would_lose():
    # A loss times 1e-7: its gradients are below float16's smallest number unless they are scaled.
    def tiny(prediction, target):
        return 1e-7 * jnp.square((prediction - target).astype(jnp.float32))[:, 0]

    def moved(precision):
        given = {"optimizer": optim.sgdw(1e5), "validation_batches": None}
        program = describe(model=train.supervised(nn.linear(1), tiny, precision=precision), epochs=1, **given)
        first = value(describe(model=train.supervised(nn.linear(1), tiny), **{**given, "epochs": 0}), QUIET)
        return np.asarray(value(program, QUIET).params["weight"]) - np.asarray(first.params["weight"])

    wanted = moved(train.float32)
    np.testing.assert_allclose(moved(train.float16), wanted, rtol=0.02, atol=1e-4)
    assert not np.allclose(moved(train.Precision(compute=jnp.float16)), wanted, rtol=0.02, atol=1e-4)
