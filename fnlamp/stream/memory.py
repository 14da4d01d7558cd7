"""Whether a batch is still what it was: a producer may write the next one into the same memory."""

from __future__ import annotations

import zlib
from collections import deque
from typing import Any, TypeAlias

import numpy as np

from fnlamp import tree
from fnlamp.arrays import Tree

Prints: TypeAlias = list[int | None]
"""A fingerprint of each leaf; `None` where nobody can write: read-only arrays are taken at their word."""

_COLUMNS = 1021
"""A prime, so that what is moved to another row of a batch is found in another column."""


def fingerprints(batch: Tree) -> Prints:
    """What the arrays of a batch hold now."""
    return [_fingerprint(leaf) if _may_change(leaf) else None for leaf in tree.leaves(batch)]


def checksum(array: Any) -> int:
    """A checksum of all that an array holds, at the speed of memory."""
    return _fingerprint(np.asarray(array))


def overwritten(batch: Tree, before: Prints) -> str | None:
    """The path of a leaf that does not hold any more what it held."""
    for (path, _), old, new in zip(tree.paths(batch).items(), before, fingerprints(batch), strict=True):
        if old != new:
            return path
    return None


class Handed:
    """The last `count` batches that were handed over, by their place in memory, and what was in them then."""

    def __init__(self, count: int) -> None:
        self._batches: deque[dict[Any, tuple[Any, int]]] = deque(maxlen=count)

    def again(self, batch: Tree, prints: Prints) -> str | None:
        """The path of a leaf that overwrote one of an earlier batch, if there is one; else the batch is remembered.

        `prints` are its `fingerprints`. The same numbers in the same place do no harm.
        """
        leaves: dict[Any, tuple[Any, int]] = {}
        for leaf, now in zip(tree.leaves(batch), prints, strict=True):
            if now is None:
                continue
            place = leaf.__array_interface__["data"][0], leaf.shape, leaf.strides, leaf.dtype.str
            if any(place in earlier and earlier[place][1] != now for earlier in self._batches):
                return next(path for path, other in tree.paths(batch).items() if other is leaf)
            leaves[place] = leaf, now  # held, so that nothing else gets its place
        self._batches.append(leaves)
        return None


def _may_change(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray) and leaf.flags.writeable and leaf.nbytes > 0 and not leaf.dtype.hasobject


def _fingerprint(array: np.ndarray[Any, Any]) -> int:
    """Of all bytes: sums of columns of 64-bit words, at the speed of memory, and a checksum of these and of the rest."""
    flat = (array if array.flags.c_contiguous else np.ascontiguousarray(array)).reshape(-1).view(np.uint8)
    whole = flat.size // (8 * _COLUMNS) * (8 * _COLUMNS)
    rest = zlib.crc32(flat[whole:].data)
    if not whole:
        return rest
    return zlib.crc32(flat[:whole].view(np.uint64).reshape(-1, _COLUMNS).sum(axis=0).data, rest)
