"""Predictions of a model in `Eval`, in batches of bounded size."""

from __future__ import annotations

from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

from fnlamp import tree
from fnlamp.arrays import (
    Params,
    State,
    Tree,
    array_spec,
    devices_of,
    over_devices,
    placed_on,
    platform,
    spec_after,
    spec_of,
    to_device,
)
from fnlamp.convert import as_arrays
from fnlamp.effect import Runtime
from fnlamp.given import whole
from fnlamp.identity import identity
from fnlamp.mode import Eval
from fnlamp.train.execute.body import form
from fnlamp.train.execute.exhausted import exhaustion
from fnlamp.train.execute.programs import PROGRAMS
from fnlamp.train.supervised import Supervised

ROWS = 256
"""Rows of a batch: as many as keep two cores busy, and few enough for wide images."""


_PLAIN: Final = Runtime()


def predict(model: Supervised, params: Params, state: State, x: Any, batch_size: int | None) -> Any:
    """The predictions of the model for the features, `batch_size` rows at a time."""
    size = None if batch_size is None else whole("batch_size", batch_size)
    features = as_arrays(x, "predict")
    rows = _rows(features)

    def needed() -> dict[str, int]:
        return {"parameters": tree.nbytes(params), "layer state": tree.nbytes(state), "data": tree.nbytes(features)}

    with exhaustion(needed, _PLAIN, None), placed_on(None):
        if size is not None and rows is not None and rows > size and by_row(model, (params, state), features, rows, size):
            return _in_batches(model, (params, state), features, rows, size)
        made = compiled(model, (params, state), features)(params, state, tree.map(to_device, features))
        jax.block_until_ready(made)  # type: ignore[no-untyped-call]  # else it may fail when no fault can be made of it
        return made


def _in_batches(model: Supervised, weights: tuple[Params, State], features: Tree, rows: int, size: int) -> Any:
    run = compiled(model, weights, _from(features, 0, size))
    parts = []
    for at, start in enumerate([*range(0, rows - size, size), rows - size]):  # the last is full too: one program
        made = run(*weights, tree.map(to_device, _from(features, start, size)))
        again = at * size - start  # rows that the batch before has
        parts.append(tree.map(lambda leaf, again=again: np.asarray(leaf)[again:], made))
    return tree.map(lambda *leaves: jnp.asarray(np.concatenate(leaves)), *parts)


def _from(features: Tree, start: int, size: int) -> Tree:
    return tree.map(lambda leaf: leaf[start : start + size], features)


def compiled(model: Supervised, weights: tuple[Params, State], features: Tree) -> Any:
    """The program `(params, state, features) -> prediction` for features of these shapes, on the devices of the weights."""
    devices = devices_of(weights)

    @over_devices(devices)
    def prediction(params: Params, state: State, x: Tree) -> Tree:
        return model.forward(params, state, x, Eval())[0]

    return PROGRAMS.get(("predict", identity(model), form(features), platform(), devices), lambda: jax.jit(prediction))


def _rows(features: Tree) -> int | None:
    counts = {np.shape(leaf)[:1] for leaf in tree.leaves(features)}
    return counts.pop()[0] if len(counts) == 1 and () not in counts else None


def by_row(model: Supervised, weights: tuple[Params, State], features: Tree, rows: int, size: int) -> bool:
    """Whether every array of the prediction has a row for each row of features, of the same shape in any batch."""

    def forward(x: Tree) -> Tree:
        params, state = weights
        return model.forward(params, state, x, Eval())[0]

    def of(count: int) -> Tree:
        return tree.map(lambda leaf: array_spec((count, *leaf.shape[1:]), leaf.dtype), spec_of(features))

    whole, part = (spec_after(forward, of(count)) for count in (rows, size))
    shapes = [(leaf.shape, (rows, *other.shape[1:])) for leaf, other in zip(tree.leaves(whole), tree.leaves(part), strict=True)]
    return all(shape == expected for shape, expected in shapes)
