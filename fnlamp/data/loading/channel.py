"""Messages and file descriptors from the program to a worker, sent without ever waiting for it."""

from __future__ import annotations

import os
import socket
import struct
from array import array
from collections import deque
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any, Final

_FLAGS: Final = getattr(socket, "MSG_DONTWAIT", 0) | getattr(socket, "MSG_NOSIGNAL", 0)


@dataclass(eq=False)
class _Parcel:
    job: int | None
    data: memoryview
    fd: int | None = None
    own: bool = False  # whether the descriptor is a copy

    def close(self) -> None:
        if self.own and self.fd is not None:
            os.close(self.fd)


class Outbox:
    """What a worker is to be told. A worker that is stuck takes nothing: the rest is kept until it does, or is gone."""

    def __init__(self, connection: Connection) -> None:
        self.socket: socket.socket | None = socket.socket(fileno=connection.fileno())  # the same descriptor; not closed here
        self.kept: deque[_Parcel] = deque()

    def put(self, message: Any, fd: int | None = None, job: int | None = None) -> None:
        """A message as `Connection.recv` reads it, and then a file descriptor, if any; `job` is what it belongs to."""
        if message is not None:
            body = ForkingPickler.dumps(message)
            self.kept.append(_Parcel(job, memoryview(struct.pack("!i", len(body)) + bytes(body))))
        if fd is not None:
            self.kept.append(_Parcel(job, memoryview(b"\0"), fd))
        self.flush()
        for parcel in self.kept:  # the caller may close its own meanwhile
            if parcel.fd is not None and not parcel.own:
                parcel.fd, parcel.own = os.dup(parcel.fd), True

    def forget(self, job: int) -> bool:
        """Whether nothing of a job was sent yet; then it is not."""
        mine = [parcel for parcel in self.kept if parcel.job == job]
        if len(mine) < 2 or (mine[0] is self.kept[0] and len(mine[0].data) < 4):
            return False
        for parcel in mine:
            self.kept.remove(parcel)
            parcel.close()
        return True

    def flush(self) -> None:
        """Send what the worker takes now. To a lost worker nothing is sent: it is found to be lost when it is listened to."""
        while self.kept:
            parcel = self.kept[0]
            rights = [] if parcel.fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [parcel.fd]))]
            if self.socket is None:
                self.close()
                return
            try:
                sent = self.socket.sendmsg([parcel.data], rights, _FLAGS)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self.close()
                return
            parcel.data = parcel.data[sent:]
            if not parcel.data:
                self.kept.popleft().close()

    def close(self) -> None:
        if self.socket is not None:
            self.socket.detach()
            self.socket = None
        while self.kept:
            self.kept.popleft().close()


def receive_fd(connection: Connection) -> int | None:
    """The next descriptor; `None` if this process may have no more of them."""
    receiver = socket.socket(fileno=connection.fileno())
    try:
        data, fds, _, _ = socket.recv_fds(receiver, 1, 1)
    finally:
        receiver.detach()
    if not data:
        raise EOFError
    return fds[0] if fds else None
