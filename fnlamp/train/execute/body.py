"""What an executor repeats, and the programs that are compiled for it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax

from fnlamp.arrays import Array, Tree, to_device


@dataclass(frozen=True, eq=False)
class Body:
    """A pure `function(shared, carry, batch) -> carry`, and `going(carry)`: whether to go on.

    `shared` is read by every step, `carry` goes from one to the next in donated buffers. Programs belong to the body, and the
    body to the description, so running a description again compiles nothing.
    """

    function: Callable[[Tree, Tree, Tree], Tree]
    going: Callable[[Tree], Array]

    @cached_property
    def step(self) -> Callable[[Tree, Tree, Tree], Tree]:
        """One step as a program."""
        return jax.jit(self.function, donate_argnums=1)

    @cached_property
    def mapped_step(self) -> Callable[..., Tree]:
        """One step on rows to which the recipe's functions are applied in the same program, as in a chunk: the same bits."""

        def mapped_step(recipe: Any, shared: Tree, carry: Tree, rows: Tree) -> Tree:
            return self.function(shared, carry, recipe.after(rows))

        return jax.jit(mapped_step, static_argnums=0, donate_argnums=2)

    @cached_property
    def chunk(self) -> Callable[..., Tree]:
        """Steps `start` to `stop` as one program; both are traced, so a chunk of any length is the same program.

        The arrays are arguments, never constants, of the program: as constants they would be compiled into it.
        """

        def chunk(recipe: Any, shared: Tree, carry: Tree, arrays: Tree, rows: Array, start: Array, stop: Array) -> Tree:
            def more(loop: tuple[Array, Tree]) -> Array:
                return (loop[0] < stop) & self.going(loop[1])

            def turn(loop: tuple[Array, Tree]) -> tuple[Array, Tree]:
                at, carry = loop
                return at + 1, self.function(shared, carry, recipe(arrays, rows[at]))

            _, carry = jax.lax.while_loop(more, turn, (start, carry))
            return carry

        return jax.jit(chunk, static_argnums=0, donate_argnums=2)


class Place:
    """Puts arrays on the device in their own dtype, each host array once for as long as it lives."""

    def __init__(self, device: Any = None) -> None:
        self.device = device
        self._placed: dict[int, tuple[Any, Array]] = {}

    def __call__(self, tree: Tree) -> Tree:
        return jax.tree.map(self._one, tree)

    def _one(self, array: Any) -> Array:
        if isinstance(array, jax.Array):
            placed: Array = jax.device_put(array, self.device)
            return placed
        key = id(array)
        if key not in self._placed:
            me = weakref.ref(self)

            def forget(_: Any) -> None:  # data made anew each epoch does not pile up, and another array may get this id
                if (place := me()) is not None:
                    place._placed.pop(key, None)

            self._placed[key] = (weakref.ref(array, forget), to_device(array, self.device))
        return self._placed[key][1]
