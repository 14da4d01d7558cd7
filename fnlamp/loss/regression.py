"""Metrics of numbers: mean absolute error, root of the mean squared error, and the share of explained variance."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnlamp.arrays import Array
from fnlamp.given import arguments
from fnlamp.loss.counts import MAKES
from fnlamp.loss.elementwise import counting, elementwise, ignored_number, pairs
from fnlamp.loss.numbers import mse
from fnlamp.loss.value import Loss, Metric, as_metric, mean_of

CONSTANT = 1e-12
"""The variance of a target, as a share of its mean square, below which it is rounding: sums have 48 bits."""


@arguments(MAKES.format("mae"))
def mae(*, ignored: float | None = None) -> Loss:
    """The mean absolute error over all numbers: the loss `l1` under the name of the metric.

    Shapes, ignored targets and faults as `mse`.  Same as `sklearn.metrics.mean_absolute_error`.

    >>> float(mae()(jnp.array([1.0, 2.0]), jnp.array([0.0, 4.0])).mean)
    1.5
    """
    return elementwise("mae", lambda x, y: jnp.abs(x - y), ignored)


@arguments(MAKES.format("rmse"))
def rmse(*, ignored: float | None = None) -> Metric:
    """The square root of the mean squared error over all numbers of all batches: a metric.

    Shapes, ignored targets and faults as `mse`.  Same as `sklearn.metrics.root_mean_squared_error` of one column; of several it
    is the root of their mean, where scikit-learn's is the mean of their roots.

    >>> rmse()(jnp.array([1.0, 2.0]), jnp.array([0.0, 9.0]))
    5.0
    """
    mean = as_metric(mse(ignored=ignored))
    return Metric(mean.sums, lambda sums: math.sqrt(mean_of(sums)), "rmse", mean.check)


class Moments(NamedTuple):
    """Per column: rows, squared errors, and sums of d, d^2, c, c d and c^2, where targets are c + d with one c per batch."""

    rows: Any
    errors: Any
    d: Any
    dd: Any
    c: Any
    cd: Any
    cc: Any


@arguments(MAKES.format("r2"))
def r2(*, ignored: float | None = None) -> Metric:
    """The coefficient of determination, `1 - sum (y - x)^2 / sum (y - mean y)^2`: a metric; the mean over columns.

    Shapes: prediction x and target y have the same shape, with columns on the last axis if there are two axes or more.  Ignored
    targets and faults as `mse`.  A constant column (whose standard deviation is below a millionth of its mean) is 1 if it is
    predicted exactly, else 0; with fewer than two rows there is none, and it is NaN.
    Same as `sklearn.metrics.r2_score`.

    >>> r2()(jnp.array([2.5, 0.0, 2.0, 8.0]), jnp.array([3.0, -0.5, 2.0, 7.0]))
    0.948...
    """
    skipped = ignored_number("r2", ignored)

    def sums(prediction: Any, target: Any) -> Moments:
        x, y = (each.reshape(-1, each.shape[-1] if each.ndim > 1 else 1) for each in pairs("r2", prediction, target))
        return _moments(x, y, jnp.ones(y.shape, bool) if skipped is None else counting(y, skipped))

    return Metric(sums, _explained, "r2")


def _moments(x: Array, y: Array, counted: Array) -> Moments:
    rows = jnp.sum(counted, axis=0, dtype=jnp.int32)
    n = rows.astype(y.dtype)
    low, high = jnp.min(y, axis=0, where=counted, initial=jnp.inf), jnp.max(y, axis=0, where=counted, initial=-jnp.inf)
    mean = jnp.sum(jnp.where(counted, y, 0), axis=0) / jnp.maximum(n, 1)
    centre = jnp.where(rows > 0, jnp.clip(mean, low, high), 0)  # of a constant it is the constant, without rounding
    d, error = jnp.where(counted, y - centre[None], 0), jnp.where(counted, y - x, 0)
    nc, rest = product(n, centre)
    cd, ncc = product(centre, jnp.sum(d, axis=0)), jnp.stack([*product(nc, centre), rest * centre])
    squares = jnp.sum(jnp.square(error), axis=0), jnp.sum(jnp.square(d), axis=0)
    return Moments(rows, squares[0], jnp.sum(d, axis=0), squares[1], jnp.stack([nc, rest]), cd, ncc)


def product(a: Array, b: Array) -> Array:
    """The product, and what its rounding lost: two numbers whose sum is exact.  Reference: Dekker 1971, section 5."""
    bits = jnp.finfo(a.dtype)  # type: ignore[no-untyped-call]

    def rounded(x: Array, mantissa: int) -> Array:
        return jax.lax.reduce_precision(x, exponent_bits=bits.nexp, mantissa_bits=mantissa)

    whole = rounded(a * b, bits.nmant)  # rounded by itself, which a fused multiplication would not do
    a1, b1 = (rounded(x, bits.nmant // 2) for x in (a, b))
    a2, b2 = a - a1, b - b1
    return jnp.stack([whole, ((a1 * b1 - whole) + a1 * b2 + a2 * b1) + a2 * b2])


def _explained(sums: Moments) -> float:
    n, c, cd, cc = sums.rows, sums.c.sum(0), sums.cd.sum(0), sums.cc.sum(0)
    squares = sums.dd + 2 * cd + cc
    variation = squares - (c + sums.d) ** 2 / np.maximum(n, 1)
    constant = variation <= CONSTANT * squares
    found = np.where(constant, sums.errors == 0, 1 - sums.errors / np.where(constant, 1, variation))
    return float(np.where(n < 2, math.nan, found).mean())
