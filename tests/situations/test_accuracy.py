"""Accuracies against scikit-learn and NumPy: one logit, several labels, labels that do not count, and large batches."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import loss
from fnlamp.fault import DtypeMismatch, FaultError, LabelOutOfRange, NotDifferentiable, ShapeMismatch

metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn comes with the extra test")

RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal(500).astype(np.float32)
TARGET = (LOGITS + 0.3 * RNG.standard_normal(500) > 0).astype(np.int32)
SCORES = RNG.standard_normal((60, 5)).astype(np.float32)
LABELS = RNG.integers(0, 5, 60)
MANY, PRESENT = RNG.standard_normal((40, 7)).astype(np.float32), RNG.integers(0, 2, (40, 7))


def share(value):
    return float(value.total) / float(value.weight)


def fault_of(function):
    with pytest.raises(FaultError) as caught:
        function()
    return caught.value.fault


# ------------------------------------------------------------------------------- one logit


@pytest.mark.parametrize(
    "shapes", [((500,), (500,)), ((500, 1), (500,)), ((500, 1), (500, 1)), ((500,), (500, 1)), ((50, 10), (50, 10))]
)
@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.int8, bool, np.float32, np.float16])
def test_binary_accuracy_of_logits(shapes, dtype):
    value = loss.binary_accuracy(threshold=0.0)(LOGITS.reshape(shapes[0]), TARGET.astype(dtype).reshape(shapes[1]))
    assert share(value) == pytest.approx(metrics.accuracy_score(TARGET, LOGITS > 0), rel=1e-7)
    assert float(value.weight) == 500


@pytest.mark.parametrize("threshold", [0.5, 0.3, 0.9])
def test_binary_accuracy_of_probabilities(threshold):
    p = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    value = jax.jit(loss.binary_accuracy(threshold))(p.astype(np.float32), TARGET)
    assert share(value) == pytest.approx(metrics.accuracy_score(TARGET, p > threshold), rel=1e-7)


@pytest.mark.parametrize("prediction", [LOGITS[:, None], LOGITS], ids=["column", "vector"])
def test_accuracy_of_one_logit_is_a_fault_that_names_the_metric(prediction):
    fault = fault_of(lambda: loss.accuracy(prediction, TARGET))
    assert isinstance(fault, ShapeMismatch)
    assert "loss.binary_accuracy(threshold=0.0)" in str(fault)


@pytest.mark.parametrize("make", [loss.cross_entropy, loss.nll])
def test_so_are_losses_of_classes(make):
    fault = fault_of(lambda: make()(LOGITS[:, None], np.zeros(500, np.int32)))
    assert isinstance(fault, ShapeMismatch)
    assert "bce_with_logits" in str(fault)


def test_ignored_rows_do_not_count():
    target = np.where(np.arange(500) % 3, TARGET, -100)
    kept = target >= 0
    value = loss.binary_accuracy(0.0)(LOGITS, target)
    assert share(value) == pytest.approx(metrics.accuracy_score(TARGET[kept], LOGITS[kept] > 0), rel=1e-7)
    other = loss.binary_accuracy(0.0, ignored=255)(LOGITS, np.where(kept, target, 255).astype(np.uint8))
    assert (float(other.total), float(other.weight)) == (float(value.total), float(value.weight))


# ------------------------------------------------------------------------------- several labels


def test_multilabel_accuracy():
    labels = loss.multilabel_accuracy(0.0)(MANY, PRESENT)
    assert share(labels) == pytest.approx(1 - metrics.hamming_loss(PRESENT, MANY > 0), rel=1e-7)
    rows = loss.multilabel_accuracy(0.0, exact=True)(MANY, (MANY > 0) ^ (np.arange(40) % 4 == 0)[:, None])
    assert share(rows) == 0.75
    easy = loss.multilabel_accuracy(-10.0, exact=True)(MANY, np.where(np.arange(7) == 2, 0, 1) * np.ones((40, 1), int))
    assert share(easy) == 0
    ignoring = loss.multilabel_accuracy(-10.0, exact=True)(MANY, np.where(np.arange(7) == 2, -100, 1) * np.ones((40, 1), int))
    assert share(ignoring) == 1


@pytest.mark.parametrize("target", [PRESENT[:, 0], PRESENT[:, :3], np.zeros((40, 7, 1), int)])
def test_targets_of_another_shape_are_a_fault(target):
    for metric in (loss.multilabel_accuracy(0.0), loss.binary_accuracy(0.0)):
        if target.ndim == 3 and metric.name == "binary_accuracy":
            continue
        assert isinstance(fault_of(lambda m=metric: m(MANY, target)), ShapeMismatch)
    assert "loss.accuracy" in str(fault_of(lambda: loss.binary_accuracy(0.0)(MANY, PRESENT[:, 0])))


# ------------------------------------------------------------------------------- labels


@pytest.mark.parametrize("label", [5, -1, 1000, 2**31 - 1])
def test_a_label_that_is_no_class_is_no_miss(label):
    labels = LABELS.copy()
    labels[7] = label
    assert np.isnan(float(jax.jit(loss.accuracy)(SCORES, labels).mean))
    assert fault_of(lambda: loss.accuracy.check(jax.ShapeDtypeStruct((60, 5), np.float32), labels)) == LabelOutOfRange(
        label, 5, 7, where="accuracy"
    )


def test_what_only_the_loss_ignores_is_named():
    labels = np.where(np.arange(60) % 2, LABELS, -1)
    fault = fault_of(lambda: loss.accuracy.check(jax.ShapeDtypeStruct((60, 5), np.float32), labels))
    assert "accuracy(ignored=-1)" in str(fault)
    kept = labels >= 0
    right = metrics.accuracy_score(LABELS[kept], SCORES[kept].argmax(-1))
    for value in (loss.accuracy(SCORES, labels, ignored=-1), loss.accuracy(ignored=-1)(SCORES, labels)):
        assert share(value) == pytest.approx(right, rel=1e-7)
    assert loss.accuracy(ignored=-1) == loss.accuracy(ignored=-1)
    assert loss.accuracy() is loss.accuracy


def test_labels_in_64_bits_do_not_wrap():
    with jax.enable_x64(True):
        wrapped = LABELS.astype(np.int64) + 2**32
        assert np.isnan(float(loss.accuracy(SCORES, wrapped).total))
        assert np.isnan(float(loss.cross_entropy()(SCORES, wrapped).total))
        assert np.isnan(float(loss.cross_entropy()(SCORES, wrapped.astype(np.uint64)).total))
        assert share(loss.accuracy(SCORES, LABELS)) == metrics.accuracy_score(LABELS, SCORES.argmax(-1))


@pytest.mark.parametrize("target", [-1, 2, 0.5])
def test_binary_targets_are_0_and_1(target):
    target = np.where(np.arange(500) == 3, target, TARGET)
    metric = loss.binary_accuracy(0.0)
    assert np.isnan(float(metric(LOGITS, target).mean))
    fault = fault_of(lambda: metric.check(None, target))
    assert isinstance(fault, LabelOutOfRange)
    assert (fault.row, "(target + 1) / 2" in str(fault)) == (3, True)


def test_one_hot_labels_are_told():
    fault = fault_of(lambda: loss.accuracy(SCORES, np.eye(5, dtype=np.int32)[LABELS]))
    assert "target.argmax(-1)" in str(fault)
    assert "multilabel_accuracy" in str(fault)
    assert isinstance(fault_of(lambda: loss.accuracy(SCORES, LABELS.astype(np.float32))), DtypeMismatch)


# ------------------------------------------------------------------------------- numbers


def test_predictions_that_are_not_numbers_are_no_hits():
    scores, logits = SCORES.copy(), LOGITS.copy()
    scores[3, 2] = logits[4] = np.nan
    assert np.isnan(float(loss.accuracy(scores, LABELS).mean))
    assert np.isnan(float(loss.binary_accuracy(0.0)(logits, TARGET).mean))
    target = TARGET.copy()
    target[4] = -100
    assert float(loss.binary_accuracy(0.0)(logits, target).weight) == 499
    assert share(loss.accuracy(np.where(np.isnan(scores), -np.inf, scores), LABELS)) > 0


@pytest.mark.slow
def test_counts_of_a_large_batch_are_whole_numbers():
    rows = 2**24 + 4
    prediction, target = np.zeros(rows, np.float16), np.zeros(rows, np.int8)
    target[0] = 1
    value = loss.binary_accuracy(0.0)(prediction, target)
    assert (int(value.total), int(value.weight)) == (int(np.float32(rows - 1)), rows)
    plain = loss.cross_entropy()(jnp.zeros((rows, 2), jnp.float16), target)
    assert int(plain.weight) == rows
    assert float(plain.mean) == pytest.approx(np.log(2), rel=1e-6)


def test_it_is_a_metric():
    def objective(x):
        return loss.differentiable(loss.binary_accuracy(0.0)(x, jnp.asarray(TARGET)).mean, x, "binary_accuracy")

    assert fault_of(lambda: jax.grad(objective)(jnp.asarray(LOGITS))) == NotDifferentiable("binary_accuracy")


@pytest.mark.parametrize("wrong", ["0.5", None, np.nan, [0.5], True])
def test_thresholds_are_numbers(wrong):
    for make in (loss.binary_accuracy, loss.multilabel_accuracy):
        with pytest.raises((TypeError, ValueError), match="threshold is a number"):
            make(wrong)
    with pytest.raises(TypeError, match="threshold=0.0 for logits"):
        loss.binary_accuracy(LOGITS, TARGET)
    with pytest.raises(TypeError, match="threshold=0.5 for probabilities"):
        loss.multilabel_accuracy()
