"""Byte pair encoding on bytes, by Hugging Face's `tokenizers`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fnlamp.data.option import several
from fnlamp.data.text.codec import Ids, checked_ids, described, spelled, utf8
from fnlamp.extra import need
from fnlamp.fault import CodecFailed, FaultError, UnknownToken
from fnlamp.given import shown, whole
from fnlamp.given import text as text_of


@dataclass(frozen=True)
class BpeCodec:
    """A tokenizer of Hugging Face's `tokenizers`, as the text of its file. Build it with `train_bpe`, or read it.

    The file's settings for truncation and padding are ignored: the whole text is encoded, and nothing else.
    """

    serialized: str

    def __repr__(self) -> str:
        return f"<BpeCodec: {described(self.size - len(self.special), 'tokens', self.special)}>"

    @cached_property
    def _tokenizer(self) -> Any:
        tokenizer = need("tokenizers", "text").Tokenizer.from_str(self.serialized)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True  # text that reads "[MASK]" is text
        return tokenizer

    @cached_property
    def size(self) -> int:
        """How many ids there are."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @cached_property
    def _known(self) -> frozenset[int]:
        """Ids with a token; a file may leave gaps between them."""
        return frozenset(self._tokenizer.get_vocab(with_added_tokens=True).values())

    @cached_property
    def _added(self) -> dict[int, str]:
        """Names that the decoder would damage: a byte-level one decodes the letters of a name as bytes too."""
        decoder = json.dumps(json.loads(self.serialized).get("decoder"))
        added = self._tokenizer.get_added_tokens_decoder() if '"ByteLevel"' in decoder else {}
        return {i: token.content for i, token in added.items()}

    @cached_property
    def special(self) -> tuple[str, ...]:
        """The names of the special tokens."""
        added = self._tokenizer.get_added_tokens_decoder()
        return tuple(added[i].content for i in sorted(added) if added[i].special)

    def encode(self, text: str) -> Ids:
        """The ids of a text.  Fails: `UnknownToken` for half of a surrogate pair; `CodecFailed` for a damaged tokenizer."""
        with working("encode"):
            utf8(text, self.size)
            return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int32)

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """The text of ids, with U+FFFD where bytes are not UTF-8.  Fails: `UnknownToken` for an unknown id; `CodecFailed`."""
        with working("decode"):
            known = checked_ids(ids, self.size).tolist()
            for at, i in enumerate(known) if len(self._known) < self.size else ():
                if i not in self._known:  # the library would skip it silently
                    raise FaultError(UnknownToken(i, at, self.size, where="decode"))
            return spelled(known, self._added, lambda plain: self._tokenizer.decode(plain, skip_special_tokens=False))

    def id_of(self, token: str) -> int:
        """The id of a token by its name in the file.  Fails: `UnknownToken`."""
        found: int | None = self._tokenizer.token_to_id(token)
        if found is None:
            raise FaultError(UnknownToken(token, 0, self.size, where="id_of"))
        return found


@contextlib.contextmanager
def working(where: str) -> Iterator[None]:
    """Run the library on the settings of a file: it raises plain exceptions, and panics, which are not even `Exception`s."""
    try:
        yield
    except (FaultError, MemoryError):
        raise
    except BaseException as error:  # a panic is not an Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise FaultError(CodecFailed(str(error)[:200] or type(error).__name__, where=where)) from error


def train_bpe(
    texts: Iterable[str], vocabulary_size: int, *, special: Sequence[str] = (), minimum_frequency: int = 2
) -> BpeCodec:
    """A byte-level codec learned from texts: the 256 bytes, and the byte sequences that are most frequent within words.

    Of `vocabulary_size` ids, the first 256 are bytes, so that every text can be encoded and decoded without loss; the last are
    the special tokens. There are fewer ids if no further pair occurs `minimum_frequency` times. Words are split as in GPT-2.
    Fails: `ExtraMissing` without the extra `text`; `UnknownToken` for a lone surrogate.
    Reference: Sennrich, Haddow & Birch 2016, algorithm 1; on bytes: Radford et al. 2019, section 2.2.

    >>> codec = train_bpe(["low lower lowest " * 9], 262, special=["<end>"])
    >>> codec.encode("lowest"), codec.decode([257, 68, 260]), codec
    (array([257,  68, 260], dtype=int32), 'lowest', <BpeCodec: 261 tokens, <end>>)
    """
    if isinstance(texts, str | bytes):  # its characters would count as texts
        raise TypeError("train_bpe learns from texts, got a single one; give [text]")
    if not isinstance(texts, Iterable) or isinstance(texts, dict):
        raise TypeError(f"texts is a list or another iterable of texts, got {shown(texts)}")
    vocabulary_size = whole("vocabulary_size", vocabulary_size, None)
    minimum_frequency = whole("minimum_frequency", minimum_frequency, 0)
    special = several("special", special)
    tokenizers = need("tokenizers", "text")
    if vocabulary_size < 256 + len(special):
        needed = f"256 bytes and {len(special)} special tokens"
        raise ValueError(f"a vocabulary has room for at least {needed}, got a vocabulary_size of {vocabulary_size}")
    if len(set(special)) < len(special) or "" in special:
        raise ValueError(f"special tokens have distinct names, got {list(special)}")
    if any(ord(character) in _HALVES for name in special for character in name):
        raise ValueError(f"special tokens are text that UTF-8 can encode, got {list(special)}")
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = byte_level, tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary_size - len(special),
        min_frequency=minimum_frequency,
        initial_alphabet=sorted(byte_level.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(map(_checked, texts), trainer=trainer)
    if taken := [name for name in special if tokenizer.token_to_id(name) is not None]:
        raise ValueError(f"the special tokens {taken} are already tokens of the text: choose names that are not")
    tokenizer.add_special_tokens(list(special))
    return BpeCodec(tokenizer.to_str())


_HALVES = range(0xD800, 0xE000)
"""Surrogates."""


def _checked(text: str) -> str:
    utf8(text_of("texts: each", text), 256)
    return text
