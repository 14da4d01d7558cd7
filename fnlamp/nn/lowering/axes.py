"""Windows that slide along one, two or three axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from fnlamp.nn.lowering.window import Pair, Window

Triple: TypeAlias = tuple[int, int, int]
"""Of the depth, the height and the width."""
Size3d: TypeAlias = int | Triple
"""A triple, or one number for all three."""
Sides3d: TypeAlias = int | tuple[int | Pair, int | Pair, int | Pair]
"""For each of three axes, or for all, a number of both sides or a pair, before and after."""
Padding1d: TypeAlias = int | Pair | Literal["same", "valid"]
"""As `Padding`, of one axis: a pair is before and after."""
Padding3d: TypeAlias = Sides3d | Literal["same", "valid"]
"""As `Padding`, of three axes."""


@dataclass(frozen=True)
class Axis:
    """The window along one axis, and how it slides there."""

    size: int
    stride: int = 1
    dilation: int = 1
    padding: Pair | None = (0, 0)
    """Before and after; `None` is "same"."""

    @property
    def span(self) -> int:
        """The number of positions that the window spans, with the gaps of its dilation."""
        return (self.size - 1) * self.dilation + 1

    def sides(self, length: int) -> Pair:
        """The padding before and after an axis of that length.

        >>> Axis(3, stride=2, padding=None).sides(7), Axis(3, stride=2, padding=None).sides(8)
        ((1, 1), (0, 1))
        """
        if self.padding is not None:
            return self.padding
        total = max((-(-length // self.stride) - 1) * self.stride + self.span - length, 0)
        return total // 2, total - total // 2

    def places(self, length: int) -> int:
        """The number of windows along an axis of that length, padded."""
        return (length + sum(self.sides(length)) - self.span) // self.stride + 1


def image_window(axes: Sequence[Axis], lengths: Sequence[int]) -> Window:
    """The window of an image, from those of its two axes."""
    high, wide = axes
    return Window(
        (high.size, wide.size),
        (high.stride, wide.stride),
        (high.dilation, wide.dilation),
        (high.sides(lengths[0]), wide.sides(lengths[1])),
    )
