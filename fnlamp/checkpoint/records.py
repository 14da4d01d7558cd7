"""A file of records, one JSON text a line, in which each value of a key is there once."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from os import PathLike
from typing import Any, Final

from fnlamp.checkpoint.file import described
from fnlamp.checkpoint.replace import expanded, flush_folder, writing
from fnlamp.effect import Effect
from fnlamp.effect.runtime import polled
from fnlamp.effect.signals import locked
from fnlamp.fault import FaultError, FileCorrupt, FileUnwritable, printable
from fnlamp.given import instance, shown, text

_appending: Final = threading.Lock()
"""The system's lock does not tell threads of one process apart."""


def append(
    path: str | PathLike[str], record: Mapping[str, Any], *, key: str = "epoch"
) -> Effect[bool, FileUnwritable | FileCorrupt]:
    """Append a record to a file as a line of JSON, durable when this ends, unless one with the same `record[key]` is there.

    The value is whether it was written. A hook that runs again after a resume thus records once. A last line that a crash cut
    is removed first. NumPy's and JAX's numbers and arrays are written as numbers and lists; NaN and infinity as Python's `json`
    does.  Fails: `FileUnwritable`; `FileCorrupt` for a file of something else, which stays as it is.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "epochs.jsonl")
    >>> append(path, {"epoch": 1, "loss": 0.5}).then(append(path, {"epoch": 1, "loss": 0.5})).run()
    <IOResult: <Success: False>>
    >>> path.read_text()
    '{"epoch": 1, "loss": 0.5}\\n'
    """
    name, key = expanded(path), text("key", key)
    if key not in instance("record", record, Mapping, "a dict of numbers and strings"):
        raise ValueError(f"record has no {key!r}, the key that tells records apart, got the keys {sorted(map(str, record))}")
    line = json.dumps(dict(record), default=_listed)
    value = json.loads(line)[key]

    def run() -> bool:
        with writing(name), locked(_appending), _locked_file(name) as file:
            return _append(name, file, line, key, value)

    return described(Effect.checked(run), f"append a record to {printable(name)}")


def _listed(x: Any) -> Any:
    if hasattr(x, "tolist"):
        return x.tolist()
    raise TypeError(f"record: a value is a number, a string, or a list or dict of them, got {shown(x)}")


@contextlib.contextmanager
def _locked_file(path: str) -> Iterator[io.FileIO]:
    with io.FileIO(path, "r+", opener=lambda name, _: os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)) as file:

        def ready(seconds: float) -> bool:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    return True  # a file system without locks
                time.sleep(seconds)
                return False
            return True

        polled.wait(ready)
        yield file


def _append(path: str, file: io.FileIO, line: str, key: str, value: Any) -> bool:
    content = file.readall()
    records, end = _whole(path, content)
    if len(content) > end:
        file.truncate(end)
    if any(key in each and each[key] == value for each in records):
        return False
    try:
        file.seek(end)
        _write_all(file, line.encode("ascii") + b"\n")
        os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            file.truncate(end)
        raise
    if not content:
        flush_folder(os.path.dirname(path) or ".")
    return True


def _whole(path: str, content: bytes) -> tuple[list[dict[str, Any]], int]:
    """The records, and where the last one ends: a crash may cut the last line, or leave zeros.  Fails: `FileCorrupt`."""
    records, end = [], 0
    lines = io.BytesIO(content).readlines()
    for number, line in enumerate(lines, 1):
        found = None
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(line) if line.endswith(b"\n") else None
        if isinstance(found, dict):
            records.append(found)
            end += len(line)
        elif number < len(lines) or line[:1] not in (b"{", b"\0"):
            raise FaultError(FileCorrupt(path, "a JSON object in each line", f"something else in line {number:,}"))
    return records, end


def _write_all(file: io.FileIO, raw: bytes) -> None:
    at = 0
    while at < len(raw):
        at += file.write(raw[at:]) or 0
