"""Convolution and pooling of images `(batch, height, width, channels)`, in the form for the platform."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnlamp.arrays import Array, along_last, platform
from fnlamp.nn.lowering import im2col
from fnlamp.nn.lowering.im2col import batch_first, batch_last
from fnlamp.nn.lowering.window import Window


def convolve(x: Array, weight: Array, bias: Array | None, window: Window, groups: int = 1) -> Array:
    """The convolution, plus a bias for each output channel."""
    if platform() != "cpu":
        return native_convolve(x, weight, bias, window, groups)
    return batch_first(_plus(im2col.convolve(_padded(x, window), weight, window, groups), bias))


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
    if platform() != "cpu":
        return native_convolve_pooled(x, weight, bias, window, pools)
    if im2col.phases_pay(weight.shape, pools.size):
        y = im2col.convolve_pooled(_padded(x, window), weight, pools.size)
    else:
        y = im2col.max_pool(im2col.convolve(_padded(x, window), weight, window), pools)
    return batch_first(jax.nn.relu(_plus(y, bias)))


def native_convolve_pooled(x: Array, weight: Array, bias: Array | None, window: Window, pools: Window) -> Array:
    """`convolve_pooled` as operations of XLA."""
    y = native_max_pool(native_convolve(x, weight, None, window), pools)
    return jax.nn.relu(y if bias is None else y + along_last(bias, y.ndim))


def _padded(x: Array, window: Window) -> Array:
    return im2col.pad(batch_last(x), window.sides(*x.shape[1:3]))


def _plus(y: Array, bias: Array | None) -> Array:
    return y if bias is None else y + bias[:, None, None, None]


def max_pool(x: Array, window: Window) -> Array:
    """The largest number in each window; the padding is never the largest."""
    if platform() != "cpu":
        return native_max_pool(x, window)
    return batch_first(_max_pool(batch_last(x), window))


def _max_pool(x: Array, window: Window) -> Array:
    sides = window.sides(*x.shape[1:3])
    return im2col.max_pool(im2col.pad(x, sides, lowest(x.dtype)), window, sides)


def sum_pool(x: Array, window: Window) -> Array:
    """The sum of each window, the padding counted as zeros."""
    if platform() != "cpu":
        return native_sum_pool(x, window)
    return batch_first(im2col.sum_pool(im2col.pad(batch_last(x), window.sides(*x.shape[1:3])), window))


def native_max_pool(x: Array, window: Window) -> Array:
    """`max_pool` with the channels last: XLA's own operation gives the gradient to the padding, or beside a NaN."""
    return _max_pool(x, window)


def native_sum_pool(x: Array, window: Window) -> Array:
    """`sum_pool` as one operation of XLA."""
    padding, zero = ((0, 0), *window.sides(*x.shape[1:3]), (0, 0)), np.zeros((), x.dtype)
    y: Array = lax.reduce_window(x, zero, lax.add, (1, *window.size, 1), (1, *window.stride, 1), padding)
    return y


def lowest(dtype: Any) -> Any:
    """The smallest number of that dtype."""
    return np.array(-np.inf if jnp.issubdtype(dtype, jnp.floating) else np.iinfo(dtype).min, dtype)
