"""What asking a stream for its next batch can give."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias, final

from fnlamp.arrays import Tree


@final
@dataclass(frozen=True, slots=True, eq=False)
class Emit:
    """A batch, and the state after it."""

    item: Tree
    state: Any


@final
@dataclass(frozen=True, slots=True, eq=False)
class Skip:
    """No batch this time; ask again with this state."""

    state: Any


@final
@dataclass(frozen=True, slots=True, eq=False)
class End:
    """No more batches."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Fail:
    """The next batch cannot be had, for an expected reason."""

    fault: Any


Step: TypeAlias = Emit | Skip | End | Fail


@final
class Reread(Enum):
    """What it costs to continue from a state other than the one that the source is at."""

    DIRECT = "goes on anywhere at once"
    REPLAY = "goes on anywhere after reading what came before again"
    NEVER = "can be read only once, in order"

    def __or__(self, other: Reread) -> Reread:
        """The worse of two."""
        order = list(Reread)
        return max(self, other, key=order.index)
