"""Convolution and pooling of images `(batch, height, width, channels)`, in the form for the platform."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnlamp.arrays import Array, along_last, platform
from fnlamp.nn.lowering import convolution, im2col
from fnlamp.nn.lowering.geometry import Geometry
from fnlamp.nn.lowering.im2col import batch_first, batch_last
from fnlamp.nn.lowering.window import Window


def convolve(x: Array, weight: Array, bias: Array | None, window: Window, groups: int = 1) -> Array:
    """The convolution, plus a bias for each output channel."""
    if platform() != "cpu" or _in_shards(x) or _in_shards(weight):
        return native_convolve(x, weight, bias, window, groups)
    y = convolution.outputs(x, weight, Geometry.of(x.shape, weight.shape, window, groups))
    return y if bias is None else y + along_last(bias, y.ndim)


def _in_shards(x: Array) -> bool:
    """Whether JAX follows which device has which part of the array, as in `shard_map`: it does so for XLA's operation alone."""
    mesh: Any = jax.typeof(x).sharding.mesh
    return any(kind != jax.sharding.AxisType.Auto for kind in mesh.axis_types or ())


def native_convolve(x: Array, weight: Array, bias: Array | None, window: Window, groups: int = 1) -> Array:
    """`convolve` as one operation of XLA."""
    y = lax.conv_general_dilated(
        x,
        weight,
        window.stride,
        window.sides(*x.shape[1:3]),
        rhs_dilation=window.dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    return y if bias is None else y + along_last(bias, y.ndim)


def convolve_pooled(x: Array, weight: Array, bias: Array | None, window: Window, pools: Window) -> Array:
    """`relu(max_pool(convolve(x)) + bias)`, the pools side by side."""
    if platform() == "cpu" and im2col.phases_pay(weight.shape, pools.size):
        padded = im2col.pad(batch_last(x), window.sides(*x.shape[1:3]))
        y = im2col.convolve_pooled(padded, weight, pools.size)
        # With the batch last until the end, the transpose cancels that of a next layer of this form.
        return batch_first(jax.nn.relu(y if bias is None else y + bias[:, None, None, None]))
    y = max_pool(convolve(x, weight, None, window), pools)
    return jax.nn.relu(y if bias is None else y + along_last(bias, y.ndim))


def max_pool(x: Array, window: Window) -> Array:
    """The largest number in each window; the padding is never the largest.

    The channels are last here: the largest of shifted slices. XLA's own operation gives the gradient to the padding, or beside
    a NaN.
    """
    sides = window.sides(*x.shape[1:3])
    return im2col.max_pool(im2col.pad(x, sides, lowest(x.dtype)), window, sides)


def sum_pool(x: Array, window: Window) -> Array:
    """The sum of each window, the padding counted as zeros."""
    if platform() != "cpu":
        return native_sum_pool(x, window)
    return im2col.sum_pool(im2col.pad(x, window.sides(*x.shape[1:3])), window)


def native_sum_pool(x: Array, window: Window) -> Array:
    """`sum_pool` as one operation of XLA."""
    padding, zero = ((0, 0), *window.sides(*x.shape[1:3]), (0, 0)), np.zeros((), x.dtype)
    y: Array = lax.reduce_window(x, zero, lax.add, (1, *window.size, 1), (1, *window.stride, 1), padding)
    return y


def lowest(dtype: Any) -> Any:
    """The smallest number of that dtype."""
    return np.array(-np.inf if jnp.issubdtype(dtype, jnp.floating) else np.iinfo(dtype).min, dtype)
