"""The compiled view of a stream: arrays plus a static recipe `(arrays, rows) -> batch`, so that one program can run many steps.

A view is a tuple of segments, each a run of batches of one shape; only the last batch of an epoch is usually shorter. Positions
count batches over all segments, and every batch can be made directly, so a view's stream resumes anywhere without replay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from fnlamp import tree
from fnlamp.arrays import Tree, describe, spec_of, take_rows, to_device
from fnlamp.effect.node import name_of
from fnlamp.given import shown, whole
from fnlamp.identity import identity
from fnlamp.stream.part import Chosen, Part


def check_seed(seed: Any) -> Any:
    """The seed as an `int`, also from NumPy's and JAX's integer types, or `None`.  Raises: `ValueError`, `TypeError`."""
    if seed is None:
        return None
    number = whole("seed", seed, None)
    if number < 0:
        raise ValueError(f"a seed is 0 or more, got {number}")
    return number


def as_spec(spec: Any) -> Tree:
    """The given spec, or the spec of a given example batch.  Raises: `TypeError` for anything else."""
    leaves = tree.leaves(spec)
    if not leaves or not all(hasattr(leaf, "shape") and isinstance(getattr(leaf, "dtype", None), np.dtype) for leaf in leaves):
        raise TypeError(f"spec is the spec of a batch, or an example batch; got {shown(spec)}")
    return spec_of(spec)


def check_function(function: Any, where: str) -> None:
    """Raises: `TypeError` for anything that cannot be called."""
    if not callable(function):
        name = "predicate" if where == "filter" else "function"
        raise TypeError(f"{where}: {name} is a function of a batch, got {shown(function)}")


@dataclass(frozen=True, eq=False)
class Order:
    """An order of rows: as given without a seed, else a permutation that is a function of the seed alone.

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


def row_numbers(among: Any, rows: int, name: str = "among: rows") -> np.ndarray[Any, Any]:
    """The numbers of some rows, from 0; negative numbers count from the end.  Raises: `IndexError`, `TypeError`.

    >>> row_numbers([2, -1], 5).tolist()
    [2, 4]
    """
    wanted = np.asarray(among)
    wanted = wanted.astype(np.int64) if wanted.size == 0 else wanted
    if wanted.ndim != 1 or wanted.dtype.kind not in "iu":
        hint = ": of a mask, give np.flatnonzero(mask)" if wanted.dtype == bool else ""
        raise TypeError(f"{name} are named by a list of whole numbers, got {describe(wanted)}{hint}")
    wrong = (wanted < -rows) | (wanted >= rows)
    if wrong.any():
        raise IndexError(f"expected numbers of {rows:,} rows, got {wanted[wrong][0]}")
    numbers = wanted.astype(np.int64)
    numbers[numbers < 0] += rows
    return numbers


def rows_of_each(arrays: Tree, rows: Any) -> Tree:
    """The named rows of every array."""
    if type(arrays) is tuple:  # the usual batch: walking the tree would take longer than taking a few rows
        return tuple([rows_of_each(part, rows) for part in arrays])
    return take_rows(arrays, rows) if type(arrays) is np.ndarray else tree.map(lambda array: take_rows(array, rows), arrays)


