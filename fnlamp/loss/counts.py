"""Metrics from counts per class: the confusion matrix, precision, recall and F1, with their averages over classes."""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from fnlamp.arrays import Array
from fnlamp.given import arguments, instance, number
from fnlamp.loss.arguments import arrays, nan_unless
from fnlamp.loss.labels import (
    check_labels,
    check_range,
    check_zeros_and_ones,
    ignored_label,
    labels_of,
    not_nan,
    predicted,
    threshold_of,
    zeros_and_ones,
)
from fnlamp.loss.value import Metric

Figures = np.ndarray[Any, Any]
MAKES = "it makes a metric, as in metrics={{'{0}': loss.{0}()}}"


class Average(Enum):
    """How figures per class become one number, or that they do not."""

    MACRO = "the mean of the classes, each with the same weight"
    MICRO = "the figure of all rows together, whatever their class"
    WEIGHTED = "the mean of the classes, weighted by their number of rows"
    EACH = "an array of one figure per class"


class Counts(NamedTuple):
    """Counts of rows, and 0, or NaN if a label or prediction among them is not valid."""

    rows: Any
    flaw: Any


class ByClass(NamedTuple):
    """Per class the rows that are predicted and labelled so, predicted so, labelled so; `flaw` as in `Counts`."""

    hits: Any
    predicted: Any
    labelled: Any
    flaw: Any


@arguments(MAKES.format("confusion_matrix"))
def confusion_matrix(*, ignored: int = -100) -> Metric:
    """The number of rows of each class (first axis) that are predicted as each class (second axis): a metric, an array.

    Shapes: prediction `(batch, ..., classes)`, target `(batch, ...)`.  Ties go to the first class; rows whose target is
    `ignored` do not count.  A label that is not a class, or a row with NaN, makes it NaN.
    Fails: as `accuracy`.  Same as `sklearn.metrics.confusion_matrix` with `labels=range(classes)`.

    >>> confusion_matrix()(jnp.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]]), jnp.array([1, 0, 0]))
    array([[1, 1],
           [0, 1]])
    """
    name = "confusion_matrix"
    skipped = ignored_label(ignored, name)

    def sums(prediction: Any, target: Any) -> Counts:
        prediction, target = arrays(name, prediction, target)
        label, predicted, counted, flaw = predictions(name, prediction, target, skipped)
        classes = prediction.shape[-1]
        table = jnp.zeros((classes, classes), jnp.int32).at[label, predicted].add(counted.astype(jnp.int32))
        return Counts(table, flaw)

    def result(sums: Counts) -> Figures:
        table: Figures = sums.rows + sums.flaw
        return table if np.isnan(sums.flaw) else table.astype(np.int64)

    return Metric(sums, result, name, lambda prediction, target: check_range(name, prediction, target, skipped))


def predictions(name: str, prediction: Array, target: Array, ignored: int) -> tuple[Array, Array, Array, Array]:
    """The label of each row, its predicted class, whether it counts; and 0, or NaN if one that counts is not valid."""
    check_labels(name, prediction, target)
    label, counted, known = labels_of(target, ignored, prediction.shape[-1])
    sound = (known & not_nan(prediction.max(-1))) | ~counted
    return label, predicted(prediction), counted, nan_unless(sound.all(), jnp.zeros(()))


@arguments(MAKES.format("precision"))
def precision(
    average: Average = Average.MACRO, *, threshold: float | None = None, zero_division: float = 0.0, ignored: int = -100
) -> Metric:
    """The share of correct rows among those that are predicted as a class: a metric.

    Shapes: prediction `(batch, ..., classes)`, target `(batch, ...)`.  With a `threshold` on the prediction's scale (0.0 for
    logits, 0.5 for probabilities), prediction and target have one shape, `(batch,)`, or `(batch, ..., labels)`; each label is a
    separate class, and targets are 0 and 1.
    All classes of the prediction are averaged.  A class without predictions is `zero_division`; if that is NaN, macro and
    weighted averages leave the class out.  Rows whose target is `ignored` do not count; invalid targets make it NaN.
    Fails: as `accuracy`, or with a threshold as `binary_accuracy`.
    Same as `sklearn.metrics.precision_score` with `labels=range(classes)`.

    >>> logits = jnp.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    >>> [precision(average)(logits, jnp.array([1, 0, 0])) for average in (Average.MACRO, Average.EACH)]
    [0.75, array([1. , 0.5])]
    """
    return _by_class("precision", average, threshold, zero_division, ignored, lambda c: (c.hits, c.predicted))


