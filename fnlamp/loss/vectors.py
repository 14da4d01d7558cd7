"""Losses of vectors that should be near each other, or far apart."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnlamp.arrays import Array, wide
from fnlamp.given import arguments, number
from fnlamp.loss.arguments import arrays, makes_a_loss, refuse
from fnlamp.loss.elementwise import counting, ignored_number, pairs, row_mean
from fnlamp.loss.value import Loss, LossValue

APART = 1e-6
"""Added to each difference, as torch does: the distance of a vector to itself has a gradient."""


@arguments(makes_a_loss("cosine_distance"))
def cosine_distance(*, ignored: float | None = None) -> Loss:
    """One minus the cosine of the angle between the predicted vector and the target: 0 for one direction, 2 for opposite ones.

    The mean is over rows.  A zero vector has the cosine 0, and a gradient of 0.  A row with a target of `ignored`, or of NaN if
    it is NaN, does not count.
    Shapes: prediction and target `(batch, ..., features)`.  Fails: `ShapeMismatch`, `DtypeMismatch`.
    Same mean as `1 - torch.nn.CosineSimilarity(-1)`, which bounds norms below by 1e-8.

    >>> float(cosine_distance()(jnp.array([[1.0, 0.0], [3.0, 4.0]]), jnp.array([[2.0, 0.0], [4.0, -3.0]])).mean)  # (0 + 1) / 2
    0.5
    """
    skipped = ignored_number("cosine_distance", ignored)

    def apply(prediction: Any, target: Any) -> LossValue:
        x, y = pairs("cosine_distance", prediction, target)
        if not x.ndim:
            refuse("cosine_distance", "vectors on the last axis", x)
        counted = jnp.full(y.shape[:-1], True) if skipped is None else counting(y, skipped).all(-1)
        x, y = (jnp.where(counted[..., None], each, 0) for each in (x, y))
        return row_mean(1 - jnp.sum(_direction(x) * _direction(y), axis=-1), counted)

    return Loss(apply, "cosine_distance")


@arguments(makes_a_loss("triplet"))
def triplet(margin: float = 1.0) -> Loss:
    """How much nearer than by a margin the anchor should be to the positive: `max(0, |a - p| - |a - n| + margin)`.

    The distances are Euclidean, of differences to each of which 1e-6 is added; the mean is over rows.
    Shapes: prediction `(batch, ..., 3, features)`: anchor a, positive p and negative n; the target is not read.
    Fails: `ShapeMismatch`, `DtypeMismatch`.
    Reference: Schroff et al. 2015, "FaceNet", eq. 3 without squares; same mean as `torch.nn.TripletMarginLoss`.

    >>> float(triplet(2.0)(jnp.array([[[0.0, 0.0], [3.0, 4.0], [0.0, 4.0]]]), None).mean)  # 5 - 4 + 2
    2.99999...
    """
    size = number("triplet: margin", margin, "a number with margin > 0", lambda m: m > 0)

    def apply(prediction: Any, target: Any) -> LossValue:
        x, _ = arrays("triplet", prediction, jnp.zeros(0))
        if x.ndim < 3 or x.shape[-2] != 3:
            hint = "for three arrays: lambda prediction, target: triplet(jnp.stack(prediction, axis=-2), target)"
            refuse("triplet", "anchor, positive and negative as (batch, 3, features)", x, hint)
        anchor, positive, negative = jnp.moveaxis(x.astype(wide(x)), -2, 0)
        each = _norm(anchor - positive + APART) - _norm(anchor - negative + APART) + size
        return row_mean(jnp.where(each > 0, each, 0), jnp.full(each.shape, True))

    return Loss(apply, "triplet")


def _direction(x: Array) -> Array:
    """Vectors of norm 1, and zero vectors; their squares neither overflow nor underflow."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))
    x = x / jnp.where(largest > 0, largest, 1)  # which has the same direction, and so the same gradient
    norm = _norm(x)[..., None]
    return jnp.where(norm > 0, x / jnp.where(norm > 0, norm, 1), 0)


def _norm(x: Array) -> Array:
    squares = jnp.sum(jnp.square(x), axis=-1)
    some = squares > 0  # at 0 the root has no gradient
    return jnp.where(some, jnp.sqrt(jnp.where(some, squares, 1)), 0)
