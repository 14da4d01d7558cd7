"""Windows that slide over images, and the pixels that they cover."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Pair: TypeAlias = tuple[int, int]
"""Of the height and of the width."""
Size: TypeAlias = int | Pair
"""A pair, or one number for both."""
Sides: TypeAlias = tuple[Pair, Pair]
"""Rows above and below, columns on the left and on the right."""
Padding: TypeAlias = Size | Sides | Literal["same", "valid"]
"""The padding on each side.  "valid" is none; with "same" the output is as large as the input divided by the stride, rounded
up, and an odd row or column is added below or on the right."""


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
        """The number of rows and columns that the window spans, with the gaps of its dilation."""
        return (self.size[0] - 1) * self.dilation[0] + 1, (self.size[1] - 1) * self.dilation[1] + 1

    def places(self, padded: Pair) -> Pair:
        """The number of windows that fit into a padded image, along its height and its width."""
        return (padded[0] - self.span[0]) // self.stride[0] + 1, (padded[1] - self.span[1]) // self.stride[1] + 1
