"""Predictions over the devices of a mesh: each computes its rows of a batch, and every process has all predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np
from returns.result import Failure, Result, Success

from fnlamp import tree
from fnlamp.arrays import Tree, describe, over_devices, spec_after
from fnlamp.effect import Interrupted, Runtime
from fnlamp.fault import FaultError, ShapeMismatch, located
from fnlamp.identity import identity
from fnlamp.mode import Eval
from fnlamp.stream import BatchStream, Recipe
from fnlamp.train.after import features_of
from fnlamp.train.execute import Sharded
from fnlamp.train.execute.body import form
from fnlamp.train.execute.layout import constrained, place
from fnlamp.train.execute.programs import PROGRAMS
from fnlamp.train.execute.share import Share, read_by
from fnlamp.train.execute.stepwise import host_batches
from fnlamp.train.execute.supply import Filling, Supply
from fnlamp.train.execute.workspace import Workspace
from fnlamp.train.state import Kept, Trained
from fnlamp.train.supervised import Supervised, rows_of


def predicted_over(
    trained: Trained | Kept, stream: BatchStream[Any], runtime: Runtime, workspace: Workspace, executor: Sharded
) -> Result[Tree, Any] | Interrupted:
    """The predictions for all rows; the processes of a cluster meet before each batch."""
    mesh = workspace.device.mesh
    rows, weights = executor.rows(mesh), workspace.put((trained.params, trained.layer_state))
    made: list[Tree] = []
    programs: dict[Any, Callable[..., Tree]] = {}
    for number, supply in enumerate(_batches(stream, executor.share(stream, mesh), workspace)):
        # The next batch is read while the device computes this one.
        workspace.met(f"predictions, batch {number}", 1, first=number == 0)
        if workspace.cancelled(runtime):
            return Interrupted()
        key = tuple(map(id, supply.recipe.functions)), supply.size, form(supply.arrays)
        if key not in programs:  # once per run: the identity of the model takes longer than a batch
            programs[key] = _program(trained.model, supply, weights, rows)
        arguments = workspace.arguments(supply.recipe)
        made.append(workspace.called(partial(programs[key], arguments, *weights, supply.arrays, supply.rows)))
        if len(made) > 1:
            made[-2] = tree.map(np.asarray, workspace.awaited(made[-2]))
    if not made:
        return Failure(stream.why_empty)
    made[-1] = tree.map(np.asarray, workspace.awaited(made[-1]))
    return Success(tree.map(lambda *leaves: np.concatenate(leaves), *made))


def _batches(stream: BatchStream[Any], share: Share | None, workspace: Workspace) -> Iterator[Supply]:
    """Each batch on the devices, or of each the part of this process on its own."""
    for recipe, batch, before, after in host_batches(read_by(share, stream), stream.init):
        filling = Filling(batch, 1, before, share)
        filling.add(batch, after)
        yield filling.supply(Recipe(recipe.functions, arguments=recipe.arguments), workspace)


def _program(model: Supervised, supply: Supply, weights: Tree, rows: Any) -> Callable[..., Tree]:
    """`(arguments, params, state, arrays, rows) -> prediction`, which is on each device.

    Fails: `ShapeMismatch` for a prediction that does not have one row for each row of features.
    """
    recipe = replace(supply.recipe, arguments=())

    def features(arguments: Any, arrays: Tree, numbers: Any) -> Tree:
        found = features_of(replace(recipe, arguments=arguments)(arrays, numbers[0]))
        return tree.map(lambda x: constrained(x, rows) if x.ndim else x, found)

    @over_devices(rows.mesh.size)
    def prediction(arguments: Any, params: Tree, state: Tree, arrays: Tree, numbers: Any) -> Tree:
        return model.forward(params, state, features(arguments, arrays, numbers), Eval())[0]

    def checked() -> Any:
        given = supply.arrays, supply.rows
        with located("model"):
            made = spec_after(partial(prediction, supply.recipe.arguments), *weights, *given)
        check_predictions(made, rows_of(spec_after(partial(features, supply.recipe.arguments), *given)))
        return jax.jit(prediction, out_shardings=place(rows.mesh))

    key = "predict over", identity(model), recipe.identity, form((supply.arrays, weights)), rows
    program: Callable[..., Tree] = PROGRAMS.get(key, checked)
    return program


def check_predictions(made: Tree, rows: int) -> None:
    """Fails: `ShapeMismatch` for another number of rows predicted."""
    if any(leaf.shape[:1] != (rows,) for leaf in tree.leaves(made)):
        hint = "trained.predict(x, batch_size=None) predicts for all rows together"
        raise FaultError(ShapeMismatch(f"a prediction of {rows} rows", describe(made), hint, where="predict_batches"))
