"""Many steps in one compiled program, over data that is on the device."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax

from fnlamp import tree
from fnlamp.arrays import Array, Tree, platform, spec_after
from fnlamp.effect import Reached, StepRow
from fnlamp.given import flag, number, whole
from fnlamp.stream import BatchStream, Recipe
from fnlamp.train.execute.body import Body, Program
from fnlamp.train.execute.lifted import compiled
from fnlamp.train.execute.record import Rows
from fnlamp.train.execute.share import Share
from fnlamp.train.execute.supply import Early, Filling, Supply, of_host, of_view, room
from fnlamp.train.execute.workspace import Workspace

LARGE = 16 * 2**20
"""Carry size, in bytes, above which peeling the first step beats copying the carry on CPU."""
FIRST = 8
"""Steps in the first dispatch, before the time of a step is known."""
WORTH_WHILE = 0.005
"""Seconds of work next to which the time of a dispatch is negligible."""


@dataclass(frozen=True)
class Fused:
    """Chunks of steps, each one dispatch of one program; results do not depend on the chunk.

    `chunk` is the number of steps; without it the number follows the measured time of a step, so that a dispatch takes about
    `seconds` and Ctrl-C stays prompt. Arrays stay on the device; a stream without a compiled view is sent in super-batches,
    the next one while the steps of the last are computed, and as it is when the device would wait for more.

    `lifted` makes numbers arguments of the program: runs that differ in a dropout rate, a label smoothing, a loss weight, a
    constant of a schedule or any other number of the step, but not in shapes or in which operations there are, compile once.
    The result is that of the plain program up to rounding: XLA may simplify a constant.
    """

    chunk: int | None = None
    seconds: float = 0.2
    lifted: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if self.chunk is not None:
            chunk = whole("Fused: chunk", self.chunk, None)
            if chunk < 1:
                raise ValueError(f"Fused: chunk: a chunk has at least one step, got {chunk}")
            object.__setattr__(self, "chunk", chunk)
        flag("Fused: lifted", self.lifted)
        object.__setattr__(self, "seconds", number("Fused: seconds", self.seconds, "a time above 0", lambda time: time > 0))

    def fold(
        self,
        body: Body,
        shared: Tree,
        carry: Tree,
        stream: BatchStream[Any],
        position: Any,
        workspace: Workspace,
        share: Share | None = None,
    ) -> Iterator[Reached]:
        """What is reached after each chunk; with a share, only that part of each batch is read."""
        workspace.begin(body)
        running: Any = None  # what the last dispatch gives
        since, done = 0.0, 0

        def enough(filling: Filling, left: int) -> bool:
            wanted = min(self._steps(workspace, body, filling.size), filling.room)
            waits = running is None or (running.is_ready() and time.perf_counter() - since > WORTH_WHILE)
            # Less and less towards the end: nothing is loaded any more while the last super-batch is computed.
            return filling.count >= wanted or (self.chunk is None and (filling.count >= left or waits))

        supplies = Early(
            of_view(stream, position, body, workspace)
            if stream.view is not None
            else of_host(stream, position, workspace, self.chunk, enough, share),
            workspace,
        )
        while (supply := supplies.take()) is not None:
            pace = (body, supply.size)
            program = chunk_program(body, supply.recipe, supply.arrays, supply.rows, lift=self.lifted)
            run = partial(program, workspace.arguments(supply.recipe), shared, supply.arrays, supply.rows)
            read, most = reading(body, supply, shared, carry)
            at = supply.start
            while at < supply.stop:
                stop = min(at + self._steps(workspace, body, supply.size), at + most, supply.stop)
                stop = at + workspace.agreed(body, stop - at, done, first=pace not in workspace.paces)
                since = time.perf_counter()
                ready = partial(run, carry, workspace.spare(body, carry), at, stop)
                new, broken, *rows = workspace.called(ready)
                running = broken
                if stop == supply.stop:
                    supplies.prepare_during(running, stop - at, pace)
                if int(workspace.awaited(broken)):
                    again = partial(_again, run, workspace)
                    good, last, broken = last_good(again, carry, at, stop, broken)
                    recorded = read(rows, last + 1 - at)
                    yield Reached(good, supply.position(last), int(broken), supplies.waited(), recorded)
                    return
                self._learn(workspace, pace, (time.perf_counter() - since) / (stop - at))
                workspace.spares[body], carry = carry, new
                done += stop - at
                recorded, at = read(rows, stop - at), stop
                yield Reached(carry, supply.position(at), waited=supplies.waited(), recorded=recorded)

    def _learn(self, workspace: Workspace, pace: tuple[Body, int], taken: float) -> None:
        """The steps of the next dispatch, after one whose steps took so many seconds each."""
        before = workspace.paces.get(pace)
        # The first dispatch may have compiled: its time says nothing.
        workspace.paces[pace] = FIRST if before is None else max(1, min(int(self.seconds / max(taken, 1e-9)), 4 * before))

    def _steps(self, workspace: Workspace, body: Body, size: int) -> int:
        return self.chunk or workspace.paces.get((body, size), FIRST)

    def on(self, stream: BatchStream[Any]) -> str:
        """What this executor makes of a stream, in words."""
        if stream.view is not None:
            return f"{self}, data on the device"
        return f"{self}, data sent in super-batches of up to {room(stream.spec, self.chunk)}"

    def __str__(self) -> str:
        return f"fused in chunks of {self.chunk or f'{self.seconds:g} s'}" + (", numbers as arguments" if self.lifted else "")


def chunk_program(body: Body, recipe: Recipe, arrays: Tree, rows: Array, *, lift: bool = False) -> Program:
    """`(arguments, shared, arrays, rows, carry, spare, start, stop) -> (carry, broken)`: steps `start` to `stop`.

    Both are traced, so a chunk of any length is the same program. The arrays are arguments, never constants, of the program: as
    constants they would be compiled into it. Where the carry is large, the first step comes before the loop: it writes to the
    spare buffers; otherwise the loop copies the carry first.
    """
    recipe = replace(recipe, arguments=())

    def chunk(
        arguments: Any, shared: Tree, arrays: Tree, rows: Array, carry: Tree, spare: Tree, start: Array, stop: Array
    ) -> tuple[Any, ...]:
        batch = replace(recipe, arguments=arguments)

        def step(at: Array, carry: Tree) -> Tree:
            return body.function(shared, carry, batch(arrays, rows[at]))

        def guarded(at: Array, carry: Tree) -> Tree:
            return jax.lax.cond(at < stop, step, lambda _, carry: carry, at, carry)

        def plain(start: Array, stop: Array, carry: Tree) -> Tree:
            # The condition always holds. It keeps XLA from moving the random generator's counters out of the loop, where they
            # would be read from memory: a fifth of the speed of a small model with dropout.
            return jax.lax.fori_loop(start, stop, guarded if platform() == "cpu" else step, carry)

        if (recorder := body.recorder) is not None:

            def measured(at: Array, carry: Tree) -> tuple[Tree, Rows]:
                return recorder.measured(shared, carry, batch(arrays, rows[at]))

            specs = recorder.specs(shared, carry, batch(arrays, rows[0]))
            carry, buffers = recorder.loop(plain, measured, specs)(carry, start, stop)
            return carry, body.broken(carry), buffers
        if platform() == "cpu" and tree.nbytes(carry) >= LARGE:
            start, carry = start + 1, step(start, carry)
        carry = plain(start, stop, carry)
        return carry, body.broken(carry)

    return body.program(("chunk", lift), recipe, (arrays, rows), lambda: compiled(chunk, 5, lift=lift))


def reading(body: Body, supply: Supply, shared: Tree, carry: Tree) -> tuple[Callable[[Any, int], tuple[StepRow, ...]], int]:
    """A function `(rows, steps)` that gives what the next dispatch recorded, and the steps that a dispatch may have at most."""
    recorder = body.recorder
    if recorder is None:
        return lambda rows, steps: (), sys.maxsize

    def specs() -> Any:
        batch = spec_after(lambda arrays, rows: supply.recipe(arrays, rows[0]), supply.arrays, supply.rows)
        return recorder.specs(shared, carry, batch)

    found: Any = body.program("specs of rows", supply.recipe, (supply.arrays, supply.rows), specs)
    taken = int(recorder.steps(carry))

    def read(rows: Any, steps: int) -> tuple[StepRow, ...]:
        nonlocal taken
        taken += steps
        return recorder.read(rows[0], taken - steps, taken)

    return read, recorder.most(found)


def _again(run: Callable[..., tuple[Any, ...]], workspace: Workspace, carry: Tree, at: int, stop: int) -> tuple[Any, ...]:
    new, code, *rows = workspace.called(partial(run, carry, workspace.copy(carry), at, stop))
    return new, workspace.awaited(code), *rows


def last_good(
    run: Callable[[Tree, int, int], tuple[Any, ...]], carry: Tree, at: int, stop: int, broken: Any
) -> tuple[Tree, int, Any]:
    """The carry before the first of the steps `at` to `stop` that breaks it, its step, and the code, by halving.

    `run(carry, at, stop)` gives the carry after these steps and a code, 0 if it is sound.
    """
    while stop - at > 1:
        middle = (at + stop) // 2
        new, code, *_ = run(carry, at, middle)
        if int(code):
            stop, broken = middle, code
        else:
            carry, at = new, middle
    return carry, at, broken
