"""A layer and a loss as one model that can be trained."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from fnlamp import tree
from fnlamp.arrays import Key, Params, State, Tree, array_spec, describe, is_float
from fnlamp.fault import FaultError, ShapeMismatch, located
from fnlamp.layer import Init, Layer, abstract_init
from fnlamp.loss import Loss, LossValue, Metric, as_loss
from fnlamp.mode import Eval, Mode


@dataclass(frozen=True)
class Supervised:
    """A layer, the loss of its output against a target, and the dtypes: parameters are stored in one and used in the other."""

    layer: Layer
    loss: Loss
    param_dtype: Any = jnp.float32
    compute_dtype: Any = jnp.float32

    def __repr__(self) -> str:
        return f"<Supervised: {self.layer}, {self.loss}>"

    def init(self, key: Key, features: Tree) -> tuple[Params, State]:
        """Fresh parameters, in `param_dtype`, and state for features of that spec."""
        made = self.layer.init(key, self._stored(features))
        # The state stays as the layer made it: in half precision a moving average would stand still.
        return tree.cast(made.params, self.param_dtype), made.state

    def describe(self, features: Tree) -> Init:
        """Specs and tags of what `init` makes; nothing is computed."""
        made = abstract_init(self.layer, self._stored(features))
        params, state = jax.eval_shape(lambda key: self.init(key, features), jax.eval_shape(jax.random.key, 0))
        return Init(params, state, made.spec, made.tags, made.parts)

    def forward(self, params: Params, state: State, x: Tree, mode: Mode) -> tuple[Tree, State]:
        """The prediction and the new state; floating-point features and parameters enter in `compute_dtype`."""
        x = tree.cast(x, self.compute_dtype)
        return self.layer.apply(tree.cast(params, self.compute_dtype), state, x, mode)

    def evaluate(self, params: Params, state: State, batch: Tree, mode: Mode) -> tuple[LossValue, Tree, State]:
        """The loss of a batch `(features, target)`, the prediction, and the new state."""
        features, target = pair(batch)
        with located("model"):
            prediction, state = self.forward(params, state, features, mode)
        return measure(self.loss, prediction, target), prediction, state

    @cached_property
    def predict(self) -> Any:
        """`predict(params, state, x)`: the compiled prediction in `Eval`."""
        return jax.jit(lambda params, state, x: self.forward(params, state, x, Eval())[0])

    def _stored(self, features: Tree) -> Tree:
        def one(spec: Any) -> Any:
            return array_spec(spec.shape, self.param_dtype if is_float(spec) else spec.dtype)

        return tree.map(one, features)


def supervised(
    layer: Layer, loss: Loss | Metric, *, param_dtype: Any = jnp.float32, compute_dtype: Any = jnp.float32
) -> Supervised:
    """A layer and the loss of its output against the target, ready to be trained.

    Parameters are stored and updated in `param_dtype` and used in `compute_dtype` (for mixed precision, `jnp.bfloat16`);
    losses are summed in at least float32. A loss is any function `(prediction, target) -> LossValue`.

    >>> supervised(nn.linear(10), loss.cross_entropy())
    <Supervised: linear(10), cross_entropy>
    """
    return Supervised(layer, as_loss(loss), jnp.dtype(param_dtype), jnp.dtype(compute_dtype))


def measure(loss: Loss | Metric, prediction: Tree, target: Tree) -> LossValue:
    """The value of a loss or metric, which must be two scalars.

    Fails: `ShapeMismatch` for anything else, before it could broadcast.
    """
    name = as_loss(loss).name
    value = loss(prediction, target)
    if not isinstance(value, LossValue):
        raise TypeError(f"{name} returned {type(value).__name__}, expected LossValue(total, weight)")
    total, weight = jnp.asarray(value.total, jnp.float32), jnp.asarray(value.weight, jnp.float32)
    if total.shape or weight.shape:
        got = f"total {list(total.shape)}, weight {list(weight.shape)}"
        raise FaultError(ShapeMismatch("a scalar total and a scalar weight", got, "sum over the batch", where=name))
    return LossValue(total, weight)


def pair(batch: Tree) -> tuple[Tree, Tree]:
    """The batch as `(features, target)`.  Fails: `ShapeMismatch` for anything else."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise FaultError(ShapeMismatch("a batch (features, target)", describe(batch), where="stream"))
    return batch[0], batch[1]


def rows_of(batch: Tree) -> int:
    """How many rows the batch has."""
    shape: tuple[int, ...] = jax.tree.leaves(batch)[0].shape
    return shape[0] if shape else 1


def as_features(x: Any) -> Tree:
    """A user's input as arrays on the device; a list is one array, as in `minibatches`."""
    return jax.tree.map(jnp.asarray, x, is_leaf=lambda leaf: isinstance(leaf, list))
