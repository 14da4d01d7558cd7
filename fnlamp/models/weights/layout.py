"""Invertible changes of arrays, from torch's layout to fnlamp's and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Numbers: TypeAlias = np.ndarray[Any, Any]
Several: TypeAlias = tuple[Numbers, ...]


@dataclass(frozen=True)
class Layout:
    """`read` returns fnlamp's arrays for torch's, and `write` torch's for fnlamp's: `read(write(ours))` is `ours`.

    >>> linear = outputs_last >> joined(same, 1)
    >>> linear.write(linear.read((np.eye(2, 3),)))[0].shape
    (2, 3)
    """

    read: Callable[[Several], Several]
    write: Callable[[Several], Several]

    def __rshift__(self, other: Layout) -> Layout:
        """First this one, then the other, on the way from torch to fnlamp."""
        return Layout(lambda theirs: other.read(self.read(theirs)), lambda ours: self.write(other.write(ours)))


def one(read: Callable[[Numbers], Numbers], write: Callable[[Numbers], Numbers]) -> Layout:
    """The change of one array."""
    return Layout(lambda theirs: (read(theirs[0]),), lambda ours: (write(ours[0]),))


def _same(x: Numbers) -> Numbers:
    return x


same = one(_same, _same)
outputs_last = one(lambda w: np.moveaxis(w, (0, 1), (-1, -2)), lambda w: np.moveaxis(w, (-1, -2), (0, 1)))
"""`(out, in, ...) <-> (..., in, out)`: the weight of a linear layer, or of a convolution with any number of axes and groups."""


def transposed(groups: int) -> Layout:
    """The kernel of a transposed convolution: `(in, out / groups, ...) <-> (..., in / groups, out)`.

    >>> transposed(2).read((np.zeros((4, 3, 5, 7)),))[0].shape
    (5, 7, 2, 6)
    """

    def read(w: Numbers) -> Numbers:
        w = np.moveaxis(w.reshape(groups, w.shape[0] // groups, *w.shape[1:]), (1, 0, 2), (-3, -2, -1))
        return w.reshape(*w.shape[:-2], groups * w.shape[-1])

    def write(w: Numbers) -> Numbers:
        w = np.moveaxis(w.reshape(*w.shape[:-1], groups, w.shape[-1] // groups), (-3, -2, -1), (1, 0, 2))
        return w.reshape(groups * w.shape[1], *w.shape[2:])

    return one(read, write)


def channels_last(shape: Sequence[int]) -> Layout:
    """The first axis, flattened channels of torch's `(channels, ...)`, to that of `shape`, whose channels are last.

    >>> channels_last((2, 3)).read((np.array(["a0", "a1", "b0", "b1", "c0", "c1"]),))[0].tolist()
    ['a0', 'b0', 'c0', 'a1', 'b1', 'c1']
    """
    places, channels = tuple(shape[:-1]), shape[-1]

    def read(w: Numbers) -> Numbers:
        return np.moveaxis(w.reshape(channels, *places, *w.shape[1:]), 0, len(places)).reshape(w.shape)

    def write(w: Numbers) -> Numbers:
        return np.moveaxis(w.reshape(*places, channels, *w.shape[1:]), len(places), 0).reshape(w.shape)

    return one(read, write)


def leading(count: int) -> Layout:
    """Without the first `count` axes, of length 1."""
    return one(lambda w: w.reshape(w.shape[count:]), lambda w: w.reshape(*[1] * count, *w.shape))


def halves_to_pairs(heads: int, others: int = 0) -> Layout:
    """The features of each of the first heads, on the last axis, from rotary halves to neighbours; `others` follow unchanged.

    Feature i of the first half and i of the second are one pair in transformers' LLaMA; `nn.rotary` takes both orders.

    >>> halves_to_pairs(1).read((np.array([0, 1, 2, 3]),))[0].tolist()
    [0, 2, 1, 3]
    """

    def turned(w: Numbers, to_pairs: bool) -> Numbers:
        size = w.shape[-1] // (heads + others)
        each, rest = np.split(w, [heads * size], -1)
        parts = (2, size // 2) if to_pairs else (size // 2, 2)
        each = each.reshape(*w.shape[:-1], heads, *parts).swapaxes(-1, -2).reshape(each.shape)
        return np.concatenate([each, rest], -1)

    return one(lambda w: turned(w, True), lambda w: turned(w, False))


def of_several(
    layout: Layout, count: int, together: Callable[[Sequence[Numbers]], Numbers], apart: Callable[[Numbers], Sequence[Numbers]]
) -> Layout:
    """The layout of `count` modules of torch whose arrays, each read by `layout`, are together in fnlamp's."""

    def read(theirs: Several) -> Several:
        size = len(theirs) // count
        parts = [layout.read(theirs[i * size : (i + 1) * size]) for i in range(count)]
        return tuple(together(each) for each in zip(*parts, strict=True))

    def write(ours: Several) -> Several:
        parts = zip(*(apart(x) for x in ours), strict=True)
        return tuple(x for part in parts for x in layout.write(part))

    return Layout(read, write)


def joined(layout: Layout, count: int) -> Layout:
    """Side by side on the last axis, as queries, keys and values."""
    return of_several(layout, count, lambda parts: np.concatenate(parts, -1), lambda x: np.split(x, count, -1))


def stacked(layout: Layout, count: int) -> Layout:
    """Along a new first axis, as the copies of `nn.repeat(..., scan=True)`."""
    return of_several(layout, count, np.stack, list)


def _sum(a: Numbers, b: Numbers) -> Numbers:
    """`a + b`, and where `b` is 0 the bits of `a`, also of -0."""
    return np.where(b == 0, a, a + b).astype(a.dtype)


two_biases = Layout(lambda theirs: (_sum(*theirs),), lambda ours: (ours[0], np.zeros_like(ours[0])))
"""The two biases of torch's LSTM and RNN, of which fnlamp has the sum; on the way back the second is 0."""


def _read_gru(theirs: Several) -> Several:
    first, second = theirs
    gates = len(second) // 3 * 2
    return _sum(first, np.concatenate([second[:gates], np.zeros_like(second[gates:])])), second[gates:]


def _write_gru(ours: Several) -> Several:
    bias, own = ours
    return bias, np.concatenate([np.zeros_like(bias[: len(bias) - len(own)]), own])


gru_biases = Layout(_read_gru, _write_gru)
"""The two biases of torch's GRU: fnlamp has their sum for both gates, and both for the candidate."""


def blank(shape: Sequence[int], dtype: Any) -> Numbers:
    """An array of zeros that takes the memory of one number, for shapes."""
    return np.broadcast_to(np.zeros((), dtype), tuple(shape)) if math.prod(shape) else np.zeros(tuple(shape), dtype)
