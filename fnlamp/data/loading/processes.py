"""Worker processes, as the parent process handles them."""

from __future__ import annotations

import itertools
import multiprocessing
import select
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import fields
from multiprocessing import process
from multiprocessing.context import ForkServerContext
from typing import Final

from returns.result import Failure, Result

from fnlamp.arrays import Tree
from fnlamp.data.loading.channel import Outbox
from fnlamp.data.loading.load import Load
from fnlamp.data.loading.pool import PATIENCE, Job, Workers, at_least_one, each, limited
from fnlamp.data.loading.serve import Request, serve
from fnlamp.data.loading.server import check_room, no_main_without_file, start_server
from fnlamp.data.loading.shared import Layout, Shared
from fnlamp.effect import Effect, Resource
from fnlamp.effect.runtime import polled
from fnlamp.effect.signals import shielded
from fnlamp.fault import Fault, FaultError, NotPicklable, ResourceExhausted, WorkerLost

_PATIENCE: Final = 1.0  # seconds for workers to end by themselves
_GLANCE: Final = 20  # milliseconds between two checks of a wait: the run may be over, or another thread have read the answer


def processes(count: int) -> Resource[Workers, ResourceExhausted]:
    """Worker processes to share between loaders and epochs: started once, ended when the resource is released.

    They are forked from a small server process that has imported fnlamp and has no threads (the "forkserver" of Python's
    multiprocessing), so a script that uses them keeps its own work under `if __name__ == "__main__":`. Python ends the server
    with the program. Data sets and functions are pickled: define functions at the top of a module.
    """
    count = at_least_one(count)
    return Resource.make(Effect.checked(lambda: Processes(count)), lambda workers, _: Effect.suspend(workers.close))


class Processes(Workers):
    """Worker processes, each with a pipe for short messages and shared memory for batches."""

    def __init__(self, count: int) -> None:
        if getattr(process.current_process(), "_inheriting", False):
            sys.exit(1)  # a worker that imports the main module got here: the parent's fault says what is missing
        self.count = count
        # A plain fork copies locks held by JAX's threads; spawning imports everything again for each worker.
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["fnlamp.data.loading.forked", "fnlamp.data.loading.serve", "PIL.Image"])
        self.tickets = itertools.count()
        # Different threads may read loaders that share workers. No thread waits for a worker while it holds the lock.
        self.lock = threading.RLock()
        self.jobs: list[_ProcessJob] = []
        self.workers: list[_Worker] = []
        try:
            with limited("open files or processes"):
                start_server()
                for _ in range(count):
                    self.workers.append(_Worker(self.context))
        except BaseException:  # an interruption too: the caller does not have the workers yet, to end them
            self.close()
            raise

    def start(self, load: Load) -> Job:
        with limited("open files or processes"):
            return self._start(load)

    def _start(self, load: Load) -> Job:
        job = _ProcessJob(self, load)
        try:
            with self.lock:
                for worker in [*self.workers]:
                    if worker.gone():  # its own requests fail with the loss
                        worker.receive()
                        self._replace(worker)
                self.jobs.append(job)
                for worker in self.workers:
                    worker.open(job)
        except BaseException:  # an interruption too: the caller does not have the job yet, to close it
            job.close()
            raise
        return job

    def relieve(self) -> None:
        """Replace workers that are stuck in a cancelled request; their other requests are kept."""
        for worker in [*self.workers]:
            if worker.stuck():
                self._replace(worker)

    def _replace(self, old: _Worker) -> None:
        new = _Worker(self.context)
        self.workers[self.workers.index(old)] = new
        for job in self.jobs:
            new.open(job)
            for ticket, worker in job.asked.items():
                if worker is old and old.lost is None and (request := old.unanswered.pop(ticket, None)) is not None:
                    new.request(job.number, ticket, old.slots[request.slot].read(request.rows))
                    job.asked[ticket] = new
        old.hang_up()
        old.end(time.monotonic())

    def close(self) -> None:
        with self.lock:
            each(_Worker.hang_up, self.workers)
            end = time.monotonic() + _PATIENCE
            each(lambda worker: worker.end(end), self.workers)


