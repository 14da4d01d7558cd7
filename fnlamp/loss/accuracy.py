"""Accuracies: shares of correct predictions, as metrics."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, overload

import jax.numpy as jnp
import numpy as np

from fnlamp.arrays import Array, is_float, wide
from fnlamp.fault import FaultError, LabelOutOfRange
from fnlamp.given import arguments, flag, number
from fnlamp.loss.arguments import arrays, nan_unless, refuse
from fnlamp.loss.classes import check_labels, check_range, count, ignored_label, labels_of, narrow
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
        sound = known & _numbers(prediction.max(-1))
        return _share(jnp.argmax(prediction, axis=-1) == label, sound, counted, prediction)

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
    hint = "write 0.0 for logits, 0.5 for probabilities"
    by_row = flag(f"{name}: exact", by_row)
    limit = number(f"{name}: threshold", threshold, hint=hint)
    skipped = ignored_label(ignored, name)

    def apply(prediction: Any, target: Any) -> LossValue:
        prediction, target = arrays(name, prediction, target)
        prediction, target = _aligned(name, prediction, target)
        target = target if is_float(target) else narrow(target)
        sound = _numbers(prediction) & ((target == 0) | (target == 1))
        right = (prediction > limit) == (target == 1)
        counted = target != skipped
        if by_row:
            right, sound, counted = (right | ~counted).all(-1), (sound | ~counted).all(-1), counted.any(-1)
        return _share(right, sound, counted, prediction)

    def check(prediction: Any, target: Any) -> None:
        labels = np.asarray(target)
        bad = np.argwhere((labels != skipped) & (labels != 0) & (labels != 1))
        if len(bad):
            at = tuple(int(i) for i in bad[0])
            hint = "targets are 0 and 1: for -1 and 1 take (target + 1) / 2, for shares target > 0.5"
            raise FaultError(LabelOutOfRange(labels[at].item(), 2, at[0] if at else 0, hint, where=name))

    return Loss(apply, name, check)


def _share(right: Array, sound: Array, counted: Array, prediction: Array) -> LossValue:
    """The share of `right` among `counted`, from integer counts; NaN if a counted one is not `sound`."""
    dtype = wide(prediction)
    hits = count(right & counted).astype(dtype)
    return LossValue(nan_unless((sound | ~counted).all(), hits), count(counted).astype(dtype))


def _aligned(name: str, prediction: Array, target: Array) -> tuple[Array, Array]:
    if prediction.shape == (*target.shape, 1) and name == "binary_accuracy":
        prediction = prediction[..., 0]
    elif target.shape == (*prediction.shape, 1) and name == "binary_accuracy":
        target = target[..., 0]
    if prediction.shape != target.shape or (name == "multilabel_accuracy" and prediction.ndim < 2):
        columns = prediction.ndim == target.ndim + 1
        hint = "for scores of several classes use loss.accuracy" if columns else ""
        labels = " (batch, ..., labels)" if name == "multilabel_accuracy" else ""
        refuse(name, f"a target of the prediction's shape {list(prediction.shape)}{labels}", target, hint)
    return prediction, target


def _numbers(x: Array) -> Array:
    """Which entries are not NaN."""
    return ~jnp.isnan(x) if is_float(x) else jnp.full(x.shape, True)
