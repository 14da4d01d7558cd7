"""Tables of numbers with a column of class labels, from any kind of file."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from fnlamp.data.option import column_of, several
from fnlamp.data.readers.bulk import Numbers
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
    """The columns and the label, a position as an `int`.  Raises: `TypeError` for options that could give wrong numbers."""
    try:
        floating = np.issubdtype(np.dtype(dtype), np.floating)
    except (TypeError, ValueError):
        raise TypeError(f"dtype is a floating-point dtype, such as np.float32, got {dtype!r}") from None
    if dtype is None or not floating:
        raise TypeError(f"features are floating-point numbers, got the dtype {dtype}")
    return None if columns is None else several("columns", columns), None if label is None else column_of("label", label)


def chosen(
    path: str,
    names: Sequence[str],
    columns: Sequence[str] | None,
    label: str | int | None,
    rows_named_by: Collection[int] = (),
) -> tuple[list[int], int | None]:
    """The positions of the features and of the label; by default, features are all columns but the label and the row names.

    A given position does not count the columns of row names.
    Fails: `FileCorrupt`, also for an unnamed column that would be a feature.
    """
    plain = [i for i in range(len(names)) if i not in rows_named_by]
    position: int | None
    if isinstance(label, int):
        position = plain[_position(path, [names[i] for i in plain], label, " for the labels")]
        if _UNNAMED.fullmatch(names[position]):
            raise FaultError(FileCorrupt(path, "a column with a name for the labels", _unnamed(names, position)))
    else:
        position = None if label is None else _position(path, names, label, " for the labels")
    if columns is not None:
        return [_position(path, names, column) for column in columns], position
    features = [i for i in plain if i != position]
    for at in features:
        if _UNNAMED.fullmatch(names[at]):
            raise FaultError(FileCorrupt(path, "a name for every column", _unnamed(names, at)))
    if not features and rows_named_by:
        raise FaultError(
            FileCorrupt(path, "a column of features", f"row names only: {shown([names[i] for i in rows_named_by])}")
        )
    return features, position


_UNNAMED: Final = re.compile(r"\s*|Unnamed: [0-9]+(\.[0-9]+)*|\.\.\.[0-9]+")
"""The name that pandas and R's readr give to an unnamed column."""


def _unnamed(names: Sequence[str], at: int) -> str:
    named = [repr(name) for name in names if not _UNNAMED.fullmatch(name)]
    wanted = ", ".join(named[:4]) + (", ..." if len(named) > 4 else "")
    return (
        f"{names[at]!r} for column {at + 1}, as where pandas or R wrote row numbers: give columns=[{wanted}], "
        "or write the file without them (index=False, row.names=FALSE)"
    )


def inside(features: Sequence[int], label: int | None) -> list[int]:
    """The columns to read, in the file's order.

    >>> inside([3, 0], 1)
    [0, 1, 3]
    """
    return sorted({*features} if label is None else {*features, label})


def _position(path: str, names: Sequence[str], column: str | int, use: str = "") -> int:
    if isinstance(column, str) and names.count(column) == 1:
        return names.index(column)
    if isinstance(column, int) and 0 <= column < len(names):
        return column
    actual = f"{names.count(column)} of them" if column in names else f"the columns {shown(names)}"
    raise FaultError(FileCorrupt(path, f"one column {column!r}{use}", actual))


def shown(names: Sequence[str]) -> str:
    """The first few names, for a message."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def labels(path: str, numbers: Numbers, first: int, column: str | int) -> Numbers:
    """Labels, int32, from the finite numbers of a column that starts in row `first`.  Fails: `BadCell`.

    >>> labels("table.csv", np.array([7.0, 2.0]), 2, "kind")
    array([7, 2], dtype=int32)
    """
    bad = (numbers != np.round(numbers)) | (numbers > _MOST) | (numbers < -_MOST)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise FaultError(BadCell(path, row + first, column, "a label, a whole number of 32 bits", f"{numbers[row]:g}"))
    return numbers.astype(np.int32)


_MOST: Final = np.iinfo(np.int32).max
