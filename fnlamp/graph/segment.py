"""Sums, means, maxima and softmax of rows that belong together: of the edges into a node, of the nodes of a graph.

Each takes rows `(rows, ...)`, the number of the segment of each row, and how many segments there are.  A row whose segment is
the number of segments is padding and belongs to none.  Sums of half precision are computed in float32, integers of less than
32 bits in 32 bits.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnlamp.arrays import Array, describe, is_float, is_integer, wide
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch
from fnlamp.given import whole


def sum_at(rows: Any, segment: Any, count: int) -> Array:
    """The sum of the rows of each segment; 0 for a segment without rows.

    >>> sum_at(jnp.array([1.0, 2.0, 4.0, 8.0]), jnp.array([0, 2, 2, 3]), 3)
    Array([1., 0., 6.], dtype=float32)
    """
    rows, segment, count = _checked("sum_at", rows, segment, count)
    return _sum(rows, segment, count).astype(rows.dtype)


def mean_at(rows: Any, segment: Any, count: int) -> Array:
    """The mean of the rows of each segment; 0 for a segment without rows.

    >>> mean_at(jnp.array([1.0, 2.0, 4.0]), jnp.array([0, 2, 2]), 3)
    Array([1., 0., 3.], dtype=float32)
    """
    rows, segment, count = _checked("mean_at", rows, segment, count)
    sizes = jnp.maximum(jax.ops.segment_sum(jnp.ones(len(rows), wide(rows)), segment, count), 1)
    mean = _sum(rows, segment, count) / sizes.reshape(-1, *(1,) * (rows.ndim - 1))
    return mean.astype(rows.dtype) if is_float(rows) else mean


def max_at(rows: Any, segment: Any, count: int) -> Array:
    """The largest number of each segment, feature by feature; 0 for a segment without rows.

    >>> max_at(jnp.array([-1.0, -2.0, -4.0]), jnp.array([0, 2, 2]), 3)
    Array([-1.,  0., -2.], dtype=float32)
    """
    rows, segment, count = _checked("max_at", rows, segment, count)
    sizes = jax.ops.segment_sum(jnp.ones(len(rows), jnp.int32), segment, count).reshape(-1, *(1,) * (rows.ndim - 1))
    return jnp.where(sizes > 0, jax.ops.segment_max(rows, segment, count), jnp.zeros((), rows.dtype))


def softmax_at(rows: Any, segment: Any, count: int) -> Array:
    """The softmax over the rows of each segment, for each row; 0 for padding.

    >>> softmax_at(jnp.array([3.0, 1.0, 1.0, 9.0]), jnp.array([0, 2, 2, 3]), 3)
    Array([1. , 0.5, 0.5, 0. ], dtype=float32)
    """
    rows, segment, count = _checked("softmax_at", rows, segment, count)
    largest = jax.lax.stop_gradient(jax.ops.segment_max(rows, segment, count))
    if not count:
        return jnp.zeros_like(rows)
    inside = ((segment >= 0) & (segment < count)).reshape(-1, *(1,) * (rows.ndim - 1))
    shifted = jnp.exp(jnp.where(inside, rows - largest.at[segment].get(mode="fill", fill_value=0), -jnp.inf))
    total = _sum(shifted, segment, count).at[segment].get(mode="fill", fill_value=1)
    return (shifted.astype(total.dtype) / jnp.where(inside, total, 1)).astype(shifted.dtype)


def _sum(rows: Array, segment: Array, count: int) -> Array:
    """The sums, in a dtype that holds them: bfloat16 would end at 256 times 1."""
    return jax.ops.segment_sum(rows.astype(wide(rows)) if is_float(rows) else rows, segment, count)


def _checked(where: str, rows: Any, segment: Any, count: int) -> tuple[Array, Array, int]:
    """The rows and their segments.  Fails: `ShapeMismatch`, `DtypeMismatch`.  Raises: `TypeError`, `ValueError`."""
    given = all(isinstance(x, Array | np.ndarray) for x in (rows, segment))
    if not given or rows.ndim < 1 or segment.shape != rows.shape[:1]:
        expected = "arrays of shapes (rows, ...) and (rows,)"
        raise FaultError(ShapeMismatch(expected, describe((rows, segment)), where=where))
    if not is_integer(segment):
        raise FaultError(DtypeMismatch("integer numbers of segments", describe(segment), where=where))
    if not is_float(rows) and not is_integer(rows):
        raise FaultError(DtypeMismatch("rows of numbers", describe(rows), where=where))
    rows, segment = jnp.asarray(rows), jnp.asarray(segment)
    if is_integer(rows) and rows.dtype.itemsize < 4:
        rows = rows.astype(jnp.int32)
    # In 8 bits, 200 segments would be 127.
    segment = segment.astype(jnp.int32) if segment.dtype.itemsize < 4 else segment
    return rows, segment, whole(f"{where}: count", count, 0)
