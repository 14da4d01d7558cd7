"""The sizes of one convolution of images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import TypeAlias

import numpy as np

from fnlamp.nn.lowering.window import Pair, Sides, Window

Four: TypeAlias = tuple[int, int, int, int]


@dataclass(frozen=True)
class Geometry:
    """The convolution of images `(batch, height, width, in)` with a weight `(height, width, in / groups, out)`."""

    images: Four
    weight: Four
    stride: Pair
    dilation: Pair
    sides: Sides
    """The padding."""
    groups: int

    @classmethod
    def of(cls, images: tuple[int, ...], weight: tuple[int, ...], window: Window, groups: int) -> Geometry:
        """Of arrays of those shapes."""
        batch, high, wide, channels = images
        rows, columns, each, out = weight
        sides = window.sides(high, wide)
        return cls((batch, high, wide, channels), (rows, columns, each, out), window.stride, window.dilation, sides, groups)

    def of_batch(self, batch: int) -> Geometry:
        """The same of another number of images."""
        return replace(self, images=(batch, *self.images[1:]))

    @property
    def padded(self) -> Pair:
        """Height and width of a padded image."""
        (above, below), (left, right) = self.sides
        return self.images[1] + above + below, self.images[2] + left + right

    @property
    def window(self) -> Window:
        """The window, which slides over padded images."""
        return Window(self.weight[:2], self.stride, self.dilation)

    @property
    def places(self) -> Pair:
        """Height and width of the output."""
        return self.window.places(self.padded)

    @property
    def reach(self) -> Pair:
        """Rows and columns from the first pixel under a corner of the window to the last, as it slides."""
        rows, columns = self.places
        return (rows - 1) * self.stride[0] + 1, (columns - 1) * self.stride[1] + 1

    @property
    def outputs(self) -> Four:
        """The shape of the output."""
        return (self.images[0], *self.places, self.weight[3])

    @property
    def corners(self) -> list[Pair]:
        """Where each pixel of the window begins in the padded image, in row-major order."""
        down, across = self.dilation
        return [(i * down, j * across) for i in range(self.weight[0]) for j in range(self.weight[1])]

    @property
    def columns(self) -> int:
        """The length of a patch of one group."""
        return prod(self.weight[:3])

    @cached_property
    def flops(self) -> int:
        """Floating-point operations of the convolution, and of each of its gradients; padding counts as none."""
        pairs = 1
        for axis in (0, 1):
            at = np.arange(self.places[axis])[:, None] * self.stride[axis] - self.sides[axis][0]
            at = at + np.arange(self.weight[axis]) * self.dilation[axis]
            pairs *= int(((at >= 0) & (at < self.images[1 + axis])).sum())
        return 2 * self.images[0] * pairs * self.weight[2] * self.weight[3]
