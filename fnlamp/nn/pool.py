"""Pooling: the largest number, or the mean, of each window of sequences, images and volumes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from fnlamp.arrays import Array, wide
from fnlamp.given import arguments
from fnlamp.layer import Layer
from fnlamp.nn.check import check_float, check_numeric, check_window, window_of
from fnlamp.nn.kernel import short
from fnlamp.nn.lowering import images
from fnlamp.nn.lowering.axes import Axis, Padding1d, Padding3d, Size3d
from fnlamp.nn.lowering.volumes import pool
from fnlamp.nn.lowering.window import Padding, Size
from fnlamp.nn.shape import fun, whole_only


@arguments("nn.max_pool1d(2) has windows of 2 steps, side by side")
def max_pool1d(window: int, *, stride: int | None = None, padding: Padding1d = 0) -> Layer:
    """`max_pool2d` along sequences: `(batch, length, channels) -> (batch, places, channels)`.

    >>> max_pool1d(2).apply({}, {}, jnp.array([[1.0, 5.0, 2.0, 4.0]])[..., None], Eval())[0].ravel()
    Array([5., 4.], dtype=float32)
    """
    return _max_pool("max_pool1d", _windows(1, window, stride, padding, "max_pool1d"))


@arguments("nn.max_pool2d(2) has windows of 2 x 2, side by side")
def max_pool2d(window: Size, *, stride: Size | None = None, padding: Padding = 0) -> Layer:
    """The largest number in each window, channel by channel; `stride` is the window's size unless given.

    The padding is never the largest.  Of equal numbers the first in row-major order takes the whole gradient, and NaN is larger
    than any number, both as in torch.  Rows and columns that do not fill a window are left out.
    Shapes: `(batch, height, width, channels) -> (batch, places, places, channels)`; padding as in `conv2d`.
    Fails: `ShapeMismatch` for another rank, or a window larger than the padded image; `DtypeMismatch` for booleans.
    Raises: `ValueError` for padding as large as the window.

    >>> x = jnp.array([[1.0, 5.0, 2.0], [4.0, 3.0, 6.0]])[None, :, :, None]
    >>> max_pool2d(2, stride=1).apply({}, {}, x, Eval())[0].ravel()
    Array([5., 6.], dtype=float32)
    """
    return _max_pool("max_pool2d", _windows(2, window, stride, padding, "max_pool2d"))


@arguments("nn.max_pool3d(2) has windows of 2 x 2 x 2, side by side")
def max_pool3d(window: Size3d, *, stride: Size3d | None = None, padding: Padding3d = 0) -> Layer:
    """`max_pool2d` over volumes: `(batch, depth, height, width, channels) -> (batch, places, places, places, channels)`.

    >>> max_pool3d(2).apply({}, {}, jnp.arange(8.0).reshape(1, 2, 2, 2, 1), Eval())[0].ravel()
    Array([7.], dtype=float32)
    """
    return _max_pool("max_pool3d", _windows(3, window, stride, padding, "max_pool3d"))


@arguments("nn.avg_pool1d(2) has windows of 2 steps, side by side")
def avg_pool1d(window: int, *, stride: int | None = None, padding: Padding1d = 0) -> Layer:
    """`avg_pool2d` along sequences: `(batch, length, channels) -> (batch, places, channels)`.

    >>> avg_pool1d(2).apply({}, {}, jnp.array([[1.0, 5.0, 2.0, 4.0]])[..., None], Eval())[0].ravel()
    Array([3., 3.], dtype=float32)
    """
    return _avg_pool("avg_pool1d", _windows(1, window, stride, padding, "avg_pool1d"))


@arguments("nn.avg_pool2d(2) has windows of 2 x 2, side by side")
def avg_pool2d(window: Size, *, stride: Size | None = None, padding: Padding = 0) -> Layer:
    """The mean of each window, channel by channel; `stride` is the window's size unless given.

    Padding counts as zeros of the window, as in torch by default (`count_include_pad`): every sum is divided by the
    window's size.  Half precision is summed in float32.  Rows and columns that do not fill a window are left out.
    Shapes: `(batch, height, width, channels) -> (batch, places, places, channels)`; padding as in `conv2d`.
    Fails: `ShapeMismatch` for another rank, or a window larger than the padded image; `DtypeMismatch` for integers.
    Raises: `ValueError` for padding as large as the window.

    >>> x = jnp.array([[1.0, 5.0, 2.0], [4.0, 2.0, 0.0]])[None, :, :, None]
    >>> avg_pool2d(2, stride=1).apply({}, {}, x, Eval())[0].ravel()
    Array([3.  , 2.25], dtype=float32)
    """
    return _avg_pool("avg_pool2d", _windows(2, window, stride, padding, "avg_pool2d"))


@arguments("nn.avg_pool3d(2) has windows of 2 x 2 x 2, side by side")
def avg_pool3d(window: Size3d, *, stride: Size3d | None = None, padding: Padding3d = 0) -> Layer:
    """`avg_pool2d` over volumes: `(batch, depth, height, width, channels) -> (batch, places, places, places, channels)`.

    >>> avg_pool3d(2).apply({}, {}, jnp.arange(8.0).reshape(1, 2, 2, 2, 1), Eval())[0].ravel()
    Array([3.5], dtype=float32)
    """
    return _avg_pool("avg_pool3d", _windows(3, window, stride, padding, "avg_pool3d"))


def _max_pool(name: str, window: Sequence[Axis]) -> Layer:
    def apply(x: Array) -> Array:
        check_window(x, window, name)
        check_numeric(x, name)
        return pool(images.max_pool, x, window)

    return whole_only(fun(apply, _label(name, window)))


def _avg_pool(name: str, window: Sequence[Axis]) -> Layer:
    size = prod(axis.size for axis in window)

    def apply(x: Array) -> Array:
        check_window(x, window, name)
        check_float(x, name)
        return (pool(images.sum_pool, x.astype(wide(x)), window) / size).astype(x.dtype)

    return whole_only(fun(apply, _label(name, window)))


def _windows(count: int, size: Any, stride: Any, padding: Any, where: str) -> tuple[Axis, ...]:
    window = window_of(size, size if stride is None else stride, 1, padding, count, where, "window")
    if any(n >= axis.size for axis in window for n in axis.padding or ()):
        sizes = tuple(axis.size for axis in window)
        raise ValueError(
            f"{where}: padding must be less than the window {sizes}, or a window would hold no pixel, got {padding}"
        )
    return window


def _label(name: str, window: Sequence[Axis]) -> str:
    return f"{name}({short(tuple(axis.size for axis in window))})"
