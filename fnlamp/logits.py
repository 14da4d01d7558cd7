"""Logits that are not computed: the output of `nn.logits`, which a loss reads a part at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from fnlamp import tree
from fnlamp.arrays import Array, Tree, along_last, wide


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Logits:
    """`features @ weight + bias`, bounded by `soft_cap` c as `c tanh(x / c)`, of shape `(..., classes)`.

    Shapes: features `(..., width)`, weight `(width, classes)`, bias `(classes,)` or None.
    """

    features: Array
    weight: Array
    bias: Array | None = None
    soft_cap: float | None = field(default=None, metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        return *self.features.shape[:-1], self.weight.shape[1]

    @property
    def dtype(self) -> Any:
        return self.weight.dtype

    def array(self) -> Array:
        """All of them.

        >>> from fnlamp.logits import Logits
        >>> Logits(jnp.ones((2, 3)), jnp.ones((3, 4))).array().shape
        (2, 4)
        """
        rows = self.features.reshape(-1, self.features.shape[-1]) if self.features.size else self.features
        return self.of(rows).astype(self.dtype).reshape(self.shape)

    def of(self, rows: Array) -> Array:
        """The logits of some features, in at least float32."""
        x = jnp.matmul(rows.astype(self.dtype), self.weight, preferred_element_type=wide(self.weight))
        x = x if self.bias is None else x + along_last(self.bias, x.ndim).astype(x.dtype)
        return x if self.soft_cap is None else self.soft_cap * jnp.tanh(x / self.soft_cap)


def computed(prediction: Tree) -> Tree:
    """The prediction with arrays in place of `Logits`."""
    return tree.map(lambda x: x.array() if isinstance(x, Logits) else x, prediction, is_leaf=lambda x: isinstance(x, Logits))
