"""The text of new tokens: where it ends, and how much of it is certain."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from fnlamp.data import Codec
from fnlamp.generate.result import Ints

REPLACED = "\ufffd"
"""What a codec puts for bytes that are not, or not yet, a character."""


@dataclass(frozen=True)
class Texts:
    """A codec, and the texts that end a row."""

    codec: Codec
    stops: tuple[str, ...] = ()

    def end(self, tokens: Ints, checked: int) -> int | None:
        """How many of the tokens it takes until their text has a stop text; None if it has none.

        The first `checked` tokens are known not to have one.
        """
        if not self.stops or not self._stops(tokens):
            return None
        return bisect_left(range(len(tokens)), True, lo=checked, key=lambda n: self._stops(tokens[:n]))

    def _stops(self, tokens: Ints) -> bool:
        text = self.codec.decode(tokens)
        return any(stop in text for stop in self.stops)

    def until_stop(self, tokens: Ints) -> str:
        """The text of the tokens, up to the first stop text."""
        text = self.codec.decode(tokens)
        return text[: min((at for at in map(text.find, self.stops) if at >= 0), default=len(text))]

    def certain(self, tokens: Ints) -> str:
        """The text of the tokens, less an end that further tokens may change: a part of a character, or of a stop text."""
        text = self.until_stop(tokens).rstrip(REPLACED)
        return text[: len(text) - max((_overlap(text, stop) for stop in self.stops), default=0)]


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of the text that is a start of the stop text, but not all of it."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


def without(tokens: Ints, stop: Sequence[int]) -> Ints:
    """The tokens without a stop token at their end."""
    return tokens[:-1] if len(tokens) and int(tokens[-1]) in stop else tokens
