"""Predictions of a model in `Eval`, in batches of bounded size."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnlamp import tree
from fnlamp.arrays import Params, State, Tree, spec_after, spec_of, to_device
from fnlamp.convert import as_arrays
from fnlamp.given import whole
from fnlamp.identity import identity
from fnlamp.mode import Eval
from fnlamp.train.execute.body import form
from fnlamp.train.execute.programs import PROGRAMS
from fnlamp.train.supervised import Supervised

ROWS = 256
"""Rows of a batch: as many as keep two cores busy, and few enough for wide images."""


def predict(model: Supervised, params: Params, state: State, x: Any, batch_size: int | None) -> Any:
    """What the model makes of the features, whose rows are taken `batch_size` at a time."""
    size = None if batch_size is None else whole("batch_size", batch_size)
    features = as_arrays(x, "predict")
    weights = params, state
    rows = _rows(features)
    if size is None or rows is None or rows <= size:
        return _compiled(model, features)(*weights, tree.map(to_device, features))
    starts = [*range(0, rows - size, size), rows - size]  # the last batch is full too: one program
    first = tree.map(lambda leaf: leaf[:size], features)
    if not _by_row(model, weights, features, first, rows, size):
        return _compiled(model, features)(*weights, tree.map(to_device, features))
    run, kept = _compiled(model, first), []
    for at, start in enumerate(starts):
        batch = tree.map(lambda leaf, start=start: to_device(leaf[start : start + size]), features)
        skipped = at * size - start  # rows that the batch before has
        kept.append(tree.map(lambda leaf, skipped=skipped: np.asarray(leaf)[skipped:], run(*weights, batch)))
    return tree.map(lambda *parts: jnp.asarray(np.concatenate(parts)), *kept)


def _compiled(model: Supervised, features: Tree) -> Any:
    def prediction(params: Params, state: State, x: Tree) -> Tree:
        return model.forward(params, state, x, Eval())[0]

    return PROGRAMS.get(("predict", identity(model), form(features)), lambda: jax.jit(prediction))


def _rows(features: Tree) -> int | None:
    counts = {np.shape(leaf)[:1] for leaf in tree.leaves(features)}
    return counts.pop()[0] if len(counts) == 1 and () not in counts else None


def _by_row(model: Supervised, weights: Any, features: Tree, first: Tree, rows: int, size: int) -> bool:
    """Whether every array of the prediction has a row for each row of features."""

    def forward(x: Tree) -> Tree:
        params, state = weights
        return model.forward(params, state, x, Eval())[0]

    whole, part = (tree.leaves(spec_after(forward, spec_of(x))) for x in (features, first))
    return all(
        a.ndim and (a.shape[0], b.shape[0]) == (rows, size) and a.shape[1:] == b.shape[1:]
        for a, b in zip(whole, part, strict=True)
    )
