"""Codecs of text."""

from __future__ import annotations

from dataclasses import dataclass

from fnlamp.fault.base import Fault


@dataclass(frozen=True)
class UnknownToken(Fault):
    """A character or word is unknown to a codec, or an id is not one of its `known` ids.

    >>> print(UnknownToken("é", position=4, known=65))
    expected one of the 65 tokens of this codec, got 'é' at position 4; make the codec from a text that contains it, ...
    """

    token: str | int
    position: int
    known: int

    def __str__(self) -> str:
        if isinstance(self.token, int):
            return self._say(f"expected ids from 0 to {self.known - 1:,}, got {self.token:,} at position {self.position:,}")
        return self._say(
            f"expected one of the {self.known:,} tokens of this codec, got {self.token!r} at position {self.position:,}; "
            "make the codec from a text that contains it, or give it an unknown token"
        )


@dataclass(frozen=True)
class CodecFailed(Fault):
    """A tokenizer that was read from a file failed; `reason` is its library's message.

    >>> print(CodecFailed("no unknown token"))
    expected a tokenizer that works, got no unknown token; its file is damaged, or lacks an unknown token
    """

    reason: str

    def __str__(self) -> str:
        return self._say(f"expected a tokenizer that works, got {self.reason}; its file is damaged, or lacks an unknown token")
