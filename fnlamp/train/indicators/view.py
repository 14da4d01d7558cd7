"""What a step of training knows, for indicators."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from fnlamp import tree
from fnlamp.arrays import Array, Params, State, Tree
from fnlamp.layer import Layer, named_children
from fnlamp.mode import Train
from fnlamp.train.supervised import Supervised, pair


@dataclass(frozen=True, eq=False)
class StepView:
    """What a step of training knows, as arrays of a compiled program.

    `step` is its number, from 1, and `loss` the mean loss of its `batch`. `grads` are the gradients as the optimizer is given
    them, `params` and `layer_state` are those after the step, and `updates` what the step added to the parameters.
    `tags` has the `Tag` of each parameter. `factor` is the schedule's factor of the learning rate times that of the folds, and
    `rates` the learning rates with it: for each rule of the optimizer a vector, with a number for each parameter array.
    """

    step: Array
    loss: Array
    grads: Params
    params: Params
    updates: Params
    layer_state: State
    batch: Tree
    tags: Tree
    factor: Array
    rates: Mapping[str, Array]
    model: Supervised
    before: tuple[Params, State]
    mode: Train

    def predict(self) -> Tree:
        """The prediction for the batch, before the step, in `Train`: one more forward pass."""
        params, state = jax.lax.optimization_barrier(self.before)  # type: ignore[no-untyped-call]
        return self.model.forward(params, state, pair(self.batch)[0], self.mode)[0]

    def losses(self) -> Array:
        """The loss of each example, before the step: one more forward pass.  Shape: `(batch,)`.

        It is the loss of the example alone, so NaN for one that the loss cannot take, and 0 for one that it ignores.
        """

        def one(prediction: Tree, target: Tree) -> Array:
            prediction, target = tree.map(lambda x: x[None], (prediction, target))
            return self.model.loss(prediction, target).mean

        return jax.vmap(one)(self.predict(), pair(self.batch)[1])

    def outputs(self) -> dict[str, Tree]:
        """The output of each layer of a sequence by its path, before the step, in `Train`: one more forward pass.

        Sequences inside are looked into, other layers are not. A model that is not a sequence has one output, named "output".
        """
        params, state = jax.lax.optimization_barrier(self.before)  # type: ignore[no-untyped-call]
        compute = self.model.precision.compute
        x = tree.cast(pair(self.batch)[0], compute)
        return dict(_outputs("", self.model.layer, tree.cast(params, compute), state, x, self.mode))


def _outputs(path: str, layer: Layer, params: Any, state: Any, x: Tree, mode: Any) -> Iterator[tuple[str, Tree]]:
    if not layer.chain:
        yield path or "output", layer.apply(params, state, x, mode)[0]
        return
    for name, child in named_children(layer.chain).items():
        inside = f"{path}/{name}" if path else name
        for found in _outputs(inside, child, params.get(name, {}), state.get(name, {}), x, mode.inside(name)):
            yield found
            x = found[1]
