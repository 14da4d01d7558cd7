"""Tables of numbers in CSV and TSV files, packed with gzip or not."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from os import PathLike
from typing import Any, Final

import numpy as np

from fnlamp.data.option import limit_of, path_of
from fnlamp.data.readers.bulk import Numbers, parse
from fnlamp.data.readers.file import LIMIT, PIECE, read_table, reading, within
from fnlamp.data.readers.table import Table, check_options, chosen, inside, labels
from fnlamp.effect import Effect
from fnlamp.fault import BadCell, FaultError, FileCorrupt, FileFault
from fnlamp.given import flag, text, whole


def read_csv(
    path: str | PathLike[str],
    *,
    columns: Sequence[str] | None = None,
    label: str | int | None = None,
    header: bool = True,
    rows: int | None = None,
    separator: str = ",",
    dtype: Any = np.float32,
    limit: int | None = LIMIT,
) -> Effect[Table, FileFault]:
    """The table in a file of numbers; nothing is opened before the program is run.

    `columns` are the names of the features, in the order to return, all by default; other columns may hold text. By default
    each column needs a name: one without holds the row numbers that pandas and R write. `label` is the column of class labels,
    by its name or its position from 0; it need not be among `columns`. Without a `header`, columns are named "0", "1", ... Only
    the first `rows` rows are read, and no more of the file. Gzip is detected from the first bytes; `limit` is how many bytes
    the file may unpack to, and its numbers may take twice that. Fails: `FileMissing`; `FileCorrupt` for a file that is damaged,
    empty, not UTF-8, with another separator or without the columns; `BadCell` for a row of another width or of several lines,
    and a cell that is empty, not a number, not finite (in `dtype` too), or not a whole number for a label; `TooLarge`.
    Reference: RFC 4180.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp(), "small.csv")
    >>> _ = path.write_text("label,a,b\\n1,0.5,2\\n0,1.5,3\\n")
    >>> read_csv(path, label="label").map(lambda table: (table.columns, table.features.tolist(), table.label.tolist())).run()
    <IOResult: <Success: (('a', 'b'), [[0.5, 2.0], [1.5, 3.0]], [1, 0])>>
    """
    header, rows = flag("header", header), None if rows is None else whole("rows", rows)
    if len(text("separator", separator)) != 1 or not separator.isascii() or separator in '"\r\n.+-0123456789eE\0':
        raise ValueError(f"a separator is one ASCII character that no number contains, got {separator!r}")
    wanted, label = check_options(columns, label, dtype)
    name, limit = path_of(path), limit_of(limit)

    def load() -> Table:
        with closing(read_table(name, header, rows, limit)) as lines:
            columns, blocks = _parse(name, lines, header, separator, wanted, label)
            return _table(name, columns, blocks, np.dtype(dtype), limit)

    return reading(name, load)


@dataclass(frozen=True)
class _Columns:
    """The columns of a file, and the positions of the features and of the label; only these are read."""

    names: list[str]
    header: bool
    features: list[int]
    label: int | None

    @cached_property
    def read(self) -> list[int]:
        return inside(self.features, self.label)

    def shown(self, at: int) -> str | int:
        return self.names[at] if self.header else at + 1


def _parse(
    path: str, lines: Iterator[bytes], header: bool, separator: str, wanted: tuple[str, ...] | None, label: str | int | None
) -> tuple[_Columns, Iterator[Numbers]]:
    """The columns, and the cells to read, block by block."""
    head = next(lines, b"") if header else b""
    block = next(lines, b"")
    above, _, below = block.partition(b"\n")
    _check_separator(path, *((head, above) if header else (above, below.partition(b"\n")[0])), separator.encode())
    records = list(records_of(path, head if header else above, separator, 1))
    first = records[0] if records else None
    if len(records) > 1:  # else rows between the names and the numbers would be lost
        raise FaultError(FileCorrupt(path, "cells as RFC 4180 quotes them", "a quote inside an unquoted name"))
    if not head + block:
        raise FaultError(FileCorrupt(path, "a table of numbers", "an empty file"))
    if not first:
        raise FaultError(BadCell(path, 1, None, "the names of the columns" if header else "numbers", "a blank line"))
    if not block:
        raise FaultError(FileCorrupt(path, "at least one row of numbers", "a header only"))
    names = first if header else [str(i) for i in range(len(first))]
    columns = _Columns(names, header, *chosen(path, names, wanted, label))
    return columns, _blocks(path, chain([block], lines), separator, columns)


def _check_separator(path: str, first: bytes, second: bytes, separator: bytes) -> None:
    """Check that two lines of one cell each do not split alike at another separator.  Fails: `FileCorrupt`."""
    first, second = first.strip(), second.strip()
    if separator in first:
        return
    for other in _SEPARATORS:
        if other in first and first.count(other) == second.count(other):
            cells = f"{first.count(other) + 1:,} cells per line"
            actual = f"one cell per line, or {cells} with separator={other.decode()!r}"
            raise FaultError(FileCorrupt(path, f"cells with {separator.decode()!r} between them", actual))


_SEPARATORS: Final = (b"\t", b";", b"|", b",", b" ")


def _blocks(path: str, lines: Iterator[bytes], separator: str, columns: _Columns) -> Iterator[Numbers]:
    """The columns to read, some rows at a time: in bulk if all cells are plain numbers, else cell by cell."""
    number, width = 1 + columns.header, len(columns.names)
    for block in lines:
        block = block.replace(b"\r\n", b"\n")
        numbers = None if _misfits(block, width, separator.encode()) else parse(block, width, separator.encode())
        if numbers is None:
            rows = enumerate(records_of(path, block, separator, number, by_line=True), start=number)
            numbers = np.array([_row(path, i, row, columns) for i, row in rows], np.float64)
        elif len(columns.read) < width:
            numbers = numbers[:, columns.read]
        number += len(numbers)
        yield numbers


def _misfits(block: bytes, width: int, separator: bytes) -> bool:
    """Whether a block, which is large because its lines are long, has lines of another width."""
    return len(block) > 4 * PIECE and block.count(separator) != block.count(b"\n") * (width - 1)


def records_of(path: str, raw: bytes, separator: str, first: int, *, by_line: bool = False) -> Iterator[list[str]]:
    """The rows, numbered from `first`; with `by_line`, a row may not span several lines, so that line numbers are row numbers.

    Fails: `FileCorrupt`; `BadCell` for malformed quotes and lines.
    """
    number = first
    reader = csv.reader(_lines(path, raw, separator, first), delimiter=separator, strict=True)
    try:
        for row in reader:
            if by_line and reader.line_num > number - first + 1:
                raise FaultError(BadCell(path, number, None, *_SAID["end of data"]))
            yield row
            number += 1
    except csv.Error as error:
        expected, actual = next((message for said, message in _SAID.items() if said in str(error)), _OTHER)
        raise FaultError(BadCell(path, number, None, expected, actual)) from error


_OTHER: Final = ("cells as RFC 4180 quotes them", "others")
_SAID: Final = {
    "end of data": ("a quote that is closed on its line", "one that is not"),
    "expected after": ("a separator after a closing quote", "something else"),
    "field limit": (f"a cell of at most {csv.field_size_limit():,} characters", "a longer one"),
    "new-line": ("rows that end with a line feed", "a carriage return by itself"),
}
"""Parts of messages of Python's reader, and the fault's `expected` and `actual` for each."""


def _lines(path: str, raw: bytes, separator: str, first: int) -> Iterator[str]:
    """Text, line by line: only a line feed ends a line; str.splitlines would also split at a form feed."""
    mark = separator.encode()
    for number, line in enumerate(io.BytesIO(raw), start=first):
        if line.count(mark) >= COLUMNS:  # each cell becomes an object of many times its bytes
            expected = f"at most {COLUMNS:,} columns; an NPY or a Parquet file can be wider"
            raise FaultError(BadCell(path, number, None, expected, f"{line.count(mark) + 1:,}"))
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            actual = f"the byte {line[error.start]:#04x} in {line[max(error.start - 20, 0) : error.start + 5]!r}"
            raise FaultError(FileCorrupt(path, "UTF-8 text", actual)) from error


def _row(path: str, number: int, row: list[str], columns: _Columns) -> list[float]:
    if len(row) != len(columns.names):
        raise FaultError(BadCell(path, number, None, f"{len(columns.names)} cells", f"{len(row)}"))
    return [_cell(path, number, columns, i, row[i]) for i in columns.read]


COLUMNS: Final = 2**18
_NUMBER: Final = re.compile(r"[ \t]*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?[ \t]*")


def _cell(path: str, row: int, columns: _Columns, at: int, cell: str) -> float:
    # Python's `float` also takes 1_000, nan and digits of other scripts.
    value = float(cell) if _NUMBER.fullmatch(cell) else math.nan
    if not math.isfinite(value):
        actual = "an empty cell" if not cell.strip() else repr(cell if len(cell) <= 40 else cell[:37] + "...")
        if re.fullmatch("[ \t]*[+-]?[0-9]+,[0-9]+[ \t]*", cell):
            actual += ", which has a decimal comma; write a point"
        elif other := next((mark for mark in "\t;|" if mark in cell.strip()), None):
            actual += f", which separator={other!r} would split"
        raise FaultError(BadCell(path, row, columns.shown(at), "a finite number", actual))
    return value


def _table(path: str, columns: _Columns, blocks: Iterator[Numbers], dtype: np.dtype[Any], limit: int | None) -> Table:
    """The numbers in their dtype, converted block by block, so that no wider copy of the whole table is kept."""
    kept = {place: i for i, place in enumerate(columns.read)}
    copies = list(_runs([kept[place] for place in columns.features]))
    width = len(columns.features) * dtype.itemsize + 4 * (columns.label is not None)
    parts, label, number, size = [], [], 1 + columns.header, 0
    for block in blocks:
        size += len(block) * width
        within(path, limit, size // 2)  # two bytes of text, a digit and a separator, take four as float32
        part = np.empty((len(block), len(columns.features)), dtype)
        with np.errstate(over="ignore"):  # checked and reported right below
            for to, of in copies:
                part[:, to] = block[:, of]
        # No integer that `parse` returns overflows float32.
        if (block.dtype.kind == "f" or dtype.itemsize < 4) and not np.isfinite(part).all():
            row, column = (int(i) for i in np.argwhere(~np.isfinite(part))[0])
            shown = columns.shown(columns.features[column])
            raise FaultError(BadCell(path, number + row, shown, f"a number that {dtype} can hold", "a larger one"))
        parts.append(part)
        if columns.label is not None:
            label.append(labels(path, block[:, kept[columns.label]], number, columns.shown(columns.label)))
        number += len(block)
    names = tuple(columns.names[i] for i in columns.features)
    return Table(names, np.concatenate(parts), np.concatenate(label) if label else None)


def _runs(places: list[int]) -> Iterator[tuple[slice, slice]]:
    """Target and source slices of the columns that are adjacent in both, each copied at once."""
    start = 0
    for stop in range(1, len(places) + 1):
        if stop == len(places) or places[stop] != places[stop - 1] + 1:
            yield slice(start, stop), slice(places[start], places[stop - 1] + 1)
            start = stop
