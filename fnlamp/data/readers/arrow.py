"""Tables of numbers in Parquet and Arrow files: IPC files and streams, Feather."""

from __future__ import annotations

import json
import mmap
import re
from collections import Counter
from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any, Final, TypeAlias

import numpy as np

from fnlamp.data.option import limit_of, path_of
from fnlamp.data.readers.bulk import Numbers
from fnlamp.data.readers.declared import Budget, Chunk, arrow_batches, check_list, pages_size, parquet_footer
from fnlamp.data.readers.file import LIMIT, File, decoding, opened, reading, rest_of, within
from fnlamp.data.readers.table import Table, check_options, chosen, inside, labels, shown
from fnlamp.effect import Effect
from fnlamp.extra import need
from fnlamp.fault import BadCell, ExtraMissing, FaultError, FileCorrupt, FileFault

Path: TypeAlias = "str | PathLike[str]"
TableFault: TypeAlias = FileFault | ExtraMissing


def read_parquet(
    path: Path,
    *,
    columns: Sequence[str] | None = None,
    label: str | int | None = None,
    dtype: Any = np.float32,
    limit: int | None = LIMIT,
) -> Effect[Table, TableFault]:
    """The numbers in a Parquet file; needs the extra `tables`. Nothing is opened before the program is run.

    `columns` are the names of the features, in the order to return; no others are read. By default they are all but the
    label and a data frame's stored index, which the file's metadata names. `label` is the column of class labels as in
    `read_csv`, by its name or its position in the file, not counting the index; it need not be among `columns`.
    `limit` is how many bytes may be unpacked, both as the file declares for all its columns and as its rows take in the
    columns that are read; a larger file is refused before anything is unpacked. Rows count from 1.

    Fails: `FileMissing`; `FileCorrupt` for another format, a damaged or cut file, one without rows or without the columns;
    `BadCell` for a null, a string or another cell that is not a finite number (in `dtype` too), and for a label that is not a
    whole number; `TooLarge`; `ExtraMissing`.

    >>> import pathlib, pyarrow, pyarrow.parquet, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "small.parquet")
    >>> pyarrow.parquet.write_table(pyarrow.table({"a": [0.5, 1.5], "b": [2, 3], "kind": [1, 0]}), path)
    >>> read_parquet(path, label="kind").map(lambda table: (table.columns, table.features.tolist(), table.label.tolist())).run()
    <IOResult: <Success: (('a', 'b'), [[0.5, 2.0], [1.5, 3.0]], [1, 0])>>
    """
    wanted, label = check_options(columns, label, dtype)
    name, limit = path_of(path), limit_of(limit)

    def load(file: File, size: int) -> Table:
        parquet, budget = need("pyarrow.parquet", "tables"), Budget(name, limit)
        with decoding(name, "a Parquet file"):
            pieces = _Pieces(name, file, size, limit)
            footer = parquet_footer(pieces.footer(), budget)
            # From a copy, not the file: damage makes pyarrow read gigabytes, and a mapped file may be truncated meanwhile.
            with parquet.ParquetFile(_reader(pieces.whole), pre_buffer=False) as source:
                names, schema = list(source.schema_arrow.names), source.schema_arrow
                features, position = _chosen(name, schema, wanted, label)
                needed = inside(features, position)
                columns = [names[i] for i in needed]
                chunks = [chunk for chunk in footer.chunks if chunk.column in columns]
                # A run of equal values takes no space in the file.
                rows = max(footer.rows, source.metadata.num_rows, *_values(chunks).values(), 0)
                width = _width(name, schema, needed, rows, np.dtype(dtype))
                within(name, limit, footer.size)
                within(name, limit, rows * width)
                pieces.read(chunks)
                within(name, limit, sum(pages_size(pieces.view, chunk, budget) for chunk in chunks))
                # One thread: if one of several meets damage, the others keep running after the file is closed, and crash.
                table = source.read(columns=columns, use_threads=False)
            del source, pieces  # the table does not need them
            return _table(name, table, names, features, position, np.dtype(dtype))

    return reading(name, _opening(name, (b"PAR1",), "a Parquet file", limit, load))


