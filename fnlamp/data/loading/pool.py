"""Who loads: what threads and processes have in common."""

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
"""Seconds that the release of a loader waits for the items that threads are reading."""


class Job(ABC):
    """What workers do for one loader. It may be released by one thread while another one waits for a batch."""

    closed: bool

    @abstractmethod
    def request(self, rows: Sequence[int]) -> Any:
        """Ask for the batch of these rows, without waiting; what is returned claims it."""

    @abstractmethod
    def take(self, ticket: Any) -> Result[Tree, Fault]:
        """Wait for a batch that was asked for. A batch can be taken once."""

    @abstractmethod
    def drop(self, ticket: Any) -> None:
        """A batch that was asked for is not wanted any more."""

    @abstractmethod
    def close(self, part: float = 1.0) -> None:
        """The loader is released; what has to be waited for has a part of the patience."""

    def check_open(self) -> None:
        """Raises: `RuntimeError` after the release."""
        if self.closed:
            raise RuntimeError("a loader's stream was used after it had been released")


class Workers(ABC):
    """Processes or threads that load for any number of loaders, made with `processes(n)` or `threads(n)`."""

    count: int

    @abstractmethod
    def start(self, load: Load) -> Job:
        """Begin to work for a loader.  Fails: `NotPicklable`, from processes."""

    @abstractmethod
    def close(self) -> None:
        """End all of them."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.count}>"


def at_least_one(count: int) -> int:
    count = whole("count", count, None)
    if count < 1:
        raise ValueError(f"expected a count of at least 1 worker, got {count}")
    return count


@contextlib.contextmanager
def limited(what: str) -> Iterator[None]:
    """Raises: `FaultError` of a `ResourceExhausted`, where the system gives no more."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOSPC):
            raise
        raise FaultError(ResourceExhausted(what, str(error.strerror))) from error


def each(function: Callable[[A], object], items: Sequence[A]) -> None:
    """Call it for all of them, also where it raises for one."""
    for i, item in enumerate(items):
        try:
            function(item)
        except BaseException:
            each(function, items[i + 1 :])
            raise
