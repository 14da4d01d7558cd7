"""What an executor repeats, the programs that are compiled for it, and the device that it runs on."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import numpy as np

from fnlamp.arrays import Array, Tree, platform
from fnlamp.stream import Recipe
from fnlamp.train.execute.programs import PROGRAMS
from fnlamp.train.execute.record import Recorder

Program: TypeAlias = Callable[..., tuple[Any, ...]]
"""A compiled `(arguments, shared, ..., carry, spare, ...) -> (carry, broken)`, and after these the buffers of a recorder."""


@dataclass(frozen=True, eq=False)
class Body:
    """A pure `function(shared, carry, batch) -> carry`, and `broken(carry)`: 0, or a code for what is wrong with the carry.

    `inside(shared, carry, batch)` gives the loss and the gradient too: `(carry, loss, gradient)`. A `recorder` says which steps
    leave rows behind.

    `shared` is read by every step, `carry` goes from one to the next. Programs belong to the body, and a body to what it
    computes (`BODIES`), not to one description: describing and running the same again compiles nothing.

    A program leaves the carry that it was given as it was and writes into the buffers of a `spare` one: should the steps break
    the carry, they can be taken again, one fewer. Asking every step for non-finite gradients instead would cost small models
    a sixth of their speed.
    """

    function: Callable[[Tree, Tree, Tree], Tree]
    broken: Callable[[Tree], Array]
    inside: Callable[[Tree, Tree, Tree], tuple[Tree, Any, Tree]] | None = None
    recorder: Recorder | None = None

    def program(self, kind: Hashable, recipe: Recipe, given: Tree, make: Callable[[], Program]) -> Program:
        """The compiled program of that kind for these shapes, made by an interpreter if there is none."""
        # By shape as well, though JAX compiles one function for many shapes: each unused program is dropped by itself.
        program: Program = PROGRAMS.get((kind, self, recipe.identity, form(given), platform()), make)
        return program


def form(arrays: Tree) -> Hashable:
    """The shapes and dtypes of a tree, whose leaves may be Python's numbers too."""
    leaves, structure = jax.tree.flatten(arrays)
    return structure, tuple((np.shape(x), x.dtype if hasattr(x, "dtype") else np.result_type(x)) for x in leaves)
