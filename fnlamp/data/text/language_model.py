"""Batches for language models: windows of a corpus, and the next token at each position."""

from __future__ import annotations

from functools import partial
from typing import Any, Final, Never

import numpy as np

from fnlamp.arrays import Tree, array_spec, describe, is_integer, take_rows
from fnlamp.convert import as_array
from fnlamp.fault import DtypeMismatch, EmptyEpoch, FaultError, ShapeMismatch
from fnlamp.given import flag, whole
from fnlamp.stream import BatchStream, Order, Recipe
from fnlamp.stream.source import in_order
from fnlamp.stream.view import check_seed

MOST: Final = int(np.iinfo(np.int32).max)
WHERE: Final = "language_model_batches"


def language_model_batches(
    corpus: Any, block: int, batch_size: int, *, seed: int | None = None, drop_last: bool = False
) -> BatchStream[Never]:
    """Batches `(inputs, targets)`: windows of `block` tokens of a corpus, and the next token of each.

    Windows do not overlap, so each token is predicted at most once per epoch. Without a seed they are in order from the first
    token; with one they are shuffled, and start at an offset below `block`. Both are functions of the seed alone, and every
    seed gives the same number of windows. The last batch has the remaining windows; `drop_last` drops it if it is not full.
    The corpus is one array of ids. Only the corpus is on the device, in its own dtype: 8 or 16 bits save memory. A corpus that
    is mapped from a file stays on disk, and is read batch by batch.
    Shapes: corpus `(tokens,)`, any integers; both parts of a batch `(batch_size, block)`, int32.
    Fails: `ShapeMismatch`, `DtypeMismatch`, also for ids that 32 bits cannot hold; a stream without batches, `EmptyEpoch`,
    if the corpus has fewer than `block + 1` tokens.

    >>> s = language_model_batches(np.arange(10, 20), block=3, batch_size=2)
    >>> [(inputs.tolist(), targets.tolist()) for inputs, targets in stream.items(s)]
    [([[10, 11, 12], [13, 14, 15]], [[11, 12, 13], [14, 15, 16]]), ([[16, 17, 18]], [[17, 18, 19]])]
    """
    block, batch_size = whole("block", block), whole("batch_size", batch_size)
    drop_last, seed = flag("drop_last", drop_last), check_seed(seed)
    corpus = _checked(corpus)
    tokens = len(corpus)
    windows, offset = max(tokens - 1, 0) // block, 0
    if seed is not None and windows:
        windows = max(tokens // block - 1, 1)  # as many as fit after the largest offset
        # A spawn key: the offset must not use the numbers that shuffle the windows.
        generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
        offset = int(generator.integers(min(block, tokens - windows * block)))
    order, recipe = Order(windows, seed), Recipe(take=partial(windows_of, block))
    # The corpus is second, where a plan looks for targets that are not classes.
    arrays = np.asarray(offset, np.int32 if tokens <= MOST else np.int64), corpus
    cause = "" if windows else f" of {tokens:,} tokens, of which a block of {block:,} needs one more"
    why_empty = EmptyEpoch(windows, batch_size, drop_last, where=WHERE + cause)
    return in_order(
        arrays,
        order,
        batch_size,
        drop_last,
        lambda size: (array_spec((size, block), np.int32),) * 2,
        why_empty,
        recipe=recipe,
        on_host=isinstance(corpus, np.memmap) or tokens > MOST,  # the device indexes with 32 bits
    )


def windows_of(block: int, arrays: Tree, rows: Any) -> Tree:
    """`(inputs, targets)` of the windows with these numbers; `arrays` are the offset of the first window and the corpus."""
    offset, corpus = arrays
    on_host = isinstance(rows, np.ndarray)
    rows = rows.astype(np.int64) if on_host else rows
    tokens = take_rows(corpus, rows[:, None] * block + offset + np.arange(block + 1, dtype=np.int32))
    if on_host:
        _check_range(tokens)
    tokens = tokens.astype(np.int32)
    return tokens[:, :-1], tokens[:, 1:]


def _checked(corpus: Any) -> Any:
    corpus = as_array(corpus, WHERE)
    if len(corpus.shape) != 1:
        raise FaultError(ShapeMismatch("a corpus of shape (tokens,)", describe(corpus), where=WHERE))
    if not is_integer(corpus):
        hint = "encode the text first, as with character_codec"
        raise FaultError(DtypeMismatch("integer tokens", describe(corpus), hint, where=WHERE))
    if not isinstance(corpus, np.memmap):  # checked batch by batch
        _check_range(corpus)
    return corpus


def _check_range(tokens: Any) -> None:
    """Fails: `DtypeMismatch` for ids that would overflow int32."""
    if np.can_cast(tokens.dtype, np.int32) or not tokens.size:
        return
    low, high = int(tokens.min()), int(tokens.max())
    if low < -MOST - 1 or high > MOST:
        raise FaultError(DtypeMismatch("ids that fit int32", f"{tokens.dtype} from {low} to {high}", where=WHERE))
