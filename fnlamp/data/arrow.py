"""Tables of numbers in Parquet files and in Arrow's own: IPC files and streams, Feather."""

from __future__ import annotations

import json
import mmap
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

from fnlamp.data.bulk import Numbers
from fnlamp.data.file import LIMIT, decoding, opened, reading, rest_of, within
from fnlamp.data.option import path_of
from fnlamp.data.table import Table, check_options, chosen, inside, labels, shown
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
    name = path_of(path)

    def load(file: Any) -> Table:
        parquet = need("pyarrow.parquet", "tables")
        with decoding(name, "a Parquet file"), parquet.ParquetFile(file) as source:
            names, metadata = list(source.schema_arrow.names), source.metadata
            features, position = _chosen(name, source.schema_arrow, wanted, label)
            needed = inside(features, position)
            # Not of the columns one by one: pyarrow ends the process where those of a damaged file do not fit.
            groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
            # A run of one value takes no room in the file.
            rows = max(metadata.num_rows, sum(group.num_rows for group in groups))
            width = _width(name, source.schema_arrow, needed, rows, np.dtype(dtype))
            within(name, limit, sum(group.total_byte_size for group in groups))
            within(name, limit, rows * width)
            # By one thread: where one of several meets damage, the rest go on after the file is gone, and the process crashes.
            table = source.read(columns=[names[i] for i in needed], use_threads=False)
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
    name = path_of(path)

    def load(file: Any) -> Table:
        ipc = need("pyarrow.ipc", "tables")
        with decoding(name, "an Arrow IPC file or stream"):
            start, listed = 0, None
            if _begins(file, b"ARROW1"):  # a stream with a list of its batches after it, which a cut file lacks
                with ipc.open_file(file) as source:
                    start, listed = 8, source.num_record_batches
            file.seek(start)
            with ipc.open_stream(file) as source:
                schema = source.schema
            names = list(schema.names)
            features, position = _chosen(name, schema, wanted, label)
            needed = inside(features, position)
            batches = list(_batches(file, start))
            rows = [batch.rows for batch in batches if not batch.dictionary]
            if listed not in (None, len(rows)):
                raise ValueError(f"{len(rows)} record batches where {listed} are listed")
            width = _width(name, schema, needed, sum(rows), np.dtype(dtype))
            within(name, limit, sum(batch.size for batch in batches))
            within(name, limit, sum(rows) * width)
            file.seek(start)
            with ipc.open_stream(file, options=ipc.IpcReadOptions(included_fields=needed, use_threads=False)) as source:
                table = source.read_all()
            table.validate(full=True)
            return _table(name, table, names, features, position, np.dtype(dtype))

    return reading(name, _opening(name, (b"ARRO", b"\xff\xff\xff\xff"), "an Arrow IPC file or stream", limit, load))


class _Batch(NamedTuple):
    """What a record batch or a dictionary declares: its rows, and the bytes of its buffers when they are unpacked."""

    rows: int
    size: int
    dictionary: bool


def _batches(file: Any, start: int) -> Iterator[_Batch]:
    """What the messages of a stream declare, before pyarrow unpacks any.  Reference: Arrow's Message.fbs, IPC format."""
    file.seek(start)
    while len(head := file.read(8)) == 8:
        mark, length = struct.unpack("<Ii", head)
        if mark != 0xFFFFFFFF or length < 0:
            raise ValueError("a message without its mark, as of a version before 0.15")
        if not length:
            return
        # Not `read`, which would make room for all that damage declares.
        message = _Flat.root(file.read_buffer(length).to_pybytes())
        kind, body, size = message.number(1, "<B"), file.tell(), message.number(3, "<q")
        if size < 0:
            raise ValueError("a message of negative length")
        if kind in (2, 3):
            found = message.table(2)
            batch = found.table(1) if kind == 2 else found
            packed, total = batch.at(3) is not None, 0
            for offset, room in batch.pairs(2):
                if packed and room >= 8:
                    file.seek(body + offset)
                    (unpacked,) = struct.unpack("<q", file.read(8))
                    room = max(room, unpacked)  # -1 says that this one is not packed
                total += max(room, 0)
            yield _Batch(batch.number(0, "<q"), total, kind == 2)
        file.seek(body + size)


class _Flat(NamedTuple):
    """A table of a FlatBuffer.  Reference: FlatBuffers' internals, "Tables"."""

    raw: bytes
    start: int

    @classmethod
    def root(cls, raw: bytes) -> _Flat:
        return cls(raw, *struct.unpack_from("<I", raw))

    def at(self, field: int) -> int | None:
        """Where a field is, if it is there."""
        entries = self.start - struct.unpack_from("<i", self.raw, self.start)[0]
        if entries < 0:
            raise ValueError("a table outside its message")
        if 4 + 2 * field >= struct.unpack_from("<H", self.raw, entries)[0]:
            return None
        (offset,) = struct.unpack_from("<H", self.raw, entries + 4 + 2 * field)
        return self.start + offset if offset else None

    def number(self, field: int, form: str) -> int:
        at = self.at(field)
        value: int = 0 if at is None else struct.unpack_from(form, self.raw, at)[0]
        return value

    def _followed(self, field: int) -> int:
        at = self.at(field)
        if at is None:
            raise ValueError("a message that lacks a part")
        to: int = at + struct.unpack_from("<I", self.raw, at)[0]
        return to

    def table(self, field: int) -> _Flat:
        return _Flat(self.raw, self._followed(field))

    def pairs(self, field: int) -> Iterator[tuple[int, int]]:
        """A vector of pairs of 64-bit numbers."""
        start = self._followed(field)
        (count,) = struct.unpack_from("<I", self.raw, start)
        if start + 4 + 16 * count > len(self.raw):
            raise ValueError("a list longer than its message")
        return struct.iter_unpack("<qq", self.raw[start + 4 : start + 4 + 16 * count])


def _begins(file: Any, magic: bytes) -> bool:
    file.seek(0)
    return bool(file.read(len(magic)) == magic)


def _opening(
    path: str, magic: tuple[bytes, ...], expected: str, limit: int | None, load: Callable[[Any], Table]
) -> Callable[[], Table]:
    def opening() -> Table:
        with opened(path) as (file, _):
            came = file.peek(4)[:4]
            if came not in magic:
                raise FaultError(FileCorrupt(path, expected, f"the bytes {came.hex(' ')}" if came else "an empty file"))
            # What is packed with gzip, or comes through a pipe, cannot be read here and there.
            # Not the file itself: damage makes pyarrow ask it for gigabytes, and crash in a thread that still reads it later.
            whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if file.seekable() else rest_of(path, file, limit)
            arrow = need("pyarrow", "tables")
            return load(arrow.BufferReader(arrow.py_buffer(whole)))

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
