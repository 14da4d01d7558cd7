"""The compiled view of a stream: arrays plus a static recipe `(arrays, rows) -> batch`, so that one program can run many steps.

A view is a tuple of segments, each a run of batches of one shape; only the last batch of an epoch is usually shorter. Positions
count batches over all segments, and every batch can be had directly, so a view's stream continues anywhere without replay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import CodeType, FunctionType
from typing import Any

import numpy as np

from fnlamp import tree
from fnlamp.arrays import Tree, describe, take_rows, to_device
from fnlamp.effect.node import name_of
from fnlamp.given import whole


def check_seed(seed: Any) -> Any:
    """The seed as an `int`, of NumPy's and JAX's integer types too, or `None`.  Raises: `ValueError`, `TypeError`."""
    if seed is None:
        return None
    number = whole("seed", seed, None)
    if number < 0:
        raise ValueError(f"a seed is 0 or more, got {number}")
    return number


@dataclass(frozen=True, eq=False)
class Order:
    """An order of rows: as they are without a seed, else a permutation that is a function of the seed alone.

    With `among`, row numbers, it is an order of those rows only.
    """

    rows: int
    seed: int | None = None
    among: np.ndarray[Any, Any] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", check_seed(self.seed))

    @cached_property
    def _permutation(self) -> np.ndarray[Any, Any]:
        chosen = np.arange(self.rows) if self.among is None else self.among
        index = np.int32 if self.rows <= np.iinfo(np.int32).max else np.int64
        if self.seed is None:
            return chosen.astype(index)
        return np.random.default_rng(self.seed).permutation(chosen).astype(index)

    def __len__(self) -> int:
        return self.rows if self.among is None else len(self.among)

    def __getitem__(self, positions: Any) -> np.ndarray[Any, Any]:
        chosen: np.ndarray[Any, Any] = self._permutation[positions]
        return chosen


def row_numbers(among: Any, rows: int) -> np.ndarray[Any, Any]:
    """The numbers of some of the rows, from 0; negative ones count from the end.  Raises: `IndexError`, `TypeError`.

    >>> row_numbers([2, -1], 5).tolist()
    [2, 4]
    """
    wanted = np.asarray(among)
    wanted = wanted.astype(np.int64) if wanted.size == 0 else wanted
    if wanted.ndim != 1 or wanted.dtype.kind not in "iu":
        hint = ": of a mask, give np.flatnonzero(mask)" if wanted.dtype == bool else ""
        raise TypeError(f"rows are named by a list of whole numbers, got {describe(wanted)}{hint}")
    wrong = (wanted < -rows) | (wanted >= rows)
    if wrong.any():
        raise IndexError(f"expected numbers of {rows:,} rows, got {wanted[wrong][0]}")
    numbers = wanted.astype(np.int64)
    numbers[numbers < 0] += rows
    return numbers


def rows_of_each(arrays: Tree, rows: Any) -> Tree:
    """The named rows of every array."""
    if type(arrays) is tuple:  # as most are: without a walk over the tree, which takes longer than a few rows
        return tuple([rows_of_each(part, rows) for part in arrays])
    return take_rows(arrays, rows) if type(arrays) is np.ndarray else tree.map(lambda array: take_rows(array, rows), arrays)


@dataclass(frozen=True)
class Recipe:
    """How a batch is made of arrays and row numbers: `take` the rows, then apply the functions of `map`, first to last.

    Two recipes are equal when their functions have the same code and captured values, so a lambda that is made anew each epoch
    does not make a new program.
    """

    functions: tuple[Callable[[Any], Any], ...] = ()
    take: Callable[[Tree, Any], Tree] = rows_of_each
    """`(arrays, row numbers) -> batch`, before any function; written so that it works on NumPy's arrays and on JAX's."""

    def __call__(self, arrays: Tree, rows: Any) -> Tree:
        return self.after(self.take(arrays, rows))

    def then(self, function: Callable[[Any], Any]) -> Recipe:
        """The same rows through one more function."""
        return replace(self, functions=(*self.functions, function))

    def after(self, batch: Tree) -> Tree:
        """What the functions make of the rows."""
        if self.functions:  # they are given JAX's arrays everywhere: NumPy promotes otherwise
            batch = tree.map(lambda x: to_device(x) if isinstance(x, np.ndarray) else x, batch)
        for function in self.functions:
            batch = function(batch)
        return batch

    @cached_property
    def _key(self) -> tuple[Any, ...]:
        return tuple(_identity(function) for function in (*self.functions, self.take))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def difference(self, other: Recipe) -> str:
        """The names of the functions in which another recipe differs, for a person to read."""
        pairs = zip(self._key[:-1], other._key[:-1], strict=False)
        differing = [name_of(f) for f, (a, b) in zip(self.functions, pairs, strict=False) if a != b]
        return ", ".join(differing) or f"{len(self.functions)} functions of map instead of {len(other.functions)}"


@dataclass(frozen=True, eq=False)
class Segment:
    """Batches of one size: batch i takes the `size` rows of `order` that begin at `starts[i]`."""

    arrays: Tree
    order: Order
    starts: range
    size: int
    recipe: Recipe = field(default_factory=Recipe)

    def rows(self) -> np.ndarray[Any, Any]:
        """The row numbers of every batch. Shape: `(batches, size)`."""
        return self.order[np.asarray(self.starts)[:, None] + np.arange(self.size)]

    def taken(self, index: int) -> Tree:
        """The rows of one batch, taken on the host, before any function."""
        start = self.starts[index]
        return self.recipe.take(self.arrays, self.order[start : start + self.size])

    def batch(self, index: int) -> Tree:
        """One batch, made on the host."""
        return self.recipe.after(self.taken(index))


@dataclass(frozen=True, eq=False)
class View:
    """Segments one after the other, none of them empty."""

    segments: tuple[Segment, ...]

    def __len__(self) -> int:
        return sum(len(segment.starts) for segment in self.segments)

    @property
    def samples(self) -> int:
        """How many rows all batches have together."""
        return sum(len(segment.starts) * segment.size for segment in self.segments)

    def batch(self, position: int) -> Tree:
        """The batch at a position, made on the host."""
        for segment in self.segments:
            if position < len(segment.starts):
                return segment.batch(position)
            position -= len(segment.starts)
        raise IndexError(position)

    def map(self, function: Callable[[Any], Any]) -> View:
        """Every batch through `function`."""
        return View(
            tuple(replace(s, recipe=replace(s.recipe, functions=(*s.recipe.functions, function))) for s in self.segments)
        )

    def every(self, stride: int, offset: int, stop: int | None = None) -> View:
        """The batches at the positions offset, offset + stride, ... below `stop`."""
        kept, first = [], 0
        for segment in self.segments:
            count = len(segment.starts)
            begin = max(offset - first, (offset - first) % stride)
            end = count if stop is None else min(count, max(stop - first, 0))
            starts = segment.starts[begin:end:stride]
            kept += [replace(segment, starts=starts)] if starts else []
            first += count
        return View(tuple(kept))

    def concat(self, other: View) -> View:
        """These batches, then the other's."""
        return View((*self.segments, *other.segments))


