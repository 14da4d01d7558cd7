"""A layer and a loss as one model that can be trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from fnlamp import tree
from fnlamp.arrays import Key, Params, State, Tree, array_spec, describe, is_float, spec_after
from fnlamp.elsewhere import MODEL, Elsewhere
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch, located
from fnlamp.given import instance
from fnlamp.layer import Init, Layer, abstract_init, as_layer
from fnlamp.logits import computed
from fnlamp.loss import Loss, LossValue, as_loss
from fnlamp.loss.terms import Whole, of_part, whole_of
from fnlamp.mode import Mode
from fnlamp.train.precision import Precision, float32


@dataclass(frozen=True)
class Supervised(Elsewhere):
    """A layer, the loss of its output against a target, and the dtypes: parameters are stored in one and used in the other."""

    layer: Layer
    loss: Loss
    precision: Precision = float32
    _elsewhere = MODEL

    def __repr__(self) -> str:
        return f"<Supervised: {self.layer}, {self.loss}>"

    def init(self, key: Key, features: Tree) -> tuple[Params, State]:
        """Fresh parameters, in `precision.params`, and state for features of that spec."""
        made = self.layer.init(key, self._stored(features))
        # The state stays as the layer made it: in half precision a moving average would stand still.
        return tree.cast(made.params, self.precision.params), made.state

    def describe(self, features: Tree) -> Init:
        """Specs and tags of what `init` makes; nothing is computed.  Fails: `DtypeMismatch` for float64 where JAX has none."""
        for name in ("params", "compute"):
            dtype = getattr(self.precision, name)
            if jax.dtypes.canonicalize_dtype(dtype) != dtype:
                hint = 'write jax.config.update("jax_enable_x64", True) first, or leave the dtype out'
                raise FaultError(DtypeMismatch(f"a dtype of {name} that JAX computes in", str(dtype), hint, where="supervised"))
        made = abstract_init(self.layer, self._stored(features))
        params, state = spec_after(lambda key: self.init(key, features), spec_after(jax.random.key, 0))
        return Init(params, state, spec_after(computed, made.spec), made.tags, made.parts)

    def forward(self, params: Params, state: State, x: Tree, mode: Mode) -> tuple[Tree, State]:
        """The prediction and the new state; floating-point features and parameters enter in `precision.compute`."""
        prediction, state = self._forward(params, state, x, mode)
        return computed(prediction), state

    def _forward(self, params: Params, state: State, x: Tree, mode: Mode) -> tuple[Tree, State]:
        """The same, with `Logits` as they are: the loss reads them in parts."""
        x = tree.cast(x, self.precision.compute)
        return self.layer.apply(tree.cast(params, self.precision.compute), state, x, mode)

    def evaluate(
        self, params: Params, state: State, batch: Tree, mode: Mode, whole: Whole | None = None
    ) -> tuple[LossValue, Tree, State]:
        """The loss of a batch `(features, target)`, which may be a part of a `whole`; the prediction, and the new state."""
        features, target = pair(batch)
        with located("model"):
            prediction, state = self._forward(params, state, features, mode)
        value = self.loss(prediction, target) if whole is None else of_part(self.loss.terms, whole, prediction, target)
        return value, computed(prediction), state  # which XLA leaves out if no metric uses it

    def whole(self, params: Params, state: State, batch: Tree, mode: Mode) -> Whole | None:
        """What the loss of a part depends on of this whole batch, for a sum of losses.  XLA leaves the prediction out."""
        features, target = pair(batch)
        return whole_of(self.loss.terms, self._forward(params, state, features, mode)[0], target) if self.loss.terms else None

    def _stored(self, features: Tree) -> Tree:
        def one(spec: Any) -> Any:
            return array_spec(spec.shape, self.precision.params if is_float(spec) else spec.dtype)

        return tree.map(one, features)


def supervised(layer: Layer, loss: Loss | Callable[[Any, Any], Any], *, precision: Precision = float32) -> Supervised:
    """A layer and the loss of its output against the target, ready to be trained.

    `precision` is `train.float32`, `train.bfloat16` or `train.float16` (mixed precision), or your own `Precision`. A loss
    is any function `(prediction, target)` that returns a `LossValue` or one number per row.

    >>> supervised(nn.linear(10), loss.cross_entropy())
    <Supervised: linear(10), cross_entropy>
    """
    kind = "a train.Precision, such as train.bfloat16"
    return Supervised(as_layer(layer, "layer"), as_loss(loss), instance("precision", precision, Precision, kind))


def pair(batch: Tree) -> tuple[Tree, Tree]:
    """The batch as `(features, target)`.  Fails: `ShapeMismatch` for anything else."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise FaultError(ShapeMismatch("a batch (features, target)", describe(batch), where="stream"))
    return batch[0], batch[1]


def rows_of(batch: Tree) -> int:
    """How many rows the batch has."""
    shape: tuple[int, ...] = jax.tree.leaves(batch)[0].shape
    return shape[0] if shape else 1