@arguments(MAKES.format("recall"))
def recall(
    average: Average = Average.MACRO, *, threshold: float | None = None, zero_division: float = 0.0, ignored: int = -100
) -> Metric:
    """The share of correct rows among those that are labelled as a class: a metric.

    Arguments, shapes and faults as `precision`.  A class without rows is `zero_division`.
    Same as `sklearn.metrics.recall_score` with `labels=range(classes)`.

    >>> logits = jnp.array([[2.0], [-1.0], [-0.5], [3.0]])
    >>> recall(threshold=0.0)(logits, jnp.array([1, 0, 1, 0]))
    0.5
    """
    return _by_class("recall", average, threshold, zero_division, ignored, lambda c: (c.hits, c.labelled))


@arguments(MAKES.format("f1"))
def f1(
    average: Average = Average.MACRO, *, threshold: float | None = None, zero_division: float = 0.0, ignored: int = -100
) -> Metric:
    """The harmonic mean of precision and recall, `2 hits / (predicted + labelled)`: a metric.

    Arguments, shapes and faults as `precision`.  A class with neither rows nor predictions is `zero_division`.
    Same as `sklearn.metrics.f1_score` with `labels=range(classes)`.

    >>> logits = jnp.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    >>> f1(Average.MICRO)(logits, jnp.array([1, 0, 0]))
    0.666...
    """
    return _by_class("f1", average, threshold, zero_division, ignored, lambda c: (2 * c.hits, c.predicted + c.labelled))


def _by_class(
    name: str,
    average: Average,
    threshold: float | None,
    zero_division: float,
    ignored: int,
    ratio: Callable[[ByClass], tuple[Any, Any]],
) -> Metric:
    average, skipped, zero = average_of(name, average), ignored_label(ignored, name), _zero_division(name, zero_division)
    limit = None if threshold is None else threshold_of(name, threshold)

    def sums(prediction: Any, target: Any) -> ByClass:
        if limit is not None:
            return _of_labels(name, prediction, target, skipped, limit)
        prediction, target = arrays(name, prediction, target)
        label, predicted, counted, flaw = predictions(name, prediction, target, skipped)
        none, one = jnp.zeros(prediction.shape[-1:], jnp.int32), counted.astype(jnp.int32)
        hits = jnp.where(label == predicted, one, 0)
        return ByClass(none.at[label].add(hits), none.at[predicted].add(one), none.at[label].add(one), flaw)

    def result(sums: ByClass) -> Figures:
        found: Figures = averaged(average, *ratio(sums), sums.labelled, zero) + sums.flaw
        return found

    def check(prediction: Any, target: Any) -> None:
        if limit is None:
            check_range(name, prediction, target, skipped)
        else:
            check_zeros_and_ones(name, target, skipped)

    return Metric(sums, result, name, check)


def _of_labels(name: str, prediction: Any, target: Any, ignored: int, limit: float) -> ByClass:
    prediction, true, sound, counted = zeros_and_ones(name, prediction, target, ignored)
    labels = prediction.shape[-1] if prediction.ndim > 1 else 1

    def rows(which: Array) -> Array:
        return jnp.sum((which & counted).reshape(-1, labels), axis=0, dtype=jnp.int32)

    positive = prediction > limit
    flaw = nan_unless((sound | ~counted).all(), jnp.zeros(()))
    return ByClass(rows(positive & true), rows(positive), rows(true), flaw)


def averaged(average: Average, part: Figures, whole: Figures, rows: Figures, zero: float) -> Any:
    """The ratios `part / whole` of all classes, averaged; 0 / 0 is `zero`, and is left out of averages if that is NaN."""
    if average is Average.MICRO:
        return _ratio(part.sum(), whole.sum(), zero)
    each = _ratio(part, whole, zero)
    if average is Average.EACH:
        return each
    some = ~np.isnan(each)
    weights = rows * some if average is Average.WEIGHTED and (rows * some).any() else some
    return np.sum(np.where(some, each, 0) * weights) / weights.sum() if some.any() else zero


def _ratio(part: Any, whole: Any, zero: float) -> Any:
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), zero)


def average_of(name: str, given: Any) -> Average:
    """The average, which the caller has named."""
    found: Average = instance(f"{name}: average", given, Average, "a loss.Average, such as loss.Average.MACRO")
    return found


def _zero_division(name: str, given: float) -> float:
    if isinstance(given, float) and math.isnan(given):
        return math.nan
    return number(f"{name}: zero_division", given, "a figure from 0 to 1, or NaN", lambda x: 0 <= x <= 1)
