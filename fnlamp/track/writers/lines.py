"""The writer of lines of JSON: what a run recorded, append-only."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from typing import Final

from fnlamp.track.entry import Entry
from fnlamp.track.media import kept
from fnlamp.track.place import lines_file, removed
from fnlamp.track.text import HEADER, line_of
from fnlamp.track.writers.output import Output, called

TAIL: Final = 2**16
"""Bytes that are read at a time, from the end, to find the last whole line."""


def lines(path: str | PathLike[str]) -> Output:
    """Append entries to a file as lines of JSON: a path that ends in `.jsonl`, or `metrics.jsonl` in this folder.

    What was written is in the file within half a second, and survives a kill. A file that is there is continued. One tracker
    at a time writes a file. Images and figures are files in `media/` beside it.

    >>> from fnlamp.effect import Effect, Runtime
    >>> from fnlamp import track
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> program = track.tracked(track.measure({"loss": 0.5}, step=10), track.lines(folder))
    >>> program.then(track.history(folder)).map(lambda history: history.last).run()
    <IOResult: <Success: {'loss': 0.5}>>
    """
    name = os.path.abspath(lines_file(path))

    @contextlib.contextmanager
    def open_lines() -> Iterator[Callable[[Sequence[Entry]], None]]:
        file = _Appended(name)
        try:
            yield file.write
        finally:
            file.close()

    return called(f"lines({path})", open_lines)


class _Appended:
    """The file, locked and open for appending; opened again if it was removed."""

    def __init__(self, path: str) -> None:
        self._path, self._folder = path, os.path.dirname(path)
        self._torn = False
        self._file, self._end = _opened(path)

    def write(self, entries: Sequence[Entry]) -> None:
        """Raises: `OSError`; the file then ends where it did."""
        text = "".join([line_of(entry, self._keep) for entry in entries])
        if not text:
            return
        if removed(self._file, self._path):
            self._reopen()
        if not self._end:
            text = HEADER + text
        if self._torn:  # by an attempt that failed, such as on a full disk: this one begins where that one did
            self._file.truncate(self._end)
        self._torn = True
        self._end += _written(self._file, text.encode("ascii"))
        self._torn = False

    def _keep(self, value: object) -> str:
        return kept(self._folder, value)  # type: ignore[arg-type]

    def _reopen(self) -> None:
        before = self._file
        self._file, self._end = _opened(self._path)
        self._torn = False
        _released(before)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            if self._torn:
                self._file.truncate(self._end)
        with contextlib.suppress(OSError):  # a file system without it
            os.fsync(self._file.fileno())
        _released(self._file)


def _opened(path: str) -> tuple[io.FileIO, int]:
    """The file, which no other tracker writes, and its length.  Raises: `OSError`, `RuntimeError`."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    file = io.FileIO(path, "a+", opener=lambda name, flags: os.open(name, flags | os.O_CLOEXEC, 0o666))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise RuntimeError("another tracker writes this file; end that run, or give this one its own folder") from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            file.close()
            raise
    try:
        size = _ended(file)
    except BaseException:  # an interruption too: an open file would keep the lock
        file.close()
        raise
    _inherited.add(file)
    return file, size


def _released(file: io.FileIO) -> None:
    """Close the file, and give its lock back even if a child that has just been forked has not closed it yet."""
    _inherited.discard(file)
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_UN)
    file.close()


_inherited: Final[set[io.FileIO]] = set()
"""The open files: a forked worker closes them, or it would hold the lock after its parent is gone."""


def _close_in_child() -> None:
    while _inherited:
        with contextlib.suppress(OSError):
            _inherited.pop().close()


os.register_at_fork(after_in_child=_close_in_child)


def _ended(file: io.FileIO) -> int:
    """End the file after its last whole line, and return its length: a kill may cut a line, or leave zeros."""
    size = end = file.seek(0, os.SEEK_END)
    head = os.pread(file.fileno(), 9, 0).rstrip(b"\0")
    if not HEADER.encode().startswith(head):
        raise RuntimeError("expected a file of lines that a tracker wrote, got another one, which stays as it is")
    tail = b""
    while end and b"\n" not in tail:
        start = max(0, end - TAIL)
        file.seek(start)
        tail, end = _read(file, end - start) + tail, start
    rest = tail.rpartition(b"\n")[2]
    if not rest:
        return size
    if _is_object(rest):  # whole but for its end
        return size + _written(file, b"\n")
    file.truncate(size - len(rest))
    return size - len(rest)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _read(file: io.FileIO, size: int) -> bytes:
    found = b""
    while len(found) < size and (block := file.read(size - len(found))):
        found += block
    return found


def _written(file: io.FileIO, raw: bytes) -> int:
    at = 0
    while at < len(raw):
        at += file.write(raw[at:]) or 0
    return at
