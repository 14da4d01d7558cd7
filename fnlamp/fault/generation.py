"""Generation of text."""

from __future__ import annotations

from dataclasses import dataclass

from fnlamp.fault.base import Fault


@dataclass(frozen=True)
class NotDecodable(Fault):
    """A layer cannot compute a sequence piece by piece, as its output at one time step depends on later ones.

    >>> print(NotDecodable("bidirectional", "it reads sequences from their end"))
    expected layers whose time steps depend on earlier ones alone, got bidirectional: it reads sequences from their end
    """

    layer: str
    reason: str

    def __str__(self) -> str:
        return self._say(f"expected layers whose time steps depend on earlier ones alone, got {self.layer}: {self.reason}")


@dataclass(frozen=True)
class NothingToSample(Fault):
    """The logits of a row hold NaN or infinity, or the rules of sampling have excluded every token.

    >>> print(NothingToSample(row=1, step=5, reason="logits that are not finite"))
    expected logits to choose token 5 of row 1 from, got logits that are not finite
    """

    row: int
    step: int
    reason: str

    def __str__(self) -> str:
        return self._say(f"expected logits to choose token {self.step:,} of row {self.row:,} from, got {self.reason}")
