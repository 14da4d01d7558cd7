"""The file that a download is written to: a regular file of this user, never the target of a link."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final

_POLL: Final = 0.1
"""Seconds between two checks of a file that another process is writing."""


@contextlib.contextmanager
def locked(path: Path, sleep: Callable[[float], None]) -> Iterator[IO[bytes]]:
    """The part file, open for reading and writing and locked against other processes; removed if left empty.

    `sleep` is called while another process holds the lock, and may raise.
    """
    file = _opened(path, sleep)
    with file:
        try:
            yield file
        finally:
            file.flush()
            again = file.name == str(path)  # where a later program finds it
            if _same(file, Path(file.name)) and not (again and os.fstat(file.fileno()).st_size):
                os.unlink(file.name)


def _opened(path: Path, sleep: Callable[[float], None]) -> IO[bytes]:
    while True:
        file = _own(path)
        try:
            while not _lock(file):
                sleep(_POLL)
            if _same(file, Path(file.name)):
                return file
        except BaseException:  # an interruption too: the caller does not have the file yet, to close it
            file.close()
            raise
        file.close()  # the holder of the lock has finished, and renamed or removed the part


def _own(path: Path) -> IO[bytes]:
    """The file at the path, or under a new name beside it, if the path is a link, a device or another user's file."""

    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EACCES) or not os.path.lexists(path):
            raise
    else:
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_nlink <= 1 and status.st_uid == os.geteuid():
            return _file(path, descriptor)
        os.close(descriptor)
    fresh = path.with_name(f"{path.name.removesuffix('.part')}.{secrets.token_hex(8)}.part")
    return _file(fresh, os.open(fresh, flags | os.O_EXCL, 0o666))


def _file(path: Path, descriptor: int) -> IO[bytes]:
    return open(path, "a+b", opener=lambda name, flags: descriptor)


def publish(file: IO[bytes], path: Path) -> None:
    """Give the file its final name, atomically; an existing file or link is replaced, not followed.

    Raises: `OSError`, also if the part was replaced by another file, which must not be published.
    """
    file.flush()
    if not _same(file, Path(file.name)):
        raise OSError(errno.ESTALE, "the file was replaced while it was written", file.name)
    os.replace(file.name, path)
    if not _same(file, path):
        raise OSError(errno.ESTALE, "the file was replaced while it was written", str(path))


def _lock(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _same(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.lstat())
    except FileNotFoundError:
        return False
