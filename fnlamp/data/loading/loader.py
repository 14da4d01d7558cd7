"""Batches of a data set, loaded ahead by processes or threads, as a stream in a resource."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias, TypeVar

from returns.result import Failure, Result, Success

from fnlamp import tree
from fnlamp.arrays import Spec, Tree, array_spec, describe, spec_of
from fnlamp.convert import as_arrays, as_batch
from fnlamp.data.loading.chance import Watched
from fnlamp.data.loading.collate import Collate, stack
from fnlamp.data.loading.dataset import Dataset, Subset, check_dataset, classes_of, is_array, labelled, rows_of
from fnlamp.data.loading.load import Augment, Load
from fnlamp.data.loading.pool import Job, Workers
from fnlamp.data.loading.processes import processes
from fnlamp.effect import Effect, Resource
from fnlamp.effect.signals import locked
from fnlamp.fault import EmptyEpoch, Fault, FaultError, LoadFault, ShapeMismatch
from fnlamp.given import flag, function, whole
from fnlamp.stream import BatchStream, Emit, End, Fail, Order, Part, Parts, Step
from fnlamp.stream import from_arrays as batches_of
from fnlamp.stream.ahead import haste
from fnlamp.stream.nested import Stepper
from fnlamp.stream.part import Chosen
from fnlamp.stream.view import check_seed

A = TypeVar("A")
Rows: TypeAlias = Callable[[int], list[int]]
"""The row numbers to load for a position."""


def loader(
    dataset: Dataset[Any],
    *,
    batch_size: int,
    shuffle: bool = False,
    seed: int | None = None,
    drop_last: bool = False,
    transform: Callable[[Any], Any] | None = None,
    augment: Augment | None = None,
    collate: Collate = stack,
    workers: int | Workers = 0,
    prefetch: int = 2,
) -> Resource[BatchStream[LoadFault], LoadFault]:
    """Batches of `batch_size` items as a stream, to be acquired and released; nothing is loaded or started before.

    The order is a function of the `seed` alone (`seed=context.seed` gives another one each epoch), and so is each batch: it
    depends neither on the worker nor on where the stream starts. `augment(generator, item)` receives the raw item and a
    generator seeded by the seed and the row; `transform` follows, then `collate` turns a list of items into a batch.

    `workers`: 0 loads in the caller's thread on demand; n starts n processes for this loader alone; `processes(n)` and
    `threads(n)` can be shared by many loaders. Each worker is `prefetch` batches ahead. A data set with its rows in memory is
    cut without workers, in a compiled view, if its items need no function.

    Fails: `ItemFailed`, with the row, for an exception in the data set or in a function; `HiddenRandomness`, with workers, for
    items that draw from any generator but that of `augment`; `WorkerLost` for a killed worker; `NotPicklable`;
    `ShapeMismatch` and `DtypeMismatch` for items that do not fit together.

    >>> from fnlamp.data import array_dataset
    >>> data = array_dataset(np.arange(10).reshape(5, 2), np.arange(5))
    >>> batches = loader(data, batch_size=2, shuffle=True, seed=1, transform=lambda item: (item[0] / 10, item[1]))
    >>> batches.use(stream.to_list).map(lambda batches: [labels.tolist() for _, labels in batches]).run()
    <IOResult: <Success: [[4, 0], [1, 2], [3]]>>
    """
    check_dataset(dataset)
    batch_size, shuffle, drop_last = whole("batch_size", batch_size), flag("shuffle", shuffle), flag("drop_last", drop_last)
    for name, given in (("transform", transform), ("augment", augment), ("collate", collate)):
        if given is not None or name == "collate":
            function(name, given, "a function of an item" if name != "collate" else "a function of a list of items")
    if seed is None and (shuffle or augment is not None):
        raise ValueError("shuffle and augment need a seed, which determines the order: seed=context.seed in a stream factory")
    seed, prefetch, workers = check_seed(seed), whole("prefetch", prefetch), _workers(workers)
    if not _touched(transform, augment, collate) and (labelled(dataset) or _arrays(dataset) is not None):
        among = dataset.among if isinstance(dataset, Subset) else None
        order = seed if shuffle else None

        def cut() -> BatchStream[Any]:
            arrays = as_arrays(_arrays(rows_of(dataset)), "loader")
            made = batches_of(arrays, batch_size=batch_size, drop_last=drop_last, seed=order, among=among)
            return replace(made, classes=classes_of(dataset))

        return _planned(cut)

    def planned() -> _Plan:
        return _Plan(Load(rows_of(dataset), transform, augment, collate, seed), batch_size, shuffle, drop_last, workers != 0)

    plan = _planned(planned)
    if workers == 0:
        return plan.map(lambda plan: plan.stream(lambda rows: lambda position: plan.load(rows(position))))
    hired = Resource.from_value(workers) if isinstance(workers, Workers) else processes(workers)
    return plan.bind(lambda plan: hired.bind(lambda team: _requests(plan, team, prefetch)).map(plan.stream))


def _workers(given: Any) -> int | Workers:
    if isinstance(given, Workers):
        return given
    if isinstance(given, Resource):
        hint = "give the team in it: threads(2).use(lambda team: loader(..., workers=team).use(...))"
        raise TypeError(f"workers is a number, or workers made by processes or threads, got a Resource of them; {hint}")
    count = whole("workers", given, None)
    if count < 0:
        raise ValueError(f"expected workers of 0 or more (and prefetch of at least 1), got {count}")
    return count


def _touched(transform: Any, augment: Any, collate: Collate) -> bool:
    return transform is not None or augment is not None or collate is not stack


def _arrays(dataset: Any) -> Tree | None:
    """The rows of a data set in memory, or mapped from a file."""
    return dataset if is_array(dataset) else getattr(dataset, "arrays", None)


def _planned(make: Callable[[], A]) -> Resource[A, LoadFault]:
    return Resource.make(Effect.checked(make), lambda value, _: Effect.from_value(None))


class _Plan:
    """Which rows form which batch, and the spec of a batch, for which the first item is loaded."""

    def __init__(self, load: Load, batch_size: int, shuffle: bool, drop_last: bool, shared: bool) -> None:
        count = len(load.dataset)
        self.load = load
        self.order = Order(count, load.seed if shuffle else None)
        self.batch_size = batch_size
        self.length = count // batch_size if drop_last else -(-count // batch_size)
        self.why_empty = EmptyEpoch(count, batch_size, drop_last)
        first_load = Watched(load, alone=True) if shared else load
        one = first_load([int(self.order[0])]) if count else Success(())
        if isinstance(one, Failure):
            raise FaultError(one.failure())
        first = as_batch(one.unwrap())
        rows = batch_size if drop_last else min(batch_size, count)
        self.spec = tree.map(lambda leaf: _with_rows(leaf, rows), spec_of(first))
        self.form = _form(first) if load.collate is stack else None
        self.none = tree.map(lambda leaf: leaf[:0], first) if load.collate is stack else None

    def rows(self, position: int) -> list[int]:
        """The row numbers of a batch; none beyond the last."""
        if position >= self.length:
            return []
        rows: list[int] = self.order[position * self.batch_size : (position + 1) * self.batch_size].tolist()
        return rows

    def stream(self, loading: Callable[[Rows], Callable[[int], Result[Tree, Fault]]]) -> BatchStream[Any]:
        """The stream of batches; `loading(rows)` loads, for a position, the batch of `rows(position)`.

        Stacked batches can be read in parts, since each row is an item. The caller's collate may depend on all items.
        """
        load = loading(self.rows)

        def step(position: int) -> Step:
            return self.step(load, position)

        def read(chosen: Chosen) -> Stepper:
            def rows(position: int) -> list[int]:
                all_rows = self.rows(position)
                return all_rows[chosen(len(all_rows))]

            some = loading(rows)

            def part(position: int) -> Step:
                none = position < self.length and not rows(position)
                got = Emit(self.none, position + 1) if none else self.step(some, position)
                return Emit(Part(got.item, len(self.rows(position))), got.state) if isinstance(got, Emit) else got

            return part

        made: BatchStream[Any] = BatchStream(
            0, step, self.spec, self.length, why_empty=self.why_empty, indexed=True, classes=classes_of(self.load.dataset)
        )
        return made if self.form is None else replace(made, parts=Parts(step, read))

    def step(self, load: Callable[[int], Result[Tree, Fault]], position: int) -> Step:
        if not 0 <= position < self.length:
            return End()
        try:
            outcome = load(position)
        except FaultError as error:  # the system has no more memory for workers
            return Fail(error.fault)
        if isinstance(outcome, Failure):
            return Fail(outcome.failure())
        try:
            batch = as_batch(outcome.unwrap())
        except FaultError as error:
            return Fail(error.fault)
        if self.form is not None and _form(batch) != self.form:  # consistent in itself, but not with the other batches
            expected, actual = f"batches like {describe(self.spec)}", describe(batch)
            return Fail(ShapeMismatch(expected, actual, "make all items alike in transform", where=f"batch {position}"))
        return Emit(batch, position + 1)


def _with_rows(leaf: Spec, rows: int) -> Spec:
    shape = leaf.shape
    return array_spec((shape[0] * rows, *shape[1:]) if shape else shape, leaf.dtype)


def _form(batch: Tree) -> Any:
    """What all batches share: structure, shapes without the batch axis, dtypes."""
    if isinstance(batch, dict):
        return {name: _form(part) for name, part in batch.items()}
    return [_form(part) for part in batch] if isinstance(batch, tuple) else (batch.shape[1:], batch.dtype)


class _Requests:
    """Batches requested from workers in advance: up to `count`, while positions advance by a constant stride."""

    def __init__(self, rows: Rows, job: Job, count: int) -> None:
        self.rows = rows
        self.job = job
        self.count = count
        self.lock = threading.Lock()  # two threads may read one loader
        self.asked: dict[int, Any] = {}
        self.last: int | None = None
        self.stride = 1

    def take(self, position: int) -> Result[Tree, Fault]:
        """The batch at a position; the following ones are requested."""
        with locked(self.lock):
            before = self.stride
            if self.last not in (None, position):
                self.stride = position - self.last
            # A shard of the stream advances in larger steps. For random access, requesting ahead is useless.
            count = self.count if self.stride in (1, before) and self.stride > 0 else 0
            self.last = position
            self._ask(position, max(count, 1))
            ticket = self.asked.pop(position)
            try:
                outcome = self.job.take(ticket)
            except BaseException:  # an interruption too: the position may be requested again
                self.job.drop(ticket)
                raise
            self._ask(position + self.stride, count)
            return outcome

    def _ask(self, start: int, count: int) -> None:
        wanted = range(start, start + count * self.stride, self.stride)
        for position in [*self.asked]:
            if position not in wanted:
                self.job.drop(self.asked.pop(position))
        for position in wanted:
            if position not in self.asked and (rows := self.rows(position)):  # none beyond the end, or of a short batch
                self.asked[position] = self.job.request(rows)


def _requests(
    plan: _Plan, workers: Workers, prefetch: int
) -> Resource[Callable[[Rows], Callable[[int], Result[Tree, Fault]]], LoadFault]:
    begun = Effect.checked(lambda: workers.start(plan.load))
    job = Resource.make(begun, lambda job, end: Effect.suspend(lambda: job.close(haste(end))))
    return job.map(lambda job: lambda rows: _Requests(rows, job, workers.count * prefetch).take)
