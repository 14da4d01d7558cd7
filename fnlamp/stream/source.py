"""Streams over arrays, sequences, functions and iterators."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Never

import numpy as np

from fnlamp import tree
from fnlamp.arrays import Tree, array_spec, describe, spec_of
from fnlamp.convert import as_arrays, as_batch, rows_by_position
from fnlamp.effect import Effect, Resource
from fnlamp.fault import EmptyEpoch, FaultError, NotRereadable, ShapeMismatch
from fnlamp.given import flag, function, instance, shown, whole
from fnlamp.stream.ahead import Stage, ahead, stage
from fnlamp.stream.step import Emit, End, Fail, Reread, Step
from fnlamp.stream.stream import BatchStream
from fnlamp.stream.view import Order, Recipe, Segment, View, as_spec, row_numbers, rows_of_each


def minibatches(
    features: Tree, target: Tree, *, batch_size: int, drop_last: bool = False, seed: int | None = None
) -> BatchStream[Never]:
    """Batches `(features, target)` of `batch_size` rows: in order without a seed, else shuffled by it.

    The order is a function of the seed alone; `epochs` gives each epoch another seed. The last batch has the remaining rows;
    `drop_last` leaves it out if it is not full. The arrays (or pytrees of arrays, rows first) are not copied and must not be
    changed while they are used; lists, Series, frames and tensors are converted to arrays once, row by row in their order.
    Fails: `ShapeMismatch` for different numbers of rows, `DtypeMismatch` for anything but numbers. Raises: `TypeError`,
    `ValueError` for a wrong batch size or seed.

    >>> s = minibatches(np.zeros((5, 2), np.float32), np.arange(5), batch_size=2)
    >>> s
    <BatchStream: 3 batches of (float32[2, 2], int32[2])>
    """
    _check_features(features)
    return _cut(as_arrays((features, target), "minibatches"), batch_size, drop_last, seed, None, "minibatches")


def from_arrays(
    arrays: Tree,
    *,
    batch_size: int,
    drop_last: bool = False,
    seed: int | None = None,
    among: Any = None,
) -> BatchStream[Never]:
    """`minibatches` of any pytree of arrays, rows first; with `among`, only of the rows with these numbers.

    Arrays mapped from a file stay on disk: their rows are read batch by batch, without a compiled view.
    Fails: `ShapeMismatch` for different numbers of rows, `DtypeMismatch` for anything but numbers. Raises: `IndexError` for a
    row that does not exist.

    >>> s = from_arrays({"x": np.arange(8)}, batch_size=2, among=np.array([1, 3, 5]))
    >>> [batch["x"].tolist() for batch in stream.items(s)]
    [[1, 3], [5]]
    """
    return _cut(as_arrays(arrays, "from_arrays"), batch_size, drop_last, seed, among, "from_arrays")


def _check_features(features: Tree) -> None:
    if features is None:
        raise TypeError("features are arrays whose first axis counts rows, got None")


def _cut(arrays: Tree, batch_size: Any, drop_last: Any, seed: Any, among: Any, where: str) -> BatchStream[Never]:
    batch_size, drop_last = whole("batch_size", batch_size), flag("drop_last", drop_last)
    count = _rows(arrays, where)
    order = Order(count, seed, None if among is None else row_numbers(among, count))
    rows = spec_of(arrays)

    def spec(size: int) -> Tree:
        return tree.map(lambda leaf: array_spec((size, *leaf.shape[1:]), leaf.dtype), rows)

    why_empty = EmptyEpoch(len(order), batch_size, drop_last)
    mapped = any(isinstance(leaf, np.memmap) for leaf in tree.leaves(arrays))
    return in_order(arrays, order, batch_size, drop_last, spec, why_empty, on_host=mapped)


def in_order(
    arrays: Tree,
    order: Order,
    batch_size: int,
    drop_last: bool,
    spec: Callable[[int], Tree],
    why_empty: EmptyEpoch,
    *,
    recipe: Recipe | None = None,
    on_host: bool = False,
) -> BatchStream[Never]:
    """The batches that `recipe` makes of `batch_size` rows each, in an order; `spec(rows)` is the spec of a batch of that size.

    `on_host` is for arrays that should not be copied to the device: the stream has no compiled view.
    """
    rows = len(order)
    full, rest = divmod(rows, batch_size)
    whole, short = range(0, full * batch_size, batch_size), range(full * batch_size, rows, batch_size)
    cuts = [(whole, batch_size), (short, 0 if drop_last else rest)]
    recipe = recipe or Recipe()
    view = View(tuple(Segment(arrays, order, starts, size, recipe) for starts, size in cuts if starts and size))
    of_batch = spec(batch_size if full or drop_last else rest)
    if on_host:
        by_row = None if recipe.functions else partial(view.part, made=as_batch)
        return BatchStream.at(lambda at: as_batch(view.batch(at)), len(view), of_batch, why_empty, by_row)
    return BatchStream.of_view(view, of_batch, why_empty)


def full_batch(features: Tree, target: Tree) -> BatchStream[Never]:
    """One batch of all rows, in order.

    >>> full_batch(np.zeros((20, 5), np.float32), np.zeros(20, np.float32))
    <BatchStream: 1 batches of (float32[20, 5], float32[20])>
    """
    _check_features(features)
    arrays = as_arrays((features, target), "full_batch")
    return _cut(arrays, max(_rows(arrays, "full_batch"), 1), False, None, None, "full_batch")


def from_items(batches: Sequence[Tree]) -> BatchStream[Never]:
    """The batches of a sequence, one by one on the host, without a compiled view; the state is the position.

    Fails: `EmptyEpoch` for an empty sequence, whose spec is unknown.
    """
    batches = rows_by_position("batches", batches)
    if not len(batches):
        raise FaultError(EmptyEpoch())
    return from_function(len(batches), batches.__getitem__)


def from_function(
    length: int, make: Callable[[int], Tree], *, spec: Tree | None = None, why_empty: EmptyEpoch | None = None
) -> BatchStream[Never]:
    """The batches `make(0)`, `make(1)`, ... `make(length - 1)`, each made on request; the state is the position.

    `make` must return the same batch for the same position on every call. Without `spec`, the spec of a batch, the first batch
    is made to find it.

    >>> [batch.tolist() for batch in stream.items(from_function(3, lambda position: np.full(2, position)))]
    [[0, 0], [1, 1], [2, 2]]
    """
    length = whole("length", length, 0)
    function("make", make, "a function of the position, which returns a batch")

    def batch(position: int) -> Tree:
        return as_batch(make(position))

    if why_empty is not None:
        instance("why_empty", why_empty, EmptyEpoch, "a fault.EmptyEpoch")
    if spec is None:
        if not length:
            raise FaultError(EmptyEpoch())
        spec = batch(0)
    return BatchStream.at(batch, length, as_spec(spec), why_empty or EmptyEpoch())


def from_iterable(make: Callable[[], Iterable[Tree]], *, spec: Tree | None = None) -> Resource[BatchStream[Any], Any]:
    """The batches of an iterable: each pass calls `make()`, such as `lambda: read(path)`, for a new one.

    The state is the position. Resuming in the middle reads the batches before it again. The iterator is closed when the
    resource is released. Without `spec`, the spec of a batch, the first batch is read to find it.
    Fails: `EmptyEpoch` if the spec is not given and there is no batch; `NotRereadable` if `make` returns the same iterator
    again; with the fault of a `FaultError` that the iterable raises.

    >>> from_iterable(lambda: (np.full(1, i) for i in range(3))).use(stream.to_list).run()
    <IOResult: <Success: [array([0]), array([1]), array([2])]>>
    """
    function("make", make, "a function that begins a pass, such as lambda: read(path)")
    start = Effect.suspend(lambda: _Reading(make, again=True))
    reading = Resource.make(start, lambda reading, _: Effect.suspend(reading.close))
    known = None if spec is None else as_spec(spec)
    return reading.bind(lambda reading: _seen(lambda: reading.stream(known)))


def from_iterator(iterator: Iterator[Tree], *, spec: Tree) -> BatchStream[NotRereadable]:
    """The batches of an iterator, which can be read only once, in order: a queue, a socket, a simulation.

    `spec` is the spec of a batch, or an example batch: nothing is read in advance. Only the next and the last batch can be
    requested; for another position the stream fails with `NotRereadable`. The caller closes the iterator.

    >>> s = from_iterator(iter([np.zeros(2), np.ones(2)]), spec=np.zeros(2))
    >>> s.reread.value, len(list(stream.items(s)))
    ('can be read only once, in order', 2)
    >>> s.step(0)
    Fail(fault=NotRereadable(where='', wanted=0, at=2))
    """
    if not hasattr(iterator, "__next__"):
        raise TypeError(f"iterator is an iterator over batches, such as iter([batch, ...]), got {shown(iterator)}")
    return _Reading(lambda: iterator, again=False).stream(as_spec(spec))


def _seen(make: Callable[[], BatchStream[Any]]) -> Resource[BatchStream[Any], Any]:
    """A stream that may have to read its first batch; a fault in that is a failure of the resource."""
    return Resource.make(Effect.checked(make), lambda stream, _: Effect.from_value(None))


class _Reading:
    """An iterator, its position and its last batch. Several threads may use it, one after the other."""

    def __init__(self, make: Callable[[], Iterable[Tree]], *, again: bool) -> None:
        self.make, self.again = make, again
        self.lock = threading.Lock()
        self.closed = False
        self.made: Any = None
        self.iterator: Iterator[Tree] | None = None
        self.at = 0  # the number of batches that were read
        self.last: Emit | None = None
        self.ended: End | Fail | Exception | None = None

    def stream(self, spec: Tree | None) -> BatchStream[Any]:
        if spec is None:
            first = self.step(0)
            if not isinstance(first, Emit):
                raise FaultError(first.fault if isinstance(first, Fail) else EmptyEpoch())
            spec = spec_of(first.item)
        return BatchStream(0, self.step, spec, None, reread=Reread.REPLAY if self.again else Reread.NEVER)

    def step(self, position: int) -> Step:
        with self.lock:
            try:
                return self.asked(position)
            finally:
                if self.closed:
                    self.let_go()

    def asked(self, position: int) -> Step:
        if self.last is not None and position == self.at - 1:
            return self.last
        if not self.again and position != self.at:
            return Fail(NotRereadable(position, self.at))
        if (self.iterator is None or position < self.at) and not self.open():
            return Fail(NotRereadable(position, self.at))
        while self.ended is None and self.at <= position:
            self.read()
        if isinstance(self.ended, Exception):
            raise self.ended
        return self.ended or self.last or End()

    def open(self) -> bool:
        """Begin a pass; false if `make` returned the iterator of an earlier pass."""
        try:
            made = self.make()
            if not hasattr(made, "__iter__") and not hasattr(made, "__getitem__"):
                raise TypeError(f"make returns an iterable of batches, got {shown(made)}")
            iterator = iter(made)
        except FaultError as error:
            self.let_go()
            self.ended, self.iterator = Fail(error.fault), iter(())
            return True
        if iterator is made and made is self.made:
            return False
        self.let_go()
        self.made, self.iterator = made, iterator
        return True

    def read(self) -> None:
        assert self.iterator is not None
        try:
            self.last = Emit(as_batch(next(self.iterator)), self.at + 1)
            self.at += 1
        except StopIteration:
            self.ended = End()
        except FaultError as error:
            self.ended = Fail(error.fault)
        except Exception as error:  # a bug: asked again, the iterator would end as if it were complete
            self.ended = error

    def close(self) -> None:
        self.closed = True
        if self.lock.acquire(timeout=0):  # else `step` is reading it, and lets it go afterwards
            try:
                self.let_go()
            finally:
                self.lock.release()

    def let_go(self) -> None:
        close = getattr(self.iterator, "close", None)
        self.iterator, self.at, self.last, self.ended = None, 0, None, None
        if close is not None:
            close()


def staged(
    rows: int,
    *,
    batch_size: int,
    bucket: int,
    load: Callable[[np.ndarray[Any, Any]], Any],
    batch: Callable[[Any, np.ndarray[Any, Any]], Tree] = rows_of_each,
    release: Callable[[Any], object] = lambda loaded: None,
    drop_last: bool = False,
    seed: int | None = None,
    spec: Tree | None = None,
) -> Resource[BatchStream[Any], Any]:
    """Batches of examples that a thread loads, `bucket` batches at a time, while the previous bucket is used.

    `load(numbers)` loads the examples with those row numbers. `batch(loaded, places)` makes a batch of the loaded examples at
    the `places` (0, 1, ...); the default takes these rows of each array of a pytree. `release(loaded)` is called when all
    batches of a bucket were used, and on every other exit. The order is a function of the `seed`; the state is the position,
    and resuming in the middle loads one bucket.

    >>> squares = staged(5, batch_size=2, bucket=2, load=lambda numbers: numbers**2)
    >>> squares.use(stream.to_list).map(lambda batches: [batch.tolist() for batch in batches]).run()
    <IOResult: <Success: [[0, 1], [4, 9], [16]]>>
    """
    batch_size, bucket, rows = whole("batch_size", batch_size), whole("bucket", bucket), whole("rows", rows, 0)
    drop_last = flag("drop_last", drop_last)
    for name, given in (("load", load), ("batch", batch), ("release", release)):
        function(name, given, f"a function, as in staged({name}=...)")
    order, spec = Order(rows, seed), None if spec is None else as_spec(spec)
    kept = rows - rows % batch_size if drop_last else rows
    length, size = -(-kept // batch_size), batch_size * bucket

    def numbers(number: int) -> np.ndarray[Any, Any]:
        return order[number * size : min((number + 1) * size, kept)]

    def cut(loaded: Any, number: int, within: int) -> Tree:
        start = within * batch_size
        return as_batch(batch(loaded, np.arange(start, min(start + batch_size, len(numbers(number))))))

    buckets = BatchStream.at(lambda number: load(numbers(number)), -(-kept // size), None, EmptyEpoch())

    def stream(stage: Stage) -> BatchStream[Any]:
        known = spec
        if known is None:
            first = stage.step(0)
            if not isinstance(first, Emit):
                raise FaultError(first.fault if isinstance(first, Fail) else EmptyEpoch(rows, batch_size, drop_last))
            known = spec_of(first.item)
        return BatchStream(0, stage.step, known, length, why_empty=EmptyEpoch(rows, batch_size, drop_last))

    loading = ahead(buckets.step, 1, release).bind(lambda loading: stage(loading, bucket, length, cut, release))
    return loading.bind(lambda stage: _seen(lambda: stream(stage)))


def _rows(arrays: Tree, where: str) -> int:
    """The number of rows of all arrays."""
    shapes = [leaf.shape for leaf in tree.leaves(arrays)]
    if not shapes or () in shapes:
        hint = "a tuple is several arrays: give one as a list" if shapes else ""
        raise FaultError(ShapeMismatch("arrays whose first axis counts rows", describe(arrays), hint, where=where))
    counts = {shape[0] for shape in shapes}
    if len(counts) > 1:
        raise FaultError(ShapeMismatch("as many targets as features", describe(arrays), where=where))
    return int(counts.pop())
