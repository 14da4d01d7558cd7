"""Accuracies: shares of correct predictions, as metrics."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, overload

import jax.numpy as jnp

from fnlamp.arrays import Array, along_last, wide
from fnlamp.given import arguments, flag, whole
from fnlamp.loss.arguments import arrays, nan_unless, refuse
from fnlamp.loss.labels import (
    check_labels,
    check_range,
    check_zeros_and_ones,
    count,
    ignored_label,
    labels_of,
    not_nan,
    predicted,
    threshold_of,
    zeros_and_ones,
)
from fnlamp.loss.value import Loss, LossValue


@dataclass(frozen=True, repr=False)
class Accuracy(Loss):
    """The share of rows whose largest prediction is at the label: a metric; as a loss it is `NotDifferentiable`.

    `loss.accuracy` is an instance, and `loss.accuracy(ignored=255)` another with a different ignored label.
    Shapes: prediction `(batch, ..., classes)`, of at least two classes, target `(batch, ...)`.  Ties go to the first class;
    rows whose target is `ignored` do not count.  A label that is not a class, or a row with NaN, makes it NaN.
    Fails: `ShapeMismatch`, `DtypeMismatch`; `check` fails with `LabelOutOfRange`.  Same as `sklearn.metrics.accuracy_score`.

    >>> float(loss.accuracy(jnp.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]]), jnp.array([1, 1, -100])).mean)
    0.5
    """

    @overload
    def __call__(self, prediction: Any, target: Any, *, ignored: int | None = None) -> LossValue: ...
    @overload
    def __call__(self, *, ignored: int | None = None) -> Accuracy: ...
    def __call__(self, prediction: Any = None, target: Any = None, *, ignored: int | None = None) -> Any:
        metric = self if ignored is None else _accuracy(ignored_label(ignored, self.name))
        return metric if prediction is None and target is None else metric.apply(prediction, target)


@lru_cache(maxsize=64)
def _accuracy(ignored: int) -> Accuracy:
    def apply(prediction: Any, target: Any) -> LossValue:
        prediction, target = arrays("accuracy", prediction, target)
        check_labels("accuracy", prediction, target)
        label, counted, known = labels_of(target, ignored, prediction.shape[-1])
        sound = known & not_nan(prediction.max(-1))
        return _share(predicted(prediction) == label, sound, counted, prediction)

    return Accuracy(apply, "accuracy", lambda prediction, target: check_range("accuracy", prediction, target, ignored))


accuracy = _accuracy(-100)
"""The share of rows whose largest prediction is at the label; `loss.accuracy(ignored=...)` ignores another label."""


@arguments("it makes a metric, with threshold=0.0 for logits, as bce_with_logits takes, or threshold=0.5 for probabilities")
def binary_accuracy(threshold: float, *, ignored: int = -100) -> Loss:
    """The share of numbers on the right side of `threshold`, above it for a target of 1: a metric.

    `threshold` is on the prediction's scale: 0.0 for logits (a probability of 0.5), 0.5 for probabilities.  A prediction at
    the threshold is negative.  Targets are 0 or 1, as numbers or booleans; `ignored` ones do not count, and any other makes the
    metric NaN, as does a prediction of NaN.
    Shapes: prediction and target have one shape, but for a last axis of 1 that one of them may lack.
    Fails: `ShapeMismatch`, `DtypeMismatch`; `check` fails with `LabelOutOfRange`.
    Same as `sklearn.metrics.accuracy_score(target, prediction > threshold)`.

    >>> logits = jnp.array([[2.0], [-1.0], [0.5], [3.0]])
    >>> float(binary_accuracy(threshold=0.0)(logits, jnp.array([1, 0, 0, -100])).mean)  # 2 of 3
    0.666...
    """
    return _thresholded("binary_accuracy", False, threshold, ignored)


@arguments("it makes a metric, with threshold=0.0 for logits, as bce_with_logits takes, or threshold=0.5 for probabilities")
def multilabel_accuracy(threshold: float, *, exact: bool = False, ignored: int = -100) -> Loss:
    """The share of correct labels in rows of several; with `exact`, of rows with all labels correct: a metric.

    Shapes: prediction and target `(batch, ..., labels)`.  Threshold, targets and faults as in `binary_accuracy`.  An ignored
    label does not count; with `exact`, the row's other labels decide, and a row without any does not count.
    Same as `1 - sklearn.metrics.hamming_loss`, or if `exact` `accuracy_score`.

    >>> logits, target = jnp.array([[2.0, -1.0], [0.5, 3.0]]), jnp.array([[1, 0], [0, 1]])
    >>> [float(multilabel_accuracy(0.0, exact=exact)(logits, target).mean) for exact in (False, True)]
    [0.75, 0.5]
    """
    return _thresholded("multilabel_accuracy", exact, threshold, ignored)


def _thresholded(name: str, by_row: bool, threshold: float, ignored: int) -> Loss:
    by_row = flag(f"{name}: exact", by_row)
    limit = threshold_of(name, threshold)
    skipped = ignored_label(ignored, name)

    def apply(prediction: Any, target: Any) -> LossValue:
        prediction, true, sound, counted = zeros_and_ones(name, prediction, target, skipped)
        right = (prediction > limit) == true
        if by_row:
            right, sound, counted = (right | ~counted).all(-1), (sound | ~counted).all(-1), counted.any(-1)
        return _share(right, sound, counted, prediction)

    return Loss(apply, name, lambda prediction, target: check_zeros_and_ones(name, target, skipped))


@arguments("it makes a metric, loss.top_k_accuracy(5)")
def top_k_accuracy(k: int, *, ignored: int = -100) -> Loss:
    """The share of rows whose label is among the `k` largest predictions: a metric; `top_k_accuracy(1)` is `accuracy`.

    Of equal predictions the first classes count as larger.  Shapes, ignored rows and faults as in `accuracy`; `ShapeMismatch`
    unless there are more than `k` classes.  Same as `sklearn.metrics.top_k_accuracy_score`, but for ties, where it prefers the
    last classes.

    >>> logits = jnp.array([[0.1, 0.5, 0.4], [0.6, 0.3, 0.1]])
    >>> float(top_k_accuracy(2)(logits, jnp.array([2, 2])).mean)
    0.5
    """
    size, skipped, name = whole("top_k_accuracy: k", k), ignored_label(ignored, "top_k_accuracy"), "top_k_accuracy"

    def apply(prediction: Any, target: Any) -> LossValue:
        prediction, target = arrays(name, prediction, target)
        check_labels(name, prediction, target)
        classes = prediction.shape[-1]
        if classes <= size:
            refuse(name, f"scores of more than {size} classes, or every label is among them", prediction)
        label, counted, known = labels_of(target, skipped, classes)
        at = jnp.take_along_axis(prediction, label[..., None], axis=-1)
        earlier = along_last(jnp.arange(classes, dtype=label.dtype), prediction.ndim) < label[..., None]
        larger = jnp.sum((prediction > at) | ((prediction == at) & earlier), axis=-1)
        return _share(larger < size, known & not_nan(prediction.max(-1)), counted, prediction)

    return Loss(apply, name, lambda prediction, target: check_range(name, prediction, target, skipped))


def _share(right: Array, sound: Array, counted: Array, prediction: Array) -> LossValue:
    """The share of `right` among `counted`, from integer counts; NaN if a counted one is not `sound`."""
    dtype = wide(prediction)
    hits = count(right & counted).astype(dtype)
    return LossValue(nan_unless((sound | ~counted).all(), hits), count(counted).astype(dtype))
