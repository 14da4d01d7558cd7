"""Streams over what is in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fnlamp import tree
from fnlamp.arrays import Tree, array_spec, describe, spec_of
from fnlamp.fault import EmptyEpoch, FaultError, ShapeMismatch
from fnlamp.stream.stream import BatchStream, Emit, End, Step
from fnlamp.stream.view import Order, Segment, View


def minibatches(
    features: Tree, target: Tree, *, batch_size: int, drop_last: bool = False, seed: int | None = None
) -> BatchStream:
    """Batches `(features, target)` of `batch_size` rows: in order without a seed, else shuffled by it.

    The order is a function of the seed alone; `epochs` hands out another one each epoch. The last batch has the rows that are
    left, and is left out with `drop_last` if it is not full. The arrays (or pytrees of arrays, rows first) are not copied and
    must not be changed while they are used. Fails: `ShapeMismatch` for different numbers of rows.

    >>> s = minibatches(np.zeros((5, 2), np.float32), np.arange(5), batch_size=2)
    >>> s
    <BatchStream: 3 batches of (float32[2, 2], int32[2])>
    """
    return from_arrays((features, target), batch_size=batch_size, drop_last=drop_last, seed=seed)


def from_arrays(
    arrays: Tree,
    *,
    batch_size: int,
    drop_last: bool = False,
    seed: int | None = None,
    among: np.ndarray[Any, Any] | None = None,
) -> BatchStream:
    """`minibatches` of any pytree of arrays, rows first, or of the rows `among` them, by number.

    Arrays that are mapped from a file stay there: their rows are read batch by batch, without a compiled view.
    Fails: `ShapeMismatch` for different numbers of rows.

    >>> s = from_arrays({"x": np.arange(8)}, batch_size=2, among=np.array([1, 3, 5]))
    >>> [batch["x"].tolist() for batch in stream.items(s)]
    [[1, 3], [5]]
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    arrays = _arrays(arrays)
    order = Order(_rows(arrays), seed, among)
    rows = len(order)
    full, rest = divmod(rows, batch_size)
    segments = []
    if full:
        segments.append(Segment(arrays, order, range(0, full * batch_size, batch_size), batch_size))
    if rest and not drop_last:
        segments.append(Segment(arrays, order, range(full * batch_size, rows, batch_size), rest))
    size = batch_size if full or drop_last else rest
    spec = tree.map(lambda leaf: array_spec((size, *leaf.shape[1:]), leaf.dtype), spec_of(arrays))
    view, why_empty = View(tuple(segments)), EmptyEpoch(rows, batch_size, drop_last)
    if any(isinstance(leaf, np.memmap) for leaf in tree.leaves(arrays)):
        return from_function(len(view), view.batch, spec=spec, why_empty=why_empty)
    return BatchStream.of_view(view, spec, why_empty)


def full_batch(features: Tree, target: Tree) -> BatchStream:
    """One batch of all rows, in order.

    >>> full_batch(np.zeros((20, 5), np.float32), np.zeros(20, np.float32))
    <BatchStream: 1 batches of (float32[20, 5], float32[20])>
    """
    return minibatches(features, target, batch_size=max(_rows(_arrays((features, target))), 1))


def from_items(batches: Sequence[Tree]) -> BatchStream:
    """The batches of a sequence, one by one on the host, without a compiled view; the state is the position.

    Fails: `EmptyEpoch` for an empty sequence, whose spec nobody knows.
    """
    if not len(batches):
        raise FaultError(EmptyEpoch())

    return from_function(len(batches), batches.__getitem__, spec=spec_of(batches[0]))


def from_function(
    length: int, make: Callable[[int], Tree], *, spec: Tree | None = None, why_empty: EmptyEpoch | None = None
) -> BatchStream:
    """The batches `make(0)`, `make(1)`, ... `make(length - 1)`, each made when it is asked for; the state is the position.

    `make` must give the same batch for the same position whenever it is asked. Without the `spec` of a batch, the first is
    made to see it.

    >>> [batch.tolist() for batch in stream.items(from_function(3, lambda position: np.full(2, position)))]
    [[0, 0], [1, 1], [2, 2]]
    """
    if length < 0:
        raise ValueError(f"a stream has a length of 0 or more, got {length}")
    if spec is None:
        if not length:
            raise FaultError(EmptyEpoch())
        spec = spec_of(make(0))

    def step(position: int) -> Step:
        return Emit(make(position), position + 1) if position < length else End()

    return BatchStream(0, step, spec, length, why_empty=why_empty or EmptyEpoch())


def _arrays(data: Tree) -> Tree:
    """The same pytree with every leaf an array; a list is one array, not a pytree of numbers."""
    return tree.map(lambda x: x if hasattr(x, "shape") else np.asarray(x), data, is_leaf=lambda x: isinstance(x, list))


def _rows(arrays: Tree) -> int:
    shapes = {path: np.shape(leaf) for path, leaf in tree.paths(arrays).items()}
    if not shapes or () in shapes.values():
        raise FaultError(ShapeMismatch("arrays whose first axis counts rows", describe(arrays), where="minibatches"))
    counts = {shape[0] for shape in shapes.values()}
    if len(counts) > 1:
        raise FaultError(ShapeMismatch("as many targets as features", describe(arrays), where="minibatches"))
    return int(counts.pop())
