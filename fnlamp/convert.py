"""Data in whatever form it is given, made arrays whose rows are taken by position; or refused by the name of its type."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any, Final

import jax
import numpy as np

from fnlamp.arrays import Array, Tree, check_numbers, describe, native
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch
from fnlamp.given import shown


def as_array(x: Any, where: str = "") -> Any:
    """What is given as one array of NumPy's (or of JAX's, which stays there), whose row i is row i of it by position.

    NumPy's and JAX's arrays are not copied; numbers in another byte order are, once; what is mapped from a file stays mapped.
    A list is an array. Whatever converts exactly is converted: a Series, a frame (rows of its values), a tensor on the CPU,
    anything with `__array__`, an array on disk that is read when it is indexed.
    Fails: `DtypeMismatch` for anything else, which names its type and what to write; `ShapeMismatch` for ragged lists.

    >>> as_array([[1, 2], [3, 4]])
    array([[1, 2],
           [3, 4]])
    >>> as_array(number for number in range(3))
    Traceback (most recent call last):
    fnlamp.fault.FaultError: DtypeMismatch: expected an array of numbers, got a generator; ... give list(...) ...
    """
    if type(x) is np.ndarray:
        return x if is_ready(x) else _checked(x, where)
    if isinstance(x, Array | np.ma.MaskedArray):
        check_numbers(x, where)
        return x
    if isinstance(x, np.memmap):
        check_numbers(x, where)
        return _narrowed(x, where)
    if isinstance(x, np.ndarray):  # the rows of a matrix are rows, and have no second axis more
        return _checked(x.view(np.ndarray), where)
    if isinstance(x, list | tuple):
        return _of_list(x, where)
    if _sparse(x):
        raise _refused(x, where)
    if hasattr(x, "to_pylist") and hasattr(getattr(x, "type", None), "value_type"):
        return _of_list(x.to_pylist(), where)  # Arrow's lists, in which a missing number would be taken for not-a-number
    columns = _columns(x)
    return _checked(_converted(x, where), where, x) if columns is None else _of_frame(x, columns, where)


def as_arrays(tree: Tree, where: str = "") -> Tree:
    """`as_array` of every leaf of a pytree; the same tree if nothing is to be done. A list is a leaf.

    >>> as_arrays({"x": [1, 2]}, "minibatches")
    {'x': array([1, 2])}
    """
    return _each(tree, where, lambda x: isinstance(x, list) or _single(x))


def rows_by_position(name: str, rows: Any) -> Any:
    """The argument as a sequence whose element i is row i: the rows of an array, a frame or a tensor, the values of a Series.

    Raises: `TypeError` for what has no length and rows by number. Fails: `DtypeMismatch` for a frame of anything but numbers.

    >>> rows_by_position("sequences", "abc")
    Traceback (most recent call last):
    TypeError: sequences is a list, got 'abc' (str)
    """
    if isinstance(rows, np.ndarray) and not isinstance(rows, np.ma.MaskedArray):
        return rows.view(np.ndarray)
    if isinstance(rows, dict | str | bytes) or not (hasattr(rows, "__len__") and hasattr(rows, "__getitem__")):
        hint = "; give list(...) of it" if hasattr(rows, "__next__") else ""
        raise TypeError(f"{name} is a list, got {shown(rows)}{hint}")
    whole = _columns(rows) is not None or _sparse(rows) or hasattr(rows, "detach") or isinstance(rows, np.ndarray)
    return as_array(rows, name) if whole else list(rows) if hasattr(rows, "to_numpy") else rows


def as_batch(batch: Tree) -> Tree:
    """`as_arrays` of one batch, of which a list is an array only if it holds numbers, and else its parts."""

    def is_leaf(x: Any) -> bool:
        return _single(x) or (isinstance(x, list) and _plain(x) and not any(isinstance(each, str) for each in x))

    return _each(batch, "batch", is_leaf)


def _each(tree: Tree, where: str, is_leaf: Callable[[Any], bool]) -> Tree:
    if type(tree) is tuple and all(is_ready(x) or (isinstance(x, Array) and isinstance(x.dtype, np.dtype)) for x in tree):
        return tree
    paths, structure = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)
    places = [f"{where}/{jax.tree_util.keystr(path, simple=True, separator='/')}".strip("/") for path, _ in paths]
    made = [as_array(leaf, place) for place, (_, leaf) in zip(places, paths, strict=True)]
    same = all(one is leaf for one, (_, leaf) in zip(made, paths, strict=True))
    return tree if same else jax.tree.unflatten(structure, made)


def is_ready(x: Any) -> bool:
    """Whether nothing is to be done, quickly known."""
    return type(x) is np.ndarray and x.dtype.kind in "fiub" and x.dtype.isnative and x.dtype.itemsize <= 8


def _single(x: Any) -> bool:
    """Whether JAX would take it for a tree, or not know: a sparse array, or what can be read only once."""
    return _sparse(x) or hasattr(x, "__next__")


def _sparse(x: Any) -> bool:
    """Whether it is a sparse array."""
    return hasattr(x, "todense") and hasattr(x, "shape")


def _checked(array: np.ndarray[Any, Any], where: str, given: Any = None) -> Any:
    """The array with numbers that JAX knows.  Fails: `DtypeMismatch`; `given` is what the array was made of."""
    if array.dtype == object and array.ndim:
        return _of_objects(array, where, given)
    if given is not None and array.dtype.kind in "OSUT":
        raise _refused(given, where)
    check_numbers(array, where)
    return native(_narrowed(array, where))


def _narrowed(array: Any, where: str) -> Any:
    """Numbers of more than 64 bits in 64, if that changes none of them."""
    if array.dtype.type not in (np.longdouble, np.clongdouble):
        return array
    narrow = np.float64 if array.dtype.type is np.longdouble else np.complex128
    with np.errstate(all="ignore"):
        made = array.astype(narrow)
    if not np.array_equal(made, array, equal_nan=True):
        hint = f"round it: array.astype(np.{narrow.__name__})"
        raise FaultError(DtypeMismatch(f"numbers that {narrow.__name__} holds exactly", describe(array), hint, where=where))
    return np.asarray(made)


# ------------------------------------------------------------------------------- lists, and arrays of objects


_ARRAYS: Final = ("__array__", "__array_interface__", "iloc", "todense")


def is_arraylike(kind: type) -> bool:
    """Whether what is of this type is an array, a frame or a tensor, which as a whole is made one array."""
    return any(hasattr(kind, name) for name in _ARRAYS)


def _plain(items: Sequence[Any]) -> bool:
    """Whether a list, or one of lists, has no array, frame or tensor in it."""
    kinds = set(map(type, items))
    if kinds and kinds <= {list, tuple}:
        return _plain_all(items)
    return not any(is_arraylike(kind) and not issubclass(kind, np.generic) for kind in kinds)


def _plain_all(rows: Sequence[Sequence[Any]]) -> bool:
    kinds = set(map(type, chain.from_iterable(rows)))
    return all(map(_plain, rows)) if kinds & {list, tuple} else _plain([*chain.from_iterable(rows)])


def _of_list(items: Sequence[Any], where: str) -> Any:
    if not _plain(items):
        rows = [as_array(item, f"{where}/{i}".strip("/")) for i, item in enumerate(items)]
        return _joined(rows, where, 0)
    try:
        array = np.asarray(items)
    except (ValueError, OverflowError) as error:
        raise _ragged(items, where) from error
    if array.dtype == object:
        return _of_objects(array, where)
    if array.dtype.kind in "fc" and (abs(array) >= 2**53).any() and not _exact(items, array):
        raise _lossy("integers beyond 2**53 beside fractions", "float64", where)
    return _checked(array, where)


def _exact(items: Any, array: np.ndarray[Any, Any]) -> bool:
    """Whether no integer of the list was rounded."""
    pairs = zip(np.array(items, object).ravel(), array.ravel().real.tolist(), strict=True)
    return all(not isinstance(item, int | np.integer) or int(item) == int(made) for item, made in pairs)


def _of_objects(array: np.ndarray[Any, Any], where: str, given: Any = None) -> Any:
    """The numbers, or the arrays of one shape, that an array holds as Python's objects."""
    if not array.size:
        return np.zeros(array.shape)
    items = array.ravel().tolist()
    for i, item in enumerate(items):
        arrays = is_arraylike(type(item)) and not isinstance(item, np.generic)
        if not (arrays or isinstance(item, int | float | complex | np.number | np.bool_ | list)):
            row = np.unravel_index(i, array.shape)[0]
            got = f"the dtype object, with {shown(item)} in row {row:,}"
            hint = "give its codes, x.cat.codes" if hasattr(given, "cat") else "encode it as numbers, or leave it out"
            raise FaultError(DtypeMismatch("numbers", got, hint, where=where))
    if all(isinstance(item, int) for item in items) and np.asarray(items).dtype == object:
        raise _lossy(f"integers from {min(items)} to {max(items)}", "int64", where)
    made = _of_list(items, where)
    return made.reshape(*array.shape, *made.shape[1:])


