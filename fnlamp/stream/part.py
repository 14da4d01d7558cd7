"""Reading only some rows of each batch, such as those of one process; the positions are those of the whole batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, TypeAlias

from fnlamp.arrays import Tree
from fnlamp.stream.nested import Stepper

Chosen: TypeAlias = Callable[[int], slice]
"""The rows to read of a batch of so many; hashable, and equal if it chooses the same."""


class Part(NamedTuple):
    """Some rows of a batch, none perhaps, and how many the whole batch has."""

    batch: Tree
    of: int


@dataclass(frozen=True, eq=False)
class Parts:
    """How a source is read in parts: `read(chosen)` is a step that emits a `Part` at each state of the source.

    It belongs to this `source` alone: a stream whose source was replaced is read whole. An equal choice has the same step, as
    each epoch reads its part again and a step may own a thread or requests to workers.
    """

    source: Stepper
    read: Callable[[Chosen], Stepper]

    def __post_init__(self) -> None:
        object.__setattr__(self, "read", cache(self.read))

    def changed(self, change: Callable[[Stepper], Stepper]) -> Parts:
        """The parts of a source that selects batches of this one; `change` does not look into them."""
        return Parts(change(self.source), lambda chosen: change(self.read(chosen)))
