"""Losses for integer labels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from fnlamp.arrays import Array, along_last, wide
from fnlamp.fault import FaultError, PredictionMismatch
from fnlamp.given import arguments, flag, number
from fnlamp.logits import Logits
from fnlamp.loss.arguments import arrays, makes_a_loss, nan_unless, refuse, weights_of
from fnlamp.loss.labels import check_labels, check_range, count, ignored_label, labels_of
from fnlamp.loss.parts import PART, Rows, total_in_parts
from fnlamp.loss.soft import check_distributions, is_soft, soft_cross_entropy
from fnlamp.loss.value import Loss, LossValue

NOT_NORMALISED = 0.1
"""How far the log of a sum of probabilities may be from 0; log-softmax in half precision stays well below."""


@arguments(makes_a_loss("nll"))
def nll(class_weights: ArrayLike | None = None, *, ignored: int = -100) -> Loss:
    """The negative log-likelihood of integer labels under log-probabilities.

    Shapes: prediction `(batch, ..., classes)`, target `(batch, ...)`.  `total = sum w_t (-logp_t)`, `weight = sum w_t`, over
    the targets that are not `ignored`; w is 1 without `class_weights`, a vector of one weight per class.
    Fails: `ShapeMismatch`, `DtypeMismatch`, `LabelOutOfRange`; `PredictionMismatch` for a first batch of logits.
    Raises: `ValueError` for class weights that are negative, not finite, or all 0.  Same mean as `torch.nn.NLLLoss`.

    >>> log_probabilities = jnp.log(jnp.array([[0.5, 0.5], [0.25, 0.75]]))
    >>> float(nll()(log_probabilities, jnp.array([0, 1])).mean)  # (ln 2 + ln 4/3) / 2
    0.4904...
    """
    return by_label("nll", _weighted, class_weights, ignored, expects_log_probabilities("nll"), not_normalised)


@arguments(makes_a_loss("cross_entropy"))
def cross_entropy(class_weights: ArrayLike | None = None, *, label_smoothing: float = 0.0, ignored: int = -100) -> Loss:
    """`nll` of the log-softmax of logits: the cross-entropy of integer labels, or of probabilities, in nats.

    With `label_smoothing` e, the target distribution is `(1 - e) onehot + e / classes` (Szegedy et al. 2015, section 7).
    A target of floating-point numbers, of the prediction's shape, holds a probability for each class, as `augment.mixup`
    makes: `total = -sum_c w_c t_c logp_c`, `weight = sum_c w_c t_c`, which of one-hot rows are those of their labels;
    `LabelOutOfRange` for rows that do not add up to 1.
    Shapes and faults as `nll`, but `PredictionMismatch` is for a first batch of probabilities, as after a softmax.
    Same mean as `torch.nn.CrossEntropyLoss`, also with class weights and smoothing together.  Of `nn.logits` it never
    holds more than 64 MiB; their gradient is taken in the same pass, in at least float32.

    >>> float(cross_entropy()(jnp.zeros((4, 10)), jnp.array([0, 3, 9, 9])).mean)  # ln 10
    2.3025...
    """
    smoothing = number("cross_entropy: label_smoothing", label_smoothing, "a probability", lambda e: 0 <= e <= 1)

    def each(logits: Array, label: Array, weights: Array | None) -> Array:
        logp = jax.nn.log_softmax(logits)
        loss = _weighted(logp, label, weights)
        if smoothing:
            uniform = jnp.mean(logp if weights is None else logp * along_last(weights, logp.ndim), axis=-1)
            loss = (1 - smoothing) * loss - smoothing * uniform
        return loss

    weights = weights_of(class_weights, "cross_entropy: class_weights")
    plain = by_label("cross_entropy", each, class_weights, ignored, _expects_logits("cross_entropy"))

    def apply(prediction: Any, target: Any) -> LossValue:
        if is_soft(prediction, target):
            return soft_cross_entropy("cross_entropy", prediction, target, weights, smoothing)
        if not isinstance(prediction, Logits) or math.prod(prediction.shape) <= PART:
            return plain.apply(prediction, target)
        return _in_parts(prediction, target, weights, smoothing, ignored)

    def check(prediction: Any, target: Any) -> None:
        if is_soft(prediction, target):
            check_distributions("cross_entropy", target)
        else:
            plain.check(prediction, target)

    return replace(plain, apply=apply, check=check)


def _in_parts(logits: Logits, target: Any, weights: Any, smoothing: float, ignored: int) -> LossValue:
    """The same of logits that are not held."""
    _, target = arrays("cross_entropy", target, target)
    spec = jax.eval_shape(Logits.array, logits)
    check_labels("cross_entropy", spec, target)
    if weights is not None and weights.shape != spec.shape[-1:]:
        refuse("cross_entropy", f"class weights of shape {list(spec.shape[-1:])}", weights)
    dtype, classes = wide(spec), spec.shape[-1]
    label, counted, known = labels_of(target.reshape(-1), ignored, classes)
    by_class = None if weights is None else jnp.asarray(weights, dtype)
    own = counted.astype(dtype) if by_class is None else jnp.where(counted, by_class[label], 0)
    uniform = None
    if smoothing:
        uniform = smoothing / classes * (jnp.ones(classes, dtype) if by_class is None else by_class)
    rows = Rows(label, (1 - smoothing) * own, counted.astype(dtype), uniform)
    flat = replace(logits, features=logits.features.reshape(label.size, -1))
    total = nan_unless((known | ~counted).all(), total_in_parts(flat, rows))
    return LossValue(total, count(counted).astype(dtype) if by_class is None else jnp.sum(own))


@arguments(makes_a_loss("focal"))
def focal(gamma: float = 2.0, class_weights: ArrayLike | None = None, *, ignored: int = -100) -> Loss:
    """The cross-entropy of logits, with less of it for rows that are predicted well: `-(1 - p)^gamma log p`, p of the label.

    `gamma` of 0 is `cross_entropy`.  Shapes, class weights, ignored rows and faults as there; the mean is over the weights, not
    over the rows of a foreground.  Reference: Lin et al. 2017, "Focal Loss for Dense Object Detection", eq. 5.

    >>> float(focal()(jnp.log(jnp.array([[0.5, 0.5], [0.1, 0.9]])), jnp.array([0, 1])).mean)  # (0.25 ln 2 + 0.01 ln 10/9) / 2
    0.0871...
    """
    power = number("focal: gamma", gamma, "a number of 0 or more", lambda g: g >= 0)

    def each(logits: Array, label: Array, weights: Array | None) -> Array:
        logp = jax.nn.log_softmax(logits)
        if power:
            missing = -jnp.expm1(jnp.take_along_axis(logp, label[..., None], axis=-1)[..., 0])  # 1 - p, also if p is nearly 1
            some = missing > 0
            return jnp.where(some, jnp.where(some, missing, 1) ** power, 0) * _weighted(logp, label, weights)
        return _weighted(logp, label, weights)

    return by_label("focal", each, class_weights, ignored, _expects_logits("focal"))


@arguments(makes_a_loss("hinge"))
def hinge(margin: float = 1.0, *, squared: bool = False, ignored: int = -100) -> Loss:
    """How far other scores reach above the label's score less a margin: `sum_j max(0, margin - x_label + x_j) / classes`.

    The sum is over the other classes; with `squared`, it is of squares.  Shapes, ignored rows and faults as `nll`, of any
    scores.
    Reference: Weston and Watkins 1999, "Support vector machines for multi-class pattern recognition"; same mean as
    `torch.nn.MultiMarginLoss`.

    >>> float(hinge()(jnp.array([[0.5, 1.0, -1.0]]), jnp.array([0])).mean)  # (1.5 + 0) / 3
    0.5
    """
    size = number("hinge: margin", margin, "a number with margin > 0", lambda m: m > 0)
    power = 2 if flag("hinge: squared", squared) else 1

    def each(scores: Array, label: Array, weights: Array | None) -> Array:
        at = jnp.take_along_axis(scores, label[..., None], axis=-1)
        beyond = size - at + scores
        other = along_last(jnp.arange(scores.shape[-1], dtype=label.dtype), scores.ndim) != label[..., None]
        return jnp.sum(jnp.where((beyond > 0) & other, beyond, 0) ** power, axis=-1) / scores.shape[-1]

    return by_label("hinge", each, None, ignored)


def _weighted(logp: Array, label: Array, weights: Array | None) -> Array:
    picked = jnp.take_along_axis(logp, label[..., None], axis=-1)[..., 0]
    return -picked if weights is None else -weights[label] * picked


def _anything(prediction: Any) -> None:
    del prediction


def by_label(
    name: str,
    each: Callable[[Array, Array, Array | None], Array],
    class_weights: ArrayLike | None,
    ignored: int,
    check_prediction: Callable[[Any], None] = _anything,
    suspects: Callable[[Any], Array] | None = None,
) -> Loss:
    """The loss `each(scores, label, class weights)` of a row, over the rows that count."""
    weights = weights_of(class_weights, f"{name}: class_weights")
    ignored = ignored_label(ignored, name)

    def apply(prediction: Any, target: Any) -> LossValue:
        prediction, target = arrays(name, prediction, target)
        check_labels(name, prediction, target)
        if weights is not None and weights.shape != prediction.shape[-1:]:
            refuse(name, f"class weights of shape {list(prediction.shape[-1:])}", weights)
        scores = prediction.astype(wide(prediction))
        label, counted, known = labels_of(target, ignored, scores.shape[-1])
        by_class = None if weights is None else jnp.asarray(weights, scores.dtype)
        loss = each(scores, label, by_class)
        # A label that is not a class makes the loss NaN, never a wrong number: training stops before the step.
        total = nan_unless((known | ~counted).all(), jnp.sum(jnp.where(counted, loss, 0)))
        weight = count(counted) if by_class is None else jnp.sum(jnp.where(counted, by_class[label], 0))
        return LossValue(total, weight.astype(total.dtype))

    def check(prediction: Any, target: Any) -> None:
        check_range(name, prediction, target, ignored)

    return Loss(apply, name, check, check_prediction, suspects)


# ------------------------------------------------------------------------------- checks of predictions


def expects_log_probabilities(name: str) -> Callable[[Any], None]:
    """The check of a first prediction of log-probabilities.  Fails: `PredictionMismatch`."""

    def check(prediction: Any) -> None:
        x = np.asarray(prediction, np.float64)
        if not _plain(x) or (np.abs(_log_sum_exp(x)) <= NOT_NORMALISED).all():
            return
        got, hint = "numbers whose exponentials do not add up to 1", "end the model with nn.log_softmax"
        if _probabilities(x):
            got, hint = "probabilities", "end the model with nn.log_softmax in place of nn.softmax"
        elif name == "nll":
            hint = "use loss.cross_entropy, or end the model with nn.log_softmax"
        raise FaultError(PredictionMismatch("log-probabilities", got, hint, where=name))

    return check


def not_normalised(prediction: Array) -> Array:
    """Whether some log-probabilities do not add up to 1."""
    sums = jax.nn.logsumexp(prediction.astype(wide(prediction)), axis=-1)
    return (jnp.abs(sums) > NOT_NORMALISED).any()


def _expects_logits(name: str) -> Callable[[Any], None]:
    def check(prediction: Any) -> None:
        x = np.asarray(prediction, np.float64)
        if _plain(x) and x.size > x.shape[-1] and _probabilities(x):
            hint = f"leave out the softmax, which {name} computes, or use nn.log_softmax and loss.nll"
            raise FaultError(PredictionMismatch("logits", "probabilities, which add up to 1", hint, where=name))

    return check


def _plain(x: np.ndarray[Any, Any]) -> bool:
    return x.ndim > 0 and x.size > 0 and not (np.isnan(x) | (x == np.inf)).any()


def _probabilities(x: np.ndarray[Any, Any]) -> bool:
    return bool((x >= 0).all() and (np.abs(x.sum(-1) - 1) < 0.01).all())


def _log_sum_exp(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    largest = np.maximum(x.max(-1, keepdims=True), -1e300)
    total: np.ndarray[Any, Any] = np.log(np.maximum(np.exp(x - largest).sum(-1), 1e-300)) + largest[..., 0]
    return total
