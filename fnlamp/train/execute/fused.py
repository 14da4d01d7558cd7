"""Many steps in one compiled program, over data that is on the device."""

from __future__ import annotations

import math
import operator
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from fnlamp import tree
from fnlamp.arrays import Array, Tree, aligned, spec_of, to_device
from fnlamp.effect import Reached
from fnlamp.fault import FaultError
from fnlamp.given import number, whole
from fnlamp.stream import BatchStream, Recipe
from fnlamp.stream.ahead import is_ahead
from fnlamp.stream.sink import steps
from fnlamp.train.execute.body import Bench, Body
from fnlamp.train.supervised import rows_of

FIRST = 8
"""Steps in the first dispatch, when nobody knows yet how long a step takes."""
WORTH_WHILE = 0.005
"""Seconds of work beside which the time of a dispatch does not count."""
SUPER_BATCH = 64, 16 * 2**20
"""How many batches of a host stream are sent to the device together, at most, and how many bytes."""


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
        self, body: Body, shared: Tree, carry: Tree, stream: BatchStream[Any], position: Any, bench: Bench
    ) -> Iterator[Reached]:
        """What is reached after each chunk."""
        bench.begin(body)
        work = _Work()

        def enough(filling: _Filling, left: int, gap: float) -> bool:
            wanted = min(self._steps(bench, body, filling.size), filling.room)
            # Less and less towards the end: nothing is loaded any more while the last super-batch is computed.
            return filling.count >= wanted or (self.chunk is None and (filling.count >= left or work.done(gap)))

        supplies = _Early(
            _of_view(stream, position, body, bench)
            if stream.view is not None
            else _of_host(stream, position, bench, self.chunk, enough)
        )
        while (supply := supplies.take()) is not None:
            pace = (body, supply.size)

            run = partial(
                _run, body.chunk(supply.recipe, supply.arrays, supply.rows), bench.arguments(supply.recipe), shared, supply
            )

            at = supply.start
            while at < supply.stop:
                stop = min(at + self._steps(bench, body, supply.size), supply.stop)
                started = time.perf_counter()
                new, broken = run(carry, bench.spare(body, carry), at, stop)
                work.began(broken, stop - at)
                if stop == supply.stop:
                    supplies.prepare()  # while the device computes
                work.end()
                if int(broken):
                    good, at, broken = _last_good(run, bench, carry, at, stop, broken)
                    yield Reached(good, supply.position(at), int(broken))
                    return
                taken = (time.perf_counter() - started) / (stop - at)
                # The first dispatch may have compiled: its time says nothing.
                bench.paces[pace] = (
                    max(1, min(int(self.seconds / max(taken, 1e-9)), 4 * bench.paces[pace])) if pace in bench.paces else FIRST
                )
                bench.spares[body], carry, at = carry, new, stop
                yield Reached(carry, supply.position(at))

    def _steps(self, bench: Bench, body: Body, size: int) -> int:
        return self.chunk or bench.paces.get((body, size), FIRST)

    def on(self, stream: BatchStream[Any]) -> str:
        """What this executor makes of a stream, in words."""
        if stream.view is not None:
            return f"{self}, data on the device"
        return f"{self}, data sent in super-batches of up to {_room(stream.spec, self.chunk)}"

    def __str__(self) -> str:
        return f"fused in chunks of {self.chunk or f'{self.seconds:g} s'}"


@dataclass(frozen=True, eq=False)
class _Supply:
    """Steps that one program can run: data on the device, `start` to `stop` of its rows, and the position before each."""

    recipe: Recipe
    arrays: Tree
    rows: Array
    size: int
    start: int
    stop: int
    position: Callable[[int], Any]