def _joined(rows: Sequence[Any], where: str, axis: int, names: Sequence[str] | None = None) -> np.ndarray[Any, Any]:
    """Arrays of one shape, one beside the other, in the dtype that holds the numbers of all."""

    def place(i: int) -> str:
        return names[i] if names else f"row {i:,}"

    for i, row in enumerate(rows):
        if row.shape != rows[0].shape:
            what = "columns" if names else "rows"
            expected, got = f"{describe(rows[0])} as in {place(0)}", f"{describe(row)} in {place(i)}"
            raise FaultError(ShapeMismatch(f"{what} of one shape, {expected}", got, _PAD, where=where))
    kinds = {row.dtype: None for row in rows}
    try:
        dtype = np.result_type(*kinds)
    except TypeError as error:
        raise FaultError(DtypeMismatch("rows of one dtype", ", ".join(map(str, kinds)), where=where)) from error
    if len(kinds) > 1 and dtype.kind in "fc":
        for i, row in enumerate(rows):
            if row.dtype.kind in "iu" and row.size and max(int(row.max()), -int(row.min())) > 2 ** (np.finfo(dtype).nmant + 1):
                raise _lossy(f"{row.dtype} from {row.min()} to {row.max()} in {place(i)}", str(dtype), where)
    joined: np.ndarray[Any, Any] = np.stack([np.asarray(row, dtype) for row in rows], axis)
    return joined


