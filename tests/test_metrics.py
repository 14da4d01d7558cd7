"""Metrics against scikit-learn: random data with ignored rows, an absent class and ties, split into batches in any way."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from fnlamp import loss
from fnlamp.fault import DtypeMismatch, FaultError, LabelOutOfRange, ShapeMismatch
from fnlamp.loss import Average, as_metric
from fnlamp.loss.regression import product

ROWS, CLASSES = 211, 5
AVERAGES = {Average.MACRO: "macro", Average.MICRO: "micro", Average.WEIGHTED: "weighted", Average.EACH: None}
each_average = pytest.mark.parametrize("average", AVERAGES, ids=lambda a: a.name)
each_seed = pytest.mark.parametrize("seed", range(4))


def data(seed):
    """Logits with ties, labels of all classes but one, a quarter of them ignored; a class that is never predicted."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 1, 2, 4], ROWS)
    logits = np.round(rng.standard_normal((ROWS, CLASSES)) + np.eye(CLASSES)[labels], 1).astype(np.float32)
    logits[:, 0] = -9
    return logits, np.where(rng.random(ROWS) < 0.25, -100, labels)


def in_batches(metric, prediction, target, size=32):
    """The figure of sums that are added up in float64, batch by batch."""
    metric = as_metric(metric)
    parts = [metric.measure(prediction[i : i + size], target[i : i + size]) for i in range(0, len(target), size)]
    return metric.figure(jax.tree.map(lambda *xs: np.sum(np.asarray(xs, np.float64), axis=0), *parts))


def kept(logits, labels):
    return logits[labels >= 0], labels[labels >= 0]


# ------------------------------------------------------------------------------- classes


@pytest.mark.broad
@each_seed
@each_average
@pytest.mark.parametrize("zero", [0.0, 1.0, np.nan])
@pytest.mark.parametrize("name", ["precision", "recall", "f1"])
def test_figures_per_class_are_scikit_learns(name, zero, average, seed):
    logits, labels = data(seed)
    some, true = kept(logits, labels)
    theirs = getattr(sk, f"{name}_score")
    expected = theirs(true, some.argmax(-1), labels=range(CLASSES), average=AVERAGES[average], zero_division=zero)
    metric = getattr(loss, name)(average, zero_division=zero)
    np.testing.assert_allclose(metric(logits, labels), expected, rtol=1e-12)
    np.testing.assert_allclose(in_batches(metric, logits, labels), expected, rtol=1e-12)


@pytest.mark.broad
@each_seed
@each_average
@pytest.mark.parametrize("zero", [0.0, 1.0, np.nan])
@pytest.mark.parametrize("name", ["precision", "recall", "f1"])
def test_several_labels_a_row_are_classes_of_their_own(name, zero, average, seed):
    rng = np.random.default_rng(seed)
    logits = np.round(rng.standard_normal((ROWS, 4)), 1).astype(np.float32)
    target = (rng.random((ROWS, 4)) < [0.5, 0.2, 0.0, 0.8]).astype(np.int32)
    logits[:, 3] = -1
    theirs = getattr(sk, f"{name}_score")
    expected = theirs(target, logits > 0, average=AVERAGES[average], zero_division=zero)
    metric = getattr(loss, name)(average, threshold=0.0, zero_division=zero)
    np.testing.assert_allclose(in_batches(metric, logits, target), expected, rtol=1e-12)


@pytest.mark.broad
@each_seed
@pytest.mark.parametrize("name", ["precision", "recall", "f1"])
def test_one_number_a_row_is_the_figure_of_the_positive_class(name, seed):
    rng = np.random.default_rng(seed)
    scores, target = rng.random(ROWS).astype(np.float32), rng.integers(0, 2, ROWS)
    ignoring = np.where(rng.random(ROWS) < 0.2, -100, target)
    counted = ignoring >= 0
    expected = getattr(sk, f"{name}_score")(target[counted], scores[counted] > 0.3)
    metric = getattr(loss, name)(threshold=0.3)
    assert in_batches(metric, scores, ignoring) == pytest.approx(expected, rel=1e-12)
    assert metric(scores[:, None], ignoring) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("zero", [0.0, 0.5, np.nan])
@each_average
def test_without_a_row_that_counts_figures_are_zero_division(average, zero):
    logits, labels = data(0)
    found = loss.f1(average, zero_division=zero)(logits, np.full_like(labels, -100))
    np.testing.assert_array_equal(found, np.full(CLASSES, zero) if average is Average.EACH else zero)


