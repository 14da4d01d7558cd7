"""Codecs: text to ids and back, as immutable values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeAlias

import numpy as np

from fnlamp.arrays import describe
from fnlamp.data.option import several
from fnlamp.data.text.words import words_of
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch, UnknownToken, printable
from fnlamp.given import flag, whole
from fnlamp.given import text as text_of

Ids: TypeAlias = np.ndarray[Any, Any]


class Codec(Protocol):
    """Text to ids from 0 to `size - 1`, and back.

    A codec may have `special` tokens, such as "[MASK]": named ids that programs insert themselves; no text is encoded to them,
    except to the unknown token, if there is one. They have the last ids.
    """

    @property
    def size(self) -> int:
        """The number of ids, special tokens included."""

    @property
    def special(self) -> tuple[str, ...]:
        """The names of the special tokens."""

    def encode(self, text: str) -> Ids:
        """The ids of a text.  Shapes: `(tokens,)`, int32.  Fails: `UnknownToken`."""

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """The text of ids; a special token appears as its name.  Fails: `UnknownToken` for an id out of range."""

    def id_of(self, token: str) -> int:
        """The id of a token by its name, mostly for special tokens.  Fails: `UnknownToken`."""


@dataclass(frozen=True)
class CharacterCodec:
    """An id for each character: its position in `characters`. Build it with `character_codec`."""

    characters: str
    special: tuple[str, ...] = ()
    unknown: str | None = None

    def __post_init__(self) -> None:
        check_tokens(self.characters, self.special, self.unknown)

    def __repr__(self) -> str:
        return f"<CharacterCodec: {described(len(self.characters), 'characters', self.special)}>"

    @property
    def size(self) -> int:
        """The number of ids."""
        return len(self.characters) + len(self.special)

    @cached_property
    def _table(self) -> Ids:
        """The id of every code point up to the largest known one; one more entry stands for all larger ones."""
        known = _code_points(self.characters)
        table = np.full(int(known.max(initial=-1)) + 2, -1 if self.unknown is None else self.id_of(self.unknown), np.int32)
        table[known] = np.arange(len(known))
        return table

    def encode(self, text: str) -> Ids:
        """The ids of a text.  Fails: `UnknownToken` without an unknown token."""
        ids: Ids = self._table[np.minimum(_code_points(text), len(self._table) - 1)]
        if self.unknown is None and (ids < 0).any():
            at = int(np.argmax(ids < 0))
            raise FaultError(UnknownToken(text[at], at, self.size, where="encode"))
        return ids

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """The text of ids.  Fails: `UnknownToken` for an id out of range."""
        tokens = (*self.characters, *self.special)
        return "".join([tokens[i] for i in checked_ids(ids, self.size).tolist()])

    def id_of(self, token: str) -> int:
        """The id of a character or a special token; the special one if both have the name."""
        return place_of(token, self.characters, self.special)


def character_codec(text: str, *, special: Sequence[str] = (), unknown: str | None = None) -> CharacterCodec:
    """An id for each character of `text`: 0 for the most frequent, and so on; ties by code point.

    A character that is not in `text` fails with `UnknownToken`, or, with `unknown`, has the id of the special token of that
    name.

    >>> codec = character_codec("hello", special=["<pad>"])
    >>> codec.encode("hello"), codec.decode([2, 1, 0, 4]), codec.id_of("<pad>")
    (array([2, 1, 0, 0, 3], dtype=int32), 'hel<pad>', 4)
    """
    text_of("text", text, "one text, a str; join several first")
    points, counts = np.unique(_code_points(text), return_counts=True)
    by_frequency = points[np.lexsort((points, -counts))]
    return CharacterCodec("".join(map(chr, by_frequency.tolist())), with_unknown(special, unknown), unknown)


@dataclass(frozen=True)
class WordCodec:
    """An id for each word: its position in `words`. Build it with `word_codec`."""

    words: tuple[str, ...]
    special: tuple[str, ...] = ()
    unknown: str | None = None
    lower: bool = False

    def __post_init__(self) -> None:
        check_tokens(self.words, self.special, self.unknown)

    def __repr__(self) -> str:
        lower = ", lower case" if self.lower else ""
        return f"<WordCodec: {described(len(self.words), 'words', self.special)}{lower}>"

    @property
    def size(self) -> int:
        """The number of ids."""
        return len(self.words) + len(self.special)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words)}

    def encode(self, text: str) -> Ids:
        """The ids of a text.  Fails: `UnknownToken` without an unknown token."""
        words = words_of(text, lower=self.lower)
        instead = -1 if self.unknown is None else self.id_of(self.unknown)
        ids = np.array([self._ids.get(word, instead) for word in words], np.int32)
        if self.unknown is None and (ids < 0).any():
            at = int(np.argmax(ids < 0))
            raise FaultError(UnknownToken(words[at], at, self.size, where="encode"))
        return ids

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """The words of ids, joined by spaces.  Fails: `UnknownToken` for an id out of range."""
        tokens = (*self.words, *self.special)
        return " ".join([tokens[i] for i in checked_ids(ids, self.size).tolist()])

    def id_of(self, token: str) -> int:
        """The id of a word or a special token; the special one if both have the name."""
        return place_of(token, self.words, self.special)


def word_codec(
    text: str, *, minimum_frequency: int = 1, lower: bool = False, special: Sequence[str] = (), unknown: str | None = "<unk>"
) -> WordCodec:
    """An id for each word with at least `minimum_frequency` occurrences in `text`: 0 for the most frequent, ties by code point.

    A word is a run of letters with their marks, digits and underscores, with apostrophes inside it (don't), or one other
    character that is not white space (a comma); the rule, in `words_of`, is Unicode's. White space only separates words, so
    decoding puts one space between words. With `lower`, text is lower-cased first. Other words have the id of the special
    token `unknown`; with `unknown=None` they fail with `UnknownToken`.

    >>> codec = word_codec("The cat saw the dog, the dog ran.", lower=True, minimum_frequency=2)
    >>> codec.words, codec.encode("The dog sat"), codec.decode([0, 1, 2])
    (('the', 'dog'), array([0, 1, 2], dtype=int32), 'the dog <unk>')
    """
    minimum_frequency, lower = whole("minimum_frequency", minimum_frequency), flag("lower", lower)
    counts = Counter(words_of(text_of("text", text, "one text, a str; join several first"), lower=lower))
    kept = [word for word, count in counts.items() if count >= minimum_frequency]
    words = tuple(sorted(kept, key=lambda word: (-counts[word], word)))
    return WordCodec(words, with_unknown(special, unknown), unknown, lower)


@dataclass(frozen=True)
class ByteCodec:
    """The bytes of a text in UTF-8: ids 0 to 255 for themselves, then the special tokens."""

    special: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_tokens((), self.special, None)

    def __repr__(self) -> str:
        return f"<ByteCodec: {described(256, 'bytes', self.special)}>"

    @property
    def size(self) -> int:
        """The number of ids."""
        return 256 + len(self.special)

    def encode(self, text: str) -> Ids:
        """The ids of a text.  Fails: `UnknownToken` for a lone surrogate, which UTF-8 cannot encode."""
        return np.frombuffer(utf8(text, self.size), np.uint8).astype(np.int32)

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """The text of ids, with U+FFFD where bytes are not UTF-8.  Fails: `UnknownToken` for an id out of range."""
        known = checked_ids(ids, self.size).tolist()
        names = {256 + i: name for i, name in enumerate(self.special)}
        return spelled(known, names, lambda plain: bytes(plain).decode(errors="replace"))

    def id_of(self, token: str) -> int:
        """The id of a special token, or of an ASCII character."""
        return place_of(token, [chr(i) for i in range(128)], self.special, 256)


def byte_codec(*, special: Sequence[str] = ()) -> ByteCodec:
    """The bytes of a text in UTF-8 as ids; every text can be encoded, and decoding restores it.

    >>> byte_codec().encode("é!"), byte_codec().decode([195, 169, 33])
    (array([195, 169,  33], dtype=int32), 'é!')
    """
    return ByteCodec(several("special", special))


# ------------------------------------------------------------------------------- shared by all codecs


def checked_ids(ids: Sequence[int] | Ids, size: int) -> Ids:
    """The ids as an array.  Fails: `ShapeMismatch`, `DtypeMismatch`, `UnknownToken` for one that is not below `size`."""
    array = np.asarray(ids)
    if array.ndim != 1:
        raise FaultError(ShapeMismatch("ids of shape (tokens,)", describe(array), "decode row by row", where="decode"))
    if array.dtype.kind not in "iu" and array.size:
        raise FaultError(DtypeMismatch("integer ids", describe(array), where="decode"))
    wrong = (array < 0) | (array >= size)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise FaultError(UnknownToken(int(array[at]), at, size, where="decode"))
    return array.astype(np.int64)


def place_of(token: str, tokens: Sequence[str], special: Sequence[str], first: int | None = None) -> int:
    """The id of a token; special tokens start at `first`, after the others.  Fails: `UnknownToken`."""
    first = len(tokens) if first is None else first
    if token in special:
        return first + special.index(token)
    if token not in tuple(tokens):
        raise FaultError(UnknownToken(token, 0, first + len(special), where="id_of"))
    return tokens.index(token)


def utf8(text: str, size: int) -> bytes:
    """The text's bytes.  Fails: `UnknownToken` for a lone surrogate."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise FaultError(UnknownToken(text[error.start], error.start, size, where="encode")) from error


def with_unknown(special: Sequence[str], unknown: str | None) -> tuple[str, ...]:
    """The special tokens, including the unknown one."""
    special = several("special", special)
    if unknown is not None:
        text_of("unknown", unknown, "the name of the unknown token, or None")
    return (*special, *([unknown] if unknown is not None and unknown not in special else ()))


def check_tokens(tokens: Sequence[str], special: Sequence[str], unknown: str | None) -> None:
    """Raises: `ValueError` for repeated tokens, or an unknown token that is not special."""
    if len(set(tokens)) < len(tokens) or len(set(special)) < len(special):
        raise ValueError("a codec has each of its tokens once")
    if unknown is not None and unknown not in special:
        raise ValueError(f"the unknown token is one of the special tokens, got {unknown!r}")


def spelled(ids: list[int], names: Mapping[int, str], decode: Callable[[list[int]], str]) -> str:
    """The text of ids: special tokens as their names, and each run of other ids decoded at once."""
    parts, start = [], 0
    for stop in [at for at, i in enumerate(ids) if i in names]:
        parts += [decode(ids[start:stop]), names[ids[stop]]] if start < stop else [names[ids[stop]]]
        start = stop + 1
    return "".join(parts) + (decode(ids[start:]) if start < len(ids) else "")


def described(count: int, of: str, special: Sequence[str]) -> str:
    """The number of tokens, and the special ones."""
    return printable(f"{count:,} {of}" + (f", {', '.join(special)}" if special else ""))


def _code_points(text: str) -> Ids:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.int64)
