"""Reading a stream on the host, for tests, notebooks and interpreters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fnlamp.arrays import Tree
from fnlamp.fault import FaultError
from fnlamp.stream.stream import BatchStream, Emit, End, Fail, Skip


def items(stream: BatchStream, state: Any = None) -> Iterator[Tree]:
    """The batches from `state` (or from the start) to the end.  Fails: with what the stream fails with."""
    return (item for item, _ in steps(stream, stream.init if state is None else state))


def steps(stream: BatchStream, state: Any) -> Iterator[tuple[Tree, Any]]:
    """Each batch with the state after it."""
    while True:
        match stream.step(state):
            case Emit(item, state):
                yield item, state
            case Skip(state):
                pass
            case Fail(fault):
                raise FaultError(fault)
            case End():
                return
