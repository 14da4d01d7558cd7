"""Collation: from items to a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, TypeAlias

import numpy as np

from fnlamp.arrays import Tree, describe
from fnlamp.convert import as_array, is_arraylike, is_ready
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch, located
from fnlamp.given import shown

Collate: TypeAlias = Callable[[list[Any]], Tree]
"""A function from a list of items to a batch: a tree of arrays, batch axis first."""


def stack(items: Sequence[Any]) -> Tree:
    """Stack items of one structure: tuples, named tuples and dicts part by part, each part an array, batch axis first.

    Arrays keep their dtype, torch tensors and Pillow images become arrays; a Python `int` becomes int32, a `float` float32;
    a list becomes an array. Fails: `ShapeMismatch` and `DtypeMismatch`, which name the item and the part that does not fit.

    >>> stack([{"x": np.zeros(3, np.float32), "y": 1}, {"x": np.ones(3, np.float32), "y": 0}])
    {'x': array([[0., 0., 0.],
           [1., 1., 1.]], dtype=float32), 'y': array([1, 0], dtype=int32)}
    >>> stack([(1, 2.0), (1, "two")])
    Traceback (most recent call last):
    fnlamp.fault.FaultError: DtypeMismatch: item 1/1: expected float as in item 0, got str; ...
    """
    if not isinstance(items, Sequence):
        raise TypeError(f"items is a list of items, got {shown(items)}")
    if not items:
        raise FaultError(ShapeMismatch("at least one item", "none", where="stack"))
    names = _names.get()
    return _stack(items, names if len(names) == len(items) else range(len(items)), "")


_names: ContextVar[Sequence[int]] = ContextVar("names", default=())


@contextmanager
def named(rows: Sequence[int]) -> Iterator[None]:
    """Inside, faults of `stack` name items by their row in the data set, also if the caller's collate calls it on all items."""
    token = _names.set(rows)
    try:
        yield
    finally:
        _names.reset(token)


def _stack(items: Sequence[Any], names: Sequence[int], path: str) -> Tree:
    first = items[0]
    kind = type(first)
    if kind is np.ndarray:
        return _arrays(items, names, path)
    if isinstance(first, np.number | np.bool_) and len(set(map(type, items))) == 1:
        return as_array(np.array(items), _place(names[0], path))
    if is_arraylike(kind):  # a NumPy scalar, a tensor, a Series, an image
        return _arrays(items, names, path)
    if len(set(map(type, items))) > 1:
        raise _misfit(next(i for i, item in enumerate(items) if type(item) is not kind), items, names, path)
    if kind in _NUMBERS:
        return _numbers(items, names, path)
    if isinstance(first, dict):
        _alike(dict.keys, items, names, path)
        return {name: _stack([item[name] for item in items], names, f"{path}/{name}") for name in first}
    if isinstance(first, tuple):
        _alike(len, items, names, path)
        parts = [_stack(part, names, f"{path}/{i}") for i, part in enumerate(zip(*items, strict=True))]
        return kind(*parts) if hasattr(first, "_fields") else tuple(parts)
    if isinstance(first, list):
        rows = [_array(item, name, path) for item, name in zip(items, names, strict=True)]
        return _arrays(rows, names, path)
    hint = "encode it as a number with transform, leave it out, or give a collate that handles it"
    raise FaultError(DtypeMismatch("numbers, arrays, tuples or dicts", kind.__name__, hint, where=_place(names[0], path)))


_NUMBERS: Final = {bool: np.bool_, int: np.int32, float: np.float32}


def _arrays(items: Sequence[Any], names: Sequence[int], path: str) -> Any:
    """Stack arrays of one shape and dtype."""
    if not is_ready(items[0]) or any(type(item) is not np.ndarray or item.dtype != items[0].dtype for item in items):
        items = [_converted(item, name, path) for item, name in zip(items, names, strict=True)]
    shape, dtype = items[0].shape, items[0].dtype
    for i, item in enumerate(items):
        if not isinstance(item, np.ndarray) or item.shape != shape or item.dtype != dtype:
            raise _misfit(i, items, names, path)
    return np.array(items)


def _converted(item: Any, name: int, path: str) -> Any:
    """An array-like as an array; anything else unchanged, which does not fit."""
    return np.asarray(as_array(item, _place(name, path))) if is_arraylike(type(item)) else item


def _numbers(items: Sequence[Any], names: Sequence[int], path: str) -> Any:
    """Python numbers, all of one type; a number that 32 bits cannot hold is a fault."""
    kind = type(items[0])
    if kind is bool:
        return np.array(items)
    bounds: Any = np.iinfo(np.int32) if kind is int else np.finfo(np.float32)
    for i, item in enumerate(items):
        if not kind(bounds.min) <= item <= kind(bounds.max) and (kind is int or math.isfinite(item)):
            hint = f"scale or renumber it, or give it as NumPy's {kind.__name__}64"
            expected = f"a number that {np.dtype(_NUMBERS[kind])} can hold"
            raise FaultError(DtypeMismatch(expected, str(item), hint, where=_place(names[i], path)))
    return np.array(items, _NUMBERS[kind])


def _array(item: list[Any], name: int, path: str) -> Any:
    """A list of numbers, or of lists of them, as one array."""
    if not item:
        return np.zeros(0, np.float32)
    with located(_place(name, path)):
        return _stack(item, range(len(item)), "")


def _alike(of: Callable[[Any], Any], items: Sequence[Any], names: Sequence[int], path: str) -> None:
    first = of(items[0])
    for i, item in enumerate(items):
        if of(item) != first:
            raise _misfit(i, items, names, path)


def _misfit(i: int, items: Sequence[Any], names: Sequence[int], path: str) -> FaultError:
    """The fault for item i, which differs from the first; of the two, it names the one whose form is rarer among all items."""
    forms = [_form(item) for item in items]
    one, odd = (i, 0) if forms.count(forms[0]) < forms.count(forms[i]) else (0, i)
    first, other = items[one], items[odd]
    shown = [describe(x) if describe(first) != describe(other) else type(x).__name__ for x in (first, other)]
    expected = f"{shown[0]} as in item {names[one]}"
    shapes = [x.shape if isinstance(x, np.ndarray) else None for x in (first, other)]
    if shapes[0] != shapes[1] or isinstance(first, dict | tuple):
        hint = "crop, resize or pad in transform, or give a collate that pads"
        return FaultError(ShapeMismatch(expected, shown[1], hint, where=_place(names[odd], path)))
    hint = "convert every item to one dtype in transform"
    return FaultError(DtypeMismatch(expected, shown[1], hint, where=_place(names[odd], path)))


def _form(item: Any) -> tuple[type, str]:
    return type(item), describe(item)


def _place(name: int, path: str) -> str:
    return f"item {name}{path}"
