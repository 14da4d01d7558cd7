"""Sums over an epoch that do not drift, on the device: pairs of float32 numbers, exact for counts and to 1e-14 for losses.

A plain float32 sum stops at 2^24 = 16,777,216 when 1 is added, and is off by parts in a thousand long before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnlamp.arrays import Array, is_integer


class Sums(NamedTuple):
    """What a tally holds: counts, the sum of the batches' mean losses, total and weight of the loss, and the metrics' sums."""

    steps: Any
    rows: Any
    of_batches: Any
    total: Any
    weight: Any
    metrics: Any = ()


def empty(metrics: int = 0) -> np.ndarray[Any, Any]:
    """A tally before the first batch, with room for so many numbers of metrics.

    Shape: `(2, 5 + metrics)`, the sums and what their rounding lost.
    """
    return np.zeros((2, 5 + metrics), np.float32)


def cleared(tally: Any) -> np.ndarray[Any, Any]:
    """A tally of the same sums before the first batch."""
    return np.zeros(tally.shape, np.float32)


def add(tally: Array, rows: int, values: Sequence[Array]) -> Array:
    """The tally and a batch of so many rows; `values` are its mean loss, total and weight, then the metrics' sums.

    Reference: Dekker 1971, "A floating-point technique for extending the available precision", with Knuth's exact sum
    (The Art of Computer Programming, volume 2, section 4.2.2, theorem B).
    """
    high, low = tally
    counts = np.array([1, rows], np.float64)
    exact, left = zip(*(_split(value) for value in values), strict=True)
    added = jnp.concatenate([jnp.asarray(counts, jnp.float32), *(part.reshape(-1) for part in exact)])
    lost = jnp.concatenate([jnp.asarray(counts - counts.astype(np.float32), jnp.float32), *(rest.reshape(-1) for rest in left)])
    total = high + added
    part = total - high
    rest = low + ((high - (total - part)) + (added - part) + lost)
    rest = jnp.where(jnp.isfinite(rest), rest, jnp.zeros_like(rest))  # of an infinite sum nothing is left over
    whole = total + rest  # what was lost stays below half a unit of the sum, or it would be rounded itself
    return jnp.stack([whole, rest - (whole - total)])


def sums(tally: Any) -> Sums:
    """The sums in float64."""
    high, low = np.asarray(tally, np.float64)
    whole: np.ndarray[Any, Any] = np.where(np.isfinite(low), high + low, high)
    steps, rows, of_batches, total, weight = whole[:5]
    return Sums(steps, rows, of_batches, total, weight, whole[5:])


def of_batches(tally: Array) -> Array:
    """The sum of the batches' mean losses, on the device and without its rounding: whether a loss broke it."""
    return tally[0, Sums._fields.index("of_batches")]


def _split(value: Array) -> tuple[Array, Array]:
    """Numbers in float32, and what that leaves of numbers of more bits."""
    if is_integer(value) and value.dtype.itemsize > 2:
        low = value & 0xFFF  # so that the others, above 2^12, fit 24 bits
        return (value - low).astype(jnp.float32), low.astype(jnp.float32)
    if value.dtype != jnp.float64:
        return value.astype(jnp.float32), jnp.zeros(value.shape, jnp.float32)
    # A conversion to float32 and back would be optimized away on a GPU, where excess precision is allowed.
    rounded: Array = jax.lax.reduce_precision(value, exponent_bits=8, mantissa_bits=23)
    return rounded.astype(jnp.float32), (value - rounded).astype(jnp.float32)
