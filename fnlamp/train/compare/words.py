"""One difference, in words: of numbers, arrays, functions and whatever they read."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnlamp import tree
from fnlamp.arrays import describe
from fnlamp.effect.node import name_of
from fnlamp.given import shown
from fnlamp.identity import MISSING, differences


class Differing(NamedTuple):
    """A place where two programs differ, and what each of them has there, in words."""

    where: str
    one: str
    other: str

    def __str__(self) -> str:
        return f"{self.where}: {self.one} -> {self.other}"


def differing(where: str, one: Any, other: Any, *skipped: Any) -> Iterator[Differing]:
    """What differs between two values, each part by its path; arrays that share memory with a `skipped` one are left out."""
    for path, ours, theirs in differences(one, other):
        if not _shares(ours, skipped):
            yield from _of_pair(", ".join(filter(None, (where, ".".join(path)))), ours, theirs)


def named(where: str, one: Any, other: Any) -> Iterator[Differing]:
    """What differs between two values with names, or mappings of them: the names if they differ, else what is behind them."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for name in {**one, **other}:
            yield from named(f"{where}, {name}", one.get(name, MISSING), other.get(name, MISSING))
        return
    texts = words(one), words(other)
    functions = isinstance(one, types.FunctionType) and isinstance(other, types.FunctionType)
    if texts[0] != texts[1] and not functions:
        yield Differing(where, *texts)
    else:
        yield from differing(where, one, other)


def _shares(array: Any, skipped: tuple[Any, ...]) -> bool:
    if isinstance(array, np.ndarray):
        return any(isinstance(other, np.ndarray) and np.may_share_memory(array, other) for other in skipped)
    return any(array is other for other in skipped)


def _of_pair(where: str, one: Any, other: Any) -> Iterator[Differing]:
    if _is_array(one) and _is_array(other) and one.shape == other.shape and one.dtype == other.dtype and one.shape:
        yield _of_arrays(where, one, other)
        return
    if isinstance(one, types.FunctionType) and isinstance(other, types.FunctionType):
        constants = list(_of_constants(where, one.__code__, other.__code__))
        if constants:
            yield from constants
            return
    texts = words(one), words(other)
    if texts[0] == texts[1]:
        texts = texts[0], f"another {texts[1]}"
    yield Differing(where, *texts)


def _of_arrays(where: str, one: Any, other: Any) -> Differing:
    """The first of the numbers that differ, and how many there are."""
    if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
        one, other = jax.random.key_data(one), jax.random.key_data(other)
    ours, theirs = np.asarray(one), np.asarray(other)
    unequal = ours != theirs
    if ours.dtype.kind in "fc":
        unequal &= ~(np.isnan(ours) & np.isnan(theirs))
    at = tuple(map(int, np.unravel_index(np.argmax(unequal), unequal.shape)))
    numbers = f"{int(unequal.sum()):,} of {unequal.size:,} numbers, the first at {list(at)}"
    return Differing(f"{where}, {numbers}", str(ours[at]), str(theirs[at]))


def _of_constants(where: str, one: types.CodeType, other: types.CodeType) -> Iterator[Differing]:
    """The numbers and texts in which two functions differ, if they differ in nothing else."""
    same = one.co_code == other.co_code and one.co_names == other.co_names and len(one.co_consts) == len(other.co_consts)
    if same and one.co_varnames == other.co_varnames and one.co_freevars == other.co_freevars:
        for ours, theirs in zip(one.co_consts, other.co_consts, strict=True):
            if isinstance(ours, types.CodeType) and isinstance(theirs, types.CodeType):
                yield from _of_constants(where, ours, theirs)
            elif repr(ours) != repr(theirs):
                yield Differing(f"{where}, in {one.co_name}", repr(ours), repr(theirs))


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray | jax.Array)


def words(value: Any) -> str:
    """A value in a few words.

    >>> words(MISSING), words(0.5), words(np.zeros((2, 3)))
    ('nothing', '0.5', 'float64[2, 3]')
    """
    if value is None or value is MISSING:
        return "nothing"
    if _is_array(value) and value.ndim:
        return describe(value)
    if isinstance(value, bool | int | float | str | np.generic | jax.Array | np.ndarray):
        return str(value)
    if isinstance(value, types.FunctionType):
        return f"{name_of(value)} at line {value.__code__.co_firstlineno}"
    if isinstance(value, tuple | list | Mapping) and (arrays := tree.leaves(value)) and all(map(_is_array, arrays)):
        return describe(value)
    text = str(value)
    return shown(value) if " at 0x" in text or len(text) > 80 else text
