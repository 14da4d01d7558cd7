"""Messages and file descriptors from the program to a worker; sending never blocks."""

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
    """Messages to a worker. A stuck worker reads nothing: its messages are kept until it reads again or is lost."""

    def __init__(self, connection: Connection) -> None:
        self.socket: socket.socket | None = socket.socket(fileno=connection.fileno())  # shares the descriptor; not closed here
        self.kept: deque[_Parcel] = deque()

    def put(self, message: Any, fd: int | None = None, job: int | None = None) -> None:
        """Queue a message in the format of `Connection.recv`, then a file descriptor, if any; `job` is the job of both."""
        if message is not None:
            body = ForkingPickler.dumps(message)
            self.kept.append(_Parcel(job, memoryview(struct.pack("!i", len(body)) + bytes(body))))
        if fd is not None:
            self.kept.append(_Parcel(job, memoryview(b"\0"), fd))
        self.flush()
        for parcel in self.kept:  # the caller may close its descriptor meanwhile
            if parcel.fd is not None and not parcel.own:
                parcel.fd, parcel.own = os.dup(parcel.fd), True

    def forget(self, job: int) -> bool:
        """Withdraw a job's messages; `False` if one was sent already."""
        mine = [parcel for parcel in self.kept if parcel.job == job]
        if len(mine) < 2 or (mine[0] is self.kept[0] and len(mine[0].data) < 4):
            return False
        for parcel in mine:
            self.kept.remove(parcel)
            parcel.close()
        return True

    def flush(self) -> None:
        """Send as many bytes as the worker can receive now. A lost worker gets none; its loss is detected by reading."""
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
    """The next descriptor; `None` if this process is at its limit of open files."""
    receiver = socket.socket(fileno=connection.fileno())
    try:
        data, fds, _, _ = socket.recv_fds(receiver, 1, 1)
    finally:
        receiver.detach()
    if not data:
        raise EOFError
    return fds[0] if fds else None
