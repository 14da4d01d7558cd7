"""The outcomes of one step of a stream."""

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
    """No batch at this state; continue with the next one."""

    state: Any


@final
@dataclass(frozen=True, slots=True, eq=False)
class End:
    """No more batches."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Fail:
    """The next batch cannot be made, for an expected reason."""

    fault: Any


Step: TypeAlias = Emit | Skip | End | Fail


@final
class Reread(Enum):
    """The cost of resuming from a state other than the next one."""

    DIRECT = "resumes anywhere directly"
    REPLAY = "resumes anywhere, reading the batches before it again"
    NEVER = "can be read only once, in order"

    def __or__(self, other: Reread) -> Reread:
        """The worse of two."""
        order = list(Reread)
        return max(self, other, key=order.index)
