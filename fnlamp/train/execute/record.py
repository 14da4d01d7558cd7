"""Rows that some steps of a fold leave behind: collected on the device, and read once after a dispatch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from fnlamp import tree
from fnlamp.arrays import Array, Tree, spec_after
from fnlamp.effect import StepRow

ROOM = 1024, 2**20
"""How many rows a buffer on the device has at most, and how many bytes."""

Rows: TypeAlias = tuple[Callable[[], Tree], ...]


@dataclass(frozen=True, eq=False)
class Recorder:
    """`measured(shared, carry, batch) -> (carry, rows)`: the step of a body, with a function for the row of each part.

    A part has a row after each step whose number, from 1, is a multiple of its `every`. `steps(carry)` is the number of steps
    that led to the carry.
    """

    every: tuple[int, ...]
    measured: Callable[[Tree, Tree, Tree], tuple[Tree, Rows]]
    steps: Callable[[Tree], Any]

    def specs(self, shared: Tree, carry: Tree, batch: Tree) -> tuple[Tree, ...]:
        """The specs of the parts' rows."""

        def rows(shared: Tree, carry: Tree, batch: Tree) -> tuple[Tree, ...]:
            return tuple(row() for row in self.measured(shared, carry, batch)[1])

        found: tuple[Tree, ...] = spec_after(rows, shared, carry, batch)
        return found

    def most(self, specs: tuple[Tree, ...]) -> int:
        """The steps that one dispatch may have, so that no row is overwritten before it is read."""
        return min(room(spec) * every for spec, every in zip(specs, self.every, strict=True))

    def due(self, step: int) -> bool:
        """Whether this step, from 1, leaves a row."""
        return any(step % every == 0 for every in self.every)

    def loop(
        self, plain: Callable[[Any, Any, Tree], Tree], measured: Callable[[Any, Tree], tuple[Tree, Rows]], specs: Any
    ) -> Any:
        """A function `(carry, start, stop) -> (carry, buffers)`: plain steps, with a measured one wherever a row is due.

        A condition in each step would cost a small model a tenth of its speed: it is asked once for many plain steps.
        """

        def ahead(carry: Tree) -> Array:
            taken = self.steps(carry)
            return jnp.stack([every - 1 - taken % every for every in self.every]).min()

        def turn(state: tuple[Array, Tree, Tree], stop: Any) -> tuple[Array, Tree, Tree]:
            at, carry, buffers = state
            upto = jnp.minimum(stop, at + ahead(carry))
            carry = plain(at, upto, carry)
            carry, buffers = jax.lax.cond(upto < stop, one, lambda _, *kept: kept, upto, carry, buffers)
            return jnp.minimum(upto + 1, stop), carry, buffers

        def one(at: Array, carry: Tree, buffers: Tree) -> tuple[Tree, Tree]:
            number = self.steps(carry) + 1
            carry, rows = measured(at, carry)
            written = []
            for buffer, row, every in zip(buffers, rows, self.every, strict=True):
                put = partial(_put, row, number, every)
                alone = len(rows) == 1
                written.append(put(buffer) if alone else jax.lax.cond(number % every == 0, put, lambda same: same, buffer))
            return carry, tuple(written)

        def loop(carry: Tree, start: Any, stop: Any) -> tuple[Tree, Tree]:
            buffers = tuple(map(empty, specs))
            first = jnp.asarray(start), carry, buffers
            _, carry, buffers = jax.lax.while_loop(lambda state: state[0] < stop, lambda state: turn(state, stop), first)
            return carry, buffers

        return loop

    def read(self, buffers: tuple[Tree, ...], before: int, last: int) -> tuple[StepRow, ...]:
        """The rows of the steps after `before` up to `last`, of buffers that a dispatch filled."""
        found = []
        for part, (buffer, every) in enumerate(zip(jax.device_get(buffers), self.every, strict=True)):
            for step in range((before // every + 1) * every, last + 1, every):
                found.append(StepRow(step, part, tree.map(lambda x, s=step, e=every: x[(s // e - 1) % len(x)], buffer)))
        return tuple(sorted(found, key=lambda row: row[:2]))

    def read_one(self, rows: tuple[Tree, ...], step: int) -> tuple[StepRow, ...]:
        """The rows of a single step, of those parts that have one."""
        found = zip(jax.device_get(rows), self.every, strict=True)
        return tuple(StepRow(step, part, row) for part, (row, every) in enumerate(found) if step % every == 0)


def _put(row: Callable[[], Tree], number: Array, every: int, buffer: Tree) -> Tree:
    """The buffer with the row of a step."""

    def one(rows: Array, now: Array) -> Array:
        new: Array = jax.lax.dynamic_update_index_in_dim(rows, now, (number // every - 1) % len(rows), 0)
        return new

    return tree.map(one, buffer, row())


def empty(spec: Tree) -> Tree:
    """A buffer for rows of this spec."""
    count = room(spec)
    return tree.map(lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), spec)


def room(spec: Tree) -> int:
    """How many rows of this spec a buffer has."""
    most, most_bytes = ROOM
    return int(np.clip(most_bytes // max(tree.nbytes(spec), 1), 1, most))