def _identity(value: Any, inside: tuple[Any, ...] = ()) -> Any:
    """A hashable stand-in that is equal for functions of the same code and captured values; arrays count by identity.

    `inside` are the functions being looked into: one that calls itself is in its own closure.
    """
    function = value.__func__ if hasattr(value, "__func__") else value
    if any(function is outer for outer in inside):
        return ("recursive", [function is outer for outer in inside].index(True))
    if isinstance(function, FunctionType):
        inside = (*inside, function)
        cells = tuple(_identity(cell.cell_contents, inside) for cell in function.__closure__ or ())
        defaults = tuple(_identity(default, inside) for default in function.__defaults__ or ())
        keywords = tuple((name, _identity(v, inside)) for name, v in sorted((function.__kwdefaults__ or {}).items()))
        bound = _identity(value.__self__, inside) if function is not value else None
        return (function.__code__, id(function.__globals__), cells, defaults, keywords, bound)
    if hasattr(value, "func") and hasattr(value, "args") and hasattr(value, "keywords"):  # functools.partial
        keywords = tuple((name, _identity(v, inside)) for name, v in sorted(value.keywords.items()))
        return ("partial", _identity(value.func, inside), tuple(_identity(v, inside) for v in value.args), keywords)
    if isinstance(value, float | complex):
        return (type(value), repr(value))  # 0.0 and -0.0 are equal, and not-a-number is not equal to itself
    if isinstance(value, bool | int | str | bytes | type | CodeType | None.__class__):
        return (type(value), value)  # 1, 1.0 and True are equal and yet trace differently
    if isinstance(value, tuple):
        return (tuple, *(_identity(v, inside) for v in value))
    return _Same(value)


@dataclass(frozen=True, eq=False)
class _Same:
    """Equal only to the very same object, which it keeps alive, so that no later object can take its place."""

    value: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)
