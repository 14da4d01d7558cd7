"""The lock of a folder of saves: one run at a time, of any process; a killed process holds nothing."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from typing import Any, Final, final

from fnlamp.fault import FaultError, FolderInUse

NAME: Final = ".lock"
BEAT: Final = 10.0
"""Seconds between two signs of life of an owner, on a file system without locks."""
STALE: Final = 120.0
"""Seconds without a sign of life after which an owner counts as gone, on a file system without locks."""

_NO_LOCKS: Final = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
_guard: Final = threading.Lock()
_held: Final[dict[tuple[int, int], tuple[int, str]]] = {}
"""The folders that this process holds, with its id (a forked child holds nothing) and the time: the system's lock does not tell
two runs of one process apart."""


@final
class Lock:
    """The lock on a folder that exists, until `release`.  Fails: `FolderInUse`.  Raises: `OSError`.

    The system releases its lock when the process ends, and forked workers do not inherit it, as they would one of `flock`. The
    file stays: another process may be about to lock it. It must not be opened elsewhere in this process, since closing any
    descriptor of it releases the lock.
    """

    def __init__(self, folder: str) -> None:
        self._path = os.path.join(os.path.abspath(folder), NAME)
        status = os.stat(folder)
        self._key = status.st_dev, status.st_ino
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        with _guard:
            pid, before = _held.get(self._key, (0, ""))
            if pid == os.getpid():
                raise FaultError(FolderInUse(folder, "another program of this process", before))
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
            try:
                me = {"pid": os.getpid(), "host": socket.gethostname(), "since": since, "token": secrets.token_hex(8)}
                self._token = me["token"]
                self._beats = not self._locked(folder)
                if self._beats:
                    self._claim(folder, me)
                else:
                    with contextlib.suppress(OSError):  # on a full disk, the lock holds and only its owner has no name
                        self._write(me)
            except BaseException:  # the caller gets no lock that it could release
                os.close(self._descriptor)
                raise
            self._last_beat = time.monotonic()
            _held[self._key] = os.getpid(), since

    def _locked(self, folder: str) -> bool:
        """Take the system's lock; false on a file system without locks."""
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return False
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise _in_use(folder, self._read()) from error
            raise
        return True

    def _claim(self, folder: str, me: dict[str, Any]) -> None:
        """Without the system's lock: the owner writes its name, then touches the file every `BEAT` seconds.

        An owner is gone if its process has ended on this machine, or if it gave no sign for `STALE` seconds. Of two that take
        over at once, the last to write wins; each looks again after a moment.
        """
        owner = self._read()
        if owner and not _ended(owner) and self._silent() < STALE:
            raise _in_use(folder, owner)
        self._write(me)
        time.sleep(0.2)
        if not self._mine():
            raise _in_use(folder, self._read())

    def _mine(self) -> bool:
        return self._read().get("token") == self._token

    def _silent(self) -> float:
        """Seconds since the last sign of life, by the file system's own clock, which may differ from this machine's."""
        probe = f"{self._path}.{secrets.token_hex(8)}"
        with open(probe, "xb") as file:
            now = os.fstat(file.fileno()).st_mtime
        os.remove(probe)
        return now - os.fstat(self._descriptor).st_mtime

    def _read(self) -> dict[str, Any]:
        found = None
        with contextlib.suppress(ValueError):  # cut, or not written yet
            found = json.loads(os.pread(self._descriptor, 4096, 0))
        return found if isinstance(found, dict) else {}

    def _write(self, owner: dict[str, Any]) -> None:
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(owner).encode(), 0)

    def beat(self) -> None:
        """Give a sign of life, if one is due; where the system keeps the lock, none is."""
        if self._beats and time.monotonic() - self._last_beat > BEAT:
            self._last_beat = time.monotonic()
            with contextlib.suppress(OSError):
                os.utime(self._descriptor)

    def verify(self) -> None:
        """Raises: `OSError`, if the folder is another one by now, which this lock does not protect."""
        if not os.path.samestat(os.stat(self._path, follow_symlinks=False), os.fstat(self._descriptor)):
            raise FileNotFoundError(errno.ENOENT, "the folder was removed or replaced")
        if self._beats and not self._mine():
            raise OSError(errno.EBUSY, f"another run took the folder over, after {STALE:.0f} seconds without a sign of life")

    def release(self) -> None:
        """Give the folder back; once."""
        with _guard:
            if _held.pop(self._key, (0, ""))[0] == os.getpid():
                with contextlib.suppress(OSError):
                    if self._mine():
                        os.ftruncate(self._descriptor, 0)
                os.close(self._descriptor)


def _in_use(folder: str, owner: dict[str, Any]) -> FaultError:
    known = f"process {owner['pid']} on {owner['host']}" if {"pid", "host"} <= set(owner) else "another process"
    return FaultError(FolderInUse(folder, known, str(owner.get("since", "an unknown time"))))


def _ended(owner: dict[str, Any]) -> bool:
    pid = owner.get("pid")
    if owner.get("host") != socket.gethostname() or type(pid) is not int:
        return False
    with contextlib.suppress(PermissionError):  # another user's process
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, OverflowError):
            return True
    return False
