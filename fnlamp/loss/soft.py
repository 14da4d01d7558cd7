"""Targets that are distributions over the classes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnlamp.arrays import along_last, is_float, wide
from fnlamp.fault import FaultError, LabelOutOfRange
from fnlamp.loss.arguments import arrays, nan_unless, refuse
from fnlamp.loss.value import LossValue

ROUNDING = 0.01
"""How far from 0, 1 or a sum of 1 target probabilities may be in half precision."""


def is_soft(prediction: Any, target: Any) -> bool:
    """Whether the target has a number for each score, and not a label for each row of at least two scores."""
    shape: tuple[int, ...] = getattr(prediction, "shape", ())
    return len(shape) > 0 and shape[-1] > 1 and getattr(target, "shape", None) == shape and is_float(target)


def soft_cross_entropy(name: str, prediction: Any, target: Any, weights: Any, smoothing: float) -> LossValue:
    """`total = -sum_c w_c t_c logp_c`, `weight = sum_c w_c t_c`; of a target that is one-hot, the same as of its label."""
    logits, target = arrays(name, prediction, target)
    if weights is not None and weights.shape != logits.shape[-1:]:
        refuse(name, f"class weights of shape {list(logits.shape[-1:])}", weights)
    logp = jax.nn.log_softmax(logits.astype(wide(logits)))
    t = target.astype(logp.dtype)
    by_class = jnp.ones((1,) * t.ndim, t.dtype) if weights is None else along_last(jnp.asarray(weights, t.dtype), t.ndim)
    smooth = (1 - smoothing) * t + smoothing / t.shape[-1] if smoothing else t
    some = smooth > 0  # a score of -inf is no loss for a class of probability 0
    total = -jnp.sum(jnp.where(some, by_class * smooth * jnp.where(some, logp, 0), 0))
    rows = t.size // t.shape[-1]
    weight = jnp.asarray(rows, t.dtype) if weights is None else jnp.sum(by_class * t)
    return LossValue(nan_unless(are_distributions(t).all(), total), weight)


def are_distributions(t: Any) -> Any:
    """Which rows are probabilities that add up to 1."""
    return shares(t) & (abs(t.sum(-1) - 1) < ROUNDING)


def shares(t: Any) -> Any:
    """Which rows are from 0 to 1."""
    return ((t >= -ROUNDING) & (t <= 1 + ROUNDING)).all(-1)


def check_distributions(name: str, target: Any, counted: Any = True) -> None:
    """Fails: `LabelOutOfRange` for a row that counts and is not probabilities that add up to 1."""
    target = np.asarray(target, np.float64)
    rows = target.reshape(-1, target.shape[-1])
    for bad, figures, hint in (
        (~shares(rows), rows[np.arange(len(rows)), np.abs(rows - 0.5).argmax(-1)], "targets are probabilities"),
        (~(np.abs(rows.sum(-1) - 1) < ROUNDING), rows.sum(-1), "the probabilities of a row add up to 1"),
    ):
        if (bad & counted).any():
            at = int((bad & counted).argmax())
            raise FaultError(LabelOutOfRange(float(figures[at]), 2, at * len(target) // len(rows), hint, where=name))
