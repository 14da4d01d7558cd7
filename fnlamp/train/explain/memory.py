"""The memory of a training program by part, from shapes alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fnlamp import tree
from fnlamp.arrays import Tree, spec_of
from fnlamp.stream import BatchStream
from fnlamp.train.execute import Sharded, Stepwise
from fnlamp.train.execute.layout import parts_of
from fnlamp.train.execute.supply import room
from fnlamp.train.plan import Plan
from fnlamp.train.state import Carry


def slots_of(optimizer_state: Tree, params: Tree) -> dict[str, int]:
    """The bytes of each part of an optimizer's state, by the path at which the parameters' own paths begin.

    >>> leaf = np.zeros(3, np.float32)
    >>> slots_of({"step": np.int32(0), "inner": {"m": {"weight": leaf}, "v": {"weight": leaf}}}, {"weight": leaf})
    {'inner/m': 12, 'inner/v': 12, 'step': 4}
    """
    known, sizes = set(tree.paths(params)), dict[str, int]()
    for path, leaf in tree.paths(optimizer_state).items():
        name = _before_parameter(path.split("/"), known)
        sizes[name] = sizes.get(name, 0) + tree.nbytes(leaf)
    return sizes


def _before_parameter(parts: list[str], known: set[str]) -> str:
    for start in range(1, len(parts)):
        if any("/".join(parts[start:stop]) in known for stop in range(start + 1, len(parts) + 1)):
            return "/".join(parts[:start])
    return "/".join(parts)


def on_device(plan: Plan, executor: Any = None, where: Carry | None = None) -> dict[str, int]:
    """Bytes on the device by part, as the executor has them, without what XLA needs within a step.

    Step by step, of the data it is only one batch. Where the carry is laid out on many devices, these are the bytes on each.
    """
    carry = plan.carry if where is None else parts_of(plan.carry, where)
    slots = slots_of(carry.optimizer_state, carry.params)
    parts = {"parameters": tree.nbytes(carry.params)}
    if state := tree.nbytes(carry.layer_state):
        parts["layer state"] = state
    parts |= {f"{plan.optimizer}, {name}": size for name, size in slots.items()}
    # Each dispatch writes into spare buffers, so that the last good state stays.
    parts["a second copy of these"] = sum(parts.values())
    seen: set[int] = set()
    for name, stream in (("training data", plan.train), ("validation data", plan.validation)):
        # Without a view, the spec after a `map` is not of the arrays that are sent.
        if stream is not None and (stream.view is not None or not stream.finish.functions):
            parts[name] = tree.nbytes(stream.spec) if isinstance(executor, Stepwise) else _data(stream, seen)
            share = executor.share(stream, executor.devices()) if isinstance(executor, Sharded) else None
            parts[name] //= 1 if share is None else share.parts
    return parts


def of_pass(weights: Tree, stream: BatchStream[Any]) -> dict[str, int]:
    """Bytes on the device of one pass of a trained model, by part, without what XLA needs within a batch."""
    params, state = weights
    parts = {"parameters": tree.nbytes(params), "layer state": tree.nbytes(state)}
    if stream.view is not None or not stream.finish.functions:
        parts["data"] = _data(stream, set())
    return {name: size for name, size in parts.items() if size}


def kept_on_host(plan: Plan, slots: int) -> int:
    """Bytes of the weights that a fold keeps at most."""
    return slots * (tree.nbytes(plan.carry.params) + tree.nbytes(plan.carry.layer_state))


def in_a_save(plan: Plan, slots: int) -> int:
    """Bytes of the arrays in a save, with those that folds keep."""
    return tree.nbytes(plan.carry) + kept_on_host(plan, slots)


def _data(stream: BatchStream[Any], seen: set[int]) -> int:
    """The arrays and row numbers of a stream's view, each array once; of other streams two super-batches."""
    if stream.view is None:
        return 2 * room(stream.spec, None) * tree.nbytes(stream.spec)
    total = 0
    for segment in stream.view.segments:
        for array in tree.leaves((segment.arrays, segment.recipe.arguments)):  # a whole graph is an argument
            if id(array) not in seen and hasattr(array, "dtype"):
                seen.add(id(array))
                total += tree.nbytes(spec_of(array))
        index = np.int32 if segment.order.rows <= np.iinfo(np.int32).max else np.int64
        total += len(segment.starts) * segment.size * np.dtype(index).itemsize
    return total


def table(parts: dict[str, int], indent: str) -> Iterator[str]:
    """A line for each part, the numbers below each other."""
    left = max(map(len, parts))
    right = max(len(f"{size:,}") for size in parts.values())
    return (f"{indent}{name:<{left}}  {f'{size:,}':>{right}}" for name, size in parts.items())
