"""Where two values differ, for functions by what they read: the pairs of parts that are not equal, each with its path.

`identity` says whether; this says where. It compares more loosely where a compiled program could not: code by what it does, not
by its file and line, and arrays by their numbers, whatever their size.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnlamp.identity.code import is_library, is_library_module, reads
from fnlamp.identity.members import contents, instance_fields
from fnlamp.identity.walk import identity


class Pair(NamedTuple):
    """Two parts that differ, at a path of names; `MISSING` stands for a part that only the other value has."""

    path: tuple[str, ...]
    one: Any
    other: Any


_WHOLE = (bool, int, float, complex, str, bytes, np.ndarray, np.generic, jax.Array, type, types.ModuleType)
"""What is equal or not as a whole."""


class _Missing:
    def __repr__(self) -> str:
        return "nothing"


MISSING = _Missing()


def differences(one: Any, other: Any) -> list[Pair]:
    """The parts in which two values differ; empty if they are equal.

    >>> def scaled(factor):
    ...     return lambda x: factor * x
    >>> differences(scaled(2), scaled(2)), differences(scaled(2), scaled(3))
    ([], [Pair(path=('factor',), one=2, other=3)])
    """
    return [] if identity(one) == identity(other) else list(_Compare().pairs((), one, other))


class _Compare:
    """One comparison, which looks at each pair of objects once."""

    def __init__(self) -> None:
        self.seen: dict[tuple[int, int], tuple[Any, Any]] = {}  # keeps the objects, so that their ids are not used again

    def pairs(self, path: tuple[str, ...], one: Any, other: Any) -> Iterator[Pair]:
        if one is other or (id(one), id(other)) in self.seen:
            return
        ours, theirs = parts_of(one), parts_of(other)
        if type(one) is not type(other) or ours is None or theirs is None:
            if not _same(one, other):
                yield Pair(path, one, other)
            return
        self.seen[id(one), id(other)] = one, other
        if isinstance(one, types.FunctionType) and code_of(one.__code__) != code_of(other.__code__):
            yield Pair(path, one, other)
            return
        for name in ours | theirs:
            yield from self.pairs((*path, name) if name else path, ours.get(name, MISSING), theirs.get(name, MISSING))


def parts_of(value: Any) -> dict[str, Any] | None:
    """What a value consists of, by name; a part named "" has the name of the whole. `None` for what is not looked into."""
    if value is None or isinstance(value, _WHOLE):
        return None
    if isinstance(value, types.FunctionType):
        return dict(_function(value))
    if isinstance(value, types.MethodType):
        return {"": value.__func__, "self": value.__self__}
    if isinstance(value, functools.partial):
        code = getattr(value.func, "__code__", None)
        names = code.co_varnames[: code.co_argcount] if code is not None else ()
        return {"": value.func, **_by_place(value.args, names), **value.keywords}
    if isinstance(value, tuple | list):
        return _by_place(value, getattr(value, "_fields", ()))
    if isinstance(value, Mapping):
        return {str(name): part for name, part in value.items()}
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name, MISSING) for field in dataclasses.fields(value)}
    if callable(getattr(value, "__wrapped__", None)):  # jax.jit, custom_vjp
        return {"": value.__wrapped__}
    return instance_fields(value) or None


def _by_place(values: Sequence[Any], names: Sequence[str]) -> dict[str, Any]:
    return {names[at] if at < len(names) else str(at): value for at, value in enumerate(values)}


def _function(function: types.FunctionType) -> list[tuple[str, Any]]:
    """The variables that a function reads, and its defaults."""
    code = function.__code__
    cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
    found = [(name, contents(cell)) for name, cell in cells.items()]
    names = code.co_varnames[: code.co_argcount]
    defaults = function.__defaults__ or ()
    found += zip(names[len(names) - len(defaults) :], defaults, strict=True)
    found += (function.__kwdefaults__ or {}).items()
    if is_library(code.co_filename):  # its globals do not change
        return found
    for kind, name, attributes in reads(code):
        if kind == "global" and name in function.__globals__:
            found.append(_followed(name, function.__globals__[name], attributes))
    return found


def _followed(name: str, value: Any, attributes: tuple[str, ...]) -> tuple[str, Any]:
    """A global variable, or an attribute of a module."""
    path = [name]
    for attribute in attributes:
        if not isinstance(value, types.ModuleType) or is_library_module(value.__name__) or not hasattr(value, attribute):
            break
        value = getattr(value, attribute)
        path.append(attribute)
    return ".".join(path), value


def code_of(code: types.CodeType) -> tuple[Any, ...]:
    """What a code object does, without the place where it was written."""
    constants = tuple(
        code_of(constant) if isinstance(constant, types.CodeType) else (type(constant), repr(constant))
        for constant in code.co_consts
    )
    arguments = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
    names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
    return code.co_code, constants, arguments, names, code.co_exceptiontable


def _same(one: Any, other: Any) -> bool:
    """Whether two values are equal that are not looked into."""
    arrays = [value for value in (one, other) if isinstance(value, np.ndarray | np.generic | jax.Array)]
    if len(arrays) == 2:
        return same_numbers(*arrays)
    return bool(identity(one) == identity(other))


def same_numbers(one: Any, other: Any) -> bool:
    """Whether two arrays have the same shape, dtype and numbers; NaN is the same as NaN."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if isinstance(one, jax.Array) and jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
        one, other = jax.random.key_data(one), jax.random.key_data(other)
    ours, theirs = np.asarray(one), np.asarray(other)
    return bool(np.array_equal(ours, theirs, equal_nan=ours.dtype.kind in "fc"))
