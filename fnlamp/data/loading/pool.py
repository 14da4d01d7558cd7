"""The common interface of worker threads and processes."""

from __future__ import annotations

import contextlib
import errno
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

from returns.result import Result

from fnlamp.arrays import Tree
from fnlamp.data.loading.load import Load
from fnlamp.fault import Fault, FaultError, ResourceExhausted
from fnlamp.given import whole

A = TypeVar("A")

PATIENCE: Final = 5.0
"""Seconds that the release of a loader waits for items that threads are loading."""


class Job(ABC):
    """The work for one loader. One thread may release it while another one waits for a batch."""

    closed: bool

    @abstractmethod
    def request(self, rows: Sequence[int]) -> Any:
        """Request the batch of these rows without waiting; returns its ticket."""

    @abstractmethod
    def take(self, ticket: Any) -> Result[Tree, Fault]:
        """Wait for a requested batch. Each batch can be taken once."""

    @abstractmethod
    def drop(self, ticket: Any) -> None:
        """Cancel the request for a batch."""

    @abstractmethod
    def close(self, part: float = 1.0) -> None:
        """Release the loader; waits take at most `part` of `PATIENCE`."""

    def check_open(self) -> None:
        """Raises: `RuntimeError` after the release."""
        if self.closed:
            raise RuntimeError("a loader's stream was used after it had been released")


class Workers(ABC):
    """Processes or threads that serve any number of loaders, from `processes(n)` or `threads(n)`."""

    count: int

    @abstractmethod
    def start(self, load: Load) -> Job:
        """Start the work for a loader.  Fails: `NotPicklable`, from processes."""

    @abstractmethod
    def close(self) -> None:
        """End all workers."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.count}>"


def at_least_one(count: int) -> int:
    count = whole("count", count, None)
    if count < 1:
        raise ValueError(f"expected a count of at least 1 worker, got {count}")
    return count


@contextlib.contextmanager
def limited(what: str) -> Iterator[None]:
    """Turns an `OSError` about limits of the system into a fault.  Fails: `ResourceExhausted`."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOSPC):
            raise
        raise FaultError(ResourceExhausted(what, str(error.strerror))) from error


def each(function: Callable[[A], object], items: Sequence[A]) -> None:
    """Call the function for every item, even if it raises for one."""
    for i, item in enumerate(items):
        try:
            function(item)
        except BaseException:  # an interruption too: the other items are released before it is raised again
            each(function, items[i + 1 :])
            raise
