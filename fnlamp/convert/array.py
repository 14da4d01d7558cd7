"""Conversion of arrays, lists, frames and trees of them to arrays with rows by position."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Final

import jax
import numpy as np

from fnlamp.arrays import Array, Tree, check_numbers, describe, native
from fnlamp.convert.foreign import columns_of, converted, dense, is_arraylike, refused, sparse
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch
from fnlamp.given import shown


def as_array(x: Any, where: str = "") -> Any:
    """Convert to one NumPy array, with rows by position; a JAX array stays on its device.

    NumPy and JAX arrays are not copied, except numbers in another byte order; a memory map stays mapped. A list becomes an
    array. Everything that converts exactly is converted: a Series, a frame (rows of its values), a tensor on the CPU, anything
    with `__array__`, an array on disk that is read by indexing.
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
    if isinstance(x, np.ndarray):  # as an ndarray: rows of `np.matrix` have two axes
        return _checked(x.view(np.ndarray), where)
    if isinstance(x, list | tuple):
        return _of_list(x, where)
    if sparse(x):
        raise refused(x, where)
    if hasattr(x, "to_pylist") and hasattr(getattr(x, "type", None), "value_type"):
        return _of_list(x.to_pylist(), where)  # Arrow's lists: NumPy would turn a missing number into NaN
    columns = columns_of(x)
    return _checked(converted(x, where), where, x) if columns is None else _of_frame(x, columns, where)


def as_arrays(tree: Tree, where: str = "") -> Tree:
    """`as_array` of every leaf of a pytree; the same tree if no leaf needs conversion. A list is a leaf.

    >>> as_arrays({"x": [1, 2]}, "minibatches")
    {'x': array([1, 2])}
    """
    return _each(tree, where, lambda x: isinstance(x, list) or _single(x))


def rows_by_position(name: str, rows: Any) -> Any:
    """The argument as a sequence whose element i is row i: the rows of an array, a frame or a tensor, the values of a Series.

    Raises: `TypeError` for anything without a length and rows by number. Fails: `DtypeMismatch` for a frame of anything but
    numbers.

    >>> rows_by_position("sequences", "abc")
    Traceback (most recent call last):
    TypeError: sequences is a list, got 'abc' (str)
    """
    if isinstance(rows, np.ndarray) and not isinstance(rows, np.ma.MaskedArray):
        return rows.view(np.ndarray)
    if isinstance(rows, dict | str | bytes) or not (hasattr(rows, "__len__") and hasattr(rows, "__getitem__")):
        hint = "; give list(...) of it" if hasattr(rows, "__next__") else ""
        raise TypeError(f"{name} is a list, got {shown(rows)}{hint}")
    whole = columns_of(rows) is not None or sparse(rows) or hasattr(rows, "detach") or isinstance(rows, np.ndarray)
    return as_array(rows, name) if whole else list(rows) if hasattr(rows, "to_numpy") else rows


def as_batch(batch: Tree) -> Tree:
    """`as_arrays` of one batch, where a list of numbers becomes an array, and any other list is a tree."""

    def is_leaf(x: Any) -> bool:
        return _single(x) or (isinstance(x, list) and _plain(x) and not any(isinstance(each, str) for each in x))

    return _each(batch, "batch", is_leaf)


def _each(tree: Tree, where: str, is_leaf: Callable[[Any], bool]) -> Tree:
    if _done(tree):
        return tree
    try:
        paths, structure = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)
    except ValueError as error:  # JAX sorts the keys of a dict
        raise ValueError(f"{where}: the keys of a dict have one type, such as strings; {str(error).splitlines()[0]}") from error
    places = [f"{where}/{jax.tree_util.keystr(path, simple=True, separator='/')}".strip("/") for path, _ in paths]
    made = [as_array(leaf, place) for place, (_, leaf) in zip(places, paths, strict=True)]
    same = all(one is leaf for one, (_, leaf) in zip(made, paths, strict=True))
    return tree if same else jax.tree.unflatten(structure, made)


