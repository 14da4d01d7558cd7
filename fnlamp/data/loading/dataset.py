"""Data sets: anything with `__len__` and `__getitem__(int)`, and data sets built from others."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Protocol, TypeVar

import numpy as np

from fnlamp.arrays import Array, Tree, describe
from fnlamp.convert import as_array
from fnlamp.effect import Effect
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch, SizesMismatch
from fnlamp.given import function as callable_of
from fnlamp.given import shown, whole
from fnlamp.stream.view import check_seed, row_numbers

T_co = TypeVar("T_co", covariant=True)


class Dataset(Protocol[T_co]):
    """Rows by number: lists, arrays, memory maps, the data sets of torch and of Hugging Face.

    A data set with its rows in memory also has an attribute `arrays`: a tree of arrays, rows first, whose row i is item i.
    A data set with a faster way to many rows has `__getitems__(indices)`, which returns a list of items.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> T_co: ...


@dataclass(frozen=True, eq=False, repr=False)
class Arrays:
    """Parallel arrays: item i is the tuple, or the dict, of their rows i."""

    arrays: tuple[np.ndarray[Any, Any], ...] | dict[str, np.ndarray[Any, Any]]

    def __len__(self) -> int:
        return len(next(iter(_parts(self.arrays).values())))

    def __getitem__(self, index: int) -> Any:
        row = operator.index(index)  # as for a list: negative from the end, IndexError beyond it
        if isinstance(self.arrays, dict):
            return {name: array[row] for name, array in self.arrays.items()}
        return tuple([array[row] for array in self.arrays])

    def __repr__(self) -> str:
        named = isinstance(self.arrays, dict)
        rows = [
            (f"{name}: " if named else "") + f"{array.dtype}{list(array.shape[1:])}"
            for name, array in _parts(self.arrays).items()
        ]
        return f"<Arrays: {len(self):,} rows of {'{' if named else '('}{', '.join(rows)}{'}' if named else ')'}>"


def array_dataset(*arrays: Any) -> Arrays:
    """The data set whose item i is the tuple of row i of each array; for a dict of arrays, the dict of them.

    Nothing is copied; lists, Series and frames become arrays, with rows by position.

    Shapes: `(rows, ...)` each. Fails: `ShapeMismatch` for different numbers of rows, `DtypeMismatch` for anything but numbers.

    >>> data = array_dataset(np.zeros((3, 28, 28, 1), np.uint8), [7, 2, 1])
    >>> data
    <Arrays: 3 rows of (uint8[28, 28, 1], int64[])>
    >>> image, label = data[-1]
    >>> image.shape, int(label)
    ((28, 28, 1), 1)
    >>> array_dataset({"x": np.zeros((3, 2)), "y": [7, 2, 1]})
    <Arrays: 3 rows of {x: float64[2], y: int64[]}>
    """
    given = arrays[0] if len(arrays) == 1 and isinstance(arrays[0], dict) else arrays
    if not given:
        raise ValueError("array_dataset needs at least one array")
    parts = {name: as_array(array, f"array_dataset/{name}") for name, array in _parts(given).items()}
    rows = {name: array if isinstance(array, np.ndarray) else np.asarray(array) for name, array in parts.items()}
    if any(array.ndim == 0 for array in rows.values()) or len({len(array) for array in rows.values()}) > 1:
        raise FaultError(ShapeMismatch("arrays with as many rows each", describe(rows), where="array_dataset"))
    return Arrays(rows if isinstance(given, dict) else tuple(rows.values()))


def _parts(arrays: Any) -> dict[Any, Any]:
    return arrays if isinstance(arrays, dict) else dict(enumerate(arrays))


def is_array(value: Any) -> bool:
    """Whether this is a NumPy or JAX array, with its rows in memory or mapped from a file."""
    return isinstance(value, np.ndarray | Array)


def check_dataset(dataset: Any) -> None:
    """Raises: `TypeError` for anything without rows by number."""
    if isinstance(dataset, type):
        raise TypeError(f"dataset is a data set, got the class {dataset.__name__}; call it to make one")
    if isinstance(dataset, Effect):
        raise TypeError("dataset is a data set, got an Effect that has not run; bind it: effect.bind(lambda dataset: ...)")
    # torch's iterable data sets inherit a __getitem__ from their base class, which only raises.
    get = getattr(type(dataset), "__getitem__", None)
    place = getattr(get, "__module__", ""), getattr(get, "__qualname__", "")
    unable = place == ("torch.utils.data.dataset", "Dataset.__getitem__")
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")) or (unable and hasattr(dataset, "__iter__")):
        hint = "for an iterable, give list(dataset), or pass its batches to stream.from_iterable"
        raise TypeError(f"dataset has __len__ and __getitem__(row), got {shown(dataset)}; {hint}")


def labelled(dataset: Any) -> bool:
    """Whether indexing, as of a frame, a Series or a tensor, gives anything but rows as arrays."""
    matrix = isinstance(dataset, np.ndarray) and not isinstance(dataset, np.memmap | np.ma.MaskedArray)
    return matrix if isinstance(dataset, np.ndarray) else any(hasattr(dataset, name) for name in _LABELLED)


_LABELLED = ("iloc", "to_numpy", "detach", "todense", "get_columns", "itercolumns")


