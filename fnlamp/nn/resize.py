"""Padding, resizing, and pixels from channels, for any number of axes of positions."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import jax.numpy as jnp

from fnlamp.arrays import Array, describe
from fnlamp.fault import FaultError, ShapeMismatch
from fnlamp.given import arguments, whole
from fnlamp.layer import Layer
from fnlamp.nn.check import check_float, check_positions, check_shape, pairs, plain, size_or_sizes
from fnlamp.nn.lowering.resample import between, nearest
from fnlamp.nn.lowering.volumes import interleave, part
from fnlamp.nn.lowering.window import Pair
from fnlamp.nn.shape import fun, whole_only

PadMode: TypeAlias = Literal["zeros", "reflect", "replicate", "circular"]
"""What is beyond the ends of an axis."""
MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@arguments('nn.pad(1, mode="reflect") adds a row or column of reflected pixels on each side')
def pad(size: int | Pair | tuple[int | Pair, ...], *, mode: PadMode = "zeros") -> Layer:
    """Positions on both sides of each axis: before a convolution without padding of its own, or before pooling.

    `size` is an integer from 0 for all sides, or for each axis an integer or a pair, before and after; of sequences, a pair.
    `mode` is torch's `padding_mode`: "zeros"; "reflect", mirrored at the outermost positions, which are not repeated;
    "replicate", the outermost position; or "circular", the positions of the other end.
    Shapes: `(batch, ..., channels) -> (batch, ... + size, channels)`; any dtype.
    Fails: `ShapeMismatch` for another number of axes, and for more positions than there are to take: "reflect" takes less
    than an axis has, "circular" as many as it has.

    >>> pad(2, mode="reflect").apply({}, {}, jnp.arange(4.0).reshape(1, 4, 1), Eval())[0].ravel()
    Array([2., 1., 0., 1., 2., 3., 2., 1.], dtype=float32)
    >>> pad(1, mode="circular") >> nn.conv2d(8, 3)
    pad(1, circular) >> conv2d(8, 3)
    """
    if not (isinstance(mode, str) and mode in MODES):
        raise ValueError(f"pad: mode is one of {', '.join(map(repr, MODES))}, got {mode!r}")
    given = plain(size)
    sides = given if isinstance(given, tuple) else (given,)
    if not sides or pairs(sides) is None:
        raise ValueError(f"pad: size is an integer from 0, or for each axis one or a pair, before and after, got {size!r}")

    def apply(x: Array) -> Array:
        sides = _sides(x, given)
        _check_sides(x, sides, mode)
        y: Array = jnp.pad(x, ((0, 0), *sides, (0, 0)), MODES[mode])
        return y

    return whole_only(fun(apply, f"pad({size}{f', {mode}' if mode != 'zeros' else ''})"))


def _sides(x: Array, size: Any) -> tuple[Pair, ...]:
    if isinstance(size, tuple) and len(size) == 2 and getattr(x, "ndim", 0) == 3:
        size = (size,)  # before and after the only axis
    check_positions(x, "pad", size)
    return pairs(size if isinstance(size, tuple) else (size,) * (x.ndim - 2)) or ()


def _check_sides(x: Array, sides: tuple[Pair, ...], mode: str) -> None:
    least = {"reflect": 1, "circular": 0}
    if mode in least and any(max(side) + least[mode] > n for side, n in zip(sides, x.shape[1:-1], strict=True)):
        expected = f"axes {'longer than' if least[mode] else 'as long as'} the {mode} padding {sides}"
        raise FaultError(ShapeMismatch(expected, describe(x), "pad less, or with another mode", where="pad"))


@arguments('nn.resize(64, method="linear") gives images of 64 x 64, nn.resize(scale=2) ones of twice the height and width')
def resize(
    size: int | tuple[int, ...] | None = None, *, scale: int | None = None, method: Literal["nearest", "linear"] = "nearest"
) -> Layer:
    """Each axis of positions at another length, `size`, or `scale` times its own.

    Positions are the centres of pixels (torch's `align_corners=False`): place `i` of `m` is at `(i + 1/2) n / m - 1/2` of an
    axis of length `n`.  "nearest" takes the pixel there: torch's "nearest-exact", and its "nearest" for a whole `scale`.
    "linear" is the mean of the neighbours on both sides, weighted by their nearness, axis by axis, and constant beyond the
    outermost centres: torch's "linear", "bilinear" and "trilinear".  Neither smooths before it makes an image smaller:
    `adaptive_avg_pool` does.
    `size` is an integer, or one for each axis.
    Shapes: `(batch, ..., channels) -> (batch, *size, channels)`.
    Fails: `ShapeMismatch` for another number of axes, or an axis of length 0; `DtypeMismatch` for integers, unless "nearest".
    Raises: `ValueError` unless one of `size` and `scale` is given.

    >>> x = jnp.array([1.0, 3.0]).reshape(1, 2, 1)
    >>> resize(4, method="linear").apply({}, {}, x, Eval())[0].ravel()
    Array([1. , 1.5, 2.5, 3. ], dtype=float32)
    """
    if (size is None) == (scale is None):
        raise ValueError(f"resize needs either size or scale, got size={size!r} and scale={scale!r}")
    if not (isinstance(method, str) and method in ("nearest", "linear")):
        raise ValueError(f"resize: method is 'nearest' or 'linear', got {method!r}")
    given = 0 if size is None else size_or_sizes("resize: size", size)
    factor = 0 if scale is None else whole("resize: scale", scale)
    along = nearest if method == "nearest" else between

    def apply(x: Array) -> Array:
        check_positions(x, "resize", given)
        if method == "linear":
            check_float(x, "resize")
        lengths = given if isinstance(given, tuple) else [given or factor * n for n in x.shape[1:-1]]
        for axis, length in enumerate(lengths, start=1):
            x = along(x, axis, length)
        return x

    return whole_only(fun(apply, f"resize({given if given else f'scale={factor}'}, {method})"))


@arguments("the factor is that of each axis: nn.pixel_shuffle(2) makes images of twice the height and width")
def pixel_shuffle(factor: int) -> Layer:
    """Channels as positions: an axis of `n` becomes one of `factor n`, with fewer channels; of images, sequences or volumes.

    Channel `(c factor + i) factor + j` of an image is pixel `(i, j)` of the square that replaces one pixel, as in torch.
    Shapes: `(batch, height, width, channels factor^2) -> (batch, height factor, width factor, channels)`.
    Fails: `ShapeMismatch` for channels that this does not divide.  Reference: Shi et al. 2016, eq. 4.

    >>> pixel_shuffle(2).apply({}, {}, jnp.arange(4.0).reshape(1, 1, 1, 4), Eval())[0][0, :, :, 0]
    Array([[0., 1.],
           [2., 3.]], dtype=float32)
    """
    factor = whole("pixel_shuffle: factor", factor)

    def apply(x: Array) -> Array:
        check_positions(x, "pixel_shuffle")
        parts = factor ** (x.ndim - 2)
        check_shape(x, lambda shape: shape[-1] % parts == 0, f"channels that {parts} divides, the last axis", "pixel_shuffle")
        return interleave(x, (factor,) * (x.ndim - 2))

    return whole_only(fun(apply, f"pixel_shuffle({factor})"))


@arguments("the factor is that of each axis: nn.pixel_unshuffle(2) makes images of half the height and width")
def pixel_unshuffle(factor: int) -> Layer:
    """Neighbours as channels: the inverse of `pixel_shuffle`, also called space to depth.

    Shapes: `(batch, height factor, width factor, channels) -> (batch, height, width, channels factor^2)`.
    Fails: `ShapeMismatch` for lengths that the factor does not divide.

    >>> (pixel_unshuffle(2) >> pixel_shuffle(2)).apply({}, {}, jnp.eye(2)[None, :, :, None], Eval())[0][0, :, :, 0]
    Array([[1., 0.],
           [0., 1.]], dtype=float32)
    """
    factor = whole("pixel_unshuffle: factor", factor)

    def apply(x: Array) -> Array:
        check_positions(x, "pixel_unshuffle")
        expected = f"axes of positions whose length {factor} divides"
        check_shape(x, lambda shape: not any(n % factor for n in shape[1:-1]), expected, "pixel_unshuffle")
        return part(x, (factor,) * (x.ndim - 2))

    return whole_only(fun(apply, f"pixel_unshuffle({factor})"))
