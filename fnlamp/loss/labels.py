"""Integer labels: which of them count, and the checks that losses and metrics of labels share."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from fnlamp.arrays import Array, describe, is_float, is_integer
from fnlamp.fault import DtypeMismatch, FaultError, LabelOutOfRange
from fnlamp.given import number, whole
from fnlamp.loss.arguments import arrays, refuse

LARGEST = 2**31 - 1
"""Labels are compared as 32-bit integers; larger ones are clipped to this, which is never a class."""


def ignored_label(ignored: int, name: str) -> int:
    """The ignored label, which must fit 32 bits."""
    label = whole(f"{name}: ignored", ignored, least=-(2**31))
    if label > LARGEST:
        raise ValueError(f"{name}: ignored is a 32-bit integer, got {label}")
    return label


def labels_of(target: Array, ignored: int, classes: int) -> tuple[Array, Array, Array]:
    """The labels in 32 bits, 0 for an unknown class; which of them count; and which are classes."""
    target = narrow(target)
    known = (target >= 0) & (target < classes)
    return jnp.where(known, target, 0), target != ignored, known


def narrow(labels: Array) -> Array:
    """Integers or booleans in 32 bits, clipped: in 8 bits, -100 would be the label 156; truncation would alias large labels."""
    if labels.dtype != bool and jnp.iinfo(labels.dtype).max > LARGEST:  # type: ignore[no-untyped-call]
        labels = jnp.clip(labels, max(int(jnp.iinfo(labels.dtype).min), -(2**31)), LARGEST)  # type: ignore[no-untyped-call]
    return labels.astype(jnp.int32)


def predicted(scores: Array) -> Array:
    """The class of the largest score of each row, the first of equal ones, in 32 bits as labels are."""
    return jnp.argmax(scores, axis=-1).astype(jnp.int32)


def count(which: Array) -> Array:
    """The number of true entries, as an integer: a sum of ones in float32 stops at 2^24."""
    return jnp.sum(which, dtype=jnp.int32)


def check_labels(name: str, prediction: Array, target: Array) -> None:
    """Fails: `ShapeMismatch` and `DtypeMismatch`, unless each row of scores has an integer label."""
    if prediction.ndim < 1 or target.shape != prediction.shape[:-1]:
        expected = f"labels of shape {list(prediction.shape[:-1])} for a prediction {describe(prediction)}"
        refuse(name, expected, target, _shape_hint(name, prediction, target))
    if prediction.shape[-1] < 2:
        expected = "a score for each of at least two classes, on the last axis"
        refuse(name, expected, prediction, f"for one number per row {_one_number(name)}, or widen the last layer")
    if not is_integer(target):
        hint = "convert labels that are whole numbers: target.astype(np.int32)"
        raise FaultError(DtypeMismatch("integer labels", describe(target), hint, where=name))


WITH_THRESHOLD = {"accuracy": "binary_accuracy", **{name: name for name in ("precision", "recall", "f1")}}


def _one_number(name: str) -> str:
    if name in WITH_THRESHOLD:
        return f"use loss.{WITH_THRESHOLD[name]}(threshold=0.0) with logits, or threshold=0.5 with probabilities"
    return "use loss.bce_with_logits(), with targets of the prediction's shape"


def _shape_hint(name: str, prediction: Array, target: Array) -> str:
    if target.shape == prediction.shape and prediction.ndim > 1 and prediction.shape[-1] > 1:
        several = {"accuracy": "multilabel_accuracy"}.get(name, name)
        hint = f"; for several labels per row use loss.{several}(threshold=0.0)" if name in WITH_THRESHOLD else ""
        return f"labels are class numbers, not one-hot: target.argmax(-1){hint}"
    if target.shape == prediction.shape:
        return _one_number(name)
    return squeeze_hint(prediction, target)


def squeeze_hint(prediction: Any, target: Any) -> str:
    """The hint for a superfluous last axis of length 1."""
    if prediction.shape == (*target.shape, 1):
        return "squeeze the prediction: nn.fun(lambda y: y.squeeze(-1)) as the last layer"
    if target.shape == (*prediction.shape, 1) or target.shape == (*prediction.shape[:-1], 1):
        return "squeeze the target's last axis"
    return ""


def check_range(name: str, prediction: Any, target: Any, ignored: int) -> None:
    """Fails: `LabelOutOfRange` for concrete labels that are neither classes nor ignored."""
    labels, classes = np.asarray(target), prediction.shape[-1]
    bad = (labels != ignored) & ((labels < 0) | (labels >= classes))
    if not bad.any():
        return
    at = tuple(int(i) for i in np.argwhere(bad)[0])
    real = labels[labels != ignored]
    hint = ""
    if real.min() == 1 and real.max() == classes:
        hint = f"the labels run from 1 to {classes}: subtract 1"
    elif real.min() < 0 and real.max() < classes:
        hint = f"if {int(real.min())} marks rows that do not count, write {name}(ignored={int(real.min())})"
    raise FaultError(LabelOutOfRange(int(labels[at]), classes, at[0] if at else 0, hint, where=name))


# ------------------------------------------------------------------------------- zeros and ones


def threshold_of(name: str, threshold: float) -> float:
    """The threshold, on the prediction's scale."""
    return number(f"{name}: threshold", threshold, hint="write 0.0 for logits, 0.5 for probabilities")


def zeros_and_ones(name: str, prediction: Any, target: Any, ignored: int) -> tuple[Array, Array, Array, Array]:
    """The prediction; which targets are 1; which entries are sound, as neither other targets nor NaN are; and which count."""
    prediction, target = _aligned(name, *arrays(name, prediction, target))
    target = target if is_float(target) else narrow(target)
    return prediction, target == 1, not_nan(prediction) & ((target == 0) | (target == 1)), target != ignored


def check_zeros_and_ones(name: str, target: Any, ignored: int) -> None:
    """Fails: `LabelOutOfRange` for concrete targets that are neither 0 nor 1 nor ignored."""
    labels = np.asarray(target)
    bad = np.argwhere((labels != ignored) & (labels != 0) & (labels != 1))
    if len(bad):
        at = tuple(int(i) for i in bad[0])
        hint = "targets are 0 and 1: for -1 and 1 take (target + 1) / 2, for shares target > 0.5"
        raise FaultError(LabelOutOfRange(labels[at].item(), 2, at[0] if at else 0, hint, where=name))


def _aligned(name: str, prediction: Array, target: Array) -> tuple[Array, Array]:
    several = name == "multilabel_accuracy"
    if prediction.shape == (*target.shape, 1) and not several:
        prediction = prediction[..., 0]
    elif target.shape == (*prediction.shape, 1) and not several:
        target = target[..., 0]
    if prediction.shape != target.shape or (several and prediction.ndim < 2):
        hint = ""
        if prediction.ndim == target.ndim + 1:
            other = "loss.accuracy" if name.endswith("accuracy") else f"loss.{name}() without a threshold"
            hint = f"for scores of several classes use {other}"
        labels = " (batch, ..., labels)" if several else ""
        refuse(name, f"a target of the prediction's shape {list(prediction.shape)}{labels}", target, hint)
    return prediction, target


def not_nan(x: Array) -> Array:
    """Which entries are not NaN."""
    return ~jnp.isnan(x) if is_float(x) else jnp.full(x.shape, True)
