"""Checks that layers share: shape and dtype of the input, sizes of windows; `where` names the layer."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fnlamp.arrays import describe, is_float, is_integer
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch
from fnlamp.given import whole
from fnlamp.nn.lowering.axes import Axis
from fnlamp.nn.lowering.window import Pair

CAST = "cast first, as nn.rescale(1 / 255) does for pixels, or embed tokens first, as nn.embedding does"
RANK = {
    1: "add a single channel with [..., None]; torch's order is transpose(0, 2, 1) away",
    2: "add the channel of grey images with [..., None]; torch's order is transpose(0, 2, 3, 1) away",
    3: "add a single channel with [..., None]; torch's order is transpose(0, 2, 3, 4, 1) away",
}
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


GRIDS = {
    1: ("sequences (batch, length, channels)", "steps"),
    2: ("images (batch, height, width, channels)", "pixels"),
    3: ("volumes (batch, depth, height, width, channels)", "voxels"),
}
"""What convolution and pooling over so many axes take, and its positions."""


def check_grid(x: Any, count: int, where: str) -> None:
    """Fails: `ShapeMismatch` unless `x` has the rank of sequences, images or volumes: `count` axes of positions."""
    check_shape(x, lambda shape: len(shape) == count + 2, GRIDS[count][0], where, RANK[count])


def check_positions(x: Any, where: str, each: Any = None) -> None:
    """Fails: `ShapeMismatch` unless `x` has axes of positions, none of length 0: as many as `each`, if it is a tuple."""
    count = len(each) if isinstance(each, tuple) else None
    axes = "(batch, ..., channels) with positions" if count is None else f"(batch, {count} axes of positions, channels)"
    check_shape(
        x, lambda shape: len(shape) > 2 if count is None else len(shape) == count + 2, f"an array of shape {axes}", where
    )
    check_shape(x, lambda shape: 0 not in shape[1:-1], "at least one position along each axis", where)


def check_numeric(x: Any, where: str) -> None:
    """Fails: `DtypeMismatch` unless `x` holds numbers."""
    if not (is_float(x) or is_integer(x)):
        raise FaultError(DtypeMismatch("numbers", describe(x), "cast first, as nn.rescale does", where=where))


def check_window(x: Any, axes: Sequence[Axis], where: str) -> tuple[int, ...]:
    """The lengths of the output of a window that slides over `x`.  Fails: `ShapeMismatch`."""
    check_grid(x, len(axes), where)
    lengths = x.shape[1:-1]
    padded = [n + sum(axis.sides(n)) for axis, n in zip(axes, lengths, strict=True)]
    spans = [axis.span for axis in axes]
    if any(n < span for n, span in zip(padded, spans, strict=True)):
        expected = f"at least {' x '.join(map(str, spans))} {GRIDS[len(axes)][1]}, the window's, after padding"
        actual = f"{' x '.join(map(str, padded))} of {describe(x)}"
        hint = CHANNELS_LAST if channels_first(x.shape) else "pad more, or take a smaller window"
        raise FaultError(ShapeMismatch(expected, actual, hint, where=where))
    return tuple(axis.places(n) for axis, n in zip(axes, lengths, strict=True))


def channels_first(shape: tuple[int, ...]) -> bool:
    """Whether images of that shape seem to have their channels before height and width, as torch's have.

    >>> channels_first((32, 3, 224, 224)), channels_first((32, 224, 224, 3)), channels_first((32, 4, 4, 256))
    (True, False, False)
    """
    return len(shape) == 4 and shape[1] in (1, 3, 4) and min(shape[2:]) > 4 * shape[1]


# ------------------------------------------------------------------------------- sizes of windows


NAMES = {1: "", 2: "or a pair of them for height and width", 3: "or three of them for depth, height and width"}


def per_axis(size: Any, count: int, what: str, least: int = 1) -> tuple[int, ...]:
    """One number for each axis.  Raises: `ValueError` unless each is at least `least`."""
    each: tuple[int, ...] = plain(size if isinstance(size, tuple) else (size,) * count)
    if len(each) != count or not all(type(n) is int and n >= least for n in each):
        raise ValueError(f"{what} is an integer from {least}{', ' * (count > 1)}{NAMES[count]}, got {size!r}")
    return each


def sides_of(padding: Any, count: int, where: str) -> tuple[Pair, ...] | None:
    """The padding before and after each axis; `None` for "same".  Raises: `ValueError` unless it has one of its forms."""
    if isinstance(padding, str) and padding == "same":
        return None
    given = plain(0 if isinstance(padding, str) and padding == "valid" else padding)
    if count == 1 and isinstance(given, tuple) and len(given) == 2:
        given = (given,)  # before and after the only axis
    sides = pairs(given if isinstance(given, tuple) else (given,) * count)
    if sides is None or len(sides) != count:
        raise ValueError(f"{where}: padding is {PADDINGS[count]}, got {padding!r}")
    return sides


def pairs(sides: tuple[Any, ...]) -> tuple[Pair, ...] | None:
    """Each number as a pair of it, before and after; `None` unless all are whole numbers of 0 or more."""
    both = [side if isinstance(side, tuple) else (side, side) for side in sides]
    right = all(len(side) == 2 and all(type(n) is int and n >= 0 for n in side) for side in both)
    return tuple((before, after) for before, after in both) if right else None


PADDINGS = {
    1: 'an integer from 0, (before, after), "same" or "valid"',
    2: 'an integer from 0, (height, width), ((above, below), (left, right)), "same" or "valid"',
    3: 'an integer from 0, (depth, height, width), three pairs, "same" or "valid"',
}


def window_of(size: Any, stride: Any, dilation: Any, padding: Any, count: int, where: str, what: str) -> tuple[Axis, ...]:
    """The window along each of `count` axes.  Raises: `ValueError`, which names the argument; `what` is the size's name."""
    sides = sides_of(padding, count, where)
    numbers = zip(
        per_axis(size, count, f"{where}: {what}"),
        per_axis(stride, count, f"{where}: stride"),
        per_axis(dilation, count, f"{where}: dilation"),
        (None,) * count if sides is None else sides,
        strict=True,
    )
    return tuple(Axis(*each) for each in numbers)


def size_or_sizes(what: str, size: Any) -> int | tuple[int, ...]:
    """A number for each axis, or one for all.  Raises: `TypeError`, `ValueError` unless each is at least 1."""
    if not isinstance(size, tuple):
        return whole(what, size)
    if not size:
        raise ValueError(f"{what} is a whole number of 1 or more, or one for each axis of positions, got ()")
    return tuple(whole(what, n) for n in size)


def plain(sizes: Any) -> Any:
    """Integers of NumPy's and JAX's types as Python's, in tuples too; anything else unchanged."""
    if isinstance(sizes, tuple):
        return tuple(plain(size) for size in sizes)
    with contextlib.suppress(TypeError):
        return sizes if isinstance(sizes, bool | np.bool_) else operator.index(sizes)
    return sizes
