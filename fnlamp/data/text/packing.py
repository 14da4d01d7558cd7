"""Batches of whole documents for language models: several in a row, and none sees another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Never

import numpy as np

from fnlamp.arrays import Tree, array_spec
from fnlamp.convert import rows_by_position
from fnlamp.data.text.codec import Ids
from fnlamp.data.text.masked import IGNORED
from fnlamp.data.text.padding import ids_of, length_of
from fnlamp.fault import EmptyEpoch
from fnlamp.given import flag, whole
from fnlamp.stream import BatchStream, Order, from_function
from fnlamp.stream.view import check_seed

WHERE: Final = "packed_batches"


def packed_batches(
    documents: Sequence[Any], block: int, batch_size: int, *, seed: int | None = None, drop_last: bool = False
) -> BatchStream[Never]:
    """Batches `((tokens, numbers), targets)`: documents side by side in rows of `block` tokens, and the next token of each.

    Each document's token but the first is a target exactly once per epoch, and the one before it its input; a document of one
    token predicts nothing.  A longer one than a row is cut into pieces, the others stay whole.  `numbers` say which document
    of the row a token belongs to, from 1, and 0 where the row is padded; the target of padding is -100, which
    `loss.cross_entropy` ignores.  `models.gpt` takes `(tokens, numbers)`, so that a token sees its own document alone.
    Each piece goes, the longest first, to the row that it fills best, or to a new one.  With a seed, pieces of one length are
    shuffled, and the rows; every seed gives the same number of rows.
    Shapes: documents `(tokens,)` each, any integers; all parts of a batch `(batch_size, block)`, int32.
    Fails: `ShapeMismatch`, `DtypeMismatch`, for a single document when its batch is made; `EmptyEpoch` without batches.
    Reference: Ding et al. 2024, "Fewer Truncations Improve Language Modeling", section 3.

    >>> s = packed_batches([[5, 6, 7, 8], [1, 2], [3, 4]], block=5, batch_size=1)
    >>> (tokens, numbers), targets = next(stream.items(s))
    >>> tokens.tolist(), numbers.tolist(), targets.tolist()
    ([[5, 6, 7, 1, 3]], [[1, 1, 1, 2, 3]], [[6, 7, 8, 2, 4]])
    """
    block, batch_size = whole("block", block), whole("batch_size", batch_size)
    drop_last, seed = flag("drop_last", drop_last), check_seed(seed)
    documents = rows_by_position("documents", documents)
    lengths = np.array([length_of(document, _place(at)) for at, document in enumerate(documents)], np.int64)
    owner, start, size = _pieces(lengths, block)
    pieces = Order(len(size), seed)[:]
    rows = _best_fit(pieces[np.argsort(-size[pieces], kind="stable")], size, block)
    # A spawn key: the order of the rows must not use the numbers that shuffle the pieces.
    generator = None if seed is None else np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    order = np.arange(len(rows)) if generator is None else generator.permutation(len(rows))

    def make(position: int) -> Tree:
        chosen = order[position * batch_size : (position + 1) * batch_size]
        tokens, numbers = np.zeros((2, len(chosen), block), np.int32)
        targets = np.full((len(chosen), block), IGNORED, np.int32)
        for row, number in enumerate(chosen.tolist()):
            at = 0
            for count, piece in enumerate(rows[number], start=1):
                first, end = start[piece], at + size[piece]
                ids = ids_of(documents[owner[piece]], _place(owner[piece]))[first : first + size[piece] + 1]
                tokens[row, at:end], targets[row, at:end], numbers[row, at:end] = ids[:-1], ids[1:], count
                at = end
        return (tokens, numbers), targets

    full, rest = divmod(len(rows), batch_size)
    spec = array_spec((batch_size if full or drop_last else rest, block), np.int32)
    cause = "" if rows else f" of {len(lengths):,} documents, none of which has a next token"
    why_empty = EmptyEpoch(len(rows), batch_size, drop_last, where=WHERE + cause)
    count = full + bool(rest and not drop_last)
    return from_function(count, make, spec=((spec, spec), spec), why_empty=why_empty)


def _pieces(lengths: Ids, block: int) -> tuple[Ids, Ids, Ids]:
    """The document of each piece, where it starts there, and how many tokens it predicts: 1 to `block`."""
    predicted = np.maximum(lengths - 1, 0)
    counts = -(-predicted // block)
    owner = np.repeat(np.arange(len(lengths)), counts)
    start = (np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)) * block
    return owner, start, np.minimum(predicted[owner] - start, block)


def _best_fit(pieces: Ids, size: Ids, block: int) -> list[list[int]]:
    """The pieces of each row: each piece in turn joins the row with the least room that is enough."""
    rows: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(block + 1)]  # the rows with so much room
    some = np.zeros(block + 1, bool)  # whether there are any
    for piece, needed in zip(pieces.tolist(), size[pieces].tolist(), strict=True):
        room = needed + int(np.argmax(some[needed:]))
        if some[room]:
            row = by_room[room].pop()
            some[room] = bool(by_room[room])
        else:
            row, room = len(rows), block
            rows.append([])
        rows[row].append(piece)
        by_room[room - needed].append(row)
        some[room - needed] = room > needed
    return rows


def _place(at: int) -> str:
    return f"{WHERE}/document {at:,}"
