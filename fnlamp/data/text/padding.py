"""Batches of sequences of different lengths: padded ids, and the length of each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Never

import numpy as np

from fnlamp import tree
from fnlamp.arrays import Tree, array_spec, describe, spec_of, take_rows
from fnlamp.convert import as_array, as_arrays, rows_by_position
from fnlamp.data.text.codec import Ids
from fnlamp.fault import DtypeMismatch, EmptyEpoch, FaultError, ShapeMismatch
from fnlamp.given import flag, shown, whole
from fnlamp.stream import BatchStream, Order, from_function
from fnlamp.stream.view import check_seed


def padded_batches(
    sequences: Sequence[Any],
    batch_size: int,
    *,
    pad: int,
    maximum: int | None = None,
    cut: bool = False,
    multiple: int = 1,
    targets: Tree | None = None,
    seed: int | None = None,
    drop_last: bool = False,
    among: int = 0,
) -> BatchStream[Never]:
    """Batches `(ids, lengths)` of sequences of ids, each row padded with `pad`; with targets, `((ids, lengths), targets)`.

    A batch is as wide as `maximum`, so that all have one shape and one program; without it, as its longest sequence, rounded
    up to a `multiple`: then each width compiles a program, and the stream's spec has the widest. A sequence longer than
    `maximum` is a fault, or is cut to its first `maximum` ids with `cut=True`. Sequences are in order without a seed, else
    shuffled. With `among`, the rows of each run of that many batches are sorted by length before they are split into batches,
    so that rows of similar length share a batch and less is padded; with a seed, those batches are then shuffled.
    Shapes: ids `(batch_size, width)`, lengths `(batch_size,)`, int32; targets, a pytree of arrays, rows first.
    Fails: `ShapeMismatch`, `DtypeMismatch`, for a single sequence when its batch is made; `EmptyEpoch` without batches.

    >>> s = padded_batches([[5, 6, 7], [8], [9, 9]], batch_size=2, pad=0)
    >>> [(ids.tolist(), lengths.tolist()) for ids, lengths in stream.items(s)]
    [([[5, 6, 7], [8, 0, 0]], [3, 1]), ([[9, 9]], [2])]
    """
    sizes = {"batch_size": batch_size, "multiple": multiple, "among": among}
    batch_size, multiple, among = (whole(name, given, None) for name, given in sizes.items())
    maximum = None if maximum is None else whole("maximum", maximum, None)
    if batch_size < 1 or multiple < 1 or among < 0 or (maximum is not None and maximum < 1):
        got = f"batch_size={batch_size}, maximum={maximum}, multiple={multiple}, among={among}"
        raise ValueError(f"padded_batches needs sizes of at least 1 (among may be 0), got {got}")
    cut, drop_last, seed = flag("cut", cut), flag("drop_last", drop_last), check_seed(seed)
    if not np.iinfo(np.int32).min <= whole("pad", pad, None) <= np.iinfo(np.int32).max:
        raise ValueError(f"pad is an id that fits int32, got {pad}")
    sequences = rows_by_position("sequences", sequences)
    lengths = np.array([length_of(sequence, _place(at)) for at, sequence in enumerate(sequences)], np.int64)
    if maximum is not None:
        if not cut and (lengths > maximum).any():
            at = int(np.argmax(lengths > maximum))
            expected, hint = f"sequences of at most {maximum:,} ids", f"cut=True keeps the first {maximum:,}"
            raise FaultError(ShapeMismatch(expected, f"{lengths[at]:,}", hint, where=_place(at)))
        lengths = np.minimum(lengths, maximum)
    if targets is not None:
        targets = as_arrays(targets, "padded_batches/targets")
        if any(leaf.shape[:1] != lengths.shape for leaf in tree.leaves(targets)):
            expected = f"as many targets as sequences, {len(lengths):,}"
            raise FaultError(ShapeMismatch(expected, describe(targets), where="padded_batches"))
    batches = _divided(lengths, batch_size, seed, drop_last, among)

    def width(longest: int) -> int:
        return maximum if maximum is not None else max(-(-longest // multiple), 1) * multiple

    def make(position: int) -> Tree:
        rows = batches[position]
        ids = np.full((len(rows), width(int(lengths[rows].max()))), pad, np.int32)
        for row, at in enumerate(rows.tolist()):
            ids[row, : lengths[at]] = ids_of(sequences[at], _place(at))[: lengths[at]]
        padded = ids, lengths[rows].astype(np.int32)
        return padded if targets is None else (padded, tree.map(lambda leaf: take_rows(leaf, rows), targets))

    size = len(batches[0]) if batches else batch_size
    spec: Tree = array_spec((size, width(int(lengths.max(initial=0)))), np.int32), array_spec((size,), np.int32)
    if targets is not None:
        spec = spec, tree.map(lambda leaf: array_spec((size, *leaf.shape[1:]), leaf.dtype), spec_of(targets))
    why_empty = EmptyEpoch(len(lengths), batch_size, drop_last, where="padded_batches")
    return from_function(len(batches), make, spec=spec, why_empty=why_empty)


def _divided(lengths: Ids, batch_size: int, seed: int | None, drop_last: bool, among: int) -> list[Ids]:
    """The row numbers of each batch; only the last is short."""
    order = Order(len(lengths), seed)[:]
    if drop_last:  # before sorting: at random, not by length
        order = order[: len(order) - len(order) % batch_size]
    if among:
        step = among * batch_size
        runs = [order[at : at + step] for at in range(0, len(order), step)]
        runs = [run[np.argsort(lengths[run], kind="stable")] for run in runs]
        order = np.concatenate(runs) if runs else order
    full, rest = divmod(len(order), batch_size)
    batches = list(order[: full * batch_size].reshape(full, batch_size))
    if among and seed is not None:
        generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
        batches = [batches[at] for at in generator.permutation(full)]
    return batches + ([order[full * batch_size :]] if rest else [])


def length_of(sequence: Any, where: str) -> int:
    """How many ids a sequence has.  Fails: `ShapeMismatch`."""
    try:
        return len(sequence)
    except TypeError:  # a number, an iterator, an array without axes
        raise FaultError(ShapeMismatch("ids of shape (length,)", shown(sequence), where=where)) from None


def ids_of(sequence: Any, where: str) -> Ids:
    """The ids of a sequence, which fit int32.  Fails: `ShapeMismatch`, `DtypeMismatch`."""
    ids = np.asarray(as_array(sequence, where))
    if ids.ndim != 1:
        raise FaultError(ShapeMismatch("ids of shape (length,)", describe(ids), where=where))
    if ids.size and ids.dtype.kind not in "iu":
        raise FaultError(DtypeMismatch("integer ids", describe(ids), where=where))
    if not np.can_cast(ids.dtype, np.int32) and ids.size and (ids.max() > 2**31 - 1 or ids.min() < -(2**31)):
        raise FaultError(DtypeMismatch("ids that fit int32", f"{ids.dtype} up to {ids.max()}", where=where))
    return ids


def _place(at: int) -> str:
    return f"padded_batches/sequence {at:,}"
