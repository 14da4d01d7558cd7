"""Where the files of a run are, and how they are opened."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from os import PathLike
from typing import IO, Any, Final

from fnlamp.given import path_of

LINES: Final = "metrics.jsonl"
INDEX: Final = "metrics.db"


def lines_file(path: str | PathLike[str], name: str = "path") -> str:
    """The file of lines: the path itself if it ends in `.jsonl`, else `metrics.jsonl` in this folder.

    >>> lines_file("runs/1"), lines_file("runs/1/loss.jsonl")
    ('runs/1/metrics.jsonl', 'runs/1/loss.jsonl')
    """
    return _file(path, name, LINES)


def index_file(path: str | PathLike[str], name: str = "path") -> str:
    """The SQLite file: the path itself if it ends in `.db`, else `metrics.db` in this folder."""
    return _file(path, name, INDEX)


def folder_at(path: str | PathLike[str], name: str = "folder") -> str:
    """The folder, absolute: a program may change its working directory, and writers open files later."""
    return os.path.abspath(os.path.expanduser(path_of(path, name)))


@contextlib.contextmanager
def replacing(path: str) -> Iterator[str]:
    """Yield the path of a file beside this one, which takes its place once it is whole.  Raises: `OSError`."""
    part = f"{path}.{secrets.token_hex(4)}.part"
    try:
        yield part
        os.replace(part, path)
    except BaseException:  # whatever ends the writing, an interruption too, leaves no part behind
        with contextlib.suppress(OSError):
            os.remove(part)
        raise


def removed(file: IO[Any], path: str) -> bool:
    """Whether this open file is not the one at its path any more."""
    try:
        return not os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return True


def _file(path: str | PathLike[str], name: str, within: str) -> str:
    found = os.path.expanduser(path_of(path, name))
    return found if found.endswith(os.path.splitext(within)[1]) else os.path.join(found, within)
