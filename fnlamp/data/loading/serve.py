"""The code of a worker process."""

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
    """Answer requests until the other end closes or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal: the parent decides
    signal.signal(signal.SIGTERM, lambda number, frame: None)  # not SIG_IGN, which child programs would inherit
    _end_with_server()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    random.seed()  # a forked process would draw the numbers of its siblings
    np.random.seed()
    keep_memory()  # mapping new memory for each batch took a third of the time with large images
    gc.freeze()  # imported modules stay: the collector need not visit them
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
    """Have the system kill this process when the fork server ends, which ends with the program, even while an item holds the
    GIL. Each child inherits an open pipe to the server, and must close it for the server to see the program's end.
    """
    fd = getattr(forkserver._forkserver, "_forkserver_alive_fd", None)
    if fd is not None:
        os.close(fd)
        forkserver._forkserver._forkserver_alive_fd = None  # type: ignore[attr-defined]
    if sys.platform == "linux":
        with contextlib.suppress(Exception):  # without prctl, the thread below does it
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _end_with_parent() -> None:
    """End with the parent: a worker inside a long item does not poll its pipe."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


@dataclass(frozen=True)
class Request:
    """One batch to load: its first row, and the block of memory that holds all row numbers and receives the batch."""

    job: int
    ticket: int
    slot: int
    first: int
    rows: Layout


class _Desk:
    """The jobs, memory and requests of a worker."""

    def __init__(self, connection: Connection, progress: memoryview) -> None:
        self.connection = connection
        self.progress = progress  # the current row and ticket
        self.progress[1] = IDLE
        self.slots: dict[int, Shared | None] = {}  # `None`: this process is at its limit of open files
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
        """Load the batch of the oldest request."""
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


_LAST: Final[dict[str, Any]] = {}  # the states of the process's generators after the last batch
_NO_FILES: Final = ResourceExhausted("open files", os.strerror(errno.EMFILE))


class _Opened:
    """A job, unpickled when first needed."""

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
            except Exception as error:  # unpickling runs the objects' own code
                return NotPicklable(name, f"{type(error).__name__}: {error}")
        return Watched(Load(**parts), alone=True, last=_LAST)

    def close(self) -> None:
        self.load = None
        if self.block is not None:
            self.block.close()


def _written(slot: Shared, outcome: Result[Any, Any]) -> Layout:
    try:
        return slot.write(outcome)[0]
    except Exception as error:  # pickling runs the objects' own code
        return slot.write(Failure(NotPicklable("a batch", f"{type(error).__name__}: {error}")))[0]