def read_arrow(
    path: Path,
    *,
    columns: Sequence[str] | None = None,
    label: str | int | None = None,
    dtype: Any = np.float32,
    limit: int | None = LIMIT,
) -> Effect[Table, TableFault]:
    """The numbers in an Arrow IPC file (Feather) or stream; needs the extra `tables`. Options and faults: `read_parquet`.

    Of the record batches, only the selected columns are unpacked. The format before version 0.15 (2019) is not supported.

    >>> import pathlib, pyarrow, pyarrow.feather, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "small.feather")
    >>> pyarrow.feather.write_feather(pyarrow.table({"a": [0.5, 1.5], "b": [2, 3]}), path)
    >>> read_arrow(path, columns=["b"]).map(lambda table: table.features.tolist()).run()
    <IOResult: <Success: [[2.0], [3.0]]>>
    """
    wanted, label = check_options(columns, label, dtype)
    name, limit = path_of(path), limit_of(limit)

    def load(file: File, size: int) -> Table:
        ipc, budget = need("pyarrow.ipc", "tables"), Budget(name, limit)
        with decoding(name, "an Arrow IPC file or stream"):
            raw = memoryview(rest_of(name, file, limit))
            # A file is a stream followed by a list of its batches.
            start = 8 if bytes(raw[:6]) == b"ARROW1" else 0
            batches = arrow_batches(raw, start, budget)
            within(name, limit, sum(batch.size for batch in batches))
            with ipc.open_stream(_reader(raw[start:])) as source:
                schema = source.schema
            if start:
                check_list(raw, batches, budget)
                with ipc.open_file(_reader(raw)) as source:
                    if not source.schema.equals(schema, check_metadata=True):
                        raise ValueError("columns at its end that are not those at its beginning")
            rows = [batch.rows for batch in batches if not batch.dictionary]
            names = list(schema.names)
            features, position = _chosen(name, schema, wanted, label)
            needed = inside(features, position)
            width = _width(name, schema, needed, sum(rows), np.dtype(dtype))
            within(name, limit, sum(rows) * width)
            options = ipc.IpcReadOptions(included_fields=needed, use_threads=False)
            with ipc.open_stream(_reader(raw[start:]), options=options) as source:
                table = source.read_all()
            table.validate(full=True)
            return _table(name, table, names, features, position, np.dtype(dtype))

    return reading(name, _opening(name, (b"ARRO", b"\xff\xff\xff\xff"), "an Arrow IPC file or stream", limit, load))


def _reader(raw: Any) -> Any:
    arrow = need("pyarrow", "tables")
    return arrow.BufferReader(arrow.py_buffer(raw))


class _Pieces:
    """The needed parts of a Parquet file, at their offsets in a mapping of its length; the rest takes no memory."""

    def __init__(self, path: str, file: File, size: int, limit: int | None) -> None:
        self.path, self.file, self.limit = path, file, limit
        # A file packed with gzip has no random access.
        packed = None if file.seekable() else rest_of(path, file, limit)
        self.whole: Any = packed
        if packed is None:
            self.whole = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # of no file
        self.view: memoryview = memoryview(self.whole)
        self.is_whole, self.taken = packed is not None, 0

    def footer(self) -> bytes:
        """The footer, which precedes its own length at the end of the file."""
        end = len(self.view) - 8
        if end < 4:
            raise ValueError(f"a file of {end + 8} bytes")
        self._take(end, end + 8)
        length = int.from_bytes(self.view[end : end + 4], "little")
        if bytes(self.view[end + 4 :]) != b"PAR1" or length > end - 4:
            raise ValueError("a file that ends without its footer")
        self._take(end - length, end)
        return bytes(self.view[end - length : end])

    def read(self, chunks: list[Chunk]) -> None:
        """Read the bytes of these columns."""
        for chunk in chunks:  # some writers' lengths omit the header of a page; pyarrow handles this too
            self._take(chunk.start, min(chunk.start + chunk.length + 100, len(self.view) - 8))

    def _take(self, start: int, stop: int) -> None:
        if self.is_whole or stop <= start:
            return
        self.taken += stop - start
        within(self.path, self.limit, self.taken - 2**16)
        self.file.seek(start)
        if self.file.readinto(self.view[start:stop]) != stop - start:
            raise ValueError("fewer bytes than it had when it was opened")


