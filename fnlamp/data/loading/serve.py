"""What runs inside a worker process."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import os
import random
import signal
import sys
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import forkserver, parent_process
from multiprocessing.connection import Connection, wait
from typing import Any, Final

import numpy as np
from returns.result import Failure, Result

from fnlamp.data.loading.chance import Watched
from fnlamp.data.loading.channel import receive_fd
from fnlamp.data.loading.load import Load
from fnlamp.data.loading.shared import Layout, Shared
from fnlamp.fault import ItemFailed, NotPicklable, ResourceExhausted
from fnlamp.machine import keep_memory

_PR_SET_PDEATHSIG: Final = 1
IDLE: Final = -1  # in place of a ticket


def serve(connection: Connection) -> None:
    """Answer requests until the other end hangs up, or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal: the parent decides
    signal.signal(signal.SIGTERM, lambda number, frame: None)  # not ignored: a program that this one starts would inherit that
    _end_with_server()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    random.seed()  # a copied process would repeat the chance of its siblings
    np.random.seed()
    keep_memory()  # batch after batch takes as much: a third of the time of large images went into mapping it anew
    gc.freeze()  # what was imported before stays: the collector need not look at it
    counters = receive_fd(connection)
    if counters is None:
        return
    desk = _Desk(connection, Shared(counters).counters())
    try:
        while True:
            while connection.poll(None if not desk.queue else 0):
                desk.receive(connection.recv())
            desk.work()
    except (EOFError, OSError):
        return


def _end_with_server() -> None:
    """The system kills this process when the fork server ends, which ends with the program, also while an item holds the lock
    of the interpreter. Each copy of the server keeps a pipe to it open, without which it sees the program's end.
    """
    fd = getattr(forkserver._forkserver, "_forkserver_alive_fd", None)
    if fd is not None:
        os.close(fd)
        forkserver._forkserver._forkserver_alive_fd = None  # type: ignore[attr-defined]
    if sys.platform == "linux":
        with contextlib.suppress(Exception):  # a system without it has the thread below
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _end_with_parent() -> None:
    """A worker inside a long item does not look at its pipe."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


@dataclass(frozen=True)
class Request:
    """One batch to load: its first row, and the block of memory that all rows are in, and the batch is put into."""

    job: int
    ticket: int
    slot: int
    first: int
    rows: Layout


class _Desk:
    """What a worker has been given."""

    def __init__(self, connection: Connection, progress: memoryview) -> None:
        self.connection = connection
        self.progress = progress  # the row and the ticket that it is at
        self.progress[1] = IDLE
        self.slots: dict[int, Shared | None] = {}  # `None`: this process may have no more files
        self.jobs: dict[int, _Opened] = {}
        self.queue: deque[Request] = deque()

    def receive(self, message: Any) -> None:
        match message:
            case Request():
                self.queue.append(message)
            case ("slot", number):
                fd = receive_fd(self.connection)
                self.slots[number] = None if fd is None else Shared(fd)
            case ("job", number, layouts):
                fd = receive_fd(self.connection)
                self.jobs[number] = _Opened(None if fd is None else Shared(fd), layouts)
            case ("drop", ticket) if any(request.ticket == ticket for request in self.queue):
                self.queue = deque(request for request in self.queue if request.ticket != ticket)
                self.connection.send((ticket, None))
            case ("end", number) if number in self.jobs:
                self.jobs.pop(number).close()

    def work(self) -> None:
        """Load the batch that was asked for first."""
        request = self.queue.popleft()
        self.progress[0], self.progress[1] = request.first, request.ticket
        slot, job = self.slots[request.slot], self.jobs.get(request.job)
        if slot is None:
            self.connection.send((request.ticket, _NO_FILES))
            return
        if job is None:
            outcome: Result[Any, Any] = Failure(ItemFailed(request.first, "its loader has been released"))
        else:
            outcome = job(slot.read(request.rows), self.progress)
        layout = _written(slot, outcome)
        self.connection.send((request.ticket, layout))
        self.progress[1] = IDLE


_LAST: Final[dict[str, Any]] = {}  # the states of the process's own generators after the last batch
_NO_FILES: Final = ResourceExhausted("open files", os.strerror(errno.EMFILE))


class _Opened:
    """A job, unpacked when it is first needed."""

    def __init__(self, block: Shared | None, layouts: dict[str, Layout]) -> None:
        self.block = block
        self.layouts = layouts
        self.load: Watched | NotPicklable | ResourceExhausted | None = None if block is not None else _NO_FILES

    def __call__(self, rows: Sequence[int], progress: memoryview) -> Result[Any, Any]:
        if self.load is None:
            self.load = self._unpacked()
        return self.load(rows, progress) if isinstance(self.load, Watched) else Failure(self.load)

    def _unpacked(self) -> Watched | NotPicklable:
        assert self.block is not None
        parts = {}
        for name, layout in self.layouts.items():
            try:
                parts[name] = self.block.view(layout)
            except Exception as error:
                return NotPicklable(name, f"{type(error).__name__}: {error}")
        return Watched(Load(**parts), alone=True, last=_LAST)

    def close(self) -> None:
        self.load = None
        if self.block is not None:
            self.block.close()


def _written(slot: Shared, outcome: Result[Any, Any]) -> Layout:
    try:
        return slot.write(outcome)[0]
    except Exception as error:
        return slot.write(Failure(NotPicklable("a batch", f"{type(error).__name__}: {error}")))[0]
