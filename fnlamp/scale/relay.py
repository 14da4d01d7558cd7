"""A relay between this process and the coordinator: JAX's client aborts its process when its connection is closed.

The client has no option for it, and a callback in its place cannot be written in Python. So the client connects to a port of
its own process; when the coordinator goes, the relay keeps the client's connection open, silent, and says so in `closed`.
"""

from __future__ import annotations

import contextlib
import socket
import threading


class Relay:
    """Forwards connections from a local port to `(host, port)`. `closed` is set when the far end has gone, once `joined`."""

    def __init__(self, host: str, port: int) -> None:
        self.far = host, port
        self.joined, self.closed = threading.Event(), threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        _start(self._accept)

    def stop(self) -> None:
        """Close the port; connections that exist remain until the process ends, for JAX's client must not lose its own."""
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)  # closing alone would not end the thread that accepts
        self.listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return  # closed
            try:
                far = socket.create_connection(self.far, timeout=5.0)
            except OSError:
                near.close()  # the client tries again
                continue
            far.settimeout(None)
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _start(self._send, near, far)
            _start(self._receive, far, near)

    def _send(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            _pump(near, far)
        if self.joined.is_set():
            near.detach()  # open until the process ends, also if nothing refers to it any more
        else:
            _end(far)

    def _receive(self, far: socket.socket, near: socket.socket) -> None:
        with contextlib.suppress(OSError):
            _pump(far, near)
        if self.joined.is_set():
            far.detach()
            self.closed.set()
        else:
            _end(near)


def _start(function: object, *arguments: object) -> None:
    threading.Thread(target=function, args=arguments, name="fnlamp-relay", daemon=True).start()  # type: ignore[arg-type]


def _pump(source: socket.socket, target: socket.socket) -> None:
    while data := source.recv(65536):
        target.sendall(data)


def _end(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
