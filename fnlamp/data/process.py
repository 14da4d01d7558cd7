"""Worker processes, seen from the process that asks them."""

from __future__ import annotations

import itertools
import multiprocessing
import select
import threading
import time
from collections.abc import Sequence
from dataclasses import fields
from multiprocessing.context import ForkServerContext
from multiprocessing.reduction import send_handle
from typing import Any, Final

from returns.result import Failure, Result

from fnlamp.arrays import Tree
from fnlamp.data.load import Load
from fnlamp.data.serve import Request, serve
from fnlamp.data.shared import Layout, Shared
from fnlamp.data.workers import Job, Workers
from fnlamp.fault import Fault, FaultError, NotPicklable, WorkerLost

_PATIENCE: Final = 1.0  # seconds that workers get to end by themselves


class Processes(Workers):
    """Worker processes, each with a pipe for short messages and shared memory for batches."""

    def __init__(self, count: int) -> None:
        self.count = count
        # A plain fork copies locks that JAX's threads hold; spawning imports everything again for each worker.
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["__main__", "fnlamp.data.serve", "PIL.Image"])
        self.tickets = itertools.count()
        self.lock = threading.RLock()  # loaders that share workers may be read by different threads
        self.workers: list[_Worker] = []
        try:
            for _ in range(count):
                self.workers.append(_Worker(self.context))
        except BaseException:
            self.close()
            raise

    def start(self, load: Load) -> Job:
        with self.lock:
            for i, worker in enumerate(self.workers):
                if worker.gone():  # a loader before this one was told
                    worker.hang_up()
                    worker.end(time.monotonic())
                    self.workers[i] = _Worker(self.context)
            return _ProcessJob(self, load)

    def close(self) -> None:
        for worker in self.workers:
            worker.hang_up()
        end = time.monotonic() + _PATIENCE
        for worker in self.workers:
            worker.end(end)


class _ProcessJob(Job):
    def __init__(self, pool: Processes, load: Load) -> None:
        self.pool = pool
        self.number = next(pool.tickets)
        self.asked: dict[int, _Worker] = {}
        block = Shared()
        try:
            layouts = _packed(block, load)
            for worker in pool.workers:
                worker.send(("job", self.number, layouts), block)
        finally:
            block.close()  # the workers have it open

    def request(self, rows: Sequence[int]) -> int:
        with self.pool.lock:
            for worker in self.pool.workers:
                worker.receive(0)
            worker = min(self.pool.workers, key=lambda worker: len(worker.unanswered))
            ticket = next(self.pool.tickets)
            self.asked[ticket] = worker
            worker.request(self.number, ticket, rows)
            return ticket

    def take(self, ticket: int) -> Result[Tree, Fault]:
        worker = self.asked.pop(ticket)
        while True:
            with self.pool.lock:
                if (outcome := worker.outcome(ticket)) is not None:
                    return outcome
                worker.receive(None)

    def drop(self, ticket: int) -> None:
        with self.pool.lock:
            self.asked.pop(ticket).drop(ticket)

    def close(self) -> None:
        with self.pool.lock:
            for ticket in [*self.asked]:
                self.drop(ticket)
            for worker in self.pool.workers:
                worker.send(("end", self.number))


class _Worker:
    """One process, the batches that it was asked for, and the memory that they come in."""

    def __init__(self, context: ForkServerContext) -> None:
        self.unanswered: dict[int, Request] = {}
        self.answered: dict[int, tuple[int, Layout | None]] = {}
        self.unwanted: set[int] = set()
        self.slots: list[Shared] = []
        self.free: list[int] = []
        self.lost: WorkerLost | None = None
        self.progress_block = Shared()
        self.progress = self.progress_block.counters()
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs,), daemon=True, name="fnlamp-worker")
        try:
            self.process.start()
        except BaseException:
            self.connection.close()
            self.progress_block.close()
            raise
        finally:
            theirs.close()
        self.poll = select.poll()
        self.poll.register(self.connection.fileno(), select.POLLIN)
        self.poll.register(self.process.sentinel, select.POLLIN)
        self.send(None, self.progress_block)

    def send(self, message: Any, block: Shared | None = None) -> None:
        """A message, if any, and then a block of memory, if any. To a lost worker nothing is sent."""
        try:
            if message is not None:
                self.connection.send(message)
            if block is not None:
                send_handle(self.connection, block.fd, self.process.pid)
        except OSError:
            pass  # it is found to be lost when it is listened to

    def request(self, job: int, ticket: int, rows: Sequence[int]) -> None:
        if not self.free:
            self.free.append(len(self.slots))
            self.slots.append(Shared())
            self.send(("slot", self.free[0]), self.slots[-1])
        self.unanswered[ticket] = Request(job, ticket, self.free.pop(), rows)
        self.send(self.unanswered[ticket])

    def receive(self, timeout: int | None) -> None:
        """Take the answers that are there, or wait for one."""
        while self.lost is None and self.unanswered:
            events = self.poll.poll(timeout)
            if not events:
                return
            try:
                if all(fd != self.connection.fileno() for fd, _ in events):
                    raise EOFError
                ticket, layout = self.connection.recv()
            except (EOFError, OSError):
                self.lost = self._loss()
                return
            slot = self.unanswered.pop(ticket).slot
            self.answered[ticket] = (slot, layout)
            if ticket in self.unwanted:
                self.unwanted.discard(ticket)
                self.free.append(self.answered.pop(ticket)[0])
            timeout = 0

    def outcome(self, ticket: int) -> Result[Tree, Fault] | None:
        """What became of a batch; `None` if that is not known yet."""
        if ticket in self.answered:
            slot, layout = self.answered.pop(ticket)
            self.free.append(slot)
            outcome: Result[Tree, Fault] = self.slots[slot].read(layout or [])
            return outcome
        return None if self.lost is None else Failure(self.lost)

    def drop(self, ticket: int) -> None:
        if ticket in self.answered:
            self.free.append(self.answered.pop(ticket)[0])
        else:
            self.unwanted.add(ticket)
            self.send(("drop", ticket))

    def gone(self) -> bool:
        return self.lost is not None or not self.process.is_alive()

    def _loss(self) -> WorkerLost:
        """Which row it was at: the one that it wrote down, or the first one that it had not begun."""
        self.process.join(_PATIENCE)
        row, ticket = self.progress[0], self.progress[1]
        if ticket not in self.unanswered:
            row = next(iter(self.unanswered.values())).rows[0]
        return WorkerLost(int(row), self.process.exitcode)

    def hang_up(self) -> None:
        self.connection.close()
        if self.unanswered:  # it may be inside a long item
            self.process.terminate()

    def end(self, deadline: float) -> None:
        self.process.join(max(deadline - time.monotonic(), 0))
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        self.process.close()
        self.progress.release()
        for block in (self.progress_block, *self.slots):
            block.close()


def _packed(block: Shared, load: Load) -> dict[str, Layout]:
    names = [field.name for field in fields(load)]
    try:
        return dict(zip(names, block.write(*(getattr(load, name) for name in names)), strict=True))
    except Exception:
        for name in names:
            try:
                block.write(getattr(load, name))
            except Exception as error:
                raise FaultError(NotPicklable(name, f"{type(error).__name__}: {error}")) from error
        raise
