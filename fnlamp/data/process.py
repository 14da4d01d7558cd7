"""Worker processes, seen from the process that asks them."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import select
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from multiprocessing import process
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
_GLANCE: Final = 20  # milliseconds after which who waits looks up: what it waits for may be over, or taken in by another thread


class Processes(Workers):
    """Worker processes, each with a pipe for short messages and shared memory for batches."""

    def __init__(self, count: int) -> None:
        if getattr(process.current_process(), "_inheriting", False):
            sys.exit(1)  # a worker that runs the program to import it: the fault of who started it says what is missing
        self.count = count
        # A plain fork copies locks that JAX's threads hold; spawning imports everything again for each worker.
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["fnlamp.data.serve", "PIL.Image"])
        self.tickets = itertools.count()
        # Loaders that share workers may be read by different threads. Nobody waits for a worker and holds the lock.
        self.lock = threading.RLock()
        self.jobs: list[_ProcessJob] = []
        self.workers: list[_Worker] = []
        try:
            for _ in range(count):
                self.workers.append(_Worker(self.context))
        except BaseException:  # an interruption too: nobody else has these yet, to end them
            self.close()
            raise

    def start(self, load: Load) -> Job:
        job = _ProcessJob(self, load)
        try:
            with self.lock:
                for i, worker in enumerate(self.workers):
                    if worker.gone():  # who asked it is told
                        worker.receive()
                        self.workers[i] = _Worker(self.context)
                        worker.hang_up()
                        worker.end(time.monotonic())
                        for other in self.jobs:
                            self.workers[i].open(other)
                self.jobs.append(job)
                for worker in self.workers:
                    worker.open(job)
        except BaseException:  # an interruption too: nobody else has the job yet, to close it
            job.close()
            raise
        return job

    def close(self) -> None:
        with self.lock:
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
        self.closed = False
        self.block = Shared()  # kept for workers that begin later
        try:
            self.layouts = _packed(self.block, load)
        except BaseException:  # an interruption too: nobody else has the memory yet, to give it back
            self.block.close()
            raise

    def request(self, rows: Sequence[int]) -> int:
        with self.pool.lock:
            self.check_open()
            for worker in self.pool.workers:
                worker.receive()
            worker = min(self.pool.workers, key=lambda worker: len(worker.unanswered))
            ticket = next(self.pool.tickets)
            self.asked[ticket] = worker
            worker.request(self.number, ticket, rows)
            return ticket

    def take(self, ticket: int) -> Result[Tree, Fault]:
        while True:
            with self.pool.lock:
                self.check_open()
                worker = self.asked[ticket]
                worker.receive()
                if (outcome := worker.outcome(ticket)) is not None:
                    del self.asked[ticket]
                    return outcome
            worker.polling().poll(_GLANCE)

    def drop(self, ticket: int) -> None:
        with self.pool.lock:
            self.check_open()
            self.asked.pop(ticket).drop(ticket)

    def close(self) -> None:
        with self.pool.lock:
            self.closed = True
            for ticket, worker in self.asked.items():
                worker.drop(ticket)
            self.asked.clear()
            if self in self.pool.jobs:
                self.pool.jobs.remove(self)
            for worker in self.pool.workers:
                worker.send(("end", self.number))
            self.block.close()


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
            with _no_main_without_file():
                self.process.start()
        except BaseException:  # an interruption too: nobody else has these yet, to close them
            self.connection.close()
            self.progress_block.close()
            raise
        finally:
            theirs.close()
        self.ended = False
        self.fds = self.connection.fileno(), self.process.sentinel
        self.poll = self.polling()
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

    def open(self, job: _ProcessJob) -> None:
        self.send(("job", job.number, job.layouts), job.block)

    def request(self, job: int, ticket: int, rows: Sequence[int]) -> None:
        if not self.free:
            self.free.append(len(self.slots))
            self.slots.append(Shared())
            self.send(("slot", self.free[0]), self.slots[-1])
        slot = self.free.pop()
        (layout,) = self.slots[slot].write(rows)  # not through the pipe: one that is full makes the writer wait
        self.unanswered[ticket] = Request(job, ticket, slot, rows[0], layout)
        self.send(self.unanswered[ticket])

    def polling(self) -> select.poll:
        """What waits for an answer or for the end; each thread that does needs its own."""
        poll = select.poll()
        for fd in self.fds:
            poll.register(fd, select.POLLIN)
        return poll

    def receive(self) -> None:
        """Take the answers that are there."""
        while self.lost is None and self.unanswered:
            events = self.poll.poll(0)
            if not events:
                return
            try:
                if all(fd != self.fds[0] for fd, _ in events):
                    raise EOFError
                ticket, layout = self.connection.recv()
            except (EOFError, OSError):
                self.lost = self._loss()
                return
            slot = self.unanswered.pop(ticket).slot
            if ticket in self.unwanted:
                self.unwanted.discard(ticket)
                self.free.append(slot)
            else:
                self.answered[ticket] = slot, layout

    def outcome(self, ticket: int) -> Result[Tree, Fault] | None:
        """What became of a batch; `None` if that is not known yet."""
        if ticket in self.answered:
            slot, layout = self.answered.pop(ticket)
            outcome: Result[Tree, Fault] = self.slots[slot].read(layout or [])
            self._free(slot)
            return outcome
        return None if self.lost is None else Failure(self.lost)

    def drop(self, ticket: int) -> None:
        if ticket in self.answered:
            self._free(self.answered.pop(ticket)[0])
        elif self.lost is None:
            self.unwanted.add(ticket)
            self.send(("drop", ticket))

    def _free(self, slot: int) -> None:
        if self.ended:
            self.slots[slot].close()
        else:
            self.free.append(slot)

    def gone(self) -> bool:
        return self.lost is not None or not self.process.is_alive()

    def _loss(self) -> WorkerLost:
        """Which row it was at: the one that it wrote down, or the first one that it had not begun."""
        self.process.join(_PATIENCE)
        row, ticket = self.progress[0], self.progress[1]
        if ticket not in self.unanswered:
            row = next(iter(self.unanswered.values())).first
        return WorkerLost(int(row), self.process.exitcode)

    def hang_up(self) -> None:
        self.connection.close()
        if self.unanswered:  # it may be inside a long item
            self.process.terminate()

    def end(self, deadline: float) -> None:
        """Give everything back, but for answers that are not taken yet."""
        self.process.join(max(deadline - time.monotonic(), 0))
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        self.process.close()
        self.progress.release()
        self.progress_block.close()
        self.ended = True
        kept = {slot for slot, _ in self.answered.values()}
        for slot, block in enumerate(self.slots):
            if slot not in kept:
                block.close()


def _packed(block: Shared, load: Load) -> dict[str, Layout]:
    names = [field.name for field in fields(load)]
    try:
        return dict(zip(names, block.write(*(getattr(load, name) for name in names)), strict=True))
    except Exception:  # pickling runs the objects' own code; one by one, it is found out which of them fails
        for name in names:
            try:
                block.write(getattr(load, name))
            except Exception as error:
                raise FaultError(NotPicklable(name, f"{type(error).__name__}: {error}")) from error
        raise


@contextmanager
def _no_main_without_file() -> Iterator[None]:
    """A program that came through standard input names a file that is not there, and workers would try to run it."""
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    if file is None or os.path.exists(file):
        yield
        return
    del main.__file__
    try:
        yield
    finally:
        main.__file__ = file