def _values(chunks: list[Chunk]) -> Counter[str]:
    """How many values each column declares."""
    counts: Counter[str] = Counter()
    for chunk in chunks:
        counts[chunk.column] += chunk.values
    return counts


def _opening(
    path: str, magic: tuple[bytes, ...], expected: str, limit: int | None, load: Callable[[File, int], Table]
) -> Callable[[], Table]:
    def opening() -> Table:
        with opened(path) as (file, size):
            start = file.peek(4)[:4]
            if start not in magic:
                raise FaultError(FileCorrupt(path, expected, f"the bytes {start.hex(' ')}" if start else "an empty file"))
            need("pyarrow", "tables")
            return load(file, size)

    return opening


def _width(path: str, schema: Any, places: list[int], rows: int, dtype: np.dtype[Any]) -> int:
    """The bytes of an unpacked row, before anything is unpacked.  Fails: `FileCorrupt`; `BadCell` for other than numbers."""
    if rows < 1:
        raise FaultError(FileCorrupt(path, "at least one row of numbers", "none"))
    kinds, width = need("pyarrow.types", "tables"), 0
    for field in (schema.field(i) for i in places):
        kind = field.type.value_type if kinds.is_dictionary(field.type) else field.type
        if not (kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_boolean(kind) or kinds.is_decimal(kind)):
            raise FaultError(BadCell(path, 1, field.name, "a finite number", f"one of the type {str(field.type)[:40]}"))
        width += max(-(-kind.bit_width // 8), dtype.itemsize)
    return width


def _chosen(path: str, schema: Any, columns: Sequence[str] | None, label: str | int | None) -> tuple[list[int], int | None]:
    names = list(schema.names)
    if len(set(names)) < len(names):
        raise FaultError(FileCorrupt(path, "columns of different names", shown(names)))
    by_default = columns is None or isinstance(label, int)
    return chosen(path, names, columns, label, _row_names(path, schema) if by_default else ())


def _row_names(path: str, schema: Any) -> list[int]:
    """The positions of the columns that hold a data frame's index, by the file's metadata or by their names."""
    written = (schema.metadata or {}).get(b"pandas", b"{}")
    try:
        listed = json.loads(written).get("index_columns", [])
        stored = {name for name in listed if isinstance(name, str)}  # a range is a dict: it is described, not stored
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise FaultError(
            FileCorrupt(path, "pandas' metadata as JSON, or columns=[...] without it", repr(written[:60]))
        ) from error
    return [i for i, name in enumerate(schema.names) if name in stored or _INDEX.fullmatch(name)]


_INDEX: Final = re.compile(r"__index_level_[0-9]+__|__null_dask_index__")
"""The column names that pyarrow and Dask give to an unnamed index."""


def _table(path: str, table: Any, names: list[str], places: list[int], position: int | None, dtype: np.dtype[Any]) -> Table:
    features = np.empty((table.num_rows, len(places)), dtype)
    for i, at in enumerate(places):
        numbers = _numbers(path, table.column(names[at]), names[at])
        with np.errstate(over="ignore"):  # checked and reported right below
            features[:, i] = numbers
        if not np.isfinite(features[:, i]).all():
            row = int(np.flatnonzero(~np.isfinite(features[:, i]))[0])
            raise FaultError(BadCell(path, row + 1, names[at], f"a number that {dtype} can hold", "a larger one"))
    kept = tuple(names[at] for at in places)
    if position is None:
        return Table(kept, features)
    numbers = _numbers(path, table.column(names[position]), names[position])
    return Table(kept, features, labels(path, numbers, 1, names[position]))


def _numbers(path: str, column: Any, name: str) -> Numbers:
    """The finite numbers of a column, with booleans as 0 and 1.  Fails: `BadCell`."""
    arrow = need("pyarrow", "tables")
    if arrow.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if column.null_count:
        _refuse(path, column.is_null().index(True).as_py(), column, name)
    if arrow.types.is_decimal(column.type):
        column = column.cast(arrow.float64())
    numbers: Numbers = column.to_numpy()
    if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
        _refuse(path, int(np.flatnonzero(~np.isfinite(numbers))[0]), column, name)
    return numbers


def _refuse(path: str, row: int, column: Any, name: str) -> None:
    value = column[row].as_py()
    raise FaultError(BadCell(path, row + 1, name, "a finite number", "a null" if value is None else repr(value)))
