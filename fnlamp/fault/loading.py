"""Data sets, loaders, workers and streams."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fnlamp.fault.array import DtypeMismatch, ShapeMismatch
from fnlamp.fault.base import Fault
from fnlamp.fault.training import EmptyEpoch


@dataclass(frozen=True, repr=False)
class ItemFailed(Fault):
    """The data set, a transform or the collation raised an exception for the item at `index`; `error` is its traceback.

    `index` is `None` for an engine that does not report it.

    >>> print(ItemFailed(7, "ValueError: not an image"))
    item 7 failed: ValueError: not an image
    """

    index: int | None
    what: str
    error: str = field(default="", compare=False)

    def __str__(self) -> str:
        item = "an item" if self.index is None else f"item {self.index:,}"
        return self._say(f"{item} failed: {self.what}" + (f"\n{self.error}" if self.error else ""))

    def __repr__(self) -> str:
        return f"ItemFailed({self.index}, {self.what!r})"


@dataclass(frozen=True)
class WorkerLost(Fault):
    """A worker process was killed or crashed while it loaded the item at `index`.

    >>> print(WorkerLost(7, exit_code=-9))
    a worker was killed by signal 9 while it loaded item 7; ...
    """

    index: int
    exit_code: int | None

    def __str__(self) -> str:
        code = self.exit_code
        how = "ended" if code is None else f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
        why = (
            "a machine that runs out of memory kills workers: use fewer, or smaller batches"
            if code is None or code < 0
            else "its standard error says why; a script that starts processes does its own work under "
            'if __name__ == "__main__":'
        )
        return self._say(f"a worker {how} while it loaded item {self.index:,}; {why}")


@dataclass(frozen=True)
class NotPicklable(Fault):
    """An object cannot be sent to a worker process: it was defined inside a function, or holds a handle of this process.

    >>> print(NotPicklable("a transform", "it is a lambda"))
    expected a transform that can be sent to a worker process, got: it is a lambda; ...
    """

    what: str
    reason: str

    def __str__(self) -> str:
        return self._say(
            f"expected {self.what} that can be sent to a worker process, got: {self.reason}; "
            "define it at the top level of a module that can be imported, or use workers=threads(n), which pickle nothing"
        )


@dataclass(frozen=True)
class HiddenRandomness(Fault):
    """An item of a loader with workers draws random numbers from `source`, of which each worker has a copy, or which all share.

    `index` is the first row of the batch.

    >>> print(HiddenRandomness(32, "numpy.random"))
    expected items that are functions of their row, ...
    """

    index: int
    source: str

    def __str__(self) -> str:
        return self._say(
            f"expected items that are functions of their row, got random numbers drawn from {self.source} in the batch that "
            f"begins with item {self.index:,}; workers would repeat them, or draw them in an arbitrary order: draw them in "
            "augment=lambda generator, item: ..., whose generator is a function of the seed and the row, or use workers=0"
        )


@dataclass(frozen=True)
class ResourceExhausted(Fault):
    """The operating system refuses more of a resource: open files, memory, processes.

    >>> print(ResourceExhausted("open files", "Too many open files"))
    the system has no more open files (Too many open files); use fewer workers or loaders at once, ...
    """

    what: str
    reason: str

    def __str__(self) -> str:
        return self._say(
            f"the system has no more {self.what} ({self.reason}); use fewer workers or loaders at once, or raise the limit"
        )


@dataclass(frozen=True)
class BufferReused(Fault):
    """A producer wrote a batch into the memory of an earlier one that is still in use.

    >>> print(BufferReused("features"))
    expected each batch in its own memory, ...
    """

    leaf: str = ""

    def __str__(self) -> str:
        leaf = f" ({self.leaf})" if self.leaf else ""
        return self._say(
            f"expected each batch in its own memory, got one{leaf} that overwrites an earlier one that is still in use; "
            "let the producer return a copy"
        )


@dataclass(frozen=True)
class NotRereadable(Fault):
    """A source that can be read only once was asked for another position than its next.

    >>> print(NotRereadable(wanted=0, at=2))
    expected position 2, the next of this source, got 0: it can be read only once, in order; ...
    """

    wanted: Any
    at: Any

    def __str__(self) -> str:
        return self._say(
            f"expected position {self.at}, the next of this source, got {self.wanted}: it can be read only once, in order; "
            "make the stream from a source that can be opened again"
        )


LoadFault = (
    ResourceExhausted | HiddenRandomness | ItemFailed | WorkerLost | NotPicklable | ShapeMismatch | DtypeMismatch | EmptyEpoch
)
"""The faults of a loader."""
