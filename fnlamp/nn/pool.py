"""Pooling: the largest number, or the mean, of each window of an image."""

from __future__ import annotations

from math import prod

from fnlamp.arrays import Array, describe, is_float, is_integer, wide
from fnlamp.fault import DtypeMismatch, FaultError
from fnlamp.given import arguments
from fnlamp.layer import Layer
from fnlamp.nn.check import check_float, check_images, check_padding, check_shape, check_window, pair
from fnlamp.nn.lowering.images import max_pool, sum_pool
from fnlamp.nn.lowering.window import Padding, Size, Window
from fnlamp.nn.shape import fun


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
    view = _window(window, stride, padding, "max_pool2d")

    def apply(x: Array) -> Array:
        check_window(x, view, "max_pool2d")
        if not (is_float(x) or is_integer(x)):
            raise FaultError(DtypeMismatch("numbers", describe(x), "cast first, as nn.rescale does", where="max_pool2d"))
        return max_pool(x, view)

    return fun(apply, f"max_pool2d({window})")


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
    view = _window(window, stride, padding, "avg_pool2d")

    def apply(x: Array) -> Array:
        check_window(x, view, "avg_pool2d")
        check_float(x, "avg_pool2d")
        return (sum_pool(x.astype(wide(x)), view) / prod(view.size)).astype(x.dtype)

    return fun(apply, f"avg_pool2d({window})")


def _global_avg_pool(x: Array) -> Array:
    check_images(x, "global_avg_pool")
    check_float(x, "global_avg_pool")
    check_shape(x, lambda shape: shape[1] * shape[2] > 0, "images of at least one pixel", "global_avg_pool")
    return x.mean((1, 2))


global_avg_pool = fun(_global_avg_pool, "global_avg_pool")
"""The mean of each channel over the image (Lin, Chen & Yan 2013, section 3.2).
Shapes: `(batch, height, width, channels) -> (batch, channels)`. Fails: `ShapeMismatch`; `DtypeMismatch` for integers."""


def _window(size: Size, stride: Size | None, padding: Padding, where: str) -> Window:
    both = pair(size, f"{where}: window")
    window = Window(both, both if stride is None else pair(stride, f"{where}: stride"), padding=check_padding(padding, where))
    if not isinstance(padding, str):
        sides = window.sides(0, 0)
        if any(n >= length for side, length in zip(sides, both, strict=True) for n in side):
            raise ValueError(
                f"{where}: padding must be less than the window {both}, or a window would hold no pixel, got {padding}"
            )
    return window
