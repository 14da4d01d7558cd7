"""The predictions of a trained model for a whole stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from returns.result import Failure, Result, Success

from fnlamp import tree
from fnlamp.arrays import Tree, placed_on, platform, spec_after, spec_of, take_rows, to_device
from fnlamp.effect import Effect, Interrupted, Resource, Runtime
from fnlamp.fault import PlanFault, located
from fnlamp.mode import Eval
from fnlamp.stream import BatchStream, Recipe
from fnlamp.train.after import Pass, features_of
from fnlamp.train.execute import Sharded
from fnlamp.train.execute.body import form
from fnlamp.train.execute.programs import PROGRAMS
from fnlamp.train.execute.stepwise import host_batches
from fnlamp.train.execute.workspace import Workspace
from fnlamp.train.factory import LoopContext
from fnlamp.train.predict import by_row, compiled
from fnlamp.train.predictions_over import check_predictions, predicted_over
from fnlamp.train.state import Kept, Trained
from fnlamp.train.supervised import rows_of

E = TypeVar("E")


def predict_batches(
    batches: BatchStream[E]
    | Resource[BatchStream[E], E]
    | Callable[[LoopContext], BatchStream[E] | Resource[BatchStream[E], E]],
) -> Callable[[Trained | Kept], Effect[Any, PlanFault | E]]:
    """The program that predicts for every row of a stream in `Eval`: NumPy's arrays, in the order of the stream.

    Curried like `evaluate`: `training.bind(predict_batches(batches))`. A batch is `(features, target)`, whose target is not
    used, or features alone; a batch of two is always a pair. `batches` is a stream, a resource of one, or a factory of either,
    called with a `LoopContext` of the last epoch and seed 0.
    One batch at a time is on the device. A batch with fewer rows than the stream's `spec` is filled up with copies of its last
    row, which are cut off again, so that the model is compiled once. On many devices each computes its rows of a batch, and a
    shorter batch is compiled by itself; in a cluster, each process has the predictions for all rows, so that all continue the
    same program. Shapes: as the model's layer, all rows.
    Fails: `EmptyEpoch`; `ShapeMismatch`, also for a model whose prediction does not have one row for each row of features;
    `DtypeMismatch`, and what the stream fails with. Ctrl-C ends it between two batches.

    >>> from fnlamp import train
    >>> x = np.ones((5, 2), np.float32)
    >>> training = train.epochs(
    ...     model=supervised(nn.linear(3), loss.mse()),
    ...     optimizer=optim.sgdw(0.1),
    ...     train_batches=lambda context: stream.minibatches(x, x @ np.ones((2, 3), np.float32), batch_size=5),
    ...     epochs=1,
    ... )
    >>> rows = stream.from_arrays(x, batch_size=2)
    >>> training.bind(predict_batches(rows)).map(np.shape).run(Runtime(log=None))
    <IOResult: <Success: (5, 3)>>
    """
    return Pass("predict_batches", batches, _work, "predict_batches", "a prediction for every row")


def _work(
    trained: Trained | Kept, stream: BatchStream[Any], runtime: Runtime, workspace: Workspace
) -> Result[Tree, Any] | Interrupted:
    made: list[Tree] = []
    with placed_on(workspace.device):
        if isinstance(runtime.executor, Sharded):
            return predicted_over(trained, stream, runtime, workspace, runtime.executor)
        one = _Predictor(trained, rows_of(stream.spec), workspace)
        for recipe, batch, _, _ in host_batches(stream, stream.init):
            made.append(one.prediction(recipe, batch))
            if len(made) > 1:  # the last batch but one, while the device computes the last
                made[-2] = tree.map(np.asarray, made[-2])
            if runtime.cancel.requested:
                return Interrupted()
        if not made:
            return Failure(stream.why_empty)
        return Success(tree.map(lambda *leaves: np.concatenate([np.asarray(leaf) for leaf in leaves]), *made))


class _Predictor:
    """Predicts for one batch after the other, each of at most `size` rows."""

    def __init__(self, trained: Trained | Kept, size: int, workspace: Workspace) -> None:
        self.model, self.size, self.workspace = trained.model, size, workspace
        self.weights = workspace.put((trained.params, trained.layer_state))
        self.programs: dict[Any, tuple[Any, bool]] = {}
        self.last: tuple[Any, Any] = (None, None)

    def prediction(self, recipe: Recipe, batch: Tree) -> Tree:
        features = self.features(recipe, batch)
        rows, key = rows_of(features), form(features)
        if key not in self.programs:  # once per run: the identity of the model takes longer than a batch
            filled = self.fills(features, rows)
            self.programs[key] = compiled(self.model, self.weights, self.full(features, rows) if filled else features), filled
        program, filled = self.programs[key]
        made = program(*self.weights, self.full(features, rows) if filled else features)
        return tree.map(lambda leaf: leaf[:rows], made) if filled else made

    def full(self, features: Tree, rows: int) -> Tree:
        """`size` rows, of which those after the first `rows` are copies of the last."""
        chosen = np.minimum(np.arange(self.size), rows - 1)
        return tree.map(lambda leaf: take_rows(leaf, chosen), features)

    def features(self, recipe: Recipe, batch: Tree) -> Tree:
        """The features on the device, after the functions of the recipe, which are a small program by themselves."""

        def after(arguments: Any, batch: Tree) -> Tree:
            return features_of(Recipe(recipe.functions, arguments=arguments).after(batch))

        if not recipe.functions:
            return jax.tree.map(lambda x: to_device(x, self.workspace.device), features_of(batch))
        batch = jax.tree.map(lambda x: to_device(x, self.workspace.device), batch)
        if self.last[0] != (key := (id(recipe), form(batch))):
            made = PROGRAMS.get(("features", recipe.identity, form(batch), platform()), lambda: jax.jit(after))
            self.last = key, (made, self.workspace.arguments(recipe))
        program, arguments = self.last[1]
        return program(arguments, batch)

    def fills(self, features: Tree, rows: int) -> bool:
        """Whether so many rows of features are filled up.  Fails: `ShapeMismatch` for another number of rows predicted."""
        with located("model"):
            params, state = self.weights
            made = spec_after(lambda x: self.model.forward(params, state, x, Eval())[0], spec_of(features))
        check_predictions(made, rows)
        return 0 < rows < self.size and by_row(self.model, self.weights, features, self.size, rows)