class _ProcessJob(Job):
    def __init__(self, pool: Processes, load: Load) -> None:
        self.pool = pool
        self.number = next(pool.tickets)
        self.asked: dict[int, _Worker] = {}
        self.closed = False
        self.block = Shared()  # kept for workers that start later
        try:
            self.layouts = _packed(self.block, load)
        except BaseException:  # an interruption too: the caller does not have the memory yet, to release it
            self.block.close()
            raise

    def request(self, rows: Sequence[int]) -> int:
        with shielded(), self.pool.lock, limited("open files"):
            self.check_open()
            self.pool.relieve()
            for worker in self.pool.workers:
                worker.receive()
            worker = min(self.pool.workers, key=lambda worker: len(worker.unanswered))
            ticket = next(self.pool.tickets)
            worker.request(self.number, ticket, rows)
            self.asked[ticket] = worker
            return ticket

    def take(self, ticket: int) -> Result[Tree, Fault]:
        while True:
            with shielded(), self.pool.lock:
                self.check_open()
                self.pool.relieve()
                worker = self.asked[ticket]
                worker.receive()
                outcome = worker.outcome(ticket)
                if outcome is not None:
                    del self.asked[ticket]
            if outcome is not None:
                if worker.lost is not None and worker.lost.exit_code in _STOPPED:
                    _hear()
                return outcome
            polled.check()
            worker.polling().poll(_GLANCE)

    def drop(self, ticket: int) -> None:
        with shielded(), self.pool.lock:
            if (worker := self.asked.pop(ticket, None)) is not None:
                worker.drop(ticket)

    def close(self, part: float = 1.0) -> None:
        with shielded(), self.pool.lock:
            self.closed = True
            for ticket, worker in self.asked.items():
                worker.drop(ticket)
            self.asked.clear()
            if self in self.pool.jobs:
                self.pool.jobs.remove(self)
            for worker in self.pool.workers:
                worker.forget(self)
            self.block.close()


