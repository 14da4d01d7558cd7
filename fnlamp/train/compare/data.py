"""In what the data of two training programs differ: the factories, and the streams that they make for the first epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fnlamp import tree
from fnlamp.arrays import describe
from fnlamp.stream import BatchStream
from fnlamp.train.check import recipe_of
from fnlamp.train.compare.words import Differing, differing

Streams = tuple[BatchStream[Any] | None, BatchStream[Any] | None]


def of_data(name: str, factories: tuple[Any, Any], streams: Streams) -> Iterator[Differing]:
    """What the factories do and read, and the rows, order and batches of their streams."""
    one, other = streams
    found = list(_of_streams(f"data of {name}", one, other)) if one is not None and other is not None else []
    # An array that a factory reads is usually the data itself, which is shown once.
    arrays = tree.leaves([each.arrays for each in _segments(one)]) if found else []
    read = list(differing(name, *factories, *arrays))
    yield from read
    # What a factory reads may also be in a function that it gives to `map`.
    known = {(each.where.rpartition(" ")[2].rpartition(".")[2], each.one, each.other) for each in read}
    yield from (each for each in found if (each.where.rpartition(".")[2], each.one, each.other) not in known)


def _segments(stream: BatchStream[Any] | None) -> tuple[Any, ...]:
    return () if stream is None or stream.view is None else stream.view.segments


def _of_streams(what: str, one: BatchStream[Any], other: BatchStream[Any]) -> Iterator[Differing]:
    if describe(one.spec) != describe(other.spec):
        yield Differing(f"{what}, a batch", describe(one.spec), describe(other.spec))
    if one.length != other.length:
        lengths = ("not known" if each.length is None else str(each.length) for each in (one, other))
        yield Differing(f"{what}, batches", *lengths)
    yield from differing(f"{what}, classes", one.classes, other.classes)
    yield from differing(f"{what}, rows", _arrays(one), _arrays(other))
    orders = [np.concatenate([each.rows().reshape(-1) for each in _segments(stream)] or [[]]) for stream in (one, other)]
    if not np.array_equal(orders[0], orders[1]):
        yield Differing(f"{what}, order of rows", *(_short(order) for order in orders))
    recipes = [recipe_of(each) for each in (one, other)]
    for part in ("functions", "arguments", "take"):
        yield from differing(f"{what}, {'map' if part != 'take' else part}", *(getattr(recipe, part) for recipe in recipes))


def _arrays(stream: BatchStream[Any]) -> Any:
    """The arrays of a stream's view, each tree of them once."""
    found: dict[tuple[int, ...], Any] = {}
    for segment in _segments(stream):
        found.setdefault(tuple(map(id, tree.leaves(segment.arrays))), segment.arrays)
    trees = list(found.values())
    return trees[0] if len(trees) == 1 else trees or None


def _short(order: Any) -> str:
    return ", ".join(map(str, order[:5].tolist())) + (", ..." if len(order) > 5 else "")