@pytest.mark.slow
@each_seed
def test_the_confusion_matrix_is_scikit_learns(seed):
    logits, labels = data(seed)
    some, true = kept(logits, labels)
    expected = sk.confusion_matrix(true, some.argmax(-1), labels=range(CLASSES))
    for found in (loss.confusion_matrix()(logits, labels), in_batches(loss.confusion_matrix(), logits, labels)):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == np.int64
    np.testing.assert_array_equal(loss.confusion_matrix(ignored=2)(some, true)[2], 0)
    pixels = loss.confusion_matrix()(logits[:210].reshape(2, 105, CLASSES), labels[:210].reshape(2, 105))
    np.testing.assert_array_equal(pixels, loss.confusion_matrix()(logits[:210], labels[:210]))


@pytest.mark.broad
@each_seed
@pytest.mark.parametrize("k", [1, 2, 3])
def test_top_k_is_scikit_learns_but_for_ties(k, seed):
    logits, labels = data(seed)
    some, true = kept(logits, labels)
    # Of ties, scikit-learn takes the last class: the first one if the classes are in reverse order.
    expected = sk.top_k_accuracy_score(CLASSES - 1 - true, some[:, ::-1], k=k, labels=range(CLASSES))
    assert in_batches(loss.top_k_accuracy(k), logits, labels) == pytest.approx(expected, rel=1e-6)
    if k == 1:
        assert float(loss.top_k_accuracy(1)(logits, labels).mean) == float(loss.accuracy(logits, labels).mean)


def test_top_k_of_as_many_classes_is_refused():
    for k in (5, 6):
        with pytest.raises(FaultError, match=f"more than {k} classes"):
            loss.top_k_accuracy(k)(jnp.zeros((2, 5)), jnp.zeros(2, int))


# ------------------------------------------------------------------------------- ROC


def binary(seed):
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 2, ROWS)
    scores = np.round(np.clip(0.3 * rng.standard_normal(ROWS) + 0.35 + 0.3 * target, 0, 1), 2)  # many ties
    return scores, target, np.where(rng.random(ROWS) < 0.2, -100, target)


@each_seed
def test_the_exact_area_is_scikit_learns_with_ties(seed):
    scores, target, ignoring = binary(seed)
    counted = ignoring >= 0
    assert loss.exact_auroc(scores, target) == pytest.approx(sk.roc_auc_score(target, scores), rel=1e-12)
    assert loss.exact_auroc(scores, ignoring) == pytest.approx(sk.roc_auc_score(target[counted], scores[counted]), rel=1e-12)
    close = 1 + 1e-12 * np.arange(ROWS)  # equal in float32
    assert loss.exact_auroc(close, target) == pytest.approx(sk.roc_auc_score(target, close), rel=1e-12)


@pytest.mark.broad
@each_seed
@pytest.mark.parametrize("edges", [np.linspace(0, 1, 11) + 1e-3, [0.5], np.arange(0, 1, 0.01) + 0.005], ids=len)
def test_the_area_by_bins_is_scikit_learns_of_the_bins(edges, seed):
    scores, target, ignoring = binary(seed)
    counted = ignoring >= 0
    expected = sk.roc_auc_score(target[counted], np.digitize(scores[counted], edges))
    assert in_batches(loss.auroc(edges), scores.astype(np.float32), ignoring) == pytest.approx(expected, rel=1e-12)
    if len(edges) == 100:  # each score has its own bin
        assert expected == pytest.approx(sk.roc_auc_score(target[counted], scores[counted]), rel=1e-12)


@pytest.mark.broad
@each_seed
@each_average
def test_the_area_of_several_labels(average, seed):
    rng = np.random.default_rng(seed)
    scores, target = np.round(rng.random((ROWS, 3)), 2), rng.integers(0, 2, (ROWS, 3))
    expected = sk.roc_auc_score(target, scores, average=AVERAGES[average])
    np.testing.assert_allclose(loss.exact_auroc(scores, target, average), expected, rtol=1e-12)
    found = in_batches(loss.auroc(np.arange(0, 1, 0.01) + 0.005, average), scores.astype(np.float32), target)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.broad
