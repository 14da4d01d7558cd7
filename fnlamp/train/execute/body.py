"""What an executor repeats, the programs that are compiled for it, and the device that it runs on."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import jax
import numpy as np

from fnlamp import tree
from fnlamp.arrays import Array, Tree, platform
from fnlamp.stream import Recipe
from fnlamp.train.execute.programs import PROGRAMS

Program: TypeAlias = Callable[..., tuple[Tree, Array]]
"""A compiled `(arguments, shared, carry, spare, ...) -> (carry, broken)`."""
LARGE = 16 * 2**20
"""Carry size, in bytes, above which peeling the first step beats copying the carry on CPU."""


@dataclass(frozen=True, eq=False)
class Body:
    """A pure `function(shared, carry, batch) -> carry`, and `broken(carry)`: 0, or a code for what is wrong with the carry.

    `shared` is read by every step, `carry` goes from one to the next. Programs belong to the body, and a body to what it
    computes (`BODIES`), not to one description: describing and running the same again compiles nothing.

    A program leaves the carry that it was given as it was and writes into the buffers of a `spare` one: should the steps break
    the carry, they can be taken again, one fewer. Asking every step for non-finite gradients instead would cost small models
    a sixth of their speed.
    """

    function: Callable[[Tree, Tree, Tree], Tree]
    broken: Callable[[Tree], Array]

    def step(self, recipe: Recipe, rows: Tree) -> Program:
        """`(arguments, shared, carry, spare, rows) -> (carry, broken)`: one step, compiled for rows like these.

        The recipe's functions are applied in the same program, as in a chunk: the same bits.
        """
        recipe = replace(recipe, arguments=())

        def step(arguments: Any, shared: Tree, carry: Tree, spare: Tree, rows: Tree) -> tuple[Tree, Array]:
            carry = self.function(shared, carry, replace(recipe, arguments=arguments).after(rows))
            return carry, self.broken(carry)

        return self._program("step", recipe, rows, lambda: jax.jit(step, donate_argnums=3, keep_unused=True))

    def chunk(self, recipe: Recipe, arrays: Tree, rows: Array) -> Program:
        """`(arguments, shared, carry, spare, arrays, rows, start, stop) -> (carry, broken)`: steps `start` to `stop`.

        Both are traced, so a chunk of any length is the same program. The arrays are arguments, never constants, of the
        program: as constants they would be compiled into it. Where the carry is large, the first step comes before the loop: it
        writes to the spare buffers, where else the carry is copied first.
        """
        recipe = replace(recipe, arguments=())

        def chunk(
            arguments: Any, shared: Tree, carry: Tree, spare: Tree, arrays: Tree, rows: Array, start: Array, stop: Array
        ) -> tuple[Tree, Array]:
            batch = replace(recipe, arguments=arguments)

            def turn(at: Array, carry: Tree) -> Tree:
                return self.function(shared, carry, batch(arrays, rows[at]))

            def guarded(at: Array, carry: Tree) -> Tree:
                return jax.lax.cond(at < stop, turn, lambda _, carry: carry, at, carry)

            if platform() == "cpu" and tree.nbytes(carry) >= LARGE:
                start, carry = start + 1, turn(start, carry)
            # The condition always holds. It keeps XLA from moving the random generator's counters out of the loop, whence
            # they would come from memory: a fifth of the speed of a small model with dropout.
            carry = jax.lax.fori_loop(start, stop, guarded if platform() == "cpu" else turn, carry)
            return carry, self.broken(carry)

        return self._program("chunk", recipe, (arrays, rows), lambda: jax.jit(chunk, donate_argnums=3, keep_unused=True))

    def _program(self, kind: str, recipe: Recipe, given: Tree, make: Callable[[], Program]) -> Program:
        # By shape as well, though JAX compiles one function for many: what is not used any more is dropped by itself.
        program: Program = PROGRAMS.get((kind, self, recipe.identity, form(given), platform()), make)
        return program


def form(arrays: Tree) -> Hashable:
    """The shapes and dtypes of a tree, whose leaves may be Python's numbers too."""
    leaves, structure = jax.tree.flatten(arrays)
    return structure, tuple((np.shape(x), x.dtype if hasattr(x, "dtype") else np.result_type(x)) for x in leaves)
