"""Windows that slide over images: their arguments, what they cover, and the checks that convolution and pooling share."""

from __future__ import annotations

import contextlib
import operator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from fnlamp.arrays import describe
from fnlamp.fault import FaultError, ShapeMismatch

Pair: TypeAlias = tuple[int, int]
"""Of the height and of the width."""
Size: TypeAlias = int | Pair
"""A pair, or one number for both."""
Sides: TypeAlias = tuple[Pair, Pair]
"""Rows above and below, columns on the left and on the right."""
Padding: TypeAlias = Size | Sides | Literal["same", "valid"]
"""How much is added on each side.  "valid" is none; "same" is what makes the output as large as the input divided by the
stride, rounded up, the odd row or column below and on the right."""


@dataclass(frozen=True)
class Window:
    """The window of a convolution or pooling, and how it slides."""

    size: Pair
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    padding: Padding = 0

    def sides(self, high: int, wide: int) -> Sides:
        """The padding of an image of that height and width.

        >>> Window((3, 3), stride=(2, 2), padding="same").sides(7, 8)
        ((1, 1), (0, 1))
        """
        if self.padding == "valid":
            return (0, 0), (0, 0)
        if self.padding == "same":
            return self._same(high, 0), self._same(wide, 1)
        both = self.padding if isinstance(self.padding, tuple) else (self.padding, self.padding)
        rows, columns = (side if isinstance(side, tuple) else (side, side) for side in both)
        return rows, columns

    def _same(self, length: int, axis: int) -> Pair:
        steps = -(-length // self.stride[axis]) - 1
        total = max(steps * self.stride[axis] + self.span[axis] - length, 0)
        return total // 2, total - total // 2

    @property
    def span(self) -> Pair:
        """How many rows and columns the window reaches over, with the gaps of its dilation."""
        return (self.size[0] - 1) * self.dilation[0] + 1, (self.size[1] - 1) * self.dilation[1] + 1

    def places(self, padded: Pair) -> Pair:
        """How many windows fit below and beside each other into an image that is padded already."""
        return (padded[0] - self.span[0]) // self.stride[0] + 1, (padded[1] - self.span[1]) // self.stride[1] + 1

    def over(self, x: Any, where: str) -> Pair:
        """Height and width of the output for images of the shape of `x`.  Fails: `ShapeMismatch`."""
        if not hasattr(x, "shape") or len(x.shape) != 4:
            hint = "add the channel of grey images with [..., None]; torch's order is transpose(0, 2, 3, 1) away"
            raise FaultError(ShapeMismatch("images (batch, height, width, channels)", describe(x), hint, where=where))
        (above, below), (left, right) = self.sides(*x.shape[1:3])
        padded = x.shape[1] + above + below, x.shape[2] + left + right
        if padded[0] < self.span[0] or padded[1] < self.span[1]:
            expected = f"at least {self.span[0]} x {self.span[1]} pixels, the window's, after padding"
            actual = f"{padded[0]} x {padded[1]} of {describe(x)}"
            hint = CHANNELS_LAST if channels_first(x.shape) else "pad more, or take a smaller window"
            raise FaultError(ShapeMismatch(expected, actual, hint, where=where))
        return self.places(padded)


CHANNELS_LAST = "channels are the last axis: turn images with the channels first by images.transpose(0, 2, 3, 1)"


def channels_first(shape: tuple[int, ...]) -> bool:
    """Whether images of that shape seem to have their channels before height and width, as torch's have.

    >>> channels_first((32, 3, 224, 224)), channels_first((32, 224, 224, 3)), channels_first((32, 4, 4, 256))
    (True, False, False)
    """
    return len(shape) == 4 and shape[1] in (1, 3, 4) and min(shape[2:]) > 4 * shape[1]


def pair(size: Size, what: str) -> Pair:
    """One number as a pair.  Raises: `ValueError` unless both are at least 1."""
    both = plain(size if isinstance(size, tuple) else (size, size))
    if len(both) != 2 or not all(type(n) is int and n >= 1 for n in both):
        raise ValueError(f"{what} is an integer from 1, or a pair of them for height and width, got {size!r}")
    return both[0], both[1]


def plain(sizes: Any) -> Any:
    """Integers of NumPy's and JAX's types as Python's, in tuples too; anything else as it is."""
    if isinstance(sizes, tuple):
        return tuple(plain(size) for size in sizes)
    with contextlib.suppress(TypeError):
        return sizes if isinstance(sizes, bool | np.bool_) else operator.index(sizes)
    return sizes


def check_padding(padding: Padding, where: str) -> Padding:
    """The padding itself.  Raises: `ValueError` unless it is one of its forms."""
    if not (isinstance(padding, str) and padding in ("same", "valid")):
        padding = plain(padding)
        both = padding if isinstance(padding, tuple) and len(padding) == 2 else (padding,)
        each = [n for side in both for n in (side if isinstance(side, tuple) and len(side) == 2 else (side,))]
        if not all(type(n) is int and n >= 0 for n in each):
            expected = 'an integer from 0, (height, width), ((above, below), (left, right)), "same" or "valid"'
            raise ValueError(f"{where}: padding is {expected}, got {padding!r}")
    return padding
