"""Many steps in one compiled program, over data that stays on the device."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax

from fnlamp.arrays import Tree, to_device
from fnlamp.stream import BatchStream
from fnlamp.train.execute.body import Body, Place
from fnlamp.train.execute.stepwise import Stepwise


@dataclass(frozen=True)
class Fused:
    """Chunks of steps, each one dispatch of one program; results do not depend on the chunk.

    `chunk` is the number of steps; without it the number follows the measured time of a step, so that a dispatch takes about
    `seconds` and Ctrl-C stays prompt. Streams without a compiled view are run step by step.
    """

    chunk: int | None = None
    seconds: float = 0.1

    def __post_init__(self) -> None:
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"a chunk has at least one step, got {self.chunk}")

    def fold(
        self, body: Body, shared: Tree, carry: Tree, stream: BatchStream, position: Any, place: Place
    ) -> Iterator[tuple[Tree, Any]]:
        """`(carry, position)` after each chunk from `position` on, when its computation is done."""
        if stream.view is None:
            yield from Stepwise().fold(body, shared, carry, stream, position, place)
            return
        size = self.chunk or 8
        before = 0  # batches of earlier segments
        for segment in stream.view.segments:
            at, count = max(position - before, 0), len(segment.starts)
            if at < count:
                arrays, rows = place(segment.arrays), to_device(segment.rows(), place.device)
                warm = False
                while at < count:
                    stop = min(at + size, count)
                    started = time.perf_counter()
                    carry = body.chunk(segment.recipe, shared, carry, arrays, rows, at, stop)
                    jax.block_until_ready(carry)  # type: ignore[no-untyped-call]
                    taken = (time.perf_counter() - started) / (stop - at)
                    if self.chunk is None and warm:  # the first dispatch may have compiled
                        size = max(1, min(int(self.seconds / max(taken, 1e-9)), 4 * size))
                    warm = True
                    at = stop
                    yield carry, before + at
            before += count

    def __str__(self) -> str:
        return "fused" if self.chunk is None else f"fused, chunks of {self.chunk}"
