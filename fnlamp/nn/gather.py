"""Vectors at given positions of a sequence."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from fnlamp.arrays import Array, describe
from fnlamp.fault import FaultError, ShapeMismatch
from fnlamp.nn.check import check_float, check_integer


def gather_positions(hidden: Array, positions: Array) -> Array:
    """The vectors at some positions of each row: `out[i, k] = hidden[i, positions[i, k]]`, each row's own positions.

    Shapes: `(batch, time, ...)` and `(batch, count) -> (batch, count, ...)`.  A position out of range, negative ones too, has
    a vector of NaN, as a token out of range in `embedding`.  Fails: `ShapeMismatch`; `DtypeMismatch` for positions that are
    not integers, and for vectors that cannot hold NaN, such as integers.

    >>> hidden = jnp.array([[[1.0], [2.0]], [[3.0], [4.0]]])
    >>> gather_positions(hidden, jnp.array([[1, 0], [0, 0]]))[..., 0]
    Array([[2., 1.],
           [3., 3.]], dtype=float32)
    """
    given = all(isinstance(x, Array | np.ndarray) for x in (hidden, positions))
    if not given or hidden.ndim < 2 or positions.ndim != 2 or positions.shape[0] != hidden.shape[0]:
        expected = "arrays of shapes (batch, time, ...) and (batch, count)"
        raise FaultError(ShapeMismatch(expected, describe((hidden, positions)), where="gather_positions"))
    check_integer(positions, "gather_positions", "integer positions")
    check_float(hidden, "gather_positions", "floating-point vectors", "cast them first")
    wide = positions.astype(jnp.int32) if positions.dtype.itemsize < 4 else positions
    known = (wide >= 0) & (wide < hidden.shape[1])
    index = jnp.where(known, wide, 0).reshape(*wide.shape, *(1,) * (hidden.ndim - 2))
    vectors = jnp.take_along_axis(hidden, index, axis=1, mode="promise_in_bounds")
    return jnp.where(known.reshape(index.shape), vectors, jnp.nan)
