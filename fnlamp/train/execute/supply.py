"""Data for the fused executor: arrays of a view, placed once, or super-batches of a host stream, sent while others are used."""

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
from fnlamp.arrays import Array, Tree, aligned, array_spec, spec_of, to_device
from fnlamp.fault import FaultError
from fnlamp.stream import BatchStream, Part, Recipe
from fnlamp.stream.sink import steps
from fnlamp.train.execute.body import Body, form
from fnlamp.train.execute.share import Share, read_by
from fnlamp.train.execute.workspace import Workspace
from fnlamp.train.supervised import rows_of

SUPER_BATCH = 64, 16 * 2**20
"""How many batches of a host stream are sent to the device together, at most, and how many bytes."""
MEASURED = 2
"""Dispatches that are waited for before the next data is made, to know how long a step keeps the device busy."""


@dataclass(frozen=True, eq=False)
class Supply:
    """Steps that one program can run: data on the device, `start` to `stop` of its rows, and the position before each."""

    recipe: Recipe
    arrays: Tree
    rows: Array
    size: int
    start: int
    stop: int
    position: Callable[[int], Any]


class Early:
    """An iterator that can be asked to make its next item early; what it fails with then is raised when the item is due.

    `paces` has the least seconds of a step that were measured, by what they are the pace of, and how often.
    """

    def __init__(self, supplies: Iterator[Supply], workspace: Workspace) -> None:
        self.supplies, self.workspace, self.paces = supplies, workspace, workspace.step_seconds
        self.ready: tuple[Supply | None, FaultError | None] | None = None
        self._waited = 0.0

    def prepare_during(self, running: Any, steps: int, pace: Any) -> None:
        """Make the next item while so many steps run."""
        launched = time.perf_counter()
        least, count = self.paces.get(pace, (math.inf, 0))
        if count < MEASURED and not running.is_ready():  # when it ends by itself is seen only by waiting for it
            self.workspace.awaited(running).block_until_ready()
            self.paces[pace] = min(least, (time.perf_counter() - launched) / steps), count + 1
        began, busy = time.perf_counter(), not running.is_ready()
        self._prepare()
        if running.is_ready():
            now = time.perf_counter()
            self._waited += max(0.0, min(now - began, now - launched - least * steps)) if busy else now - began

    def take(self) -> Supply | None:
        began = time.perf_counter()
        self._prepare()
        self._waited += time.perf_counter() - began
        assert self.ready is not None
        (supply, error), self.ready = self.ready, None
        if error is not None:
            raise error
        return supply

    def waited(self) -> float:
        """The seconds without an item to run, since the last call."""
        waited, self._waited = self._waited, 0.0
        return waited

    def _prepare(self) -> None:
        if self.ready is None:
            try:
                self.ready = next(self.supplies, None), None
            except FaultError as error:
                self.ready = None, error


def of_view(stream: BatchStream[Any], position: int, body: Body, workspace: Workspace) -> Iterator[Supply]:
    assert stream.view is not None
    first = 0  # batches of earlier segments
    for segment in stream.view.segments:
        at, count = max(position - first, 0), len(segment.starts)
        if at < count:
            arrays, rows = workspace.place(body, segment.arrays), to_device(segment.rows(), workspace.device)
            yield Supply(segment.recipe, arrays, rows, segment.size, at, count, partial(operator.add, first))
        first += count


def of_host(
    stream: BatchStream[Any],
    position: Any,
    workspace: Workspace,
    chunk: int | None,
    enough: Callable[[Filling, int], bool],
    share: Share | None = None,
) -> Iterator[Supply]:
    """Super-batches of batches of one shape; their arrays have room for the most, so that all run in one program.

    With a share, only that part of each batch is read.
    """
    filling: Filling | None = None
    late: FaultError | None = None
    recipe = stream.finish
    batches, left = steps(read_by(share, stream).unfinished, position), sys.maxsize if stream.length is None else stream.length
    while True:
        try:
            batch, after = next(batches)
        except StopIteration:
            break
        except FaultError as error:  # batches before the fault are trained on first
            late = error
            break
        if filling is not None and not filling.takes(batch):
            yield filling.supply(recipe, workspace)
            filling = None
        filling = filling or Filling(batch, chunk, position, share)
        filling.add(batch, after)
        position, left = after, left - 1  # more than there are, if an epoch is resumed
        if enough(filling, max(left, 1)):
            yield filling.supply(recipe, workspace)
            filling = None
    if filling is not None:
        yield filling.supply(recipe, workspace)
    if late is not None:
        raise late


class Filling:
    """A super-batch that fills up. Each batch is copied when it arrives, so that its producer may reuse its memory."""

    def __init__(self, batch: Tree, chunk: int | None, position: Any, share: Share | None) -> None:
        self.share, self.count, self.positions, self.form = share, 0, [position], _form(batch)
        read = batch.batch if share is not None else batch
        self.size = batch.of if share is not None else rows_of(spec_of(batch))

        def shape(leaf: Any, rows: int) -> tuple[int, ...]:
            return np.shape(leaf) if share is None else (rows, *leaf.shape[1:])

        # The room is the same in each process, for it is a shape in their common program.
        whole = tree.map(lambda leaf: array_spec(shape(leaf, self.size), spec_of(leaf).dtype), read)
        self.room, rows = room(whole, chunk), 0 if share is None else share.room(self.size)
        self.arrays = jax.tree.map(lambda leaf: aligned((self.room, *shape(leaf, rows)), np.asarray(leaf).dtype), read)

    def takes(self, batch: Tree) -> bool:
        """Whether the batch is like the others: in its dtype on the host too, which copying would change without a word."""
        same: bool = _form(batch) == self.form
        return same

    def add(self, batch: Tree, after: Any) -> None:
        read = batch.batch if self.share is not None else batch
        for array, leaf in zip(jax.tree.leaves(self.arrays), jax.tree.leaves(read), strict=True):
            if self.share is None:
                array[self.count] = leaf
            else:
                array[self.count, : len(leaf)] = leaf
        self.count += 1
        self.positions.append(after)

    def supply(self, recipe: Recipe, workspace: Workspace) -> Supply:
        # These arrays are not shared and no longer written to, so the device may use their memory.
        share, size = self.share, self.size
        if share is None:
            arrays = jax.tree.map(lambda array: to_device(array, workspace.device, share=True), self.arrays)
        else:
            arrays, recipe = jax.tree.map(lambda array: share.placed(array, size), self.arrays), share.taking(recipe, size)
        rows = to_device(np.arange(self.room), workspace.device)
        return Supply(recipe, arrays, rows, size, 0, self.count, tuple(self.positions).__getitem__)


def _form(batch: Tree) -> Any:
    return (batch.of, form(batch.batch)) if isinstance(batch, Part) else form(batch)


def room(spec: Tree, chunk: int | None) -> int:
    most, most_bytes = SUPER_BATCH
    return max(1, min(chunk or most, most, most_bytes // max(tree.nbytes(spec), 1)))
