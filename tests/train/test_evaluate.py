"""Evaluation: its numbers, its faults, its place in a program."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from returns.pipeline import is_successful
from returns.unsafe import unsafe_perform_io

from fnlamp import loss, nn, optim, stream, train
from fnlamp.effect import Effect, Resource, Runtime
from fnlamp.fault import EmptyEpoch, Interrupted, LabelOutOfRange, NoWeight, ShapeMismatch

RNG = np.random.default_rng(4)
X = RNG.random((37, 5), np.float32)
Y = np.where(RNG.random(37) < 0.25, -100, RNG.integers(0, 3, 37))
WEIGHTS = np.array([0.5, 1.0, 3.0], np.float32)
MODEL = train.supervised(nn.linear(6) >> nn.batch_norm() >> nn.dropout(0.5) >> nn.linear(3), loss.cross_entropy(WEIGHTS))
METRICS = {"accuracy": loss.accuracy, "plain": loss.cross_entropy()}
IN_ORDER = stream.minibatches(X, Y, batch_size=8)


def training(**options):
    defaults = {"model": MODEL, "optimizer": optim.sgdw(0.1), "train_batches": lambda c: IN_ORDER, "epochs": 1}
    return train.epochs(**{**defaults, **options})


def outcome(program, **options):
    got = program.run(Runtime(**{"log": None, **options}))
    return unsafe_perform_io(got.unwrap() if is_successful(got) else got.failure())


@pytest.fixture(scope="module")
def trained():
    return outcome(training())


def evaluated(trained, batches, metrics=METRICS, **options):
    return outcome(Effect.from_value(trained).bind(train.evaluate(batches, metrics)), **options)


def by_hand(trained):
    """In float64 from the prediction: each row's loss, its weight, whether it counts, whether it is right."""
    logits = np.asarray(trained.predict(X), np.float64)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    counted = Y >= 0
    label = np.where(counted, Y, 0)
    return -logp[np.arange(37), label] * counted, WEIGHTS[label] * counted, counted, logits.argmax(-1) == Y


@pytest.mark.slow
@pytest.mark.parametrize(
    "executor",
    [*(pytest.param(e, marks=pytest.mark.slow) for e in (train.Stepwise(), train.Fused(chunk=2))), train.Fused()],
    ids=str,
)
def test_the_figures_are_numpys(trained, executor):
    each, weight, counted, right = by_hand(trained)
    means = [(each * weight)[i : i + 8].sum() / weight[i : i + 8].sum() for i in range(0, 37, 8)]
    found = evaluated(trained, IN_ORDER, executor=executor)
    assert found.loss == pytest.approx((each * weight).sum() / weight.sum(), rel=1e-6)
    assert found.loss_of_batches == pytest.approx(np.mean(means), rel=1e-6)
    assert found.metrics["accuracy"] == pytest.approx(right[counted].mean(), rel=1e-6)
    assert found.metrics["plain"] == pytest.approx(each.sum() / counted.sum(), rel=1e-6)
    assert (found.batches, found.samples) == (5, 37)


def test_every_executor_gives_the_same_bits(trained):
    first = evaluated(trained, IN_ORDER, executor=train.Stepwise())
    for executor in (train.Fused(chunk=1), train.Fused(chunk=3), train.Fused()):
        assert evaluated(trained, IN_ORDER, executor=executor) == first


def test_the_figures_do_not_depend_on_the_batches(trained):
    whole = evaluated(trained, stream.full_batch(X, Y))
    split = evaluated(trained, stream.minibatches(X, Y, batch_size=5, seed=3))
    assert split.loss == pytest.approx(whole.loss, rel=1e-6)
    assert split.metrics["accuracy"] == pytest.approx(whole.metrics["accuracy"], rel=1e-6)
    assert whole.loss == pytest.approx(whole.loss_of_batches, rel=1e-6)
    assert split.loss_of_batches != pytest.approx(whole.loss, rel=1e-4)


def test_evaluating_changes_nothing(trained):
    before = [np.asarray(leaf) for leaf in jax.tree.leaves(trained.state)]
    assert evaluated(trained, IN_ORDER) == evaluated(trained, IN_ORDER)
    for a, b in zip(before, jax.tree.leaves(trained.state), strict=True):
        np.testing.assert_array_equal(a, np.asarray(b))