def is_ready(x: Any) -> bool:
    """A fast check that an array needs no conversion."""
    return type(x) is np.ndarray and x.dtype.kind in "fiub" and x.dtype.isnative and x.dtype.itemsize <= 8


def _done(tree: Tree) -> bool:
    """A check that no array of a tree needs conversion, as usual; faster than flattening it."""
    if type(tree) is tuple:
        return all(map(_done, tree))
    if type(tree) is dict:
        return all(type(name) is str and _done(part) for name, part in tree.items())
    return is_ready(tree) or (isinstance(tree, Array) and isinstance(tree.dtype, np.dtype))


def _single(x: Any) -> bool:
    """Whether this is a leaf that JAX might take for a tree or not recognize: a sparse array, or an iterator."""
    return sparse(x) or hasattr(x, "__next__")


def _checked(array: np.ndarray[Any, Any], where: str, given: Any = None) -> Any:
    """The array with numbers that JAX supports.  Fails: `DtypeMismatch`; `given` is the source of the array."""
    if array.dtype == object and array.ndim:
        return _of_objects(array, where, given)
    if given is not None and array.dtype.kind in "OSUT":
        raise refused(given, where)
    check_numbers(array, where)
    return native(_narrowed(array, where))


def _narrowed(array: Any, where: str) -> Any:
    """Numbers of more than 64 bits in 64.  Fails: `DtypeMismatch`, if that changes any."""
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


def _plain(items: Sequence[Any]) -> bool:
    """Whether a list, or a list of lists, contains no array, frame or tensor."""
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
    """Whether every integer of the list was converted exactly."""
    pairs = zip(np.array(items, object).ravel(), array.ravel().real.tolist(), strict=True)
    return all(not isinstance(item, int | np.integer) or int(item) == int(made) for item, made in pairs)


def _of_objects(array: np.ndarray[Any, Any], where: str, given: Any = None) -> Any:
    """The numbers, or the arrays of one shape, in an array of objects."""
    if not array.size:
        return np.zeros(array.shape)
    items = array.ravel().tolist()
    kinds = set(map(type, items))
    wrong = {kind for kind in kinds if not _holds_numbers(kind)}
    if wrong:
        i = next(i for i, item in enumerate(items) if type(item) in wrong)
        got = f"the dtype object, with {shown(items[i])} in row {np.unravel_index(i, array.shape)[0]:,}"
        hint = "give its codes, x.cat.codes" if hasattr(given, "cat") else "encode it as numbers, or leave it out"
        raise FaultError(DtypeMismatch("numbers", got, hint, where=where))
    if all(issubclass(kind, _NUMBERS) for kind in kinds) and np.asarray(items).dtype == object:
        raise _lossy("integers of more than 64 bits", "int64", where)
    made = _of_list(items, where)
    return made.reshape(*array.shape, *made.shape[1:])


_NUMBERS: Final = (int, float, complex, np.number, np.bool_)


def _holds_numbers(kind: type) -> bool:
    return issubclass(kind, (*_NUMBERS, list)) or (is_arraylike(kind) and not issubclass(kind, np.generic))


def _joined(rows: Sequence[Any], where: str, axis: int, names: Sequence[str] | None = None) -> np.ndarray[Any, Any]:
    """Stack arrays of one shape, in the dtype that holds all their numbers."""

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


_PAD: Final = "pad the rows to one length (data.padded_batches does it for ids), or give each part as its own array"


def _ragged(items: Sequence[Any], where: str) -> FaultError:
    """The fault for the first row whose shape differs; if a row is ragged itself, for the odd part of it."""
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


def _of_frame(x: Any, columns: list[tuple[str, Any]], where: str) -> Any:
    """A frame as rows of its values, in one dtype that holds all of them exactly."""
    if not columns:
        return np.zeros((len(x), 0))
    if len({str(column.dtype) for _, column in columns if hasattr(column, "dtype")}) == 1 and dense(columns[0][1]):
        return _checked(np.ascontiguousarray(x), where, x)
    made = [np.asarray(as_array(column, f"{where}/{name}".strip("/"))) for name, column in columns]
    return _joined(made, where, 1, [f"the column {name!r}" for name, _ in columns])
