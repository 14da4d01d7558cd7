"""Losses and metrics: `(prediction, target) -> LossValue(total, weight)`, whose mean is `total / weight`.

The same over a batch and over an epoch: totals and weights add up, so class weights, ignored rows and a short last batch
are counted right. A metric is a function of the same type that is not differentiated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from fnlamp.arrays import Array, Tree, describe, is_integer
from fnlamp.fault import DtypeMismatch, FaultError, LabelOutOfRange, NotDifferentiable, ShapeMismatch


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class LossValue:
    """A weighted sum and the sum of its weights; two add up component by component."""

    total: Array
    weight: Array

    @property
    def mean(self) -> Array:
        """`total / weight`; 0 where nothing has weight."""
        return jnp.where(self.weight > 0, self.total / jnp.where(self.weight > 0, self.weight, 1), 0)


def _no_check(prediction: Tree, target: Tree) -> None:
    del prediction, target


@dataclass(frozen=True)
class Loss:
    """A function `(prediction, target) -> LossValue`, with a check of concrete targets that runs before the first step.

    `check(prediction_spec, target)` raises a `FaultError`; plain functions without one are losses too.
    """

    apply: Callable[[Any, Any], LossValue]
    name: str
    check: Callable[[Any, Any], None] = _no_check

    def __call__(self, prediction: Tree, target: Tree) -> LossValue:
        return self.apply(prediction, target)

    def __repr__(self) -> str:
        return self.name


Metric: TypeAlias = Callable[[Any, Any], LossValue]
"""`(prediction, target) -> LossValue`, averaged over an epoch; it need not be differentiable."""


def as_loss(loss: Loss | Metric) -> Loss:
    """A plain function as a `Loss` under its own name."""
    return loss if isinstance(loss, Loss) else Loss(loss, getattr(loss, "__name__", type(loss).__name__))


# ------------------------------------------------------------------------------- classes


def nll(class_weights: ArrayLike | None = None, *, ignored: int = -100) -> Loss:
    """The negative log-likelihood of integer labels under log-probabilities.

    Shapes: prediction `(batch, ..., classes)`, target `(batch, ...)`.  `total = sum w_t (-logp_t)`, `weight = sum w_t`, over
    the targets that are not `ignored`; w is 1 without `class_weights`, a vector of one weight a class.
    Fails: `ShapeMismatch`, `DtypeMismatch`, `LabelOutOfRange`.  Same mean as `torch.nn.NLLLoss`.

    >>> log_probabilities = jnp.log(jnp.array([[0.5, 0.5], [0.25, 0.75]]))
    >>> float(nll()(log_probabilities, jnp.array([0, 1])).mean)  # (ln 2 + ln 4/3) / 2
    0.4904...
    """
    return _classes("nll", lambda prediction: prediction, class_weights, ignored, 0.0)


def cross_entropy(class_weights: ArrayLike | None = None, *, label_smoothing: float = 0.0, ignored: int = -100) -> Loss:
    """`nll` of the log-softmax of logits: the cross-entropy of integer labels in nats.

    With `label_smoothing` e, the target distribution is `(1 - e) onehot + e / classes` (Szegedy et al. 2015, section 7).
    Shapes and faults as `nll`.  Same mean as `torch.nn.CrossEntropyLoss`, class weights and smoothing together included.

    >>> float(cross_entropy()(jnp.zeros((4, 10)), jnp.array([0, 3, 9, 9])).mean)  # ln 10
    2.3025...
    """
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing is a probability, got {label_smoothing}")
    return _classes("cross_entropy", jax.nn.log_softmax, class_weights, ignored, label_smoothing)


def _classes(
    name: str,
    log_probabilities: Callable[[Array], Array],
    class_weights: ArrayLike | None,
    ignored: int,
    smoothing: float,
) -> Loss:
    # A host copy: building a program allocates nothing on the device, and later changes of the caller's array do not reach it.
    weights = None if class_weights is None else np.array(class_weights, np.float32)

    def apply(prediction: Array, target: Array) -> LossValue:
        _check_labels(name, prediction, target, weights)
        logp = log_probabilities(_wide(prediction))
        target = target.astype(jnp.int32)  # in 8 bits, -100 would be the label 156, and 1000 classes would be none
        counted = target != ignored
        known = (target >= 0) & (target < logp.shape[-1])
        label = jnp.where(known, target, 0)
        picked = jnp.take_along_axis(logp, label[..., None], axis=-1)[..., 0]
        weight = jnp.ones(target.shape, logp.dtype) if weights is None else jnp.asarray(weights)[label]
        loss = -weight * picked
        if smoothing:
            uniform = jnp.mean(logp if weights is None else logp * weights, axis=-1)
            loss = (1 - smoothing) * loss - smoothing * uniform
        # A label that is none of the classes makes the loss not-a-number, never a wrong number: the step stops before it.
        loss = jnp.where(counted, jnp.where(known, loss, jnp.nan), 0)
        return LossValue(jnp.sum(loss), jnp.sum(jnp.where(counted, weight, 0)))

    def check(prediction: Any, target: Any) -> None:
        labels = np.asarray(target)
        bad = (labels != ignored) & ((labels < 0) | (labels >= prediction.shape[-1]))
        if bad.any():
            at = tuple(int(i) for i in np.argwhere(bad)[0])
            raise FaultError(LabelOutOfRange(int(labels[at]), prediction.shape[-1], at[0] if at else 0, where=name))

    return Loss(apply, name, check)


def _check_labels(name: str, prediction: Any, target: Any, weights: Any) -> None:
    if prediction.ndim < 1 or target.shape != prediction.shape[:-1]:
        expected = f"labels of shape {list(prediction.shape[:-1])} for a prediction {describe(prediction)}"
        raise FaultError(ShapeMismatch(expected, describe(target), _squeeze_hint(prediction, target), where=name))
    if not is_integer(target):
        raise FaultError(DtypeMismatch("integer labels", describe(target), where=name))
    if weights is not None and weights.shape != prediction.shape[-1:]:
        expected = f"class weights of shape {list(prediction.shape[-1:])}"
        raise FaultError(ShapeMismatch(expected, describe(weights), where=name))


# ------------------------------------------------------------------------------- numbers


def mse() -> Loss:
    """The mean squared error over all numbers of the batch.

    Shapes: prediction and target alike.  Fails: `ShapeMismatch` where they differ, which would silently broadcast.

    >>> float(mse()(jnp.array([1.0, 2.0]), jnp.array([0.0, 4.0])).mean)
    2.5
    """
    return _elementwise("mse", lambda x, y: jnp.square(x - y))


def smooth_l1(beta: float = 1.0) -> Loss:
    """Quadratic below `beta`, linear above: `d^2 / (2 beta)` where |d| < beta, else `|d| - beta / 2`; the mean of all.

    Shapes and faults as `mse`.  Reference: Girshick 2015, eq. 3; same mean as `torch.nn.SmoothL1Loss`.
    """
    if beta <= 0:
        raise ValueError(f"smooth_l1 needs beta > 0, got {beta}")

    def one(x: Array, y: Array) -> Array:
        distance = jnp.abs(x - y)
        return jnp.where(distance < beta, 0.5 * jnp.square(distance) / beta, distance - 0.5 * beta)

    return _elementwise("smooth_l1", one)


def bce_with_logits(positive_weights: ArrayLike | None = None) -> Loss:
    """Binary cross-entropy of logits and targets in [0, 1]; the mean over all numbers, in nats.

    `-(w y log s(x) + (1 - y) log(1 - s(x)))`, s the sigmoid, w one weight for each last-axis entry (1 without).
    Shapes and faults as `mse`.  Same mean as `torch.nn.BCEWithLogitsLoss`.
    """
    weights = None if positive_weights is None else np.array(positive_weights, np.float32)

    def one(x: Array, y: Array) -> Array:
        if weights is not None and weights.ndim and weights.shape != x.shape[-1:]:
            expected = f"positive weights of shape {list(x.shape[-1:])}"
            raise FaultError(ShapeMismatch(expected, describe(weights), where="bce_with_logits"))
        positive = y * jax.nn.log_sigmoid(x) * (1 if weights is None else jnp.asarray(weights))
        return -(positive + (1 - y) * jax.nn.log_sigmoid(-x))

    return _elementwise("bce_with_logits", one)


def _elementwise(name: str, one: Callable[[Array, Array], Array]) -> Loss:
    def apply(prediction: Array, target: Array) -> LossValue:
        if prediction.shape != target.shape:
            expected = f"a target of the prediction's shape {list(prediction.shape)}"
            raise FaultError(ShapeMismatch(expected, describe(target), _squeeze_hint(prediction, target), where=name))
        losses = one(_wide(prediction), jnp.asarray(target, _wide(prediction).dtype))
        return LossValue(jnp.sum(losses), jnp.asarray(losses.size, losses.dtype))

    return Loss(apply, name)


def identity() -> Loss:
    """The prediction is the loss: for models that compute it themselves.

    Shapes: prediction `(batch, ...)`, averaged over all its numbers, or a scalar, which stands for the mean over the batch and
    weighs as many rows as the target (or 1 without a target).
    """

    def apply(prediction: Array, target: Tree) -> LossValue:
        wide = _wide(prediction)
        if wide.ndim:
            return LossValue(jnp.sum(wide), jnp.asarray(wide.size, wide.dtype))
        leaves = jax.tree.leaves(target)
        rows = leaves[0].shape[0] if leaves and leaves[0].ndim else 1
        return LossValue(wide * rows, jnp.asarray(rows, wide.dtype))

    return Loss(apply, "identity")


# ------------------------------------------------------------------------------- metrics


def accuracy(prediction: Array, target: Array, *, ignored: int = -100) -> LossValue:
    """The share of rows whose largest prediction is at the label: a metric; as a loss it is `NotDifferentiable`.

    Shapes: prediction `(batch, ..., classes)`, target `(batch, ...)`.  Of equal predictions the first counts; rows whose target
    is `ignored` do not.

    >>> float(accuracy(jnp.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]]), jnp.array([1, 1, -100])).mean)
    0.5
    """
    _check_labels("accuracy", prediction, target, None)
    target = target.astype(jnp.int32)  # in 8 bits, -100 would be the label 156
    counted = target != ignored
    hits = (jnp.argmax(prediction, axis=-1) == target) & counted
    return LossValue(jnp.sum(hits, dtype=jnp.float32), jnp.sum(counted, dtype=jnp.float32))


# ------------------------------------------------------------------------------- differentiation


def differentiable(value: Array, params: Tree, loss: str) -> Array:
    """`value`, unless its gradient with respect to `params` is zero everywhere by construction: then `NotDifferentiable`.

    JAX keeps such zeros symbolic, so the test costs nothing at run time and sees through jit, scan and stop_gradient.

    >>> def share(w):
    ...     return differentiable(jnp.mean(jnp.argmax(w, axis=-1) == 0), w, "accuracy")
    >>> jax.grad(share)(jnp.ones((2, 3)))
    Traceback (most recent call last):
    fnlamp.fault.FaultError: NotDifferentiable: the gradient of accuracy is zero everywhere: ...
    """
    leaves = jax.tree.leaves(params)
    if not leaves:
        raise FaultError(NotDifferentiable(loss))

    @jax.custom_jvp
    def first(x: Array, anchor: Array) -> Array:
        return x

    def rule(primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Any]:
        if isinstance(tangents[0], jax.custom_derivatives.SymbolicZero):
            raise FaultError(NotDifferentiable(loss))
        return primals[0], tangents[0]

    first.defjvp(rule, symbolic_zeros=True)
    # JAX skips the rule where all tangents are zero, so a parameter comes along, whose tangent is not.
    result: Array = first(value, leaves[0])
    return result


def _wide(x: Array) -> Array:
    """At least float32: sums over a batch lose too much in half precision."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _squeeze_hint(prediction: Any, target: Any) -> str:
    if prediction.shape == (*target.shape, 1):
        return "squeeze the prediction: nn.fun(lambda y: y.squeeze(-1)) as the last layer"
    if target.shape == (*prediction.shape, 1) or target.shape == (*prediction.shape[:-1], 1):
        return "squeeze the target's last axis"
    return ""
