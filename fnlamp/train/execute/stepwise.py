"""Step by step: the rows of each batch are taken on the host and dispatched by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax

from fnlamp.arrays import Array, Tree, to_device
from fnlamp.effect import Reached
from fnlamp.stream import BatchStream, Recipe
from fnlamp.stream.sink import steps
from fnlamp.train.execute.body import Body, Program, form
from fnlamp.train.execute.workspace import Workspace


@dataclass(frozen=True)
class Stepwise:
    """One dispatch a batch, and nothing between the stream and the step: for debugging, and to compare others with."""

    def fold(
        self, body: Body, shared: Tree, carry: Tree, stream: BatchStream[Any], position: Any, workspace: Workspace
    ) -> Iterator[Reached]:
        """What is reached after each batch."""
        seen: Any = None
        for recipe, batch, before, after in host_batches(stream, position):
            rows = jax.tree.map(lambda x: to_device(x, workspace.device), batch)
            if seen != (now := (id(recipe), form(rows))):
                seen, step, arguments = now, step_program(body, recipe, rows), workspace.arguments(recipe)
            new, broken = step(arguments, shared, rows, carry, workspace.spare(body, carry))
            if code := int(broken):
                yield Reached(carry, before, code)
                return
            workspace.spares[body], carry = carry, new
            yield Reached(carry, after)

    def __str__(self) -> str:
        return "step by step"


def host_batches(stream: BatchStream[Any], position: Any) -> Iterator[tuple[Recipe, Tree, Any, Any]]:
    """Each batch before the functions of its recipe, and the positions before and after it."""
    if stream.view is None:
        for batch, after in steps(stream.unfinished, position):
            yield stream.finish, batch, position, after
            position = after
        return
    first = 0  # batches of earlier segments
    for segment in stream.view.segments:
        for at in range(max(position - first, 0), len(segment.starts)):
            yield segment.recipe, segment.taken(at), first + at, first + at + 1
        first += len(segment.starts)


def step_program(body: Body, recipe: Recipe, rows: Tree) -> Program:
    """`(arguments, shared, rows, carry, spare) -> (carry, broken)`: one step, compiled for rows like these.

    The recipe's functions are applied in the same program, as in a chunk: the same bits.
    """
    recipe = replace(recipe, arguments=())

    def step(arguments: Any, shared: Tree, rows: Tree, carry: Tree, spare: Tree) -> tuple[Tree, Array]:
        carry = body.function(shared, carry, replace(recipe, arguments=arguments).after(rows))
        return carry, body.broken(carry)

    return body.program("step", recipe, rows, lambda: jax.jit(step, donate_argnums=4, keep_unused=True))
