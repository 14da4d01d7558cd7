"""Detects producers that write the next batch into the memory of an earlier one."""

from __future__ import annotations

import zlib
from collections import deque
from typing import Any, TypeAlias

import numpy as np

from fnlamp import tree
from fnlamp.arrays import Tree

Prints: TypeAlias = list[int | None]
"""A fingerprint of each leaf; `None` for a read-only array."""

_COLUMNS = 1021
"""A prime, so that a value that moves to another row of a batch lands in another column."""


def fingerprints(batch: Tree) -> Prints:
    """The fingerprints of the arrays of a batch."""
    return [_fingerprint(leaf) if _may_change(leaf) else None for leaf in tree.leaves(batch)]


def checksum(array: Any) -> int:
    """A checksum of all bytes of an array, at memory bandwidth."""
    return _fingerprint(np.asarray(array))


def overwritten(batch: Tree, before: Prints) -> str | None:
    """The path of a leaf whose contents have changed, if any."""
    for (path, _), old, new in zip(tree.paths(batch).items(), before, fingerprints(batch), strict=True):
        if old != new:
            return path
    return None


class Handed:
    """The last `count` batches that were handed over: their addresses, and the fingerprints that they had then."""

    def __init__(self, count: int) -> None:
        self._batches: deque[dict[Any, tuple[Any, int]]] = deque(maxlen=count)

    def again(self, batch: Tree, prints: Prints) -> str | None:
        """The path of a leaf that overwrote one of an earlier batch, if any; otherwise the batch is remembered.

        `prints` are its `fingerprints`. Equal numbers at the same address are harmless.
        """
        leaves: dict[Any, tuple[Any, int]] = {}
        for leaf, now in zip(tree.leaves(batch), prints, strict=True):
            if now is None:
                continue
            place = leaf.__array_interface__["data"][0], leaf.shape, leaf.strides, leaf.dtype.str
            if any(place in earlier and earlier[place][1] != now for earlier in self._batches):
                return next(path for path, other in tree.paths(batch).items() if other is leaf)
            leaves[place] = leaf, now  # keeps the leaf alive, so that its address is not used again
        self._batches.append(leaves)
        return None


def _may_change(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray) and leaf.flags.writeable and leaf.nbytes > 0 and not leaf.dtype.hasobject


def _fingerprint(array: np.ndarray[Any, Any]) -> int:
    """A checksum of column sums of 64-bit words, which run at memory bandwidth, and of the remaining bytes."""
    flat = (array if array.flags.c_contiguous else np.ascontiguousarray(array)).reshape(-1).view(np.uint8)
    whole = flat.size // (8 * _COLUMNS) * (8 * _COLUMNS)
    rest = zlib.crc32(flat[whole:].data)
    if not whole:
        return rest
    return zlib.crc32(flat[:whole].view(np.uint64).reshape(-1, _COLUMNS).sum(axis=0).data, rest)