class _Worker:
    """One process, its requests, and the memory for their batches."""

    def __init__(self, context: ForkServerContext) -> None:
        self.unanswered: dict[int, Request] = {}
        self.answered: dict[int, tuple[int, Layout | Fault | None]] = {}
        self.unwanted: dict[int, float] = {}  # ticket to time of cancellation
        self.slots: list[Shared] = []
        self.free: list[int] = []
        self.lost: WorkerLost | None = None
        check_room()
        self.progress_block = Shared()
        self.progress = self.progress_block.counters()
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs,), daemon=True, name="fnlamp-worker")
        try:
            with no_main_without_file():
                self.process.start()
        except BaseException:  # an interruption too: the caller does not have the worker yet, to close it
            self.connection.close()
            self.progress_block.close()
            raise
        finally:
            theirs.close()
        self.outbox = Outbox(self.connection)
        self.ended = False
        self.fds = self.connection.fileno(), self.process.sentinel
        self.poll = self.polling()
        self.outbox.put(None, self.progress_block.fd)

    def open(self, job: _ProcessJob) -> None:
        self.outbox.put(("job", job.number, job.layouts), job.block.fd, job.number)

    def forget(self, job: _ProcessJob) -> None:
        if not self.outbox.forget(job.number):
            self.outbox.put(("end", job.number))

    def stuck(self) -> bool:
        """Whether it has spent `PATIENCE` seconds on a cancelled request."""
        since = self.unwanted.get(int(self.progress[1])) if self.unwanted and not self.ended else None
        return since is not None and time.monotonic() - since > PATIENCE

    def request(self, job: int, ticket: int, rows: Sequence[int]) -> None:
        if not self.free:
            self.free.append(len(self.slots))
            self.slots.append(Shared())
            self.outbox.put(("slot", self.free[0]), self.slots[-1].fd)
        slot = self.free.pop()
        (layout,) = self.slots[slot].write(rows)  # not through the pipe: a full one blocks the writer
        self.unanswered[ticket] = Request(job, ticket, slot, rows[0], layout)
        self.outbox.put(self.unanswered[ticket])

    def polling(self) -> select.poll:
        """A poll for an answer or the end of the process; each waiting thread needs its own."""
        poll = select.poll()
        for fd in self.fds:
            poll.register(fd, select.POLLIN)
        return poll

    def receive(self) -> None:
        """Read the available answers."""
        self.outbox.flush()
        while self.lost is None and self.unanswered:
            events = self.poll.poll(0)
            if not events:
                return
            try:
                if all(fd != self.fds[0] for fd, _ in events):
                    raise EOFError
                ticket, answer = self.connection.recv()
            except (EOFError, OSError):
                self.lost = self._loss()
                return
            slot = self.unanswered.pop(ticket).slot
            if self.unwanted.pop(ticket, None) is not None:
                self.free.append(slot)
            else:
                self.answered[ticket] = slot, answer

    def outcome(self, ticket: int) -> Result[Tree, Fault] | None:
        """The outcome of a batch; `None` if it is not known yet."""
        if ticket in self.answered:
            slot, answer = self.answered[ticket]
            outcome: Result[Tree, Fault] = Failure(answer) if isinstance(answer, Fault) else self.slots[slot].read(answer or [])
            del self.answered[ticket]
            self._free(slot)
            return outcome
        return None if self.lost is None else Failure(self.lost)

    def drop(self, ticket: int) -> None:
        if ticket in self.answered:
            self._free(self.answered.pop(ticket)[0])
        elif self.lost is None:
            self.unwanted[ticket] = time.monotonic()
            self.outbox.put(("drop", ticket))

    def _free(self, slot: int) -> None:
        if self.ended:
            self.slots[slot].close()
        else:
            self.free.append(slot)

    def gone(self) -> bool:
        return self.lost is not None or not self.process.is_alive()

    def _loss(self) -> WorkerLost:
        """The loss, with the row at which it happened: the one in `progress`, or the first of the oldest request."""
        self.process.join(_PATIENCE)
        row, ticket = self.progress[0], self.progress[1]
        if ticket not in self.unanswered:
            row = next(iter(self.unanswered.values())).first
        return WorkerLost(int(row), self.process.exitcode)

    def hang_up(self) -> None:
        self.outbox.close()
        self.connection.close()
        if self.unanswered:  # it may be inside a long item
            self.process.kill()

    def end(self, deadline: float) -> None:
        """Wait for the process, and release everything but answers that are not taken yet."""
        try:
            self.process.join(max(deadline - time.monotonic(), 0))
        finally:
            if self.process.exitcode is None:
                self.process.kill()
                self.process.join()
            self._give_back()

    def _give_back(self) -> None:
        self.process.close()
        self.progress.release()
        self.progress_block.close()
        self.ended = True
        kept = {slot for slot, _ in self.answered.values()}
        for slot, block in enumerate(self.slots):
            if slot not in kept:
                block.close()


_STOPPED: Final = (1, -signal.SIGINT, -signal.SIGTERM)  # exit codes of a worker that a signal to all processes reached early


def _hear() -> None:
    """Wait for such a signal to arrive here too: then the run is interrupted, which is not a lost worker."""
    for _ in range(10):
        polled.check()
        time.sleep(_GLANCE / 1000)


def _packed(block: Shared, load: Load) -> dict[str, Layout]:
    names = [field.name for field in fields(load)]
    try:
        return dict(zip(names, block.write(*(getattr(load, name) for name in names)), strict=True))
    except Exception:  # pickling runs the objects' own code; try each object to find the one that fails
        for name in names:
            try:
                block.write(getattr(load, name))
            except Exception as error:  # as above
                raise FaultError(NotPicklable(name, f"{type(error).__name__}: {error}")) from error
        raise
