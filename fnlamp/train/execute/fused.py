"""Many steps in one compiled program, over data that is on the device."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from fnlamp.arrays import Array, Tree
from fnlamp.effect import Reached
from fnlamp.given import number, whole
from fnlamp.stream import BatchStream
from fnlamp.train.execute.body import Body
from fnlamp.train.execute.supply import Early, Filling, Supply, of_host, of_view, room
from fnlamp.train.execute.workspace import Workspace

FIRST = 8
"""Steps in the first dispatch, when nobody knows yet how long a step takes."""
WORTH_WHILE = 0.005
"""Seconds of work beside which the time of a dispatch does not count."""


@dataclass(frozen=True)
class Fused:
    """Chunks of steps, each one dispatch of one program; results do not depend on the chunk.

    `chunk` is the number of steps; without it the number follows the measured time of a step, so that a dispatch takes about
    `seconds` and Ctrl-C stays prompt. Arrays stay on the device; a stream without a compiled view is sent in super-batches,
    the next one while the steps of the last are computed, and as it is when the device would wait for more.
    """

    chunk: int | None = None
    seconds: float = 0.2

    def __post_init__(self) -> None:
        if self.chunk is not None:
            chunk = whole("Fused: chunk", self.chunk, None)
            if chunk < 1:
                raise ValueError(f"Fused: chunk: a chunk has at least one step, got {chunk}")
            object.__setattr__(self, "chunk", chunk)
        object.__setattr__(self, "seconds", number("Fused: seconds", self.seconds, "a time above 0", lambda time: time > 0))

    def fold(
        self, body: Body, shared: Tree, carry: Tree, stream: BatchStream[Any], position: Any, workspace: Workspace
    ) -> Iterator[Reached]:
        """What is reached after each chunk."""
        workspace.begin(body)
        work = _Work()

        def enough(filling: Filling, left: int, gap: float) -> bool:
            wanted = min(self._steps(workspace, body, filling.size), filling.room)
            # Less and less towards the end: nothing is loaded any more while the last super-batch is computed.
            return filling.count >= wanted or (self.chunk is None and (filling.count >= left or work.done(gap)))

        supplies = Early(
            of_view(stream, position, body, workspace)
            if stream.view is not None
            else of_host(stream, position, workspace, self.chunk, enough)
        )
        while (supply := supplies.take()) is not None:
            pace = (body, supply.size)

            run = partial(
                _run, body.chunk(supply.recipe, supply.arrays, supply.rows), workspace.arguments(supply.recipe), shared, supply
            )

            at = supply.start
            while at < supply.stop:
                stop = min(at + self._steps(workspace, body, supply.size), supply.stop)
                started = time.perf_counter()
                new, broken = run(carry, workspace.spare(body, carry), at, stop)
                work.began(broken, stop - at)
                if stop == supply.stop:
                    supplies.prepare()  # while the device computes
                work.end()
                if int(broken):
                    good, at, broken = _last_good(run, workspace, carry, at, stop, broken)
                    yield Reached(good, supply.position(at), int(broken))
                    return
                taken = (time.perf_counter() - started) / (stop - at)
                # The first dispatch may have compiled: its time says nothing.
                before = workspace.paces.get(pace)
                workspace.paces[pace] = (
                    FIRST if before is None else max(1, min(int(self.seconds / max(taken, 1e-9)), 4 * before))
                )
                workspace.spares[body], carry, at = carry, new, stop
                yield Reached(carry, supply.position(at))

    def _steps(self, workspace: Workspace, body: Body, size: int) -> int:
        return self.chunk or workspace.paces.get((body, size), FIRST)

    def on(self, stream: BatchStream[Any]) -> str:
        """What this executor makes of a stream, in words."""
        if stream.view is not None:
            return f"{self}, data on the device"
        return f"{self}, data sent in super-batches of up to {room(stream.spec, self.chunk)}"

    def __str__(self) -> str:
        return f"fused in chunks of {self.chunk or f'{self.seconds:g} s'}"


def _run(
    chunk: Callable[..., tuple[Tree, Array]],
    arguments: Any,
    shared: Tree,
    supply: Supply,
    carry: Tree,
    spare: Tree,
    start: int,
    stop: int,
) -> tuple[Tree, Array]:
    return chunk(arguments, shared, carry, spare, supply.arrays, supply.rows, start, stop)


class _Work:
    """What the device was given last, and when that will be done."""

    def __init__(self) -> None:
        self.result: Any = None
        self.steps, self.since, self.until = 0, 0.0, math.inf
        self.step = math.inf  # seconds, as far as is known

    def began(self, result: Array, steps: int) -> None:
        self.result, self.steps, self.since = result, steps, time.perf_counter()
        self.until = self.since + max(steps * self.step, WORTH_WHILE)

    def end(self) -> None:
        """Waits for it."""
        late = self.result.is_ready()  # then it may have been ready for long
        self.result.block_until_ready()
        taken = (time.perf_counter() - self.since) / self.steps
        self.step = min(self.step, taken) if late else taken

    def done(self, gap: float) -> bool:
        """Whether the device waits for more, or will by the time of the next batch, after `gap` seconds; `until` is a guess."""
        now = time.perf_counter()
        if self.result is None or (gap and now + gap > self.until):
            return True
        return bool(self.result.is_ready()) and now - self.since > WORTH_WHILE


def _last_good(
    run: Callable[..., tuple[Tree, Array]], workspace: Workspace, carry: Tree, at: int, stop: int, broken: Array
) -> tuple[Tree, int, Array]:
    """The carry before the first of the steps `at` to `stop` that breaks it, its step, and the code, by halving."""
    while stop - at > 1:
        middle = (at + stop) // 2
        new, code = run(carry, workspace.copy(carry), at, middle)
        if int(code):
            stop, broken = middle, code
        else:
            carry, at = new, middle
    return carry, at, broken
