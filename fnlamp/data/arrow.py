"""Tables of numbers in Parquet files and in Arrow's own: IPC files and streams, Feather."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike, fspath
from typing import Any, TypeAlias

import numpy as np

from fnlamp.data.bulk import Numbers
from fnlamp.data.file import LIMIT, decoding, opened, reading, within
from fnlamp.data.table import Table, check_options, label_position, labels, shown
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

    `columns` are the names of the features, in the order that is wanted, all by default; no others are read. `label` is the
    column of class labels as in `read_csv`, by its name or its position in the file; it need not be among `columns`.
    `limit` is how many bytes may be unpacked. Rows count from 1. Fails: `FileMissing`; `FileCorrupt` for another format, a
    damaged or cut file, one without rows or without the columns; `BadCell` for a null, a string and whatever else is no
    finite number (in `dtype` too), and no whole number for a label; `TooLarge`; `ExtraMissing`.

    >>> import pathlib, pyarrow, pyarrow.parquet, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "small.parquet")
    >>> pyarrow.parquet.write_table(pyarrow.table({"a": [0.5, 1.5], "b": [2, 3], "kind": [1, 0]}), path)
    >>> read_parquet(path, label="kind").map(lambda table: (table.columns, table.features.tolist(), table.label.tolist())).run()
    <IOResult: <Success: (('a', 'b'), [[0.5, 2.0], [1.5, 3.0]], [1, 0])>>
    """
    check_options(label, dtype)
    name = fspath(path)

    def load(file: Any) -> Table:
        parquet = need("pyarrow.parquet", "tables")
        with decoding(name, "a Parquet file"), parquet.ParquetFile(file) as source:
            names = list(source.schema_arrow.names)
            chosen, position = _chosen(name, names, columns, label)
            inside = set(chosen if position is None else [*chosen, position])
            groups = [source.metadata.row_group(i) for i in range(source.metadata.num_row_groups)]
            wanted = {names[i] for i in inside}
            leaves = [group.column(i) for group in groups for i in range(group.num_columns)]
            within(name, limit, sum(leaf.total_uncompressed_size for leaf in leaves if _top(leaf, wanted)))
            # A run of one value takes no room in the file.
            within(name, limit, source.metadata.num_rows * len(inside) * np.dtype(dtype).itemsize)
            table = source.read(columns=[names[i] for i in sorted(inside)])
            return _table(name, table, names, chosen, position, np.dtype(dtype))

    return reading(_opening(name, (b"PAR1",), "a Parquet file", load))


def read_arrow(
    path: Path,
    *,
    columns: Sequence[str] | None = None,
    label: str | int | None = None,
    dtype: Any = np.float32,
    limit: int | None = LIMIT,
) -> Effect[Table, TableFault]:
    """The numbers in an Arrow IPC file (Feather) or stream; needs the extra `tables`. Options and faults: `read_parquet`.

    >>> import pathlib, pyarrow, pyarrow.feather, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "small.feather")
    >>> pyarrow.feather.write_feather(pyarrow.table({"a": [0.5, 1.5], "b": [2, 3]}), path)
    >>> read_arrow(path, columns=["b"]).map(lambda table: table.features.tolist()).run()
    <IOResult: <Success: [[2.0], [3.0]]>>
    """
    check_options(label, dtype)
    name = fspath(path)

    def load(file: Any) -> Table:
        arrow = need("pyarrow", "tables")
        with decoding(name, "an Arrow IPC file or stream"):
            whole = file.peek(6)[:6] == b"ARROW1"
            with (arrow.ipc.open_file if whole else arrow.ipc.open_stream)(file) as source:
                names = list(source.schema.names)
                chosen, position = _chosen(name, names, columns, label)
                batches, size = [], 0
                for batch in (source.get_batch(i) for i in range(source.num_record_batches)) if whole else source:
                    kept = batch.select(sorted(set(chosen if position is None else [*chosen, position])))
                    kept.validate(full=True)
                    within(name, limit, size := size + kept.nbytes)
                    batches.append(kept)
            if not batches:
                raise FaultError(FileCorrupt(name, "at least one row of numbers", "none"))
            return _table(name, arrow.Table.from_batches(batches), names, chosen, position, np.dtype(dtype))

    return reading(_opening(name, (b"ARRO", b"\xff\xff\xff\xff"), "an Arrow IPC file or stream", load))


def _top(leaf: Any, names: set[str]) -> bool:
    """Whether a column of the file belongs to one of the names, as a part of it if it is nested."""
    return leaf.path_in_schema in names or leaf.path_in_schema.partition(".")[0] in names


def _opening(path: str, magic: tuple[bytes, ...], expected: str, load: Callable[[Any], Table]) -> Callable[[], Table]:
    def opening() -> Table:
        with opened(path) as (file, _):
            came = file.peek(4)[:4]
            if came not in magic:
                raise FaultError(FileCorrupt(path, expected, f"the bytes {came.hex(' ')}" if came else "an empty file"))
            return load(file)

    return opening


def _chosen(
    path: str, names: list[str], columns: Sequence[str] | None, label: str | int | None
) -> tuple[list[int], int | None]:
    """The positions of the features and of the label."""
    if len(set(names)) < len(names):
        raise FaultError(FileCorrupt(path, "columns of different names", shown(names)))
    position = label_position(path, names, label)
    if columns is None:
        chosen = [i for i in range(len(names)) if i != position]
    else:
        missing = [column for column in columns if column not in names]
        if missing:
            raise FaultError(FileCorrupt(path, f"the column {missing[0]!r}", f"the columns {shown(names)}"))
        chosen = [names.index(column) for column in columns]
    return chosen, position


def _table(path: str, table: Any, names: list[str], chosen: list[int], position: int | None, dtype: np.dtype[Any]) -> Table:
    if not table.num_rows:
        raise FaultError(FileCorrupt(path, "at least one row of numbers", "none"))
    features = np.empty((table.num_rows, len(chosen)), dtype)
    for i, at in enumerate(chosen):
        numbers = _numbers(path, table.column(names[at]), names[at])
        with np.errstate(over="ignore"):  # looked for and named right below
            features[:, i] = numbers
        if not np.isfinite(features[:, i]).all():
            row = int(np.flatnonzero(~np.isfinite(features[:, i]))[0])
            raise FaultError(BadCell(path, row + 1, names[at], f"a number that {dtype} can hold", "a larger one"))
    kept = tuple(names[at] for at in chosen)
    if position is None:
        return Table(kept, features)
    numbers = _numbers(path, table.column(names[position]), names[position])
    return Table(kept, features, labels(path, [numbers], 1, names[position]))


def _numbers(path: str, column: Any, name: str) -> Numbers:
    """The finite numbers of a column, booleans being 0 and 1.  Fails: `BadCell`."""
    arrow = need("pyarrow", "tables")
    kinds = arrow.types
    if kinds.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if not (kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_boolean(kind) or kinds.is_decimal(kind)):
        _refuse(path, 0, column, name)
    if column.null_count:
        _refuse(path, column.is_null().index(True).as_py(), column, name)
    if kinds.is_decimal(kind):
        column = column.cast(arrow.float64())
    numbers: Numbers = column.to_numpy()
    if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
        _refuse(path, int(np.flatnonzero(~np.isfinite(numbers))[0]), column, name)
    return numbers


def _refuse(path: str, row: int, column: Any, name: str) -> None:
    came = column[row].as_py()
    what = "a null" if came is None else repr(came)
    raise FaultError(BadCell(path, row + 1, name, "a finite number", what if len(what) <= 40 else what[:37] + "..."))
