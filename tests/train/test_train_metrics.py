"""Metrics of training batches: the same figures as evaluation gives while nothing moves, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest
from outcomes import fault, value

from fnlamp import loss, nn, optim, stream, train
from fnlamp.effect import Runtime
from fnlamp.fault import ShapeMismatch

QUIET = Runtime(log=None)
RNG = np.random.default_rng(4)
X = RNG.standard_normal((47, 6)).astype(np.float32)
Y = np.where(RNG.random(47) < 0.2, -100, RNG.integers(0, 4, 47)).astype(np.int32)
METRICS = {"accuracy": loss.accuracy, "table": loss.confusion_matrix(), "f1": loss.f1()}


def describe(**options):
    defaults = {
        "model": train.supervised(nn.linear(8) >> nn.tanh >> nn.linear(4), loss.cross_entropy()),
        "optimizer": optim.sgdw(0.1),
        "train_batches": lambda context: stream.minibatches(X, Y, batch_size=10, seed=context.seed),
        "train_metrics": METRICS,
        "epochs": 2,
    }
    return train.epochs(**{**defaults, **options})


@pytest.mark.slow
@pytest.mark.parametrize(
    "gradient", [train.plain, train.microbatches(3), train.perturbed(0.1), train.adversarial(0.1)], ids=lambda g: g.name
)
def test_while_nothing_moves_they_are_those_of_evaluation(gradient):
    trained = value(describe(optimizer=optim.sgdw(0.0), gradient=gradient), QUIET)
    evaluation = value(train.evaluate(stream.full_batch(X, Y), METRICS)(trained), QUIET)
    for report in trained.curve:
        assert report.train_metrics["accuracy"] == pytest.approx(evaluation.metrics["accuracy"], rel=1e-7)
        assert report.train_metrics["f1"] == pytest.approx(evaluation.metrics["f1"], rel=1e-7)
        np.testing.assert_array_equal(report.train_metrics["table"], evaluation.metrics["table"])
    assert "Training Accuracy: " in str(trained.curve[0]) and "Training Table: 4x4 numbers" in str(trained.curve[0])


@pytest.mark.slow
@pytest.mark.parametrize("executor", [train.Stepwise(), train.Fused(chunk=3)], ids=str)
def test_they_change_no_bit_of_training(executor):
    runtime = Runtime(log=None, executor=executor)
    seen, plain = (value(describe(train_metrics=metrics), runtime) for metrics in (METRICS, {}))
    for a, b in zip(jax.tree.leaves(seen.params), jax.tree.leaves(plain.params), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    assert [replace(r, seconds=0.0, train_metrics={}) for r in seen.curve] == [replace(r, seconds=0.0) for r in plain.curve]


class Stopping:
    """An executor that cancels the run after its n-th dispatch."""

    def __init__(self, cancel, at):
        self.cancel, self.left = cancel, at

    def fold(self, *given):
        for reached in train.Fused(chunk=1).fold(*given):
            self.left -= 1
            if self.left == 0:
                self.cancel.cancel()
            yield reached


@pytest.mark.slow
def test_a_run_resumed_within_an_epoch_has_the_same_figures():
    whole = value(describe(), QUIET)
    stopping = Runtime(log=None)
    stopped = fault(describe(), replace(stopping, executor=Stopping(stopping.cancel, 7)))
    resumed = value(describe(resume=stopped.state), QUIET)
    assert [replace(r, seconds=0.0) for r in resumed.curve] == [replace(r, seconds=0.0) for r in whole.curve]
    other = fault(describe(resume=stopped.state, train_metrics={}), QUIET)
    assert isinstance(other, ShapeMismatch) and other.where == "resume/tally"


def test_at_the_start_of_an_epoch_other_metrics_may_be_taken():
    part = value(describe(epochs=1, train_metrics={}), QUIET)
    resumed = value(describe(resume=part), QUIET)
    assert resumed.curve[1].train_metrics["accuracy"] > 0


def test_folds_read_them_by_name():
    trained = value(describe(folds={"best": train.best("train_accuracy", highest=True)}, epochs=4), QUIET)
    figures = [report.train_metrics["accuracy"] for report in trained.curve]
    assert trained.kept["best"].epoch == figures.index(max(figures)) + 1
    with pytest.raises(ValueError, match="reads 'train_recall', which no report has"):
        describe(folds={"best": train.best("train_recall")})


def test_wrong_ones_are_refused():
    with pytest.raises(TypeError, match="train_metrics is a dict by name"):
        describe(train_metrics=[loss.accuracy])
    with pytest.raises(TypeError, match=r"train_metrics\['accuracy'\] is a function"):
        describe(train_metrics={"accuracy": "accuracy"})