def _run(
    chunk: Callable[..., tuple[Tree, Array]],
    arguments: Any,
    shared: Tree,
    supply: _Supply,
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


class _Early:
    """An iterator that can be asked to make its next item early; what it fails with then is raised when the item is due."""

    def __init__(self, supplies: Iterator[_Supply]) -> None:
        self.supplies = supplies
        self.ready: tuple[_Supply | None, FaultError | None] | None = None

    def prepare(self) -> None:
        if self.ready is None:
            try:
                self.ready = next(self.supplies, None), None
            except FaultError as error:
                self.ready = None, error

    def take(self) -> _Supply | None:
        self.prepare()
        assert self.ready is not None
        (supply, error), self.ready = self.ready, None
        if error is not None:
            raise error
        return supply


def _of_view(stream: BatchStream[Any], position: int, body: Body, bench: Bench) -> Iterator[_Supply]:
    assert stream.view is not None
    first = 0  # batches of earlier segments
    for segment in stream.view.segments:
        at, count = max(position - first, 0), len(segment.starts)
        if at < count:
            arrays, rows = bench.place(body, segment.arrays), to_device(segment.rows(), bench.device)
            yield _Supply(segment.recipe, arrays, rows, segment.size, at, count, partial(operator.add, first))
        first += count


def _of_host(
    stream: BatchStream[Any], position: Any, bench: Bench, chunk: int | None, enough: Callable[[_Filling, int, float], bool]
) -> Iterator[_Supply]:
    """Super-batches of batches of one shape; their arrays have room for the most, so that all run in one program."""
    filling: _Filling | None = None
    late: FaultError | None = None
    before, recipe = stream.unfinished, stream.finish
    threaded = is_ahead(before.step)  # else nothing is loaded while the host waits for the device, which is then the worse wait
    batches, left = steps(before, position), sys.maxsize if stream.length is None else stream.length
    while True:
        asked = time.perf_counter()
        try:
            batch, after = next(batches)
        except StopIteration:
            break
        except FaultError as error:  # what came before the fault is trained on first
            late = error
            break
        gap = time.perf_counter() - asked if threaded else 0.0
        if filling is not None and not filling.takes(batch):
            yield filling.supply(recipe, bench)
            filling = None
        filling = filling or _Filling(batch, chunk, position)
        filling.add(batch, after)
        position, left = after, left - 1  # more than there are, where an epoch is gone on with
        if enough(filling, max(left, 1), gap):
            yield filling.supply(recipe, bench)
            filling = None
    if filling is not None:
        yield filling.supply(recipe, bench)
    if late is not None:
        raise late


class _Filling:
    """A super-batch that fills up: each batch is copied when it comes, so its memory is its producer's again."""

    def __init__(self, batch: Tree, chunk: int | None, position: Any) -> None:
        spec = spec_of(batch)
        self.room, self.size, self.count = _room(spec, chunk), rows_of(spec), 0
        self.positions = [position]
        self.form = _form(batch)
        self.arrays = jax.tree.map(lambda leaf: aligned((self.room, *np.shape(leaf)), np.asarray(leaf).dtype), batch)

    def takes(self, batch: Tree) -> bool:
        """Whether the batch is like the others: in its dtype on the host too, which copying would change without a word."""
        same: bool = _form(batch) == self.form
        return same

    def add(self, batch: Tree, after: Any) -> None:
        for array, leaf in zip(jax.tree.leaves(self.arrays), jax.tree.leaves(batch), strict=True):
            array[self.count] = leaf
        self.count += 1
        self.positions.append(after)

    def supply(self, recipe: Recipe, bench: Bench) -> _Supply:
        # Nobody else has these arrays, and nobody writes to them any more: the device may have their memory.
        arrays = jax.tree.map(lambda array: to_device(array, bench.device, share=True), self.arrays)
        rows = to_device(np.arange(self.room), bench.device)
        return _Supply(recipe, arrays, rows, self.size, 0, self.count, tuple(self.positions).__getitem__)


def _form(batch: Tree) -> Any:
    leaves, structure = jax.tree.flatten(batch)
    return structure, [(np.shape(leaf), leaf.dtype if hasattr(leaf, "dtype") else np.result_type(leaf)) for leaf in leaves]


def _room(spec: Tree, chunk: int | None) -> int:
    most, most_bytes = SUPER_BATCH
    return max(1, min(chunk or most, most, most_bytes // max(tree.nbytes(spec), 1)))


def _last_good(
    run: Callable[..., tuple[Tree, Array]], bench: Bench, carry: Tree, at: int, stop: int, broken: Array
) -> tuple[Tree, int, Array]:
    """The carry before the first of the steps `at` to `stop` that breaks it, its step, and the code, by halving."""
    while stop - at > 1:
        middle = (at + stop) // 2
        new, code = run(carry, bench.copy(carry), at, middle)
        if int(code):
            stop, broken = middle, code
        else:
            carry, at = new, middle
    return carry, at, broken
