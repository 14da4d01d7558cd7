"""The bytes of a file, unpacked if need be, or a typed fault."""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, cast

from fnlamp.fault import FaultError, FileCorrupt, FileMissing


def read_all(path: str) -> bytes:
    """The whole contents.  Fails: `FileMissing`, `FileCorrupt`."""
    with _opened(path) as file:
        return file.read()


def read_table(path: str, header: bool, count: int | None) -> tuple[bytes, bytes]:
    """The header and the first `count` lines after it, or all; no more is read than they take, and a BOM is left out.

    A header may span lines inside quotes; it ends where quotes are even.  Fails: `FileMissing`, `FileCorrupt`.
    """
    with _opened(path) as file:
        lines = [file.readline().removeprefix(b"\xef\xbb\xbf")]
        quotes = lines[0].count(b'"') if header else 0
        while quotes % 2 and (line := file.readline()):
            lines.append(line)
            quotes += line.count(b'"')
        left = None if count is None else count - (not header)
        body = file.read() if left is None else b"".join(islice(file, left))
        return (b"".join(lines), body) if header else (b"", lines[0] + body)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
    """The file, through gzip if its first bytes say so."""
    try:
        with Path(path).open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with cast("IO[bytes]", gzip.open(raw)) if packed else contextlib.nullcontext(raw) as file:
                yield file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise FaultError(FileCorrupt(path, "an intact gzip stream", str(error))) from error
    except OSError as error:
        raise FaultError(FileMissing(path, error.strerror or type(error).__name__)) from error
