"""The rows of each batch that a process reads: those that its devices compute."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from fnlamp import tree
from fnlamp.arrays import Array, Tree, from_parts, take_rows
from fnlamp.stream import BatchStream, Recipe
from fnlamp.train.execute.layout import place
from fnlamp.train.execute.programs import BODIES


@dataclass(frozen=True)
class Share:
    """Of the equal parts into which `place` cuts the rows of a batch, those from `first` to before `last` are this process's.

    The parts are XLA's: of a batch that does not divide evenly, the last parts are shorter, or empty.
    """

    place: NamedSharding
    first: int
    last: int

    @property
    def parts(self) -> int:
        """How many parts there are."""
        return int(self.place.mesh.shape[self.place.spec[0]])

    def each(self, rows: int) -> int:
        """The rows of one part of a batch of so many, filled up."""
        return -(-rows // self.parts)

    def __call__(self, rows: int) -> slice:
        """The rows of this process of a batch of so many."""
        size = self.each(rows)
        return slice(min(self.first * size, rows), min(self.last * size, rows))

    def room(self, rows: int) -> int:
        """The rows that this process's parts of a batch have, filled up."""
        return (self.last - self.first) * self.each(rows)

    def placed(self, array: np.ndarray[Any, Any], rows: int) -> Array:
        """Batches of so many rows, one after the other, of which `array` has this process's rows, filled up."""
        size = self.each(rows)
        return from_parts(array, _within(self.place), self.parts * size, self.first * size)

    def taking(self, recipe: Recipe, rows: int) -> Recipe:
        """The recipe for batches of so many rows that lie as `placed` puts them."""
        return replace(recipe, take=BODIES.get(("take", self.place, rows), lambda: Take(self.place, rows)))


@dataclass(frozen=True)
class Take:
    """Takes one batch of `rows` rows, without those that fill it up."""

    place: NamedSharding
    rows: int

    def __call__(self, arrays: Tree, number: Any) -> Tree:
        # On each device by itself: a process that is further in its data has its rows of this batch at another number.
        within = _within(self.place)
        here = jax.shard_map(
            take_rows, mesh=within.mesh, in_specs=(within.spec, place(_mesh(self.place)).spec), out_specs=self.place.spec
        )
        return tree.map(lambda array: here(array, number)[: self.rows], arrays)


def _mesh(place: NamedSharding) -> Mesh:
    assert isinstance(place.mesh, Mesh)
    return place.mesh


def _within(rows: NamedSharding) -> NamedSharding:
    """Where batches lie whose first axis counts them."""
    return place(_mesh(rows), None, rows.spec[0])


def read_by(share: Share | None, stream: BatchStream[Any]) -> BatchStream[Any]:
    """The stream whose batches are the parts of this share; as it is without one."""
    parts = stream.divisible
    return stream if share is None or parts is None else replace(stream, source=parts.read(share))


def share_of(rows: NamedSharding, stream: BatchStream[Any]) -> Share | None:
    """The share of this process if `rows` cuts a batch of the stream over several; `None` if each process reads all rows."""
    if stream.view is not None or stream.divisible is None:
        return None
    parts = int(rows.mesh.shape[rows.spec[0]])
    found: dict[int, set[int]] = defaultdict(set)
    devices: Any = rows.devices_indices_map((parts,))
    for device, (index,) in devices.items():
        found[device.process_index] |= {*range(parts)[index]}
    # The same answer in each process: it decides which program is compiled.
    if all(len(own) == parts for own in found.values()) or any(max(own) - min(own) >= len(own) for own in found.values()):
        return None
    own = found[jax.process_index()]
    return Share(rows, min(own), max(own) + 1)
