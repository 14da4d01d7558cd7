"""The type of a stream of batches, and its combinators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from operator import or_
from typing import Any, Generic, Never, final

from typing_extensions import TypeVar

from fnlamp.arrays import Tree, describe, spec_after
from fnlamp.convert import as_batch
from fnlamp.effect import Resource
from fnlamp.fault import BufferReused, EmptyEpoch
from fnlamp.given import shown, whole
from fnlamp.stream import transform
from fnlamp.stream.ahead import prefetching
from fnlamp.stream.nested import Stepper
from fnlamp.stream.part import Chosen, Part, Parts
from fnlamp.stream.rows import check_like, check_pairs, check_rows, of_rows
from fnlamp.stream.step import Emit, End, Reread
from fnlamp.stream.view import Recipe, View, as_spec, check_function, check_seed

E_co = TypeVar("E_co", covariant=True, default=Never)
E2 = TypeVar("E2")


@final
@dataclass(frozen=True, eq=False)
class BatchStream(Generic[E_co]):
    """A stream of batches as a description: `step(state)` is the next batch and the state after it; `init` the first state.

    A step of a `BatchStream[E]` can fail with an `E`. `step` is a plain function that only an interpreter calls; the same state
    gives the same batch again, so a stream resumes from any state; `reread` is the cost of that. `spec` describes a batch
    (shape and dtype, the batch axis first; a batch may have fewer rows), `length` is the number of batches or `None`. The state
    of an `indexed` stream is a position, a plain integer, and its `length` is known. `view` is the compiled view, if there is
    one. `source` gives the batches before `finish`, the functions of `map` that an interpreter can compile into its own step;
    `step` applies them on the host. `parts` says how one of several processes reads only its rows of each batch. `classes` are
    the names of the labels 0, 1, ..., if they are known: training and validation must agree on them. Make streams with
    `minibatches`, `from_items`, `from_function`, `from_iterable`, ...

    >>> s = stream.minibatches(np.zeros((5, 2), np.float32), np.arange(5), batch_size=2)
    >>> [y.tolist() for x, y in stream.items(s.every_nth(2))]
    [[0, 1], [4]]
    """

    init: Any
    source: Stepper
    spec: Tree
    length: int | None
    view: View | None = None
    finish: Recipe = field(default_factory=Recipe)
    why_empty: EmptyEpoch = field(default_factory=EmptyEpoch)
    indexed: bool = False
    reread: Reread = Reread.DIRECT
    classes: tuple[str, ...] | None = None
    parts: Parts | None = None

    def __repr__(self) -> str:
        count = "" if self.length is None else f"{self.length} batches of "
        return f"<BatchStream: {count}{describe(self.spec)}>"

    @cached_property
    def step(self) -> Stepper:
        """The batch at a state, and the state after it."""
        return transform.map(self.source, self.finish.after) if self.finish.functions else self.source

    @classmethod
    def of_view(cls, view: View, spec: Tree, why_empty: EmptyEpoch) -> BatchStream[Any]:
        """The stream of a compiled view."""
        return replace(cls.at(view.batch, len(view), spec, why_empty), view=view)

    @classmethod
    def at(
        cls,
        batch: Callable[[int], Tree],
        length: int,
        spec: Tree,
        why_empty: EmptyEpoch,
        part: Callable[[int, Chosen], Part] | None = None,
    ) -> BatchStream[Any]:
        """The indexed stream of `batch(0)` to `batch(length - 1)`; `part(position, chosen)` reads only some rows of a batch."""

        def of(batch: Callable[[int], Tree]) -> Stepper:
            return lambda position: Emit(batch(position), position + 1) if position < length else End()

        source = of(batch)
        parts = None if part is None else Parts(source, lambda chosen: of(lambda position: part(position, chosen)))
        return cls(0, source, spec, length, why_empty=why_empty, indexed=True, parts=parts)

    # ---- streams from streams; the first five keep the compiled view

    def map(self, function: Callable[..., Any], *arguments: Any, spec: Tree | None = None) -> BatchStream[E_co]:
        """Apply a function to every batch; it is written in `jax.numpy` and becomes part of the compiled step.

        The function is called with the batch and then the `arguments`, numbers or arrays (a key: `jax.random.key(seed)`). They
        are arguments of the compiled step as well: unlike captured values, new ones each epoch do not compile it again.
        With `spec`, the spec of its result, it may be any host function (files, NumPy), which is called batch by batch.

        >>> s = stream.minibatches(np.ones((4, 1), np.float32), np.arange(4), batch_size=4)
        >>> next(stream.items(s.map(lambda batch, factor: (factor * batch[0], batch[1]), 2.0)))[0].ravel().tolist()
        [2.0, 2.0, 2.0, 2.0]
        """
        check_function(function, "map")
        if spec is None:
            try:
                spec = spec_after(function, self.spec, *arguments)
            except Exception as error:
                error.add_note(
                    "in a function given to BatchStream.map: write it in jax.numpy, or give spec= for a host function"
                )
                raise
            if self.view is not None:
                return BatchStream.of_view(self.view.map(function, *arguments), spec, self.why_empty)
            return replace(self, finish=self.finish.then(function, *arguments), spec=spec)
        spec = as_spec(spec)
        return self._with(
            source=transform.map(self.step, lambda batch: as_batch(function(batch, *arguments))),
            spec=spec,
            indexed=self.indexed,
        )

    def take(self, count: int) -> BatchStream[E_co]:
        """The first `count` batches, or all if there are fewer."""
        count = whole("count", count, 0)
        if self.view is not None:
            return BatchStream.of_view(self.view.every(1, 0, count), self.spec, self.why_empty)
        if self.indexed:
            return self._reindexed(min(count, self._count), lambda position: position)
        length = None if self.length is None else min(count, self.length)
        return self._chosen(transform.Taken(0, self.init), lambda step: transform.take(step, count), length)

    def drop(self, count: int) -> BatchStream[E_co]:
        """The batches after the first `count`, which an indexed stream does not make."""
        count = whole("count", count, 0)
        if self.view is not None:
            return BatchStream.of_view(self.view.every(1, count), self.spec, self.why_empty)
        if self.indexed:
            return self._reindexed(max(self._count - count, 0), lambda position: position + count)
        length = None if self.length is None else max(self.length - count, 0)
        return self._chosen(transform.Dropped(count, self.init), transform.drop, length)

    def every_nth(self, n: int, offset: int = 0) -> BatchStream[E_co]:
        """The batches at the positions offset, offset + n, ...: one of n disjoint shards that cover the stream.

        An indexed stream does not make the batches in between.
        """
        n, offset = whole("n", n, None), whole("offset", offset, None)
        if not 0 <= offset < n:
            raise ValueError(f"every_nth needs 0 <= offset < n, got offset {offset} and n {n}")
        if self.view is not None:
            return BatchStream.of_view(self.view.every(n, offset), self.spec, self.why_empty)
        if self.indexed:
            return self._reindexed(len(range(offset, self._count, n)), lambda position: position * n + offset)
        length = None if self.length is None else len(range(offset, self.length, n))
        return self._chosen(transform.Nth(0, self.init), lambda step: transform.every_nth(step, n, offset), length)

    def concat(self, other: BatchStream[E2]) -> BatchStream[E_co | E2]:
        """All batches of this stream, then all of the other.

        Fails: `ShapeMismatch` if their batches differ in more than the number of rows.
        """
        _check_stream(other, "concat")
        check_like(self.spec, other.spec, "concat")
        if self.view is not None and other.view is not None:
            return BatchStream.of_view(self.view.concat(other.view), self.spec, self.why_empty)
        joined = transform.concat(self.step, self.init, other.step, other.init)
        return _of(
            (self, other),
            init=transform.Joined(0, joined.parts[0][1]),
            source=joined,
            length=None if self.length is None or other.length is None else self.length + other.length,
        )

    def repeat_or_take(self, count: int) -> BatchStream[E_co]:
        """`count` batches, starting over as often as necessary. An empty stream stays empty.

        >>> s = stream.minibatches(np.zeros(3), np.arange(3), batch_size=2)
        >>> [y.tolist() for x, y in stream.items(s.repeat_or_take(3))]
        [[0, 1], [2], [0, 1]]
        """
        count = whole("count", count, 0)
        if self.length == 0:
            return self
        if self.view is not None:
            return BatchStream.of_view(self.view.repeat(count), self.spec, self.why_empty)
        if self.indexed:
            return self._reindexed(count, lambda position: position % self._count)
        length, init = None if self.length is None else count, transform.Repeated(0, 0, self.init)
        return self._chosen(init, lambda step: transform.repeat_or_take(step, count, self.init), length)

    def zip(self, other: BatchStream[E2]) -> BatchStream[E_co | E2]:
        """Pairs of this stream's and the other's batches, until one of them ends.

        Raises: `ValueError` for more than 400 levels of pairs inside pairs.

        >>> s = stream.from_items([np.zeros(2), np.ones(2)])
        >>> [(a.tolist(), b.tolist()) for a, b in stream.items(s.zip(s.drop(1)))]
        [([0.0, 0.0], [1.0, 1.0])]
        """
        _check_stream(other, "zip")
        check_pairs(self.spec, other.spec)
        lengths = [s.length for s in (self, other) if s.length is not None]
        return _of(
            (self, other),
            init=transform.Zipped(self.init, other.init),
            source=transform.zip(self.step, other.step),
            spec=(self.spec, other.spec),
            length=min(lengths) if len(lengths) == 2 or 0 in lengths else None,
        )

    def interleave(self, *others: BatchStream[E2]) -> BatchStream[E_co | E2]:
        """One batch of each stream in turn; a stream that has ended is left out.

        Fails: `ShapeMismatch` if their batches differ in more than the number of rows.
        """
        streams = (self, *others)
        for other in others:
            _check_stream(other, "interleave")
            check_like(self.spec, other.spec, "interleave")
        lengths = [s.length for s in streams if s.length is not None]
        return _of(
            streams,
            init=transform.Interleaved(0, tuple((s.init,) for s in streams)),
            source=transform.interleave(tuple(s.step for s in streams)),
            length=sum(lengths) if len(lengths) == len(streams) else None,
        )

    def filter(self, predicate: Callable[[Any], Any]) -> BatchStream[E_co]:
        """Only the batches for which the predicate, a host function, holds."""
        check_function(predicate, "filter")
        return self._with(source=transform.filter(self.step, predicate), length=0 if self.length == 0 else None)

    def shuffle_buffer(self, size: int, seed: int) -> BatchStream[E_co]:
        """The batches in another order: each run of `size` batches is shuffled by itself.

        The order is a function of the seed alone. An indexed stream needs no buffer; any other keeps `size` batches, and reads
        at most that many again to resume in the middle. To shuffle rows, shuffle at the source, or between `unchunk()` and
        `chunk(batch_size)`.
        """
        size = whole("size", size)
        seed = check_seed(whole("seed", seed, None))
        if self.indexed:
            batches = self._count

            def shuffled(position: int) -> int:
                buffer, offset = divmod(position, size)
                return buffer * size + int(order(buffer)[offset])

            order = transform.remembered(lambda b: transform.buffer_order(seed, b, min(size, batches - b * size)))
            return self._reindexed(batches, shuffled)
        init = transform.Buffered(0, 0, self.init)
        return self._chosen(init, lambda step: transform.shuffle_buffer(step, size, seed), self.length)

    def chunk(self, count: int) -> BatchStream[E_co]:
        """Every `count` batches joined into one; the last has the remaining rows.

        Fails: `ShapeMismatch` for batches whose arrays differ in their numbers of rows, such as graphs.
        """
        count = whole("count", count)
        check_rows(self.spec, "chunk")
        length = None if self.length is None else -(-self.length // count)
        return self._with(source=transform.chunk(self.step, count), spec=of_rows(self.spec, lambda n: n * count), length=length)

    def unchunk(self, size: int = 1) -> BatchStream[E_co]:
        """Each batch cut into batches of `size` rows; the last of each has the remaining rows.

        Fails: `ShapeMismatch` for batches whose arrays differ in their numbers of rows, such as graphs.

        >>> s = stream.minibatches(np.zeros(5), np.arange(5), batch_size=3)
        >>> [y.tolist() for x, y in stream.items(s.unchunk().chunk(4))]
        [[0, 1, 2, 3], [4]]
        """
        size = whole("size", size)
        check_rows(self.spec, "unchunk")
        init, step = transform.Unchunked(0, self.init), transform.unchunk(self.step, size)
        length = 0 if self.length == 0 else None
        return self._with(init=init, source=step, spec=of_rows(self.spec, lambda n: min(n, size)), length=length)

    def prefetch(self, count: int = 2) -> Resource[BatchStream[E_co | BufferReused], Never]:
        """The same batches; a thread, which the resource holds, makes the next `count` ahead.

        A stream with a compiled view is in memory already, and returned as it is.
        Fails (when run): `BufferReused`, if the stream writes a batch into the memory of one that is not used yet.
        """
        count = whole("count", count)
        if self.view is not None:
            return Resource.from_value(self)

        def ahead(threads: Callable[[Stepper], Stepper]) -> BatchStream[Any]:
            source, parts = self.source, self.divisible
            ready = threads(source)
            read = None if parts is None else Parts(ready, lambda chosen: threads(parts.read(chosen)))
            return self._with(source=ready, finish=self.finish, parts=read)

        return prefetching(count).map(ahead)

    # ---- inside

    @property
    def unfinished(self) -> BatchStream[E_co]:
        """For interpreters of a stream without a view: batches as they are sent to the device, where `finish` is applied."""
        return replace(self, finish=Recipe())

    @property
    def divisible(self) -> Parts | None:
        """For interpreters: how the rows of each batch before `finish` are read by several processes; `None` if only whole."""
        return self.parts if self.parts is not None and self.parts.source is self.source else None

    def _with(self, **changes: Any) -> BatchStream[Any]:
        """A stream with other steps; it loses what belongs to the earlier ones unless `changes` has it."""
        return replace(self, **({"view": None, "finish": Recipe(), "indexed": False, "parts": None} | changes))

    def _chosen(self, init: Any, change: Callable[[Stepper], Stepper], length: int | None) -> BatchStream[E_co]:
        """A stream that selects some of these batches; functions of batches are applied after that, and stay compiled."""
        return self._with(init=init, length=length, finish=self.finish, **self._changed(change))

    def _changed(self, change: Callable[[Stepper], Stepper]) -> dict[str, Any]:
        if self.divisible is None:
            return {"source": change(self.source)}
        parts = self.divisible.changed(change)
        return {"source": parts.source, "parts": parts}

    @property
    def _count(self) -> int:
        """The length, which an indexed stream always has."""
        assert self.length is not None
        return self.length

    def _reindexed(self, length: int, index: Callable[[int], int]) -> BatchStream[E_co]:
        """The indexed stream whose batch at a position is this one's at `index(position)`."""
        changed = self._changed(lambda source: transform.reindexed(source, length, index))
        return self._with(init=0, length=length, indexed=True, finish=self.finish, **changed)


def _of(streams: tuple[BatchStream[Any], ...], **parts: Any) -> BatchStream[Any]:
    """A stream made of several; its `reread` is the worst of theirs."""
    return streams[0]._with(reread=reduce(or_, (s.reread for s in streams)), **parts)


def _check_stream(other: Any, where: str) -> None:
    if not isinstance(other, BatchStream):
        hint = "; acquire it with .use(...) first" if isinstance(other, Resource) else ""
        raise TypeError(f"other is a BatchStream in {where}, got {shown(other)}{hint}")
