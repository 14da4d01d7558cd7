"""Who loads: the processes or threads that loaders share."""

from __future__ import annotations

import contextlib
import errno
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import Any, Final, Never, TypeVar

from returns.result import Result

from fnlamp.arrays import Tree
from fnlamp.data.chance import Watched
from fnlamp.data.load import Load
from fnlamp.effect import Effect, Resource
from fnlamp.effect.runtime import GLANCE, polled
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


def processes(count: int) -> Resource[Workers, ResourceExhausted]:
    """Worker processes to share between loaders and epochs: started once, ended when the resource is released.

    They begin as copies of a small server process that has imported fnlamp and has no threads (the "forkserver" of Python's
    multiprocessing), so a script that uses them keeps its own work under `if __name__ == "__main__":`. Python ends the server
    with the program. A data set and functions are sent to them: write functions at the top of a module.
    """
    count = _at_least_one(count)

    def acquire() -> Workers:
        from fnlamp.data.process import Processes

        return Processes(count)

    begun: Effect[Workers, ResourceExhausted] = Effect.attempt(acquire, FaultError, _exhausted)
    return Resource.make(begun, lambda workers, _: Effect.suspend(workers.close))


def _exhausted(error: FaultError) -> ResourceExhausted:
    return error.fault  # type: ignore[return-value]  # starting raises no other


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


def threads(count: int) -> Resource[Workers, Never]:
    """Worker threads to share between loaders and epochs.

    Nothing is sent to them, so any function will do; they help where the work is done outside of Python's lock: reading,
    waiting, decoding images. A thread cannot be stopped inside an item: a release waits some seconds for those that are being
    read, and then leaves them behind.

    >>> from fnlamp.data import loader
    >>> items = [(i / 10, i) for i in range(5)]
    >>> program = threads(2).use(lambda team: loader(items, batch_size=2, workers=team).use(stream.to_list))
    >>> program.map(lambda batches: [labels.tolist() for _, labels in batches]).run()
    <IOResult: <Success: [[0, 1], [2, 3], [4]]>>
    """
    count = _at_least_one(count)
    return Resource.make(Effect.suspend(lambda: Threads(count)), lambda workers, _: Effect.suspend(workers.close))


def _at_least_one(count: int) -> int:
    count = whole("count", count, None)
    if count < 1:
        raise ValueError(f"expected a count of at least 1 worker, got {count}")
    return count


class Threads(Workers):
    """Worker threads. One that is stuck in an item ends with the process, which an executor's would hold up."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.queue: SimpleQueue[_Task | None] = SimpleQueue()
        self.threads: list[threading.Thread] = []
        try:
            for _ in range(count):
                thread = threading.Thread(target=self._work, name="fnlamp-worker", daemon=True)
                thread.start()
                self.threads.append(thread)
        except BaseException:  # an interruption too: nobody else has these yet, to end them
            self.close()
            raise

    def start(self, load: Load) -> Job:
        return _ThreadJob(self.queue, load)

    def close(self) -> None:
        for _ in self.threads:
            self.queue.put(None)
        end = time.monotonic() + 1  # jobs were patient before
        for thread in self.threads:
            thread.join(max(end - time.monotonic(), 0))

    def _work(self) -> None:
        while (task := self.queue.get()) is not None:
            task.run()


class _Released(BaseException):
    """The loader was released while a batch was under way."""


class _At(list[int]):
    """Where a batch is: nothing more is read for a loader that was released."""

    def __init__(self, job: _ThreadJob) -> None:
        super().__init__([0])
        self.job = job

    def __setitem__(self, place: Any, row: Any) -> None:
        if self.job.closed:
            raise _Released
        super().__setitem__(place, row)


class _Task:
    """One batch that a thread is to load. Its queue and lock are the interpreter's own, which no signal leaves half taken."""

    def __init__(self, job: _ThreadJob, rows: Sequence[int]) -> None:
        self.job, self.rows = job, rows
        self.answer: SimpleQueue[Any] = SimpleQueue()
        self.begun = self.cancelled = False
        self.at_work = threading.Lock()
        self.at_work.acquire()

    def run(self) -> None:
        with self.job.lock:
            if self.cancelled:
                return
            self.begun = True
        try:
            self.answer.put(self.job.load(self.rows, _At(self.job)))
        except BaseException as error:  # such as sys.exit(): raised where the batch is asked for
            self.answer.put(error)
        self.job.unfinished.discard(self)
        self.at_work.release()

    def cancel(self) -> bool:
        """Whether it will not be begun."""
        with self.job.lock:
            self.cancelled = not self.begun
        if self.cancelled:
            self.job.unfinished.discard(self)
        return self.cancelled


class _ThreadJob(Job):
    def __init__(self, queue: SimpleQueue[_Task | None], load: Load) -> None:
        self.queue = queue
        self.load = Watched(load, alone=False)
        self.closed = False
        self.lock = threading.Lock()
        self.unfinished: set[_Task] = set()  # those that were dropped at work too

    def request(self, rows: Sequence[int]) -> Any:
        task = _Task(self, rows)
        with self.lock:
            self.check_open()
            self.unfinished.add(task)
        self.queue.put(task)
        return task

    def take(self, ticket: Any) -> Result[Tree, Fault]:
        outcome: Any = None
        while outcome is None:
            self.check_open()
            with contextlib.suppress(Empty):
                outcome = ticket.answer.get(timeout=GLANCE)
            if outcome is None:
                polled.check()
        if not isinstance(outcome, BaseException):
            return outcome  # type: ignore[no-any-return]
        if isinstance(outcome, _Released):
            self.check_open()
        raise outcome

    def drop(self, ticket: Any) -> None:
        ticket.cancel()

    def close(self, part: float = 1.0) -> None:
        """Wait for the items that are being read, so that their data set can be released after this; no others are begun.

        An item that takes longer than the patience is left alone: its thread reads it to the end, and nothing after it.
        """
        self.closed = True
        end = time.monotonic() + part * PATIENCE
        for task in [task for task in [*self.unfinished] if not task.cancel()]:
            task.at_work.acquire(timeout=max(end - time.monotonic(), 0))