@dataclass(frozen=True, eq=False)
class Recipe:
    """How to make a batch from arrays and row numbers: `take` the rows, then apply the functions of `map`, first to last.

    `arguments` are the arguments of each function after the batch. They are arguments of the compiled program too, so that new
    ones do not compile it again. Two recipes are equal if their functions have the same code and read equal values now
    (`fnlamp.identity`).
    """

    functions: tuple[Callable[..., Any], ...] = ()
    take: Callable[[Tree, Any], Tree] = rows_of_each
    """`(arrays, row numbers) -> batch`, before any function; written so that it works on NumPy's arrays and on JAX's."""
    arguments: tuple[tuple[Any, ...], ...] = ()

    def __call__(self, arrays: Tree, rows: Any) -> Tree:
        return self.after(self.take(arrays, rows))

    def then(self, function: Callable[..., Any], *arguments: Any) -> Recipe:
        """The recipe with one more function, which is called with the batch and the arguments."""
        given = (*self._arguments, arguments)
        return replace(self, functions=(*self.functions, function), arguments=given)

    def after(self, batch: Tree) -> Tree:
        """The batch, after all functions."""
        if self.functions:  # JAX's arrays everywhere: NumPy has other promotion rules
            batch = _on_device(batch)
        for function, arguments in zip(self.functions, self._arguments, strict=True):
            batch = function(batch, *_on_device(arguments))
        return batch

    @property
    def _arguments(self) -> tuple[tuple[Any, ...], ...]:
        return self.arguments or ((),) * len(self.functions)

    @property
    def identity(self) -> tuple[Any, ...]:
        """The identity of the functions now: a compiled program is valid as long as it is the same."""
        return tuple(identity(function) for function in (*self.functions, self.take))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self.identity == other.identity

    def __hash__(self) -> int:
        return hash(self.identity)

    def difference(self, other: Recipe) -> str:
        """The names of the functions in which another recipe differs, for messages."""
        return self.changed(other.identity)

    def changed(self, before: tuple[Any, ...]) -> str:
        """The names of the functions that differ from an earlier `identity`; "" if none does."""
        now = self.identity
        if len(now) != len(before):
            return f"{len(now) - 1} functions of map instead of {len(before) - 1}"
        names = [*map(name_of, self.functions), "take"]
        return ", ".join(name for name, a, b in zip(names, now, before, strict=True) if a != b)


def _on_device(batch: Tree) -> Tree:
    return tree.map(lambda x: to_device(x) if isinstance(x, np.ndarray) else x, batch)


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

    def taken(self, index: int, chosen: slice = slice(None)) -> Tree:
        """The rows of one batch, or some of them, taken on the host, before any function."""
        start = self.starts[index]
        return self.recipe.take(self.arrays, self.order[start : start + self.size][chosen])

    def batch(self, index: int) -> Tree:
        """One batch, made on the host."""
        return self.recipe.after(self.taken(index))


@dataclass(frozen=True, eq=False)
class View:
    """Segments one after the other, none of them empty."""

    segments: tuple[Segment, ...]
    count: int | None = None  # of all batches, if it is known already

    @cached_property
    def _ends(self) -> np.ndarray[Any, Any]:
        """The position after the last batch of each segment."""
        return np.cumsum(np.fromiter((len(segment.starts) for segment in self.segments), np.int64, len(self.segments)))

    def __len__(self) -> int:
        return self._length

    @cached_property
    def _length(self) -> int:
        return self.count if self.count is not None else sum(len(segment.starts) for segment in self.segments)

    @property
    def samples(self) -> int:
        """The number of rows of all batches together."""
        return sum(len(segment.starts) * segment.size for segment in self.segments)

    def at(self, position: int) -> tuple[Segment, int]:
        """The segment of a position, and the number of its batch in it."""
        which = int(np.searchsorted(self._ends, position, side="right"))
        if not 0 <= position < len(self):
            raise IndexError(position)
        segment = self.segments[which]
        return segment, position - int(self._ends[which]) + len(segment.starts)

    def batch(self, position: int) -> Tree:
        """The batch at a position, made on the host."""
        segment, index = self.at(position)
        return segment.batch(index)

    def part(self, position: int, chosen: Chosen, made: Callable[[Tree], Tree]) -> Part:
        """What is made of some rows of the batch at a position, before any function."""
        segment, index = self.at(position)
        return Part(made(segment.taken(index, chosen(segment.size))), segment.size)

    def map(self, function: Callable[..., Any], *arguments: Any) -> View:
        """Apply `function` to every batch and the arguments."""
        return View(tuple(replace(s, recipe=s.recipe.then(function, *arguments)) for s in self.segments))

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

    def repeat(self, count: int) -> View:
        """`count` batches, starting over as often as necessary."""
        times, rest = divmod(count, len(self))
        return View(self.segments * times + self.every(1, 0, rest).segments, count)

    def concat(self, other: View) -> View:
        """These batches, then the other's."""
        return View((*self.segments, *other.segments), len(self) + len(other))
