"""Graphs in files: lists of edges."""

from __future__ import annotations

import io
from os import PathLike
from typing import Any

import numpy as np

from fnlamp.data.option import limit_of, path_of
from fnlamp.data.readers.file import LIMIT, decoding, read_all, reading, within
from fnlamp.effect import Effect
from fnlamp.fault import FaultError, FileCorrupt, FileFault

COMMENTS = ("#", "%")
"""What lines that hold no edge begin with, in SNAP's files and in KONECT's."""
MATRIX = "%%MatrixMarket"
"""What a file of the Matrix Market begins with: its nodes are numbered from 1, and its first line of numbers is no edge."""


def read_edge_list(path: str | PathLike[str], *, limit: int | None = LIMIT) -> Effect[Any, FileFault]:
    """The pairs of nodes in a text file, one edge a line, packed with gzip or not: `(edges, 2)`, int64.

    The numbers are separated by blanks, tabs or commas; what follows the second one, such as a weight, is left out.  Lines that
    are empty or begin with `#` or `%` are skipped.  `limit` is how many bytes the file may unpack to.
    Fails: `FileMissing`; `FileCorrupt` for a line without two whole numbers of 0 or more, and for a file of the Matrix Market,
    whose first line of numbers is not an edge (read it with `scipy.io.mmread`); `TooLarge`.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "edges.txt")
    >>> _ = path.write_text("# from to\\n0\\t1\\n1\\t2\\n")
    >>> read_edge_list(path).map(lambda pairs: pairs.tolist()).run()
    <IOResult: <Success: [[0, 1], [1, 2]]>>
    """
    name, limit = path_of(path), limit_of(limit)

    def load() -> Any:
        with decoding(name, "UTF-8 text"):
            text = read_all(name, limit).decode("utf-8-sig")
        within(name, limit, len(text))
        if text.startswith(MATRIX):
            raise FaultError(FileCorrupt(name, "a list of edges", "a file of the Matrix Market; scipy.io.mmread reads it"))
        # Not splitlines, which ends a line at other characters too.
        lines = [line.replace(",", " ").split() for line in io.StringIO(text, newline=None)]
        kept = [(at, line) for at, line in enumerate(lines, 1) if line and not line[0].startswith(COMMENTS)]
        for at, line in kept:
            if len(line) < 2 or not (_whole(line[0]) and _whole(line[1])):
                raise FaultError(FileCorrupt(name, "two numbers of nodes", f"{' '.join(line)[:60]!r} in line {at:,}"))
        return np.array([(int(line[0]), int(line[1])) for _, line in kept], np.int64).reshape(-1, 2)

    return reading(name, load)


def _whole(cell: str) -> bool:
    return cell.isascii() and cell.isdigit() and len(cell) < 19
