"""Who loads: the processes or threads that loaders share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Never

from returns.result import Result

from fnlamp.arrays import Tree
from fnlamp.data.load import Load
from fnlamp.effect import Effect, Resource
from fnlamp.fault import Fault


class Job(ABC):
    """What workers do for one loader."""

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
    def close(self) -> None:
        """The loader is released."""


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


def processes(count: int) -> Resource[Workers, Never]:
    """Worker processes to share between loaders and epochs: started once, ended when the resource is released.

    They begin as copies of a small server process that has imported fnlamp and has no threads (the "forkserver" of Python's
    multiprocessing), so a script that uses them keeps its own work under `if __name__ == "__main__":`. Python ends the server
    with the program. A data set and functions are sent to them: write functions at the top of a module.
    """
    _at_least_one(count)

    def acquire() -> Workers:
        from fnlamp.data.process import Processes

        return Processes(count)

    return Resource.make(Effect.suspend(acquire), lambda workers, _: Effect.suspend(workers.close))


def threads(count: int) -> Resource[Workers, Never]:
    """Worker threads to share between loaders and epochs.

    Nothing is sent to them, so any function will do; they help where the work is done outside of Python's lock: reading,
    waiting, decoding images.

    >>> from fnlamp.data import loader
    >>> items = [(i / 10, i) for i in range(5)]
    >>> program = threads(2).use(lambda team: loader(items, batch_size=2, workers=team).use(stream.to_list))
    >>> program.map(lambda batches: [labels.tolist() for _, labels in batches]).run()
    <IOResult: <Success: [[0, 1], [2, 3], [4]]>>
    """
    _at_least_one(count)
    return Resource.make(Effect.suspend(lambda: Threads(count)), lambda workers, _: Effect.suspend(workers.close))


def _at_least_one(count: int) -> None:
    if count < 1:
        raise ValueError(f"expected at least 1 worker, got {count}")


class Threads(Workers):
    """Worker threads."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.executor = ThreadPoolExecutor(count, "fnlamp-worker")

    def start(self, load: Load) -> Job:
        return _ThreadJob(self.executor, load)

    def close(self) -> None:
        self.executor.shutdown(cancel_futures=True)


class _ThreadJob(Job):
    def __init__(self, executor: ThreadPoolExecutor, load: Load) -> None:
        self.executor = executor
        self.load = load
        self.asked: set[Future[Result[Tree, Fault]]] = set()

    def request(self, rows: Sequence[int]) -> Any:
        future = self.executor.submit(self.load, rows)
        self.asked.add(future)
        return future

    def take(self, ticket: Any) -> Result[Tree, Fault]:
        self.asked.discard(ticket)
        outcome: Result[Tree, Fault] = ticket.result()
        return outcome

    def drop(self, ticket: Any) -> None:
        self.asked.discard(ticket)
        ticket.cancel()

    def close(self) -> None:
        for future in self.asked:
            future.cancel()
