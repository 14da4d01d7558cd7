"""Step by step: the rows of each batch are taken on the host and dispatched by themselves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import jax

from fnlamp.arrays import Array, Tree, to_device
from fnlamp.effect import Reached, StepRow
from fnlamp.given import flag
from fnlamp.stream import BatchStream, Recipe
from fnlamp.stream.sink import steps
from fnlamp.train.execute.body import Body, Program, form
from fnlamp.train.execute.lifted import compiled
from fnlamp.train.execute.workspace import Workspace


@dataclass(frozen=True)
class Stepwise:
    """One dispatch a batch, and nothing between the stream and the step: for debugging, and to compare others with.

    `lifted` makes numbers arguments of the program, as that of `Fused`.
    """

    lifted: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        flag("Stepwise: lifted", self.lifted)

    def fold(
        self, body: Body, shared: Tree, carry: Tree, stream: BatchStream[Any], position: Any, workspace: Workspace
    ) -> Iterator[Reached]:
        """What is reached after each batch."""
        seen: Any = None
        recorder = body.recorder
        number = 0 if recorder is None else int(recorder.steps(carry))
        began = time.perf_counter()
        for recipe, batch, before, after in host_batches(stream, position):
            waited = time.perf_counter() - began
            rows = jax.tree.map(lambda x: to_device(x, workspace.device), batch)
            if seen != (now := (id(recipe), form(rows))):
                seen, step, arguments = now, step_program(body, recipe, rows, lift=self.lifted), workspace.arguments(recipe)
            number += 1
            given = arguments, shared, rows, carry, workspace.spare(body, carry)
            recorded: tuple[StepRow, ...] = ()
            if recorder is None or not recorder.due(number):
                new, broken = step(*given)
            else:
                new, broken, found = recording_program(body, recipe, rows, lift=self.lifted)(*given)
                recorded = recorder.read_one(found, number)
            if code := int(broken):
                yield Reached(carry, before, code, waited, recorded)
                return
            workspace.spares[body], carry = carry, new
            yield Reached(carry, after, waited=waited, recorded=recorded)
            began = time.perf_counter()

    def __str__(self) -> str:
        return "step by step" + (", numbers as arguments" if self.lifted else "")


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


def step_program(body: Body, recipe: Recipe, rows: Tree, *, lift: bool = False) -> Program:
    """`(arguments, shared, rows, carry, spare) -> (carry, broken)`: one step, compiled for rows like these.

    The recipe's functions are applied in the same program, as in a chunk: the same bits.
    """
    recipe = replace(recipe, arguments=())

    def step(arguments: Any, shared: Tree, rows: Tree, carry: Tree, spare: Tree) -> tuple[Tree, Array]:
        carry = body.function(shared, carry, replace(recipe, arguments=arguments).after(rows))
        return carry, body.broken(carry)

    return body.program(("step", lift), recipe, rows, lambda: compiled(step, 4, lift=lift))


def recording_program(body: Body, recipe: Recipe, rows: Tree, *, lift: bool) -> Program:
    """`(arguments, shared, rows, carry, spare) -> (carry, broken, rows of all parts)`: a step that leaves rows behind."""
    recipe = replace(recipe, arguments=())

    def step(arguments: Any, shared: Tree, rows: Tree, carry: Tree, spare: Tree) -> tuple[Any, ...]:
        assert body.recorder is not None
        carry, parts = body.recorder.measured(shared, carry, replace(recipe, arguments=arguments).after(rows))
        return carry, body.broken(carry), tuple(part() for part in parts)

    return body.program(("recording step", lift), recipe, rows, lambda: compiled(step, 4, lift=lift))