def rows_of(dataset: Any) -> Any:
    """The data set; for one indexed by labels, such as a pandas frame, the array of its rows.

    Fails: `ShapeMismatch` for a tuple or a dict of arrays, whose items are not rows; `DtypeMismatch` for a frame of anything
    but numbers. Raises: `TypeError` for anything but a data set.
    """
    check_dataset(dataset)
    keyed = isinstance(dataset, dict) and 0 not in dataset
    parts = _parts(dataset) if keyed or isinstance(dataset, tuple) else {}
    if parts and (keyed or all(getattr(part, "shape", ()) for part in parts.values())):
        hint = "use array_dataset, which is one; if each array is one item, give a list of them"
        if not any(hasattr(part, "shape") or isinstance(part, list) for part in parts.values()):
            hint = f"give one of its parts, such as dataset[{next(iter(parts))!r}]"
        raise FaultError(ShapeMismatch("a data set of rows", describe(dataset), hint))
    if keyed:
        raise TypeError(f"dataset has its rows by number, from 0, got {shown(dataset)}; give list(dataset.values())")
    if type(dataset) is np.ndarray or not labelled(dataset):
        return dataset
    if isinstance(dataset, np.ndarray):
        return dataset.view(np.ndarray)
    try:
        return as_array(dataset, "dataset")
    except FaultError as error:
        if not (hasattr(dataset, "iloc") and hasattr(dataset, "columns") and isinstance(error.fault, DtypeMismatch)):
            raise
        hint = 'encode its columns as numbers, or give its rows as dicts: list(dataset.to_dict("records"))'
        raise FaultError(replace(error.fault, hint=hint)) from error


@dataclass(frozen=True, eq=False, repr=False)
class Subset:
    """The rows of a data set whose numbers are in `among`, in that order."""

    dataset: Dataset[Any]
    among: np.ndarray[Any, Any]

    def __len__(self) -> int:
        return len(self.among)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[int(self.among[operator.index(index)])]

    @property
    def arrays(self) -> Tree:
        """The arrays of the whole data set, to be indexed by `among`.  Raises: `AttributeError` if the data set has none."""
        return self.dataset if is_array(self.dataset) else self.dataset.arrays  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        return f"<Subset: {len(self):,} of {len(self.dataset):,} rows of {type(self.dataset).__name__}>"


def subset(dataset: Dataset[Any], indices: Any) -> Subset:
    """The rows of a data set at `indices`, in that order; nothing is copied. A subset of a subset is one subset.

    Negative numbers count from the end. Raises: `IndexError` for a row that does not exist.

    >>> letters = subset("abcdef", [4, 0, -1])
    >>> list(letters), list(subset(letters, [2, 0]))
    (['e', 'a', 'f'], ['f', 'e'])
    """
    dataset = rows_of(dataset)
    among = row_numbers(indices, len(dataset), "indices: rows")
    return Subset(dataset.dataset, dataset.among[among]) if isinstance(dataset, Subset) else Subset(dataset, among)


def random_split(dataset: Dataset[Any], sizes: Sequence[float], *, seed: int) -> tuple[Subset, ...]:
    """Disjoint subsets of these sizes that cover the data set; the assignment of rows is a function of the seed alone.

    Sizes are numbers of rows, or, if any is a float, fractions that add up to 1: each is rounded down to whole rows,
    and the remaining rows go one by one to the first subsets. Fails: `SizesMismatch` if they do not add up.

    >>> train, validation = random_split(range(10), [0.75, 0.25], seed=0)
    >>> len(train), len(validation), sorted([*train, *validation]) == list(range(10))
    (8, 2, True)
    """
    dataset, seed = rows_of(dataset), check_seed(whole("seed", seed, None))
    rows = len(dataset)
    if not isinstance(sizes, Iterable) or not all(isinstance(size, Real) for size in sizes):
        raise TypeError(f"sizes are numbers of rows, or fractions of 1, such as [0.8, 0.2], got {shown(sizes)}")
    if any(not size >= 0 for size in sizes):
        raise ValueError(f"sizes are 0 or more, got {list(sizes)}")
    if any(isinstance(size, float | np.floating) for size in sizes):
        if not math.isclose(sum(sizes), 1):
            raise FaultError(SizesMismatch(rows, tuple(sizes)))
        counts = [math.floor(rows * size) for size in sizes]
        for i in range(rows - sum(counts)):
            counts[i % len(counts)] += 1
    else:
        counts = [int(size) for size in sizes]
    if sum(counts) != rows:
        raise FaultError(SizesMismatch(rows, tuple(sizes)))
    order = np.random.default_rng(seed).permutation(rows)
    ends = np.cumsum(counts)
    return tuple(subset(dataset, order[end - count : end]) for count, end in zip(counts, ends, strict=True))


@dataclass(frozen=True, eq=False, repr=False)
class Transformed:
    """A data set whose items pass through a function on access."""

    dataset: Dataset[Any]
    function: Callable[[Any], Any]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.function(self.dataset[range(len(self))[operator.index(index)]])

    def __repr__(self) -> str:
        return f"<Transformed: {len(self):,} rows of {type(self.dataset).__name__}>"


def classes_of(dataset: Any) -> tuple[str, ...] | None:
    """The class names of a data set, or of the one below it, if any.

    >>> classes_of([1, 2]) is None
    True
    """
    while not hasattr(dataset, "classes") and isinstance(dataset, Subset | Transformed):
        dataset = dataset.dataset
    names = getattr(dataset, "classes", None)
    named = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return tuple(names) if named else None  # type: ignore[arg-type]


def with_transform(dataset: Dataset[Any], function: Callable[[Any], Any]) -> Transformed:
    """The data set whose item i is `function(dataset[i])`, computed at each access.

    >>> list(with_transform([1, 2, 3], lambda item: 10 * item))
    [10, 20, 30]
    """
    return Transformed(rows_of(dataset), callable_of("function", function, "a function of an item"))
