"""Means that must not hide anything: totals of NaN, negative weights, and weights of classes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import loss, nn, optim, stream, train
from fnlamp.effect import Runtime
from fnlamp.fault import FaultError, LabelOutOfRange, ShapeMismatch
from fnlamp.loss import LossValue
from fnlamp.loss.value import checked_value

torch = pytest.importorskip("torch", reason="torch comes with the extra parity")

NAN, INF = float("nan"), float("inf")
RNG = np.random.default_rng(1)
LOGITS = RNG.standard_normal((12, 4)).astype(np.float32)
LABELS = RNG.integers(0, 4, 12)


@pytest.mark.parametrize(
    ("total", "weight", "mean"),
    [
        (6.0, 3.0, 2.0),
        (0.0, 0.0, 0.0),
        (-6.0, 3.0, -2.0),
        (NAN, 0.0, NAN),
        (NAN, 3.0, NAN),
        (INF, 3.0, INF),
        (INF, 0.0, NAN),
        (1.0, 0.0, NAN),
        (1.0, -1.0, NAN),
        (-6.0, -3.0, NAN),
        (0.0, -1.0, NAN),
        (1.0, NAN, NAN),
        (0.0, NAN, NAN),
        (1.0, INF, 0.0),
    ],
)
@pytest.mark.parametrize("how", [lambda f: f, jax.jit], ids=["eager", "compiled"])
def test_the_mean(total, weight, mean, how):
    got = how(lambda t, w: LossValue(t, w).mean)(jnp.float32(total), jnp.float32(weight))
    np.testing.assert_equal(float(got), mean)


@pytest.mark.parametrize(("total", "weight"), [(1.0, -1.0), (0.0, -1.0), (NAN, 0.0), (1.0, 0.0), (0.0, NAN)])
def test_one_batch_without_a_mean_is_not_hidden_among_others(total, weight):
    def measured(prediction, target):
        bad = target[0, 0] == 2
        return LossValue(jnp.where(bad, total, 3.0), jnp.where(bad, weight, 2.0))

    batches = stream.minibatches(np.zeros((4, 1), np.float32), np.arange(4, dtype=np.float32)[:, None], batch_size=1)
    program = train.epochs(
        model=train.supervised(nn.linear(1), loss.mse()),
        optimizer=optim.sgdw(0.1),
        train_batches=lambda context: batches,
        validation_batches=lambda context: batches,
        metrics={"measured": measured},
        epochs=1,
    )
    trained = program.run(Runtime(log=None)).unwrap()._inner_value
    assert np.isnan(trained.curve[0].validation_metrics["measured"])
    fine = train.evaluate(batches.take(2), {"measured": measured})(trained).run(Runtime(log=None)).unwrap()._inner_value
    assert fine.metrics["measured"] == 1.5


def test_a_total_that_is_no_number_is_told_by_the_loss_that_returned_it():
    with pytest.raises(TypeError, match="wordy returned LossValue"):
        checked_value("wordy", LossValue("much", 1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
def test_the_mean_of_plain_numbers(dtype):
    assert float(LossValue(dtype(6), dtype(3)).mean) == 2
    assert float(LossValue(6, 3).mean) == 2


def test_a_batch_of_ignored_rows_has_no_gradient():
    slope = jax.grad(lambda x: loss.cross_entropy()(x, jnp.full(12, -100)).mean)(jnp.asarray(LOGITS))
    np.testing.assert_array_equal(slope, 0)


@pytest.mark.parametrize("make", [loss.nll, loss.cross_entropy])
@pytest.mark.parametrize(
    "weights", [[1, -1, 1, 1], [1, NAN, 1, 1], [1, INF, 1, 1], [0, 0, 0, 0], np.zeros(4, np.float32), []], ids=str
)
def test_class_weights_are_finite_and_not_negative(make, weights):
    with pytest.raises(ValueError, match="class_weights are finite, not negative and not all 0"):
        make(weights)


@pytest.mark.parametrize("weights", ["balanced", {0: 1.0, 1: 2.0}, [[1.0], [2.0, 3.0]], [None, "a"]], ids=str)
def test_class_weights_are_numbers(weights):
    with pytest.raises(TypeError, match="class_weights is one number per class"):
        loss.cross_entropy(weights)
    with pytest.raises(TypeError, match="positive_weights is one number"):
        loss.bce_with_logits(weights)


def test_class_weights_by_label_are_refused():
    pandas = pytest.importorskip("pandas")
    with pytest.raises(TypeError, match="sort_index"):
        loss.cross_entropy(1 / pandas.Series(LABELS).value_counts())


@pytest.mark.parametrize("shape", [(1,), (3,), (5,)])
def test_there_is_one_weight_a_class(shape):
    with pytest.raises(FaultError) as caught:
        loss.nll(np.ones(shape))(LOGITS, LABELS)
    assert isinstance(caught.value.fault, ShapeMismatch)
    assert caught.value.fault.expected == "class weights of shape [4]"


@pytest.mark.parametrize("weights", [2.0, np.ones((4, 1)), np.ones(4, bool)], ids=["a number", "a column", "booleans"])
def test_class_weights_are_a_vector_of_numbers(weights):
    with pytest.raises(ValueError, match="class_weights is one number per class"):
        loss.nll(weights)


@pytest.mark.parametrize("weights", [[0, 1, 2, 0.5], (1, 0, 0, 0), np.float16([1, 2, 3, 4]), np.array([1, 2, 3, 4])], ids=str)
def test_weights_of_zero_and_of_any_dtype_are_those_of_torch(weights):
    theirs = torch.nn.CrossEntropyLoss(torch.tensor(np.asarray(weights, np.float32)))
    expected = float(theirs(torch.tensor(LOGITS), torch.tensor(LABELS)))
    assert float(loss.cross_entropy(weights)(LOGITS, LABELS).mean) == pytest.approx(expected, rel=1e-6)


def test_a_batch_whose_classes_all_weigh_nothing_is_like_an_ignored_one():
    value = loss.cross_entropy([1.0, 0, 0, 0])(LOGITS, np.full(12, 2))
    assert (float(value.total), float(value.weight), float(value.mean)) == (0, 0, 0)


def test_later_changes_of_the_array_do_not_reach_the_loss():
    weights = np.array([1.0, 2, 3, 4])
    made = loss.cross_entropy(weights)
    before = float(made(LOGITS, LABELS).total)
    weights[:] = 7
    assert float(made(LOGITS, LABELS).total) == before


@pytest.mark.parametrize(("target", "row"), [([0, 1, -1], 2), ([0, 2, 1], 1), ([NAN, 1, 0], 0), ([37.5, 0, 0], 0)])
def test_targets_of_binary_cross_entropy_outside_of_0_to_1(target, row):
    """torch returns losses without a lower bound: -1 with a logit of -100 is -100."""
    made, target = loss.bce_with_logits(), np.array(target, np.float32)
    assert np.isnan(float(made(np.zeros(3, np.float32), target).mean))
    with pytest.raises(FaultError) as caught:
        made.check(None, target)
    assert isinstance(caught.value.fault, LabelOutOfRange)
    assert caught.value.fault.row == row


@pytest.mark.parametrize("target", [[0, 1, 0.3], [1.0039, 0, 0.5], [True, False, True]])
def test_targets_that_are_shares(target):
    made, logits = loss.bce_with_logits(), np.array([-1.0, 0.5, 2.0], np.float32)
    made.check(None, np.array(target))
    expected = torch.nn.BCEWithLogitsLoss()(torch.tensor(logits), torch.tensor(np.array(target, np.float32)))
    assert float(made(logits, np.array(target)).mean) == pytest.approx(float(expected), rel=1e-6)
