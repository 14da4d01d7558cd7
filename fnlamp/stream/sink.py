"""Reading a stream on the host, for tests, notebooks and interpreters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fnlamp.arrays import Tree
from fnlamp.fault import BufferReused, FaultError
from fnlamp.stream.memory import Handed
from fnlamp.stream.step import Emit, End, Fail, Skip
from fnlamp.stream.stream import BatchStream


def items(stream: BatchStream, state: Any = None) -> Iterator[Tree]:
    """The batches from `state` (or from the start) to the end.

    Fails: with what the stream fails with, and `BufferReused` if a batch is written over the one before.
    """
    return (item for item, _ in steps(stream, stream.init if state is None else state))


def steps(stream: BatchStream, state: Any) -> Iterator[tuple[Tree, Any]]:
    """Each batch with the state after it."""
    handed = Handed(1)
    while True:
        match stream.step(state):
            case Emit(item, state):
                if stream.view is None and (leaf := handed.again(item)) is not None:
                    raise FaultError(BufferReused(leaf))
                yield item, state
            case Skip(state):
                pass
            case Fail(fault):
                raise FaultError(fault)
            case End():
                return
