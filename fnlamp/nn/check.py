"""Checks that layers share: shape and dtype of the input, sizes of windows; `where` names the layer."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from fnlamp.arrays import describe, is_float, is_integer
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch
from fnlamp.nn.lowering.window import Padding, Pair, Size, Window

CAST = "cast first, as nn.rescale(1 / 255) does for pixels, or embed tokens first, as nn.embedding does"
RANK = "add the channel of grey images with [..., None]; torch's order is transpose(0, 2, 3, 1) away"
CHANNELS_LAST = "channels are the last axis: convert images with the channels first by images.transpose(0, 2, 3, 1)"


def check_shape(x: Any, holds: Callable[[tuple[int, ...]], bool], expected: str, where: str, hint: str = "") -> None:
    """Fails: `ShapeMismatch` unless `x` is one array, of a shape that `holds`."""
    if not hasattr(x, "shape") or not holds(x.shape):
        raise FaultError(ShapeMismatch(expected, describe(x), hint, where=where))


def check_float(x: Any, where: str, expected: str = "floating-point input", hint: str = CAST) -> None:
    """Fails: `DtypeMismatch` unless `x` is one array of floating-point numbers."""
    if not hasattr(x, "dtype") or not is_float(x):
        raise FaultError(DtypeMismatch(expected, describe(x), hint, where=where))


def check_integer(x: Any, where: str, expected: str) -> None:
    """Fails: `DtypeMismatch` unless `x` holds integers."""
    if not is_integer(x):
        raise FaultError(DtypeMismatch(expected, describe(x), where=where))


def check_features(x: Any, where: str, features: int | None = None, *, axes: str = "batch, ...", least: int = 1) -> None:
    """Fails: `ShapeMismatch`, `DtypeMismatch` unless `x` holds floating-point numbers, of shape `(axes, features)`.

    Without `features`, any number from 1 is valid. `least` is the smallest rank if `axes` leave the number open.
    """
    rank = None if "..." in axes else axes.count(",") + 2
    last = "features" if features is None else features
    check_shape(
        x,
        lambda shape: least <= len(shape) and rank in (None, len(shape)) and features in (None, shape[-1]),
        f"an array of shape ({axes}, {last})",
        where,
    )
    check_shape(x, lambda shape: shape[-1] > 0, "an array with at least one feature", where)
    check_float(x, where)


def check_images(x: Any, where: str) -> None:
    """Fails: `ShapeMismatch` unless `x` has the rank of images."""
    check_shape(x, lambda shape: len(shape) == 4, "images (batch, height, width, channels)", where, RANK)


def check_window(x: Any, window: Window, where: str) -> Pair:
    """Height and width of the output of a window on images `x`.  Fails: `ShapeMismatch`."""
    check_images(x, where)
    (above, below), (left, right) = window.sides(*x.shape[1:3])
    padded = x.shape[1] + above + below, x.shape[2] + left + right
    if padded[0] < window.span[0] or padded[1] < window.span[1]:
        expected = f"at least {window.span[0]} x {window.span[1]} pixels, the window's, after padding"
        actual = f"{padded[0]} x {padded[1]} of {describe(x)}"
        hint = CHANNELS_LAST if channels_first(x.shape) else "pad more, or take a smaller window"
        raise FaultError(ShapeMismatch(expected, actual, hint, where=where))
    return window.places(padded)


def channels_first(shape: tuple[int, ...]) -> bool:
    """Whether images of that shape seem to have their channels before height and width, as torch's have.

    >>> channels_first((32, 3, 224, 224)), channels_first((32, 224, 224, 3)), channels_first((32, 4, 4, 256))
    (True, False, False)
    """
    return len(shape) == 4 and shape[1] in (1, 3, 4) and min(shape[2:]) > 4 * shape[1]


# ------------------------------------------------------------------------------- sizes of windows


def pair(size: Size, what: str) -> Pair:
    """One number as a pair.  Raises: `ValueError` unless both are at least 1."""
    both = _plain(size if isinstance(size, tuple) else (size, size))
    if len(both) != 2 or not all(type(n) is int and n >= 1 for n in both):
        raise ValueError(f"{what} is an integer from 1, or a pair of them for height and width, got {size!r}")
    return both[0], both[1]


def check_padding(padding: Padding, where: str) -> Padding:
    """The padding.  Raises: `ValueError` unless it has one of the forms of a padding."""
    if not (isinstance(padding, str) and padding in ("same", "valid")):
        padding = _plain(padding)
        both = padding if isinstance(padding, tuple) and len(padding) == 2 else (padding,)
        each = [n for side in both for n in (side if isinstance(side, tuple) and len(side) == 2 else (side,))]
        if not all(type(n) is int and n >= 0 for n in each):
            expected = 'an integer from 0, (height, width), ((above, below), (left, right)), "same" or "valid"'
            raise ValueError(f"{where}: padding is {expected}, got {padding!r}")
    return padding


def _plain(sizes: Any) -> Any:
    """Integers of NumPy's and JAX's types as Python's, in tuples too; anything else unchanged."""
    if isinstance(sizes, tuple):
        return tuple(_plain(size) for size in sizes)
    with contextlib.suppress(TypeError):
        return sizes if isinstance(sizes, bool | np.bool_) else operator.index(sizes)
    return sizes
