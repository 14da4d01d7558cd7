"""Faults of graphs."""

from __future__ import annotations

from dataclasses import dataclass

from fnlamp.fault.base import Fault


@dataclass(frozen=True)
class NodeOutOfRange(Fault):
    """An edge of a node that does not exist.

    >>> print(NodeOutOfRange(3, nodes=3, row=7))
    expected numbers of nodes from 0 to 2, got 3 in edge 7; number the nodes from 0
    """

    node: int
    nodes: int
    row: int

    def __str__(self) -> str:
        return self._say(
            f"expected numbers of nodes from 0 to {self.nodes - 1:,}, got {self.node:,} in edge {self.row:,}; "
            "number the nodes from 0"
        )
