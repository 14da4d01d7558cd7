"""Axes of another length: bins of positions, and positions between others, all of them known before compilation."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from fnlamp.arrays import Array


def binned(x: Array, axis: int, bins: int) -> tuple[Array, np.ndarray[Any, Any]]:
    """The axis as two: the bins, and the positions in each; and which of those belong to the bin, `(bins, positions)`.

    Bin `i` of an axis of length `n` has the positions from `i n // bins` to `(i + 1) n / bins`, rounded up.  A bin that is
    shorter than others repeats its last position, which does not belong.
    """
    length = x.shape[axis]
    starts, ends = np.arange(bins) * length // bins, -(-np.arange(1, bins + 1) * length // bins)
    longest = int((ends - starts).max())
    inside = np.arange(longest) < (ends - starts)[:, None]
    if length % bins == 0:
        return x.reshape(*x.shape[:axis], bins, longest, *x.shape[axis + 1 :]), inside
    return taken(x, axis, np.minimum(starts[:, None] + np.arange(longest), ends[:, None] - 1)), inside


def mean_of_bins(x: Array, axis: int, bins: int) -> Array:
    """The mean of each bin."""
    parts, inside = binned(x, axis, bins)
    before, after = (1,) * axis, (1,) * (x.ndim - axis - 1)  # all axes, because promotion of ranks may be forbidden
    mask = inside.reshape(*before, *inside.shape, *after)
    counts = inside.sum(1).reshape(*before, bins, *after).astype(x.dtype)
    y: Array = jnp.sum(parts if inside.all() else jnp.where(mask, parts, 0), axis + 1) / counts
    return y


def largest_of_bins(x: Array, axis: int, bins: int) -> Array:
    """The largest number of each bin; the first of equal ones gets the gradient, and NaN is larger than any."""
    parts, _ = binned(x, axis, bins)
    at = jnp.expand_dims(jnp.argmax(parts, axis + 1), axis + 1)
    return jnp.squeeze(jnp.take_along_axis(parts, at, axis + 1, mode="promise_in_bounds"), axis + 1)


def nearest(x: Array, axis: int, length: int) -> Array:
    """The axis with the position whose centre is next to that of each new one."""
    old = x.shape[axis]
    if length % old == 0:
        return jnp.repeat(x, length // old, axis)
    return taken(x, axis, nearest_positions(old, length))


def nearest_positions(old: int, new: int) -> np.ndarray[Any, Any]:
    """The position of an axis of length `old` under each centre of one of length `new`.

    >>> nearest_positions(3, 5)
    array([0, 0, 1, 2, 2])
    """
    return (2 * np.arange(new) + 1) * old // (2 * new)


def between(x: Array, axis: int, length: int) -> Array:
    """The axis with numbers on the lines between the centres of positions; beyond the outer centres they are constant."""
    old = x.shape[axis]
    at = np.clip((np.arange(length) + 0.5) * old / length - 0.5, 0, old - 1)
    left = at.astype(int)
    share = (at - left).reshape(*(1,) * axis, length, *(1,) * (x.ndim - axis - 1)).astype(x.dtype)
    y: Array = taken(x, axis, left) * (1 - share) + taken(x, axis, np.minimum(left + 1, old - 1)) * share
    return y


def taken(x: Array, axis: int, at: np.ndarray[Any, Any]) -> Array:
    """The positions `at` along an axis."""
    y: Array = jnp.take(x, jnp.asarray(at), axis=axis, mode="clip")
    return y
