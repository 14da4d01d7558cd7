"""The multi-layer perceptron."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from fnlamp.arrays import array_spec
from fnlamp.given import arguments, flag, shown, whole
from fnlamp.layer import Layer, abstract_init, as_layer
from fnlamp.nn.activation import relu
from fnlamp.nn.combine import sequence
from fnlamp.nn.dropout import checked_rate, dropout
from fnlamp.nn.initial import Initializer, check_initializers, glorot_normal
from fnlamp.nn.linear import linear
from fnlamp.nn.norm import batch_norm
from fnlamp.tag import Role

_batch_norm = batch_norm()


@arguments("the input's size is inferred: nn.mlp(hidden=(64, 32), out=10)")
def mlp(
    hidden: Sequence[int],
    out: int,
    *,
    drop_rate: float = 0.0,
    norm: Layer | None = _batch_norm,
    activation: Layer = relu,
    norm_last: bool = False,
    activation_last: bool = False,
    weight_init: Initializer = glorot_normal,
    bias_init: Initializer = jax.nn.initializers.zeros,
) -> Layer:
    """Fully connected blocks of linear, norm, activation, dropout, and a linear layer of `out` features at the end.

    A linear layer has no bias if a norm with a shift follows, which replaces it. `norm_last` puts the norm after the last
    linear layer too (lamp's MLP does), `activation_last` the activation and dropout.
    Shapes: `(batch, ..., features) -> (batch, ..., out)`.  Children: `linear_0, norm_0, activation_0, dropout_0, ...`.

    >>> mlp(hidden=(64, 32), out=10, drop_rate=0.2, norm=None)
    linear(64) >> relu >> dropout(0.2) >> linear(32) >> relu >> dropout(0.2) >> linear(10)
    """
    if isinstance(hidden, str) or not hasattr(hidden, "__iter__"):
        raise TypeError(f"mlp: hidden is a sequence of widths, got {shown(hidden)}; write hidden=(64,) for one hidden layer")
    hidden = tuple(whole(f"mlp: hidden[{i}]", width, None) for i, width in enumerate(hidden))
    out, activation = whole("mlp: out", out, None), as_layer(activation, "mlp: activation")
    drop_rate, norm_last = checked_rate("mlp: drop_rate", drop_rate), flag("mlp: norm_last", norm_last)
    activation_last = flag("mlp: activation_last", activation_last)
    check_initializers("mlp", weight_init=weight_init, bias_init=bias_init)
    norm = None if norm is None else as_layer(norm, "mlp: norm")
    parts: dict[str, Layer] = {}
    for i, width in enumerate((*hidden, out)):
        last = i == len(hidden)
        normed = norm is not None and (norm_last or not last)
        shifted = normed and norm is not None and width > 0 and _has_shift(norm, width)
        parts[f"linear_{i}"] = linear(width, bias=not shifted, weight_init=weight_init, bias_init=bias_init)
        if norm is not None and normed:
            parts[f"norm_{i}"] = norm
        if activation_last or not last:
            parts[f"activation_{i}"] = activation
            if drop_rate:
                parts[f"dropout_{i}"] = dropout(drop_rate)
    return sequence(**parts)


def _has_shift(norm: Layer, width: int) -> bool:
    tags = abstract_init(norm, array_spec((2, width), jnp.float32)).tags
    return any(tag.role is Role.SHIFT for tag in jax.tree.leaves(tags))
