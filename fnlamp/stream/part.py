"""Reading only some rows of each batch, such as those of one process; the positions are those of the whole batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from fnlamp.arrays import Tree
from fnlamp.stream.nested import Stepper

Chosen: TypeAlias = Callable[[int], slice]
"""The rows to read of a batch of so many."""


class Part(NamedTuple):
    """Some rows of a batch, none perhaps, and how many the whole batch has."""

    batch: Tree
    of: int


@dataclass(frozen=True, eq=False)
class Parts:
    """How a source is read in parts: `read(chosen)` is a step that emits a `Part` at each state of the source.

    It belongs to this `source` alone: a stream whose source was replaced is read whole.
    """

    source: Stepper
    read: Callable[[Chosen], Stepper]

    def changed(self, change: Callable[[Stepper], Stepper]) -> Parts:
        """The parts of a source that selects batches of this one; `change` does not look into them."""
        return Parts(change(self.source), lambda chosen: change(self.read(chosen)))
