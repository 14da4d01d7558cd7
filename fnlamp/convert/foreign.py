"""Containers of other libraries, recognized by their methods: their columns, their missing values, hints for conversion."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Any, Final

import numpy as np

from fnlamp.fault import DtypeMismatch, FaultError

_ARRAYS: Final = ("__array__", "__array_interface__", "iloc", "todense")


def is_arraylike(kind: type) -> bool:
    """Whether this is the type of an array, a frame or a tensor, which is converted to one array as a whole."""
    return any(hasattr(kind, name) for name in _ARRAYS)


def sparse(x: Any) -> bool:
    """Whether it is a sparse array."""
    return hasattr(x, "todense") and hasattr(x, "shape")


def columns_of(x: Any) -> list[tuple[str, Any]] | None:
    """The columns of a pandas, polars or Arrow frame, by position, whatever their names; `None` for anything else."""
    if hasattr(x, "iloc") and hasattr(x, "columns"):
        return [(str(name), x.iloc[:, i]) for i, name in enumerate(x.columns)]
    if hasattr(x, "get_columns"):
        return [(column.name, column) for column in x.get_columns()]
    if hasattr(x, "itercolumns") and hasattr(x, "column_names"):
        return [*zip(x.column_names, x.itercolumns(), strict=True)]
    return None


def dense(column: Any) -> bool:
    """Whether the column is stored as a NumPy array of numbers."""
    return isinstance(column.dtype, np.dtype) and column.dtype.kind in "fiub"


def converted(x: Any, where: str) -> Any:
    """Convert anything else by NumPy.  Fails: `DtypeMismatch`, also if the result has another shape than `x` declares."""
    try:
        row = _missing(x)
        # An array on disk may support indexing only.
        lazy = hasattr(x, "shape") and hasattr(x, "dtype") and hasattr(x, "__getitem__") and not _convertible(x)
        array: Any = None if row is not None else np.asarray(x[...] if lazy else x)
        shape = getattr(x, "shape", None)
    except MemoryError:
        raise
    except Exception as error:  # other libraries refuse with exceptions of any type
        raise refused(x, where, str(error).split("\n")[0]) from error
    if array is None:
        hint = "fill it in, as with fillna, or leave the row out, as with dropna"
        raise FaultError(DtypeMismatch("numbers", f"{_name(x)} without a value in row {row:,}", hint, where=where))
    known = isinstance(shape, tuple) and all(isinstance(n, int) for n in shape)
    if (known and shape != array.shape) or (array.ndim == 0 and array.dtype == object):
        raise refused(x, where)
    return array


def _convertible(x: Any) -> bool:
    return hasattr(x, "__array__") or hasattr(x, "__array_interface__") or hasattr(x, "__array_struct__")


def _missing(x: Any) -> int | None:
    """The first row with a missing value, for libraries that distinguish it from NaN."""
    if hasattr(x, "isna") and not isinstance(getattr(x, "dtype", None), np.dtype):
        gone = np.asarray(x.isna())
    elif hasattr(x, "null_count"):
        count = x.null_count() if callable(x.null_count) else x.null_count
        gone = np.asarray(x.is_null()) if count else np.zeros(0, bool)
    else:
        return None
    return int(np.argmax(gone)) if gone.any() else None


def _name(x: Any) -> str:
    if isinstance(x, type):
        return f"the class {x.__name__}"
    kind = type(x)
    package = kind.__module__.split(".")[0]
    name = kind.__name__ if package in ("builtins", "__main__") else f"{package} {kind.__name__}"
    return f"{'an' if name[0].lower() in 'aeio' else 'a'} {name}"


def refused(x: Any, where: str, why: str = "") -> FaultError:
    got = _name(x) + (f": {why.rstrip('.')}" if why else "")
    return FaultError(DtypeMismatch("an array of numbers", got, _hint(x), where=where))


def _hint(x: Any) -> str:
    """How to convert it first."""
    if hasattr(x, "detach"):
        steps = (".to_dense()" if getattr(x, "is_sparse", False) else "") + ".detach().cpu()"
        return f"give x{steps}.numpy(), of bfloat16 x{steps}.float().numpy()"
    if hasattr(x, "__cuda_array_interface__"):
        return "copy it to the host, as x.get() does"
    for name in ("toarray", "todense"):
        if hasattr(x, name):
            return f"give x.{name}(), if there is room for it"
    if hasattr(x, "__next__"):
        return "it can be read only once: give list(...) of it, or its batches with stream.from_iterable"
    if isinstance(x, str | bytes):
        return "encode it as numbers: data.character_codec and its kind make ids of text"
    if hasattr(x, "keys"):
        return "give a dict of arrays: dict(x)"
    if is_dataclass(x):
        parts = ", ".join(f"x.{field.name}" for field in fields(x))
        return f"give one of its parts ({parts}), or register its class with jax.tree_util.register_dataclass"
    if isinstance(x, Iterable):
        return "give a list, or np.asarray of it"
    return "give an array, or a list of numbers"
