"""Tables of numbers in Parquet files and in Arrow's own: IPC files and streams, Feather."""

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

    `columns` are the names of the features, in the order that is wanted; no others are read. By default they are all but the
    label and a data frame's stored index, which the file's metadata names. `label` is the column of class labels as in
    `read_csv`, by its name or its position in the file, the index not counted; it need not be among `columns`.
    `limit` is how many bytes may be unpacked: as the file declares them of all its columns, and as its rows take for those
    that are read; more is refused before anything is. Rows count from 1.

    Fails: `FileMissing`; `FileCorrupt` for another format, a damaged or cut file, one without rows or without the columns;
    `BadCell` for a null, a string and whatever else is no finite number (in `dtype` too), and no whole number for a label;
    `TooLarge`; `ExtraMissing`.

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
            # Not of the file itself: damage makes pyarrow ask it for gigabytes, and a mapped one may be cut while it is read.
            with parquet.ParquetFile(_reader(pieces.whole), pre_buffer=False) as source:
                names, schema = list(source.schema_arrow.names), source.schema_arrow
                features, position = _chosen(name, schema, wanted, label)
                needed = inside(features, position)
                columns = [names[i] for i in needed]
                chunks = [chunk for chunk in footer.chunks if chunk.column in columns]
                # A run of one value takes no room in the file.
                rows = max(footer.rows, source.metadata.num_rows, *_values(chunks).values(), 0)
                width = _width(name, schema, needed, rows, np.dtype(dtype))
                within(name, limit, footer.size)
                within(name, limit, rows * width)
                pieces.read(chunks)
                within(name, limit, sum(pages_size(pieces.view, chunk, budget) for chunk in chunks))
                # By one thread: where one of several meets damage, the rest run on after the file is gone, and crash.
                table = source.read(columns=columns, use_threads=False)
            del source, pieces  # what is unpacked does not need them
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

    Only the record batches' columns that are asked for are unpacked. What a file of before 2020 has, version 0.15, is not read.

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
            # A file is a stream with a list of its batches after it.
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
    """The parts of a Parquet file that are needed, at their places in memory of its length; the rest takes no memory."""

    def __init__(self, path: str, file: File, size: int, limit: int | None) -> None:
        self.path, self.file, self.limit = path, file, limit
        # What is packed with gzip cannot be read here and there.
        packed = None if file.seekable() else rest_of(path, file, limit)
        self.whole: Any = packed
        if packed is None:
            self.whole = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # of no file
        self.view: memoryview = memoryview(self.whole)
        self.is_whole, self.taken = packed is not None, 0

    def footer(self) -> bytes:
        """What stands between the data and the length of itself, at the end."""
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
        """Have the bytes of these columns."""
        for chunk in chunks:  # some writers tell a length that lacks a header of a page, as pyarrow knows too
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
    """The numbers that each column says to have."""
    counts: Counter[str] = Counter()
    for chunk in chunks:
        counts[chunk.column] += chunk.values
    return counts


def _opening(
    path: str, magic: tuple[bytes, ...], expected: str, limit: int | None, load: Callable[[File, int], Table]
) -> Callable[[], Table]:
    def opening() -> Table:
        with opened(path) as (file, size):
            came = file.peek(4)[:4]
            if came not in magic:
                raise FaultError(FileCorrupt(path, expected, f"the bytes {came.hex(' ')}" if came else "an empty file"))
            need("pyarrow", "tables")
            return load(file, size)

    return opening


def _width(path: str, schema: Any, places: list[int], rows: int, dtype: np.dtype[Any]) -> int:
    """The bytes of a row when it is unpacked, before anything is.  Fails: `FileCorrupt`; `BadCell` for what is no number."""
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
    """The positions of the columns that hold a data frame's index, as the file's own metadata tells, or their names."""
    written = (schema.metadata or {}).get(b"pandas", b"{}")
    try:
        listed = json.loads(written).get("index_columns", [])
        stored = {name for name in listed if isinstance(name, str)}  # a range is not stored: it is described, by a dict
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise FaultError(
            FileCorrupt(path, "pandas' metadata as JSON, or columns=[...] without it", repr(written[:60]))
        ) from error
    return [i for i, name in enumerate(schema.names) if name in stored or _INDEX.fullmatch(name)]


_INDEX: Final = re.compile(r"__index_level_[0-9]+__|__null_dask_index__")
"""What pyarrow and Dask call the columns of an index that has no name."""


def _table(path: str, table: Any, names: list[str], places: list[int], position: int | None, dtype: np.dtype[Any]) -> Table:
    features = np.empty((table.num_rows, len(places)), dtype)
    for i, at in enumerate(places):
        numbers = _numbers(path, table.column(names[at]), names[at])
        with np.errstate(over="ignore"):  # looked for and named right below
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
    """The finite numbers of a column, booleans being 0 and 1.  Fails: `BadCell`."""
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
    came = column[row].as_py()
    raise FaultError(BadCell(path, row + 1, name, "a finite number", "a null" if came is None else repr(came)))
