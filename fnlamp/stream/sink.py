"""Reading a stream on the host: as programs, and as iterators for tests and interpreters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from returns.result import Result, Success

from fnlamp.arrays import Tree
from fnlamp.effect import Effect, Interrupted, Resource, Runtime
from fnlamp.effect.runtime import Stopped
from fnlamp.fault import BufferReused, FaultError
from fnlamp.given import shown
from fnlamp.stream.memory import Handed, fingerprints
from fnlamp.stream.nested import pull
from fnlamp.stream.step import Emit, Fail
from fnlamp.stream.stream import BatchStream

A = TypeVar("A")
E = TypeVar("E")


def fold(stream: BatchStream[E], initial: A, function: Callable[[A, Any], A]) -> Effect[A, E | BufferReused]:
    """The program that reduces all batches with `function(so_far, batch)`, starting from `initial`.

    Fails: with the faults of the stream, and `BufferReused`. Ctrl-C ends it between two batches, with the result so far.

    >>> s = stream.from_items([np.ones(2), np.ones(3)])
    >>> fold(s, 0, lambda rows, batch: rows + len(batch)).run()
    <IOResult: <Success: 5>>
    """

    _check(stream)
    if not callable(function):
        raise TypeError(f"function is a function of the result so far and a batch, got {shown(function)}")

    def call(runtime: Runtime) -> Result[A, Any] | Interrupted:
        so_far = initial
        try:
            state, handed = stream.init, Handed(1)
            while (got := _following(stream, state, handed)) is not None:  # a generator would lose a Ctrl-C while it is closed
                so_far, state = function(so_far, got.item), got.state
                if runtime.cancel.requested:
                    return Interrupted(so_far)
        except Stopped:
            return Interrupted(so_far)
        return Success(so_far)

    return Effect.call(call)


def to_list(stream: BatchStream[E]) -> Effect[list[Tree], E | BufferReused]:
    """The program that yields all batches, as in `loader.use(to_list)`.  Fails: with the faults of the stream.

    >>> to_list(stream.from_items([np.ones(2), np.ones(1)])).map(len).run()
    <IOResult: <Success: 2>>
    """
    _check(stream)
    # Each run makes its own list.
    return Effect.suspend(_empty).bind(lambda batches: fold(stream, batches, _append))


def _check(stream: Any) -> None:
    """Raises: `TypeError` for anything but a stream."""
    if not isinstance(stream, BatchStream):
        hint = "; a resource is used first: resource.use(stream.to_list)" if isinstance(stream, Resource) else ""
        raise TypeError(f"stream is a BatchStream, got {shown(stream)}{hint}")


def _empty() -> list[Tree]:
    return []


def _append(batches: list[Tree], batch: Tree) -> list[Tree]:
    batches.append(batch)
    return batches


def items(stream: BatchStream[Any], state: Any = None) -> Iterator[Tree]:
    """The batches from `state` (or from the start) to the end.

    Fails: with the faults of the stream, and `BufferReused` if a batch overwrites the one before.
    """
    _check(stream)
    return (item for item, _ in steps(stream, stream.init if state is None else state))


def steps(stream: BatchStream[Any], state: Any) -> Iterator[tuple[Tree, Any]]:
    """Each batch with the state after it."""
    handed = Handed(1)
    while (got := _following(stream, state, handed)) is not None:
        state = got.state
        yield got.item, state


def _following(stream: BatchStream[Any], state: Any, handed: Handed) -> Emit | None:
    """The batch at a state, or `None` at the end."""
    got = pull(stream.step, state)
    if isinstance(got, Fail):
        raise FaultError(got.fault)
    if not isinstance(got, Emit):
        return None
    if stream.view is None and (leaf := handed.again(got.item, fingerprints(got.item))) is not None:
        raise FaultError(BufferReused(leaf))
    return got