_PAD: Final = "pad the rows to one length (data.padded_batches does it for ids), or give each part as an array of its own"


def _ragged(items: Sequence[Any], where: str) -> FaultError:
    """The row that is not like the first one; if it is ragged itself, what is odd in it."""
    first: tuple[int, ...] | None = None
    for i, item in enumerate(items):
        try:
            shape = np.shape(item)
        except ValueError:
            return _ragged(item, f"{where}/{i}".strip("/"))
        first = shape if first is None else first
        if shape != first:
            return FaultError(
                ShapeMismatch(f"rows of one shape, {list(first)} as in row 0", f"{list(shape)} in row {i:,}", _PAD, where=where)
            )
    return FaultError(ShapeMismatch("rows of one shape", "a ragged list", _PAD, where=where))


def _lossy(got: str, dtype: str, where: str) -> FaultError:
    return FaultError(
        DtypeMismatch(f"numbers that {dtype} holds exactly", got, "renumber them, or give them apart", where=where)
    )


# ------------------------------------------------------------------------------- frames, tensors and others


def _columns(x: Any) -> list[tuple[str, Any]] | None:
    """The columns of a frame of pandas', of polars' or of Arrow's, by position, whatever their names; of no frame, `None`."""
    if hasattr(x, "iloc") and hasattr(x, "columns"):
        return [(str(name), x.iloc[:, i]) for i, name in enumerate(x.columns)]
    if hasattr(x, "get_columns"):
        return [(column.name, column) for column in x.get_columns()]
    if hasattr(x, "itercolumns") and hasattr(x, "column_names"):
        return [*zip(x.column_names, x.itercolumns(), strict=True)]
    return None


def _of_frame(x: Any, columns: list[tuple[str, Any]], where: str) -> Any:
    """A frame as rows of its values, in one dtype that holds them all exactly."""
    if not columns:
        return np.zeros((len(x), 0))
    if len({str(column.dtype) for _, column in columns if hasattr(column, "dtype")}) == 1 and _dense(columns[0][1]):
        return _checked(np.ascontiguousarray(x), where, x)
    made = [np.asarray(as_array(column, f"{where}/{name}".strip("/"))) for name, column in columns]
    return _joined(made, where, 1, [f"the column {name!r}" for name, _ in columns])


def _dense(column: Any) -> bool:
    """Whether its numbers are one of NumPy's arrays, as those of its neighbours of one dtype are."""
    return isinstance(column.dtype, np.dtype) and column.dtype.kind in "fiub"


def _converted(x: Any, where: str) -> Any:
    """What NumPy makes of anything else, if that is an array of the shape that it says it has."""
    try:
        row = _missing(x)
        # An array on disk may have nothing but rows that can be asked for.
        lazy = hasattr(x, "shape") and hasattr(x, "dtype") and hasattr(x, "__getitem__") and not _convertible(x)
        array: Any = None if row is not None else np.asarray(x[...] if lazy else x)
        shape = getattr(x, "shape", None)
    except MemoryError:
        raise
    except Exception as error:  # whatever it is that another library refuses with
        raise _refused(x, where, str(error).split("\n")[0]) from error
    if array is None:
        hint = "fill it in, as with fillna, or leave the row out, as with dropna"
        raise FaultError(DtypeMismatch("numbers", f"{_name(x)} without a value in row {row:,}", hint, where=where))
    known = isinstance(shape, tuple) and all(isinstance(n, int) for n in shape)
    if (known and shape != array.shape) or (array.ndim == 0 and array.dtype == object):
        raise _refused(x, where)
    return array


def _convertible(x: Any) -> bool:
    return hasattr(x, "__array__") or hasattr(x, "__array_interface__") or hasattr(x, "__array_struct__")


def _missing(x: Any) -> int | None:
    """The first row whose value is missing, where a library knows that of itself apart from not-a-number."""
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


def _refused(x: Any, where: str, why: str = "") -> FaultError:
    got = _name(x) + (f": {why.rstrip('.')}" if why else "")
    return FaultError(DtypeMismatch("an array of numbers", got, _hint(x), where=where))


def _hint(x: Any) -> str:
    """What to write instead."""
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
    if isinstance(x, Iterable):
        return "give a list, or np.asarray of it"
    return "give an array, or a list of numbers"
