"""Grain pipelines as streams, with Grain's own state."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import Any

from fnlamp.arrays import spec_of
from fnlamp.convert import as_batch
from fnlamp.effect import Effect, Resource
from fnlamp.fault import EmptyEpoch, FaultError, ItemFailed, LoadFault
from fnlamp.stream import BatchStream, Emit, End, Fail, Step


def from_grain(source: Any) -> Resource[BatchStream[LoadFault], LoadFault]:
    """The batches of a Grain `DataLoader`, `MapDataset` or `IterDataset`, to be acquired and released.

    The state of the stream is that of Grain's iterator, so the stream resumes from any batch exactly as Grain does. Each use of
    the resource creates an iterator. The first batch is loaded on acquisition, for its spec.
    Fails: `ItemFailed` for an exception in the pipeline, without a row, which Grain does not report; `EmptyEpoch` for no batch.

    >>> import grain
    >>> batches = from_grain(grain.MapDataset.range(6).shuffle(seed=1).map(float).batch(4))
    >>> batches.use(stream.to_list).map(lambda batches: [len(batch) for batch in batches]).run()
    <IOResult: <Success: [4, 2]>>
    """
    pipeline = source.to_iter_dataset() if hasattr(source, "to_iter_dataset") else source
    if not hasattr(pipeline, "__iter__"):
        raise TypeError(f"source: expected a DataLoader, MapDataset or IterDataset of Grain, got {type(source).__name__}")

    def acquire() -> _Pipeline:
        return _Pipeline(iter(pipeline), _length(source))

    made = Resource.make(Effect.checked(acquire), lambda it, _: Effect.suspend(it.close))
    return made.map(lambda it: it.stream)


class _Pipeline:
    """An iterator, which has one state at a time, as a stream, which takes any state."""

    def __init__(self, iterator: Iterator[Any], length: int | None) -> None:
        if not (hasattr(iterator, "get_state") and hasattr(iterator, "set_state")):
            raise TypeError(
                f"expected an iterator with get_state and set_state, such as Grain's, got {type(iterator).__name__}"
            )
        self.iterator: Any = iterator
        self.at = self.iterator.get_state()
        start, self.first = self.at, None
        try:
            first = self.step(start)
            if not isinstance(first, Emit):
                raise FaultError(first.fault if isinstance(first, Fail) else EmptyEpoch())
        except BaseException:  # an interruption too: the caller does not have this yet, to close it
            self.close()
            raise
        self.first = (start, first)  # Grain is slow to go back: it may restart its workers
        self.stream: BatchStream[LoadFault] = BatchStream(start, self.step, spec_of(first.item), length)

    def step(self, state: Any) -> Step:
        if self.first is not None and self.first[0] == state:
            return self.first[1]
        try:
            if self.at != state:
                self.iterator.set_state(state)
                self.at = state
            item = next(self.iterator)
        except StopIteration:
            return End()
        except Exception as error:  # the pipeline runs the caller's functions
            what = f"{type(error).__name__}: {error}"
            self.at = None  # the iterator's state is unknown now
            return Fail(ItemFailed(None, what, "".join(traceback.format_exception(error))))
        self.at = self.iterator.get_state()
        try:
            return Emit(as_batch(item), self.at)
        except FaultError as error:
            return Fail(error.fault)

    def close(self) -> None:
        close = getattr(self.iterator, "close", None)
        if close is not None:
            close()


def _length(source: Any) -> int | None:
    """The number of batches, if Grain knows it: the data set is not repeated forever."""
    try:
        length = len(source)
    except TypeError:
        return None
    return length if length < 2**62 else None
