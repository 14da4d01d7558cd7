"""Writing the files of a run folder. Several processes may change one run at once: a running run, and `fnlamp runs note`."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

from fnlamp.checkpoint.replace import replaced, writing
from fnlamp.experiment.folder import RUN, read_json, read_run
from fnlamp.experiment.migrate import VERSION


def write_json(folder: str, name: str, content: dict[str, Any]) -> None:
    """Replace a file as a whole.  Fails: `FileUnwritable`."""
    raw = json.dumps({"schema": VERSION, **content}, indent=1, allow_nan=False).encode()
    replaced(os.path.join(folder, name), lambda file: file.write(raw))


def write_often(folder: str, name: str, content: dict[str, Any]) -> None:
    """Replace a file as a whole, often, by one writer: after a crash of the machine it may be gone.  Raises: `OSError`."""
    part = os.path.join(folder, f".{name}.part")
    with open(part, "w", encoding="ascii") as file:
        json.dump({"schema": VERSION, **content}, file, allow_nan=False)
    os.replace(part, os.path.join(folder, name))


def write_new(folder: str, name: str, content: bytes) -> None:
    """Write a file that is not read again by fnlamp, and so need not be durable.  Fails: `FileUnwritable`."""
    path = os.path.join(folder, name)
    with writing(path), open(path, "wb") as file:
        file.write(content)


def edit(folder: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """Change `run.json`, one process at a time; an earlier version of the schema becomes the present one.

    Fails: `FileMissing`, `FileCorrupt`, `RunTooNew`, `FileUnwritable`.
    """
    with alone(folder):
        files = read_run(folder)
        if read_json(folder, RUN).get("schema") != VERSION:
            for name in set(files) - {RUN}:
                write_json(folder, name, files[name])
        changed = change(files[RUN])
        write_json(folder, RUN, changed)
        return changed


@contextlib.contextmanager
def alone(folder: str) -> Iterator[None]:
    """Hold the folder itself, alone among all processes: no file of locks is left, and a killed process holds nothing."""
    with writing(folder):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