@each_seed
@pytest.mark.parametrize("average", [Average.MACRO, Average.WEIGHTED, Average.EACH], ids=lambda a: a.name)
def test_the_area_of_each_class_against_the_rest(average, seed):
    logits, labels = data(seed)
    some, true = kept(logits, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the absent class
        each = [sk.roc_auc_score(true == c, some[:, c]) for c in range(CLASSES)]
    weights = np.bincount(true, minlength=CLASSES)
    expected = {
        Average.EACH: each,
        Average.MACRO: np.nan,
        Average.WEIGHTED: np.nansum(weights * each) / weights.sum(),
    }[average]
    np.testing.assert_allclose(loss.exact_auroc(logits, labels, average), expected, rtol=1e-12)
    found = in_batches(loss.auroc(np.arange(-12, 12, 0.1) + 0.05, average), logits, labels)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("target", [np.zeros(4, int), np.ones(4, int), np.full(4, -100)])
def test_without_a_positive_or_a_negative_row_there_is_no_area(target):
    assert np.isnan(loss.exact_auroc(np.arange(4.0), target))
    assert np.isnan(loss.auroc([0.5])(np.arange(4.0), target))


def test_what_has_no_exact_area_is_a_fault():
    for prediction, target, kind in (
        (np.array([0.1, np.nan]), np.array([0, 1]), DtypeMismatch),
        (np.array([0.1, 0.2]), np.array([0, 2]), LabelOutOfRange),
        (np.array([0.1, 0.2]), np.array([0, 1, 1]), ShapeMismatch),
        (np.zeros((2, 3)), np.array([0, 3]), LabelOutOfRange),
    ):
        with pytest.raises(FaultError) as caught:
            loss.exact_auroc(prediction, target)
        assert isinstance(caught.value.fault, kind)


# ------------------------------------------------------------------------------- probabilities


@pytest.mark.broad
@each_seed
@pytest.mark.parametrize("bins", [1, 7, 15])
def test_the_calibration_error_is_that_of_float64(bins, seed):
    logits, labels = data(seed)
    some, true = kept(logits.astype(np.float64), labels)
    probability = np.exp(some - np.log(np.exp(some).sum(-1, keepdims=True)))
    confidence, right = probability.max(-1), probability.argmax(-1) == true
    bin_of = np.ceil(confidence * bins)
    expected = sum(abs((right - confidence)[bin_of == i].sum()) for i in range(1, bins + 1)) / len(true)
    assert in_batches(loss.calibration_error(bins), logits, labels) == pytest.approx(expected, rel=1e-5)
    share, mean = calibration_curve(right, confidence, n_bins=bins)
    counts = np.histogram(confidence, np.linspace(0, 1, bins + 1))[0]
    assert expected == pytest.approx((np.abs(share - mean) * counts[counts > 0]).sum() / len(true), rel=1e-9)


def test_probabilities_are_not_taken_for_logits():
    logits, labels = data(0)
    assert np.isnan(loss.calibration_error()(jax.nn.softmax(logits), labels))
    assert np.isnan(as_metric(loss.nll())(logits, labels))
    assert np.isnan(loss.calibration_error()(logits, np.full_like(labels, -100)))


@pytest.mark.broad
@each_seed
def test_perplexity_is_the_exponential_of_log_loss(seed):
    logits, labels = data(seed)
    some, true = kept(logits.astype(np.float64), labels)
    expected = np.exp(sk.log_loss(true, np.exp(some) / np.exp(some).sum(-1, keepdims=True), labels=range(CLASSES)))
    assert in_batches(loss.perplexity(), logits, labels) == pytest.approx(expected, rel=1e-6)
    logp = jax.nn.log_softmax(logits)
    assert in_batches(loss.perplexity(loss.nll()), logp, labels) == pytest.approx(expected, rel=1e-6)
    assert loss.perplexity()(jnp.array([[1e4, 0.0]]), jnp.array([1])) == np.inf
    assert np.isnan(loss.perplexity()(logits, np.full_like(labels, -100)))


# ------------------------------------------------------------------------------- numbers


@pytest.mark.slow
@each_seed
@pytest.mark.parametrize("shape", [(ROWS,), (ROWS, 3)], ids=str)
@pytest.mark.parametrize("scale", [(0.0, 1.0), (1e3, 1.0), (1e-6, 1e-9), (-2e5, 30.0)], ids=str)
def test_figures_of_numbers_are_scikit_learns(scale, shape, seed):
    rng = np.random.default_rng(seed)
    centre, spread = scale
    target = (centre + spread * rng.standard_normal(shape)).astype(np.float32)
    prediction = (target + 0.7 * spread * rng.standard_normal(shape)).astype(np.float32)
    x, y = prediction.astype(np.float64), target.astype(np.float64)
    for size in (1, 32, ROWS):
        assert in_batches(loss.r2(), prediction, target, size) == pytest.approx(sk.r2_score(y, x), rel=1e-5)
    assert in_batches(loss.mae(), prediction, target) == pytest.approx(sk.mean_absolute_error(y, x), rel=1e-5)
    expected = sk.root_mean_squared_error(y.ravel(), x.ravel())
    assert in_batches(loss.rmse(), prediction, target) == pytest.approx(expected, rel=1e-5)


@pytest.mark.broad
@pytest.mark.parametrize("ignored", [np.nan, -100.0])
@pytest.mark.parametrize("size", [1, 32, ROWS])
def test_ignored_targets_count_for_nothing(ignored, size):
    rng = np.random.default_rng(0)
    target = rng.standard_normal((ROWS, 2)).astype(np.float32)
    prediction = (target + rng.standard_normal((ROWS, 2))).astype(np.float32)
    missing = rng.random((ROWS, 2)) < 0.3
    given = np.where(missing, ignored, target).astype(np.float32)
    expected = np.mean([sk.r2_score(target[~m, c], prediction[~m, c]) for c, m in enumerate(missing.T)])
    assert in_batches(loss.r2(ignored=ignored), prediction, given, size) == pytest.approx(expected, rel=1e-5)
    expected = sk.mean_absolute_error(target[~missing], prediction[~missing])
    assert in_batches(loss.mae(ignored=ignored), prediction, given, size) == pytest.approx(expected, rel=1e-5)
    expected = sk.root_mean_squared_error(target[~missing], prediction[~missing])
    assert in_batches(loss.rmse(ignored=ignored), prediction, given, size) == pytest.approx(expected, rel=1e-5)


@pytest.mark.broad
@pytest.mark.parametrize("value", [0.0, 0.1, 1e6 / 3, -7e-8])
def test_r2_of_a_constant_is_scikit_learns(value):
    target = np.full(100, value, np.float32)
    wide = target.astype(np.float64)
    assert in_batches(loss.r2(), target, target, 7) == sk.r2_score(wide, wide) == 1
    assert in_batches(loss.r2(), target + 1, target, 7) == sk.r2_score(wide, wide + 1) == 0
    assert np.isnan(loss.r2()(target[:1], target[:1]))
    assert np.isnan(loss.r2(ignored=np.nan)(target, np.full(100, np.nan, np.float32)))


def test_a_product_is_exact():
    rng = np.random.default_rng(0)
    a, b = ((rng.standard_normal(1000) * 10.0 ** rng.integers(-6, 6, 1000)).astype(np.float32) for _ in range(2))
    found = np.asarray(jax.jit(product)(a, b), np.float64).sum(0)
    np.testing.assert_array_equal(found, a.astype(np.float64) * b.astype(np.float64))


# ------------------------------------------------------------------------------- bad input is not a number


OF_LABELS = [loss.confusion_matrix(), loss.precision(), loss.recall(), loss.f1(Average.EACH), loss.calibration_error()]


@pytest.mark.broad
@pytest.mark.parametrize(
    "metric", [*OF_LABELS, loss.perplexity(), as_metric(loss.top_k_accuracy(2)), loss.auroc([0.5])], ids=str
)
def test_a_label_that_is_no_class_makes_a_metric_nan_and_is_found_by_its_check(metric):
    logits, labels = data(0)
    bad = np.where(np.arange(ROWS) == 3, 7, labels)
    assert np.isnan(metric(logits, bad)).all()
    assert np.isnan(in_batches(metric, logits, bad)).all()
    nowhere = np.where(np.arange(ROWS)[:, None] == 3, np.nan, logits)
    assert np.isnan(metric(nowhere, np.abs(labels) % 5)).any()
    with pytest.raises(FaultError) as caught:
        metric.check(jax.ShapeDtypeStruct(logits.shape, np.float32), bad)
    where = "cross_entropy" if metric.name == "perplexity" else metric.name
    assert caught.value.fault == LabelOutOfRange(7, CLASSES, 3, where=where)


@pytest.mark.parametrize("metric", [loss.f1(threshold=0.5), loss.auroc([0.5])], ids=lambda m: m.name)
def test_targets_beside_zero_and_one_too(metric):
    scores, target, _ = binary(0)
    assert np.isnan(metric(scores, np.where(np.arange(ROWS) == 3, 2, target)))
    assert np.isnan(metric(np.where(np.arange(ROWS) == 3, np.nan, scores), target))
    with pytest.raises(FaultError) as caught:
        metric.check(jax.ShapeDtypeStruct(scores.shape, np.float32), np.array([0, 1, 2]))
    assert caught.value.fault == LabelOutOfRange(2, 2, 2, where=metric.name)


def test_edges_are_increasing_numbers():
    for wrong in ("text", [object()], [], [2, 1], [0, np.inf], [[0, 1]]):
        with pytest.raises((TypeError, ValueError), match="edges are increasing numbers"):
            loss.auroc(wrong)
    with pytest.raises(TypeError, match=r"average is a loss.Average, such as loss.Average.MACRO, got 'macro'"):
        loss.f1("macro")
