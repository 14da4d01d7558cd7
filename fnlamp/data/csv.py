"""Tables of numbers in CSV and TSV files, packed with gzip or not."""

from __future__ import annotations

import csv
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any, Final, TypeAlias

import numpy as np

from fnlamp.data.file import read_lines
from fnlamp.effect import Effect
from fnlamp.fault import BadCell, FaultError, FileCorrupt, FileFault

Numbers: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Table:
    """A table of numbers. Shapes: `features` `(rows, columns)`, `label` `(rows,)`, int32, or `None` without a label column."""

    columns: tuple[str, ...]
    features: Numbers
    label: Numbers | None = None

    def __repr__(self) -> str:
        rows, columns = self.features.shape
        labelled = "" if self.label is None else ", labelled"
        return f"<Table: {rows:,} rows of {columns:,} {self.features.dtype} columns{labelled}>"


def read_csv(
    path: str | PathLike[str],
    *,
    label: str | int | None = None,
    header: bool = True,
    rows: int | None = None,
    separator: str = ",",
    dtype: Any = np.float32,
) -> Effect[Table, FileFault]:
    """The table in a file of numbers; nothing is opened before the program is run.

    `label` is the column of class labels, by its name or its position from 0. Without a `header`, columns are called "0",
    "1", ... Only the first `rows` rows are read, and no more of the file than they take. Whether it is packed is told by its
    first bytes. Fails: `FileMissing`; `FileCorrupt` for a file that is damaged, empty, not UTF-8 or without the label column;
    `BadCell` for a row of another width, and a cell that is empty, no number, not finite (in `dtype` too), or no whole number
    for a label. Reference: RFC 4180.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp(), "small.csv")
    >>> _ = path.write_text("label,a,b\\n1,0.5,2\\n0,1.5,3\\n")
    >>> read_csv(path, label="label").map(lambda table: (table.columns, table.features.tolist(), table.label.tolist())).run()
    <IOResult: <Success: (('a', 'b'), [[0.5, 2.0], [1.5, 3.0]], [1, 0])>>
    """
    if rows is not None and rows < 1:
        raise ValueError(f"rows must be at least 1, got {rows}")
    if len(separator) != 1 or separator in '"\r\n0123456789.+-eE':
        raise ValueError(f"a separator is one character that no number contains, got {separator!r}")
    name = fspath(path)

    def load() -> Table:
        raw = read_lines(name, None if rows is None else rows + header)
        names, cells = _parse(name, raw.removeprefix(b"\xef\xbb\xbf"), header, separator)
        return _table(name, names, cells, label, header, np.dtype(dtype))

    def fault(error: FaultError) -> FileFault:
        return error.fault  # type: ignore[return-value]  # reading raises no other

    return Effect.attempt(load, FaultError, fault)


def _parse(path: str, raw: bytes, header: bool, separator: str) -> tuple[list[str], Numbers]:
    """Column names and all cells as float64: in bulk where every byte is one that plain numbers have, else cell by cell."""
    records = _records(path, raw, separator)
    first = next(records, None)
    if first is None:
        raise FaultError(FileCorrupt(path, "a table of numbers", "an empty file"))
    names = first if header else [str(i) for i in range(len(first))]
    body = raw.partition(b"\n")[2] if header else raw
    cells = None if b'"' in raw else _bulk(body.rstrip(b"\r\n"), separator.encode(), len(names))
    if cells is None:
        rows = records if header else _records(path, raw, separator)
        parsed = [_row(path, i, row, names, header) for i, row in enumerate(_without_blank_end(rows), start=1 + header)]
        cells = np.array(parsed, np.float64).reshape(len(parsed), len(names))
    if not len(cells):
        raise FaultError(FileCorrupt(path, "at least one row of numbers", "a header only"))
    return names, cells


_PLAIN: Final = b"0123456789.+-eE\r\n"


