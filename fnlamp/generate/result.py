"""What generation returns, and the pieces of it that it streams."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

import numpy as np

Ints: TypeAlias = np.ndarray[Any, Any]


class Reason(StrEnum):
    """Why a row has ended."""

    STOP_TOKEN = "a stop token"
    STOP_TEXT = "a stop text"
    LENGTH = "the length"


@dataclass(frozen=True, eq=False)
class Generated:
    """The new tokens of each prompt.

    `tokens` `(rows, longest)`, -1 after a row's end, with the token that ended it; `lengths` `(rows,)`; `log_probs` as
    `tokens`, natural logarithms of the model's probabilities before any rule, 0 after the end; `reasons`, why each row ended.
    With a codec, `texts` are those of the new tokens, without a stop token, and up to a stop text.
    """

    tokens: Ints
    lengths: Ints
    log_probs: np.ndarray[Any, Any]
    reasons: tuple[Reason | None, ...]
    texts: tuple[str, ...] = ()

    def row(self, index: int) -> Ints:
        """The new tokens of one prompt."""
        return self.tokens[index, : self.lengths[index]]

    def __repr__(self) -> str:
        shown = f", {', '.join(repr(text if len(text) < 40 else text[:37] + '...') for text in self.texts[:3])}"
        more = f" and {len(self.texts) - 3} more" if len(self.texts) > 3 else ""
        lengths = ", ".join(map(str, self.lengths.tolist()))
        return f"<Generated: {len(self.lengths)} rows of {lengths} tokens{shown * bool(self.texts)}{more}>"


@dataclass(frozen=True, eq=False)
class Piece:
    """What a row has more than before: tokens, and with a codec text, which is never half of a character or of a stop text."""

    row: int
    tokens: Ints
    text: str = ""
