"""The loss of an overlap, for segmentation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnlamp.arrays import wide
from fnlamp.given import arguments, number
from fnlamp.loss.arguments import arrays, makes_a_loss, nan_unless
from fnlamp.loss.elementwise import row_mean
from fnlamp.loss.labels import check_labels, check_range, ignored_label, labels_of
from fnlamp.loss.value import Loss, LossValue


@arguments(makes_a_loss("dice"))
def dice(smooth: float = 1.0, *, ignored: int = -100) -> Loss:
    """One minus the Dice overlap of predicted and labelled regions: `1 - (2 sum p t + s) / (sum p + sum t + s)`.

    The sums are over the positions of a row, p the softmax of its logits and t its labels, one-hot; the mean is over classes
    and rows.  A class that is neither there nor predicted has the overlap 1, because s, which is `smooth`, is above 0.
    Positions whose target is `ignored` do not count, nor do rows without any other.
    Shapes: prediction `(batch, ..., classes)`, target `(batch, ...)`, such as images of labels.  Faults as `cross_entropy`.
    Reference: Milletari et al. 2016, "V-Net", section 3, with p and t in place of their squares in the denominator.

    >>> logits = jnp.array([[[100.0, 0.0], [100.0, 0.0]]])  # both pixels are of class 0, and predicted so
    >>> float(dice()(logits, jnp.array([[0, 0]])).mean), float(dice(0.1)(logits, jnp.array([[0, 1]])).mean)
    (0.0, 0.6158...)
    """
    constant, skipped = (
        number("dice: smooth", smooth, "a number with smooth > 0", lambda s: s > 0),
        ignored_label(ignored, "dice"),
    )

    def apply(prediction: Any, target: Any) -> LossValue:
        logits, target = arrays("dice", prediction, target)
        check_labels("dice", logits, target)
        classes = logits.shape[-1]
        label, counted, known = labels_of(target, skipped, classes)
        p = jax.nn.softmax(logits.astype(wide(logits)), axis=-1)
        t = jax.nn.one_hot(label, classes, dtype=p.dtype)
        p, t = (jnp.where(counted[..., None], x, 0).reshape(len(x), -1, classes) for x in (p, t))
        overlap = (2 * jnp.sum(p * t, axis=1) + constant) / (jnp.sum(p, axis=1) + jnp.sum(t, axis=1) + constant)
        each = nan_unless((known | ~counted).all(), 1 - jnp.mean(overlap, axis=-1))
        return row_mean(each, counted.reshape(len(p), -1).any(-1))

    return Loss(apply, "dice", lambda prediction, target: check_range("dice", prediction, target, skipped))
