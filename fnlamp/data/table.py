"""Tables of numbers with a column of class labels, whatever kind of file they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fnlamp.data.bulk import Numbers
from fnlamp.data.option import column_of, several
from fnlamp.fault import BadCell, FaultError, FileCorrupt


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


def check_options(
    columns: Sequence[str] | None, label: str | int | None, dtype: Any
) -> tuple[tuple[str, ...] | None, str | int | None]:
    """The columns and the label, a position as an `int`, or a `TypeError` for options that could make wrong numbers."""
    if not np.issubdtype(dtype, np.floating):
        raise TypeError(f"features are floating-point numbers, got the dtype {dtype}")
    return None if columns is None else several("columns", columns), None if label is None else column_of("label", label)


def chosen(
    path: str, names: Sequence[str], columns: Sequence[str] | None, label: str | int | None
) -> tuple[list[int], int | None]:
    """The positions of the features, all but the label by default, and of the label.  Fails: `FileCorrupt`."""
    position = None if label is None else _position(path, names, label, " for the labels")
    if columns is None:
        return [i for i in range(len(names)) if i != position], position
    return [_position(path, names, column) for column in columns], position


def inside(features: Sequence[int], label: int | None) -> list[int]:
    """The columns that are read, in the file's order.

    >>> inside([3, 0], 1)
    [0, 1, 3]
    """
    return sorted({*features} if label is None else {*features, label})


def _position(path: str, names: Sequence[str], column: str | int, use: str = "") -> int:
    if isinstance(column, str) and names.count(column) == 1:
        return names.index(column)
    if isinstance(column, int) and 0 <= column < len(names):
        return column
    came = f"{names.count(column)} of them" if column in names else f"the columns {shown(names)}"
    raise FaultError(FileCorrupt(path, f"one column {column!r}{use}", came))


def shown(names: Sequence[str]) -> str:
    """The first few names, for a message."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def labels(path: str, parts: Sequence[Numbers], first: int, column: str | int) -> Numbers:
    """Labels, int32, from the finite numbers of a column, whose first is in row `first`.  Fails: `BadCell`.

    >>> labels("table.csv", [np.array([7.0, 2.0]), np.array([1])], 2, "kind")
    array([7, 2, 1], dtype=int32)
    """
    numbers = np.concatenate(parts).astype(np.float64)
    bad = (numbers != np.round(numbers)) | (np.abs(numbers) > np.iinfo(np.int32).max)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise FaultError(BadCell(path, row + first, column, "a label, a whole number of 32 bits", f"{numbers[row]:g}"))
    return numbers.astype(np.int32)
