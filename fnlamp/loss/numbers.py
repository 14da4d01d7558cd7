"""Elementwise losses for numbers, and the loss for models that compute their own."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from fnlamp.arrays import Array, Tree, along_last, wide
from fnlamp.fault import FaultError, LabelOutOfRange
from fnlamp.given import arguments, number
from fnlamp.loss.arguments import arrays, makes_a_loss, nan_unless, refuse, weights_of
from fnlamp.loss.elementwise import elementwise
from fnlamp.loss.value import Loss, LossValue


@arguments(makes_a_loss("mse"))
def mse(*, ignored: float | None = None) -> Loss:
    """The mean squared error over all numbers of the batch.

    Targets that equal `ignored` do not count, those of NaN if it is NaN; by default all count.
    Shapes: prediction and target have the same shape.  Fails: `ShapeMismatch` otherwise, where they would silently broadcast.

    >>> float(mse()(jnp.array([1.0, 2.0]), jnp.array([0.0, 4.0])).mean)
    2.5
    >>> float(mse(ignored=jnp.nan)(jnp.array([1.0, 2.0]), jnp.array([jnp.nan, 4.0])).mean)
    4.0
    """
    return elementwise("mse", lambda x, y: jnp.square(x - y), ignored)


@arguments(makes_a_loss("l1"))
def l1(*, ignored: float | None = None) -> Loss:
    """The mean absolute error over all numbers of the batch; its gradient at an error of 0 is 0.

    Shapes, ignored targets and faults as `mse`.  Same mean as `torch.nn.L1Loss`.

    >>> float(l1()(jnp.array([1.0, 2.0]), jnp.array([0.0, 4.0])).mean)
    1.5
    """
    # Not `jnp.abs`, whose gradient at 0 is 1.
    return elementwise("l1", lambda x, y: (x - y) * jnp.sign(x - y), ignored)


@arguments(makes_a_loss("smooth_l1"))
def smooth_l1(beta: float = 1.0, *, ignored: float | None = None) -> Loss:
    """Quadratic below `beta`, linear above: `d^2 / (2 beta)` for |d| < beta, else `|d| - beta / 2`; the mean over all numbers.

    Shapes, ignored targets and faults as `mse`.  Reference: Girshick 2015, eq. 3; same mean as `torch.nn.SmoothL1Loss`.
    """
    size = number("smooth_l1: beta", beta, "a number with beta > 0", lambda b: b > 0)

    def one(x: Array, y: Array) -> Array:
        distance = jnp.abs(x - y)
        return jnp.where(distance < size, 0.5 * jnp.square(distance) / size, distance - 0.5 * size)

    return elementwise("smooth_l1", one, ignored)


@arguments(makes_a_loss("huber"))
def huber(delta: float = 1.0, *, ignored: float | None = None) -> Loss:
    """Quadratic up to `delta`, then linear: `d^2 / 2` for |d| <= delta, else `delta (|d| - delta / 2)`.

    The mean is over all numbers.  It is `delta` times `smooth_l1(delta)`.  Shapes, ignored targets and faults as `mse`.
    Reference: Huber 1964, eq. 1.1 of "Robust Estimation of a Location Parameter"; same mean as `torch.nn.HuberLoss`.

    >>> float(huber(2.0)(jnp.array([1.0, 5.0]), jnp.array([0.0, 0.0])).mean)  # (1 / 2 + 2 (5 - 1)) / 2
    4.25
    """
    size = number("huber: delta", delta, "a number with delta > 0", lambda d: d > 0)

    def one(x: Array, y: Array) -> Array:
        distance = jnp.abs(x - y)
        return jnp.where(distance <= size, 0.5 * jnp.square(distance), size * (distance - 0.5 * size))

    return elementwise("huber", one, ignored)


@arguments(makes_a_loss("bce_with_logits"))
def bce_with_logits(positive_weights: ArrayLike | None = None, *, ignored: float | None = None) -> Loss:
    """Binary cross-entropy of logits and targets in [0, 1]; the mean over all numbers, in nats.

    `-(w y log s(x) + (1 - y) log(1 - s(x)))`, s the sigmoid, w one weight per entry of the last axis (by default 1).
    Shapes, ignored targets and faults as `mse`, and `LabelOutOfRange` for targets outside [0, 1], where the loss is unbounded
    below.  Same mean as `torch.nn.BCEWithLogitsLoss`.
    """
    name = "bce_with_logits"
    weights = weights_of(positive_weights, f"{name}: positive_weights")

    def one(x: Array, y: Array) -> Array:
        if weights is not None and weights.ndim and weights.shape != x.shape[-1:]:
            refuse(name, f"positive weights of shape {list(x.shape[-1:])}", weights)
        positive = y * jax.nn.log_sigmoid(x)
        if weights is not None:
            positive = positive * along_last(jnp.asarray(weights, x.dtype), x.ndim)
        loss = -(positive + (1 - y) * jax.nn.log_sigmoid(-x))
        return nan_unless(((y >= -ROUNDING) & (y <= 1 + ROUNDING)).all(), loss)

    return elementwise(name, one, ignored, _check_shares)


ROUNDING = 0.01
"""How far outside [0, 1] a mixture of zeros and ones may be in half precision."""


def _check_shares(prediction: Any, target: Any) -> None:
    shares = np.asarray(target)
    bad = np.argwhere(~((shares >= -ROUNDING) & (shares <= 1 + ROUNDING)))
    if len(bad):
        at = tuple(int(i) for i in bad[0])
        hint = "targets are probabilities of the positive class, or labels 0 and 1: for -1 and 1 take (target + 1) / 2"
        if np.isnan(shares[at]):
            hint = "a target is missing"
        raise FaultError(LabelOutOfRange(shares[at].item(), 2, at[0] if at else 0, hint, where="bce_with_logits"))


@arguments(makes_a_loss("identity"))
def identity() -> Loss:
    """The prediction is the loss, for models that compute their own.

    Shapes: prediction `(batch, ...)`, averaged over all its numbers, or a scalar, the mean over the batch, whose weight is the
    number of the target's rows (1 without a target).
    """

    def apply(prediction: Any, target: Tree) -> LossValue:
        losses, _ = arrays("identity", prediction, np.zeros(0))
        losses = losses.astype(wide(losses))
        if losses.ndim:
            return LossValue(jnp.sum(losses), jnp.asarray(losses.size, losses.dtype))
        leaves = jax.tree.leaves(target)
        rows = leaves[0].shape[0] if leaves and leaves[0].ndim else 1
        return LossValue(losses * rows, jnp.asarray(rows, losses.dtype))

    return Loss(apply, "identity")
