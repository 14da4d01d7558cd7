"""What has to hold before the fork server copies itself for a worker."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker


def check_room() -> None:
    """Raises: `OSError`, if a process cannot be started for want of files; the fork server does not survive half a request."""
    fds: list[int] = []
    try:
        while len(fds) < 16:
            fds.append(os.open(os.devnull, os.O_RDONLY))
    finally:
        for fd in fds:
            os.close(fd)


def start_server() -> None:
    """With Ctrl-C and SIGTERM blocked, which what it starts inherits: `forked` opens them when it ignores them."""
    check_room()
    resource_tracker.ensure_running()  # it unblocks them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def no_main_without_file() -> Iterator[None]:
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
