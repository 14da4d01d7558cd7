"""Batches for BERT: pairs of sentences with some tokens masked; the second sentence may be a random one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Never

import numpy as np

from fnlamp import tree
from fnlamp.arrays import Tree, array_spec, describe
from fnlamp.convert import as_array, rows_by_position
from fnlamp.data.text.codec import Ids
from fnlamp.fault import DtypeMismatch, EmptyEpoch, FaultError, LabelOutOfRange
from fnlamp.given import flag, shown, whole
from fnlamp.stream import BatchStream, Order, from_function
from fnlamp.stream.view import check_seed

IGNORED = -100
"""The target of unused positions, which `loss.nll` and `loss.cross_entropy` ignore."""


def masked_batches(
    paragraphs: Sequence[Sequence[Sequence[int]]],
    batch_size: int,
    *,
    maximum: int,
    vocabulary: int,
    cls: int,
    sep: int,
    mask: int,
    pad: int,
    special: Sequence[int] = (),
    seed: int,
    share: float = 0.15,
    drop_last: bool = False,
) -> BatchStream[Never]:
    """Batches `(features, targets)` for BERT's two tasks: masked tokens, and whether one sentence follows another.

    A paragraph is a sequence of sentences, a sentence a sequence of ids; each pair of neighbours is one row per epoch. A row is
    `[cls] a [sep] b [sep]`, padded to `maximum`: a sentence of a paragraph, and with probability 1/2 the next one, else one
    from another paragraph (from the same if there is no other; never the next one). If both together are too long, the
    longer one is cut to a window at a random place, or both to about half the space. `share` of a row's tokens are chosen, at
    least one: 80 % of these become `mask`, 10 % any token of the vocabulary, 10 % stay. The ids of `cls`, `sep`, `mask`, `pad`
    and `special`, such as an unknown token, are never chosen and never drawn. Everything is a function of the seed and the
    position of the batch; another seed, such as `epochs` gives each epoch, masks other tokens. Empty sentences are dropped.

    Shapes, with `most` the share of `maximum - 3`: features `ids`, `segments` (0 up to the first `sep`, then 1; 0 for padding)
    `(batch_size, maximum)`, `lengths` `(batch_size,)`, `positions` `(batch_size, most)`, the positions of the chosen tokens in
    their row, then 0; targets `tokens` `(batch_size, most)`, the original tokens, then -100, `weights` of the same shape, 1 or
    0, float32, `next` `(batch_size,)`, 1 if the second sentence is the next one; all others int32.
    Fails: `DtypeMismatch`; `LabelOutOfRange` for a token outside the vocabulary; `EmptyEpoch` without batches.
    Reference: Devlin et al. 2019, sections 3.1 and A.1.

    >>> paragraphs = [[[5, 6], [8, 9]], [[6, 6], [7, 5]]]
    >>> s = masked_batches(paragraphs, 2, maximum=8, vocabulary=10, cls=0, sep=1, mask=2, pad=3, seed=0)
    >>> s.spec[0]["positions"].shape, [features["lengths"].tolist() for features, targets in stream.items(s)]
    ((2, 1), [[7, 7]])
    """
    sizes = {"batch_size": batch_size, "maximum": maximum, "vocabulary": vocabulary}
    batch_size, maximum, vocabulary = (whole(name, given, None) for name, given in sizes.items())
    ids = {"cls": cls, "sep": sep, "mask": mask, "pad": pad}
    cls, sep, mask, pad = (whole(name, given, None) for name, given in ids.items())
    if not isinstance(special, Iterable):
        raise TypeError(f"special is a list of ids, got {shown(special)}")
    special = [whole("special", each, None) for each in special]
    drop_last, seed = flag("drop_last", drop_last), check_seed(seed)
    if seed is None:
        raise TypeError("masked_batches needs a seed, which determines the masked tokens; got None")
    if isinstance(share, bool) or not isinstance(share, Real):
        raise TypeError(f"share is a number above 0 and up to 1, got {shown(share)}")
    if batch_size < 1 or maximum < 5 or not 0 < share <= 1:
        got = f"batch_size={batch_size}, maximum={maximum}, share={share}"
        raise ValueError(f"masked_batches needs batch_size >= 1, maximum >= 5 and share in (0, 1], got {got}")
    never = {cls, sep, mask, pad, *special}
    if min(never) < 0 or max(never) >= vocabulary or len(never) == vocabulary or len({cls, sep, mask, pad}) < 4:
        got = f"cls={cls}, sep={sep}, mask={mask}, pad={pad}, special={list(special)}"
        raise ValueError(f"special ids are distinct ids of a vocabulary of {vocabulary}, got {got}")
    plain = np.ones(vocabulary, bool)
    plain[list(never)] = False
    text = _Text.of(paragraphs, vocabulary)
    order, most = Order(len(text.firsts), seed), max(round(share * (maximum - 3)), 1)
    row = _Row(text, maximum, most, share, cls, sep, mask, pad, plain, np.flatnonzero(plain))
    full, rest = divmod(len(order), batch_size)

    def make(position: int) -> Tree:
        # A spawn key, because SeedSequence treats the entropies 5 and [5, 0] as equal.
        generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(position,)))
        firsts = text.firsts[order[position * batch_size : (position + 1) * batch_size]]
        return tree.map(lambda *leaves: np.stack(leaves), *[row.make(int(first), generator) for first in firsts])

    size = batch_size if full or drop_last else rest
    ids, some = array_spec((size, maximum), np.int32), array_spec((size, most), np.int32)
    each = array_spec((size,), np.int32)
    spec = (
        {"ids": ids, "lengths": each, "positions": some, "segments": ids},
        {"next": each, "tokens": some, "weights": array_spec((size, most), np.float32)},
    )
    why_empty = EmptyEpoch(len(order), batch_size, drop_last, where="masked_batches")
    return from_function(full + bool(rest and not drop_last), make, spec=spec, why_empty=why_empty)


@dataclass(frozen=True, eq=False)
class _Text:
    """All tokens in one array, with the bounds of sentences and paragraphs."""

    tokens: Ids
    starts: Ids
    """The start of each sentence, and the end of the last.  Shape: `(sentences + 1,)`."""
    paragraph: Ids
    """The paragraph of each sentence."""
    bounds: Ids
    """The first sentence of each paragraph, and the end of the last."""
    firsts: Ids
    """The sentences that have a next one."""

    @classmethod
    def of(cls, paragraphs: Sequence[Sequence[Sequence[int]]], vocabulary: int) -> _Text:
        kept = [_sentences(paragraph, at) for at, paragraph in enumerate(rows_by_position("paragraphs", paragraphs))]
        sentences = [sentence for paragraph in kept for sentence in paragraph]
        flat = np.concatenate(sentences) if sentences and all(each.ndim == 1 for each in sentences) else np.zeros(0, np.int32)
        if flat.dtype.kind not in "iu" or (sentences and not flat.size):
            actual = ", ".join(sorted({describe(each) for each in sentences})[:3])
            raise FaultError(DtypeMismatch("sentences of integer ids", actual, where="masked_batches"))
        starts = np.cumsum([0, *map(len, sentences)])
        if ((flat < 0) | (flat >= vocabulary)).any():
            at = int(np.argmax((flat < 0) | (flat >= vocabulary)))
            row = int(np.searchsorted(starts, at, "right")) - 1
            raise FaultError(LabelOutOfRange(int(flat[at]), vocabulary, row, where="masked_batches"))
        counts = np.array([len(paragraph) for paragraph in kept], np.int64)
        paragraph = np.repeat(np.arange(len(kept)), counts)
        return cls(
            flat.astype(np.int32),
            starts,
            paragraph,
            np.cumsum([0, *counts]),
            np.flatnonzero(paragraph[1:] == paragraph[:-1]),
        )

    def sentence(self, at: int) -> Ids:
        return self.tokens[self.starts[at] : self.starts[at + 1]]

    def other(self, first: int, generator: np.random.Generator) -> int:
        """A random sentence of another paragraph; if there is none, one of this paragraph but the next."""
        begin, end = self.bounds[self.paragraph[first]], self.bounds[self.paragraph[first] + 1]
        if end - begin == len(self.paragraph):
            begin, end = first + 1, first + 2
        at = int(generator.integers(len(self.paragraph) - (end - begin)))
        return at if at < begin else at + int(end - begin)


def _sentences(paragraph: Any, at: int) -> list[Ids]:
    """The sentences that have tokens."""
    place = f"masked_batches/paragraph {at:,}"
    if isinstance(paragraph, str | bytes) or not hasattr(paragraph, "__iter__"):
        expected, hint = "a paragraph, a list of sentences of ids", "encode the text first, as with word_codec"
        raise FaultError(DtypeMismatch(expected, shown(paragraph), hint, where=place))
    rows = rows_by_position("paragraphs", paragraph)
    made = [np.asarray(as_array(sentence, f"{place}/sentence {i:,}")) for i, sentence in enumerate(rows)]
    return [sentence for sentence in made if sentence.size]


@dataclass(frozen=True, eq=False)
class _Row:
    """Builds a row from the number of its first sentence."""

    text: _Text
    maximum: int
    most: int
    share: float
    cls: int
    sep: int
    mask: int
    pad: int
    plain: Ids
    """Whether an id is an ordinary token."""
    drawn: Ids
    """The ordinary tokens."""

    def make(self, first: int, generator: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any]]:
        follows = bool(generator.random() < 0.5)
        second = first + 1 if follows else self.text.other(first, generator)
        a, b = windows((self.text.sentence(first), self.text.sentence(second)), self.maximum - 3, generator)
        row = np.concatenate([[self.cls], a, [self.sep], b, [self.sep]]).astype(np.int32)
        hidden, positions = self.hide(row, generator)
        ids, segments = np.full(self.maximum, self.pad, np.int32), np.zeros(self.maximum, np.int32)
        ids[: len(row)], segments[len(a) + 2 : len(row)] = hidden, 1
        places, tokens = np.zeros(self.most, np.int32), np.full(self.most, IGNORED, np.int32)
        places[: len(positions)], tokens[: len(positions)] = positions, row[positions]
        weights = (tokens != IGNORED).astype(np.float32)
        features = {"ids": ids, "lengths": np.int32(len(row)), "positions": places, "segments": segments}
        return features, {"next": np.int32(follows), "tokens": tokens, "weights": weights}

    def hide(self, row: Ids, generator: np.random.Generator) -> tuple[Ids, Ids]:
        """The row with some tokens masked, and their positions, in order."""
        candidates = np.flatnonzero(self.plain[row])
        count = min(max(round(self.share * len(candidates)), 1), len(candidates))
        positions = np.sort(generator.permutation(candidates)[:count])
        fate, token = generator.random(count), self.drawn[generator.integers(len(self.drawn), size=count)]
        hidden = row.copy()
        hidden[positions] = np.where(fate < 0.8, self.mask, np.where(fate < 0.9, token, row[positions]))
        return hidden, positions


def windows(pair: tuple[Ids, Ids], room: int, generator: np.random.Generator) -> tuple[Ids, Ids]:
    """The two sentences, cut to windows at random places if they have more than `room` tokens together."""
    a, b = map(len, pair)
    # The shorter one stays whole if it takes at most half the room.
    keep_a = min(a, max(room - b, room - room // 2))
    keep_b = min(b, room - keep_a)
    at_a, at_b = generator.integers([a - keep_a + 1, b - keep_b + 1]).tolist()
    return pair[0][at_a : at_a + keep_a], pair[1][at_b : at_b + keep_b]
