"""Pooling to an output of a given size, for any number of axes of positions."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from fnlamp.arrays import Array, wide
from fnlamp.given import arguments
from fnlamp.layer import Layer
from fnlamp.nn.check import check_float, check_numeric, check_positions, size_or_sizes
from fnlamp.nn.lowering.resample import largest_of_bins, mean_of_bins
from fnlamp.nn.shape import fun, whole_only


def _global_avg_pool(x: Array) -> Array:
    check_positions(x, "global_avg_pool")
    check_float(x, "global_avg_pool")
    return x.mean(range(1, x.ndim - 1))


def _global_max_pool(x: Array) -> Array:
    check_positions(x, "global_max_pool")
    check_numeric(x, "global_max_pool")
    return largest_of_bins(x.reshape(x.shape[0], prod(x.shape[1:-1]), x.shape[-1]), 1, 1)[:, 0]


global_avg_pool = whole_only(fun(_global_avg_pool, "global_avg_pool"))
"""The mean of each channel over the sequence, image or volume (Lin, Chen & Yan 2013, section 3.2).
Shapes: `(batch, ..., channels) -> (batch, channels)`. Fails: `ShapeMismatch`; `DtypeMismatch` for integers."""

global_max_pool = whole_only(fun(_global_max_pool, "global_max_pool"))
"""The largest number of each channel over the sequence, image or volume; ties and NaN as in `max_pool2d`.
Shapes: `(batch, ..., channels) -> (batch, channels)`. Fails: `ShapeMismatch`; `DtypeMismatch` for booleans."""


@arguments("the size is that of the output: nn.adaptive_avg_pool(7) gives images of 7 x 7")
def adaptive_avg_pool(size: int | tuple[int, ...]) -> Layer:
    """The mean of each of `size` bins along each axis, channel by channel, for inputs of any length.

    Bin `i` of an axis of length `n` has the positions from `floor(i n / size)` to `ceil((i + 1) n / size)`, so that bins
    overlap if `size` does not divide `n`: as torch's `AdaptiveAvgPool1d`, `2d` and `3d`.  Half precision is summed in float32.
    `size` is an integer, or one for each axis of positions.
    Shapes: `(batch, ..., channels) -> (batch, *size, channels)`.
    Fails: `ShapeMismatch` for another number of axes, or an axis of length 0; `DtypeMismatch` for integers.

    >>> adaptive_avg_pool(2).apply({}, {}, jnp.array([[1.0, 2.0, 6.0]])[..., None], Eval())[0].ravel()
    Array([1.5, 4. ], dtype=float32)
    """
    size = size_or_sizes("adaptive_avg_pool: size", size)

    def apply(x: Array) -> Array:
        check_float(x, "adaptive_avg_pool")
        return _each_axis(mean_of_bins, x.astype(wide(x)), size, "adaptive_avg_pool").astype(x.dtype)

    return whole_only(fun(apply, f"adaptive_avg_pool({size})"))


@arguments("the size is that of the output: nn.adaptive_max_pool(7) gives images of 7 x 7")
def adaptive_max_pool(size: int | tuple[int, ...]) -> Layer:
    """The largest number of each of `size` bins along each axis; the bins of `adaptive_avg_pool`, ties and NaN as `max_pool2d`.

    Shapes: `(batch, ..., channels) -> (batch, *size, channels)`.
    Fails: `ShapeMismatch` for another number of axes, or an axis of length 0; `DtypeMismatch` for booleans.

    >>> adaptive_max_pool(2).apply({}, {}, jnp.array([[1.0, 6.0, 2.0]])[..., None], Eval())[0].ravel()
    Array([6., 6.], dtype=float32)
    """
    size = size_or_sizes("adaptive_max_pool: size", size)

    def apply(x: Array) -> Array:
        check_numeric(x, "adaptive_max_pool")
        return _each_axis(largest_of_bins, x, size, "adaptive_max_pool")

    return whole_only(fun(apply, f"adaptive_max_pool({size})"))


def _each_axis(pooled: Callable[[Array, int, int], Array], x: Array, size: int | tuple[int, ...], where: str) -> Array:
    """The last axis first, so that the first of equal numbers is the first in row-major order."""
    check_positions(x, where, size)
    count = x.ndim - 2
    sizes = size if isinstance(size, tuple) else (size,) * count
    for axis in range(count, 0, -1):
        x = pooled(x, axis, sizes[axis - 1])
    return x
