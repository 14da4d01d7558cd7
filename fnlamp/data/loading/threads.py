"""Worker threads: they take any function, and help if the work releases the GIL."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any, Never

from returns.result import Result

from fnlamp.arrays import Tree
from fnlamp.data.loading.chance import Watched
from fnlamp.data.loading.load import Load
from fnlamp.data.loading.pool import PATIENCE, Job, Workers, at_least_one
from fnlamp.effect import Effect, Resource
from fnlamp.effect.runtime import GLANCE, polled
from fnlamp.effect.signals import Bell
from fnlamp.fault import Fault


def threads(count: int) -> Resource[Workers, Never]:
    """Worker threads to share between loaders and epochs.

    Nothing is pickled, so they take any function; they help if the work releases the GIL: reading, waiting, decoding images.
    A thread cannot be stopped inside an item: a release waits some seconds for items that are being loaded, then abandons them.

    >>> from fnlamp.data import loader
    >>> items = [(i / 10, i) for i in range(5)]
    >>> program = threads(2).use(lambda team: loader(items, batch_size=2, workers=team).use(stream.to_list))
    >>> program.map(lambda batches: [labels.tolist() for _, labels in batches]).run()
    <IOResult: <Success: [[0, 1], [2, 3], [4]]>>
    """
    count = at_least_one(count)
    return Resource.make(Effect.suspend(lambda: Threads(count)), lambda workers, _: Effect.suspend(workers.close))


class Threads(Workers):
    """Worker threads, as daemons: one that is stuck in an item does not keep the process alive, as an executor's would."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.queue: SimpleQueue[_Task | None] = SimpleQueue()
        self.threads: list[threading.Thread] = []
        try:
            for _ in range(count):
                thread = threading.Thread(target=self._work, name="fnlamp-worker", daemon=True)
                thread.start()
                self.threads.append(thread)
        except BaseException:  # an interruption too: the caller does not have the threads yet, to end them
            self.close()
            raise

    def start(self, load: Load) -> Job:
        return _ThreadJob(self.queue, load)

    def close(self) -> None:
        for _ in self.threads:
            self.queue.put(None)
        end = time.monotonic() + 1  # jobs waited for their items already
        for thread in self.threads:
            thread.join(max(end - time.monotonic(), 0))

    def _work(self) -> None:
        while (task := self.queue.get()) is not None:
            task.run()


class _Released(BaseException):
    """The loader was released while a batch was being loaded."""


class _At(list[int]):
    """The progress of a batch; setting it raises once the loader is released, so that no further item is loaded."""

    def __init__(self, job: _ThreadJob) -> None:
        super().__init__([0])
        self.job = job

    def __setitem__(self, place: Any, row: Any) -> None:
        if self.job.closed:
            raise _Released
        super().__setitem__(place, row)


class _Task:
    """One batch for a thread to load. Its bell is a lock in C, so that no signal leaves it half acquired."""

    def __init__(self, job: _ThreadJob, rows: Sequence[int]) -> None:
        self.job, self.rows = job, rows
        self.answer: Any = None
        self.begun = self.cancelled = False
        self.done = Bell()

    def run(self) -> None:
        with self.job.lock:
            if self.cancelled:
                return
            self.begun = True
        try:
            self.answer = self.job.load(self.rows, _At(self.job))
        except BaseException as error:  # such as sys.exit(): raised where the batch is taken
            self.answer = error
        self.job.unfinished.discard(self)
        self.done.ring()

    def cancel(self) -> bool:
        """Cancel the task; `False` if it has started."""
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
        self.unfinished: set[_Task] = set()  # dropped ones that are running too

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
            if ticket.done.wait(GLANCE):
                outcome = ticket.answer
            else:
                polled.check()
        if not isinstance(outcome, BaseException):
            return outcome  # type: ignore[no-any-return]
        if isinstance(outcome, _Released):
            self.check_open()
        raise outcome

    def drop(self, ticket: Any) -> None:
        ticket.cancel()

    def close(self, part: float = 1.0) -> None:
        """Wait for the items that are being loaded, so that their data set can be released after this; no others are started.

        An item that takes longer is abandoned: its thread loads it to the end, and nothing after it.
        """
        self.closed = True
        end = time.monotonic() + part * PATIENCE
        for task in [task for task in [*self.unfinished] if not task.cancel()]:
            task.done.wait(end - time.monotonic())