def _bulk(body: bytes, separator: bytes, columns: int) -> Numbers | None:
    """All cells of a table of plain numbers, or `None` where a closer look is due; it accepts nothing that `_row` would not."""
    if not body or b"\r" in body.replace(b"\r\n", b"") or body.translate(None, _PLAIN + separator):
        return None
    body = body.replace(b"\r", b"")
    codes = np.frombuffer(body, np.uint8)
    ends = np.append(np.flatnonzero(codes == ord("\n")), len(codes))
    breaks = np.flatnonzero((codes == ord("\n")) | (codes == ord(separator)))
    if len(breaks) != len(ends) * columns - 1 or (breaks[columns - 1 :: columns] != ends[:-1]).any():
        return None  # some row has another width
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # how fromstring says that it stopped before the end
        try:
            cells = np.fromstring(body.replace(b"\n", separator), np.float64, sep=separator.decode())
        except (DeprecationWarning, ValueError):
            return None
    if cells.size != len(ends) * columns or not np.isfinite(cells).all() or (np.diff(breaks) == 1).any():
        return None  # fromstring may read an empty cell as a number
    return cells.reshape(len(ends), columns) if breaks.size == 0 or (breaks[0] > 0 and breaks[-1] < len(codes) - 1) else None


def _records(path: str, raw: bytes, separator: str) -> Iterator[list[str]]:
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise FaultError(FileCorrupt(path, "UTF-8 text", f"the byte {raw[error.start]:#04x} at {error.start:,}")) from error
    try:
        yield from csv.reader(text.splitlines(keepends=True), delimiter=separator, strict=True)
    except csv.Error as error:
        raise FaultError(FileCorrupt(path, "cells as RFC 4180 quotes them", str(error))) from error


def _without_blank_end(rows: Iterator[list[str]]) -> Iterator[list[str]]:
    """The rows without blank lines at the end of the file; a blank line in between is a row without cells."""
    blank = 0
    for row in rows:
        if row:
            yield from ([] for _ in range(blank))
            blank = 0
            yield row
        else:
            blank += 1


def _row(path: str, number: int, row: list[str], names: list[str], header: bool) -> list[float]:
    if len(row) != len(names):
        raise FaultError(BadCell(path, number, None, f"{len(names)} cells", f"{len(row)}"))
    return [_cell(path, number, names[i] if header else i + 1, cell) for i, cell in enumerate(row)]


def _cell(path: str, row: int, column: str | int, cell: str) -> float:
    try:
        value = float(cell) if "_" not in cell and cell.isascii() else math.nan  # Python takes 1_000 and other scripts' digits
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise FaultError(BadCell(path, row, column, "a finite number", repr(cell) if cell.strip() else "an empty cell"))
    return value


def _table(path: str, names: list[str], cells: Numbers, label: str | int | None, header: bool, dtype: np.dtype[Any]) -> Table:
    position = _label_position(path, names, label)
    with np.errstate(over="ignore"):  # looked for and named right below
        features = (cells if position is None else np.delete(cells, position, axis=1)).astype(dtype)
    kept = [name for i, name in enumerate(names) if i != position]
    if not np.isfinite(features).all():
        row, column = (int(i) for i in np.argwhere(~np.isfinite(features))[0])
        shown = kept[column] if header else names.index(kept[column]) + 1
        raise FaultError(BadCell(path, row + 1 + header, shown, f"a number that {dtype} can hold", "a larger one"))
    if position is None:
        return Table(tuple(kept), features)
    labels = cells[:, position]
    bad = (labels != np.round(labels)) | (np.abs(labels) > np.iinfo(np.int32).max)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        shown = names[position] if header else position + 1
        raise FaultError(BadCell(path, row + 1 + header, shown, "a label, a whole number of 32 bits", f"{labels[row]:g}"))
    return Table(tuple(kept), features, labels.astype(np.int32))


def _label_position(path: str, names: list[str], label: str | int | None) -> int | None:
    if label is None:
        return None
    if isinstance(label, str) and names.count(label) == 1:
        return names.index(label)
    if isinstance(label, int) and 0 <= label < len(names):
        return label
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    raise FaultError(FileCorrupt(path, f"one column {label!r} for the labels", f"the columns {shown}"))