def test_evaluating_while_training_gives_the_same_figures_and_leaves_no_trace(trained):
    validated = outcome(training(validation_batches=lambda c: IN_ORDER, metrics=METRICS))
    (report,), found = validated.curve, evaluated(validated, IN_ORDER)
    assert (report.validation_loss, report.validation_loss_of_batches) == (found.loss, found.loss_of_batches)
    assert dict(report.validation_metrics) == dict(found.metrics)
    for a, b in zip(jax.tree.leaves(trained.state), jax.tree.leaves(validated.state), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_a_label_out_of_range_is_found_in_streams_of_every_kind(trained):
    labels = np.where(np.arange(37) == 20, 7, Y)
    plain = stream.minibatches(X, labels, batch_size=8)
    for s in (
        plain.map(lambda batch: (batch[0], batch[1])),
        stream.from_items(list(stream.items(plain))),
        stream.from_items(list(stream.items(plain))).map(lambda batch: (batch[0], batch[1])),
    ):
        found = evaluated(trained, s)
        assert (type(found), found.label, found.row) == (LabelOutOfRange, 7, 4)


def test_what_cannot_be_evaluated_is_a_failure(trained):
    assert evaluated(trained, stream.minibatches(X, Y, batch_size=50, drop_last=True)) == EmptyEpoch(37, 50, True)
    assert isinstance(evaluated(trained, stream.minibatches(X[:, :4], Y, batch_size=8)), ShapeMismatch)
    found = evaluated(trained, stream.minibatches(X, np.full(37, 3), batch_size=8))
    assert (type(found), found.label) == (LabelOutOfRange, 3)
    assert evaluated(trained, stream.minibatches(X, np.full(37, -100), batch_size=8)) == NoWeight(1)


def test_the_epoch_in_which_nothing_counts_is_named():
    ignored = stream.minibatches(X, np.full(37, -100), batch_size=8)
    found = outcome(training(epochs=3, validate_every=2, validation_batches=lambda c: ignored))
    assert found == NoWeight(2)


def test_a_metric_is_a_loss_value(trained):
    with pytest.raises(TypeError, match=r"mean_only returned float, expected LossValue\(total, weight\)"):
        evaluated(trained, IN_ORDER, {"mean": mean_only})
    found = evaluated(trained, IN_ORDER, {"rows": lambda p, t: loss.LossValue(p[:, 0], 1.0)})
    assert (type(found), found.expected) == (ShapeMismatch, "a scalar total and a scalar weight")


def mean_only(prediction, target):
    return 3.0


def test_a_factory_is_told_the_epoch_and_a_resource_is_released(trained):
    log = []

    def opened(context):
        acquire = Effect.suspend(lambda: log.append(context.epoch) or IN_ORDER)
        return Resource.make(acquire, lambda s, got: Effect.suspend(lambda: log.append(type(got).__name__)))

    assert evaluated(trained, opened) == evaluated(trained, IN_ORDER)
    assert log == [1, "Success"]
    with pytest.raises(TypeError, match="expected BatchStream or Resource"):
        evaluated(trained, lambda context: None)


def test_a_cancelled_evaluation_is_interrupted(trained):
    runtime, calls = Runtime(log=None, executor=train.Stepwise()), []

    def ring(batch):
        calls.append(1)
        if len(calls) == 2:
            runtime.cancel.cancel()
        return batch

    program = Effect.from_value(trained).bind(train.evaluate(IN_ORDER.map(ring, spec=IN_ORDER.spec)))
    assert isinstance(unsafe_perform_io(program.run(runtime).failure()), Interrupted)
    assert len(calls) == 2


def test_explaining_shows_the_evaluation_and_its_fault():
    plan = training().bind(train.evaluate(IN_ORDER, METRICS)).explain()
    assert "evaluate: loss, accuracy, plain, on 5 batches of 8 rows, the last of 5" in plan
    assert plan.fault is None
    assert "on a stream made when it is run" in training().bind(train.evaluate(lambda c: pytest.fail("called"))).explain()
    empty = stream.minibatches(X, Y, batch_size=50, drop_last=True)
    assert training().bind(train.evaluate(empty)).explain().fault == EmptyEpoch(37, 50, True)
