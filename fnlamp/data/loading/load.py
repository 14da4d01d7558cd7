"""From row numbers to a batch, in any process; a failure is a value."""

from __future__ import annotations

import traceback
from collections.abc import Callable, MutableSequence, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from returns.result import Failure, Result, Success

from fnlamp.arrays import Tree
from fnlamp.data.loading.collate import Collate, named
from fnlamp.data.loading.dataset import Dataset, Subset
from fnlamp.fault import Fault, FaultError, ItemFailed

Augment: TypeAlias = Callable[[np.random.Generator, Any], Any]
"""`(generator, item) -> item`; all randomness comes from the generator."""


@dataclass(frozen=True, eq=False)
class Load:
    """The work of a loader for each batch."""

    dataset: Dataset[Any]
    transform: Callable[[Any], Any] | None
    augment: Augment | None
    collate: Collate
    seed: int | None

    def __call__(self, rows: Sequence[int], progress: MutableSequence[int] | memoryview | None = None) -> Result[Tree, Fault]:
        """The batch of these rows; `progress[0]` is the row being loaded."""
        at = [0] if progress is None else progress
        at[0] = rows[0]
        try:
            items = self._items(rows, at)
        except FaultError as error:
            return Failure(error.fault)
        except Exception as error:  # the data set and the caller's functions may raise anything
            return Failure(_failed(at[0], error))
        try:
            with named(rows):
                return Success(self.collate(items))
        except FaultError as error:
            row = None if error.fault.where.startswith("item ") else self._odd(items, rows)
            return Failure(error.fault if row is None else error.fault.inside(f"item {row}"))
        except Exception as error:  # the caller's collate may raise anything
            return Failure(_failed(self._odd(items, rows), error))

    def _odd(self, items: list[Any], rows: Sequence[int]) -> int | None:
        """The row for which collation fails: alone, or together with those before it; `None` if it fails for every row."""
        alone = [self._collates([item]) for item in items]
        if not all(alone):
            return rows[alone.index(False)] if any(alone) or len(rows) == 1 else None
        odd = next((i for i in range(1, len(items)) if not self._collates(items[: i + 1])), None)
        if odd == 1 and len(items) > 2 and self._collates(items[1:3]) and not self._collates([items[0], items[2]]):
            odd = 0  # the next two fit each other
        return None if odd is None else rows[odd]

    def _collates(self, items: list[Any]) -> bool:
        try:
            self.collate(items)
        except Exception:  # a probe: the caller gets the first exception
            return False
        return True

    def _items(self, rows: Sequence[int], at: Any) -> list[Any]:
        raw = self._at_once(rows)
        if raw is not None and self.transform is None:
            return raw
        make: Any = self.item if raw is None else self.transform
        items = []
        try:
            for row, given in zip(rows, rows if raw is None else raw, strict=True):
                at[0] = row
                items.append(make(given))
        except FaultError as error:
            raise FaultError(error.fault.inside(f"item {at[0]}")) from error
        return items

    def _at_once(self, rows: Sequence[int]) -> list[Any] | None:
        """The raw items by `__getitems__`; `None` without one, or if it fails: loading one by one then finds the item."""
        many = None if self.augment is not None else several(self.dataset)
        if many is None:
            return None
        try:
            items = list(many(list(rows)))
        except Exception:  # it is raised again for the item that it belongs to
            return None
        if len(items) != len(rows):
            raise FaultError(ItemFailed(None, f"__getitems__ was asked for {len(rows)} items and returned {len(items)}"))
        return items

    def item(self, row: int) -> Any:
        """One item of the data set, augmented, then transformed."""
        item = self.dataset[row]
        if self.augment is not None:
            # A spawn key, so that row 0 does not repeat the numbers that shuffled the rows.
            generator = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(row,)))
            item = self.augment(generator, item)
        return item if self.transform is None else self.transform(item)


def several(dataset: Dataset[Any]) -> Callable[[list[int]], Any] | None:
    """The data set's `__getitems__`, through subsets, or `None`."""
    if isinstance(dataset, Subset):
        inner, among = several(dataset.dataset), dataset.among
        return None if inner is None else lambda rows: inner(among[rows].tolist())
    return getattr(dataset, "__getitems__", None)


def _failed(row: int | None, error: Exception) -> ItemFailed:
    said = str(error)
    what = type(error).__name__ + (f": {said}" if said else "")
    return ItemFailed(row, what, "".join(traceback.format_exception(error)))
