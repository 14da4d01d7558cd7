"""Preconditions for the fork server to fork a worker."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker


def check_room() -> None:
    """Raises: `OSError`, if too few files can be opened to start a process; half a request kills the fork server."""
    fds: list[int] = []
    try:
        while len(fds) < 16:
            fds.append(os.open(os.devnull, os.O_RDONLY))
    finally:
        for fd in fds:
            os.close(fd)


def start_server() -> None:
    """Start the server with Ctrl-C and SIGTERM blocked, as its children inherit; `forked` ignores, then unblocks them."""
    check_room()
    resource_tracker.ensure_running()  # it unblocks both
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def no_main_without_file() -> Iterator[None]:
    """A program read from standard input names a file that does not exist; workers would try to run it."""
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
