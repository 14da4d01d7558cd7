"""Losses that are a mean over all numbers of a batch, of which some may be ignored."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from fnlamp.arrays import Array, wide
from fnlamp.given import number
from fnlamp.loss.arguments import arrays, refuse
from fnlamp.loss.labels import squeeze_hint
from fnlamp.loss.value import Loss, LossValue


def elementwise(
    name: str,
    one: Callable[[Array, Array], Array],
    ignored: float | None = None,
    check: Callable[[Any, Any], None] | None = None,
) -> Loss:
    """The mean of `one(prediction, target)` over all numbers that count; `check` is given the targets that do."""
    skipped = ignored_number(name, ignored)

    def apply(prediction: Any, target: Any) -> LossValue:
        x, y = pairs(name, prediction, target)
        if skipped is None:
            losses = one(x, y)
            return LossValue(jnp.sum(losses), jnp.asarray(losses.size, losses.dtype))
        counted = counting(y, skipped)
        # Where nothing counts, both are 0, so that no NaN of theirs reaches the gradient.
        return row_mean(one(jnp.where(counted, x, 0), jnp.where(counted, y, 0)), counted)

    def checks(prediction: Any, target: Any) -> None:
        if check is not None:
            target = np.asarray(target)
            check(prediction, target if skipped is None else np.where(counting(target, skipped), target, 0))

    return Loss(apply, name, checks)


def pairs(name: str, prediction: Any, target: Any) -> tuple[Array, Array]:
    """Prediction and target of one shape, in at least float32.  Fails: `ShapeMismatch`, `DtypeMismatch`."""
    prediction, target = arrays(name, prediction, target)
    if prediction.shape != target.shape:
        expected = f"a target of the prediction's shape {list(prediction.shape)}"
        refuse(name, expected, target, squeeze_hint(prediction, target))
    dtype = wide(prediction)
    return prediction.astype(dtype), target.astype(dtype)


def ignored_number(name: str, ignored: float | None) -> float | None:
    """The target that does not count: a number, NaN, or none.  Raises: `TypeError`."""
    if ignored is None or (isinstance(ignored, float | np.floating) and math.isnan(ignored)):
        return None if ignored is None else math.nan
    return number(f"{name}: ignored", ignored, "a number, NaN, or None")


def counting(target: Any, ignored: float) -> Any:
    """Which targets count."""
    return target == target if math.isnan(ignored) else target != ignored


def row_mean(losses: Array, counted: Array) -> LossValue:
    """The mean of the losses that count, one for each entry of `counted`."""
    total = jnp.sum(jnp.where(counted, losses, 0))
    return LossValue(total, jnp.sum(counted, dtype=jnp.int32).astype(total.dtype))
