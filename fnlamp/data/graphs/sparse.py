"""Sparse rows in the form that `nn.sparse_linear` takes."""

from __future__ import annotations

from typing import Any

import numpy as np

from fnlamp.arrays import describe
from fnlamp.convert import as_array
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch
from fnlamp.given import whole


def sparse_rows(row: Any, column: Any, value: Any = None, *, rows: int) -> tuple[Any, Any]:
    """`(columns, values)`, both `(rows, most)`, of the coordinates of numbers that are not 0; `most` is the longest row.

    Without `value`, each number is 1.  Shorter rows end in values of 0.
    Shapes: row, column and value `(count,)`, the first two integers.
    Fails: `ShapeMismatch`, also for a row that does not exist; `DtypeMismatch`.

    >>> columns, values = sparse_rows([0, 0, 2], [4, 7, 1], [1.0, 2.0, 3.0], rows=3)
    >>> columns.tolist(), values.tolist()
    ([[4, 7], [0, 0], [1, 0]], [[1.0, 2.0], [0.0, 0.0], [3.0, 0.0]])
    """
    row, column = (np.asarray(as_array(given, "sparse_rows")) for given in (row, column))
    number = np.ones(row.shape, np.float32) if value is None else np.asarray(as_array(value, "sparse_rows/value"))
    rows = whole("sparse_rows: rows", rows, 0)
    if row.ndim != 1 or row.shape != column.shape or row.shape != number.shape:
        raise FaultError(ShapeMismatch("three arrays of shape (count,)", describe((row, column, number)), where="sparse_rows"))
    for given in (row, column):
        if given.size and given.dtype.kind not in "iu":
            raise FaultError(DtypeMismatch("integer rows and columns", describe(given), where="sparse_rows"))
    if row.size and (row.min() < 0 or row.max() >= rows or column.min() < 0):
        expected = f"rows from 0 to {rows - 1:,} and columns from 0"
        raise FaultError(ShapeMismatch(expected, f"{row.min()} to {row.max()}, {column.min()}", where="sparse_rows"))
    if column.size and column.max() > np.iinfo(np.int32).max:
        raise FaultError(ShapeMismatch("columns below 2^31", f"{column.max():,}", where="sparse_rows"))
    if number.dtype.kind not in "fiub":
        raise FaultError(DtypeMismatch("real numbers", describe(number), where="sparse_rows/value"))
    row = row.astype(np.int64)
    order, counts = np.argsort(row, kind="stable"), np.bincount(row, minlength=rows)
    place = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = rows, int(counts.max(initial=0))
    columns, values = np.zeros(shape, np.int32), np.zeros(shape, number.dtype if number.dtype.kind == "f" else np.float32)
    columns[row[order], place], values[row[order], place] = column[order], number[order]
    return columns, values
