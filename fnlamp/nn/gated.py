"""Gated units: one half of the features, times an activation of the other half."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from fnlamp.arrays import Array, Key, Params, Spec, State
from fnlamp.given import arguments, flag, whole
from fnlamp.layer import Init, Layer, apply_child, as_layer, gather, init_child, without_empty
from fnlamp.mode import Mode
from fnlamp.nn.activation import sigmoid
from fnlamp.nn.check import check_float, check_shape
from fnlamp.nn.initial import Initializer, check_initializers, glorot_normal
from fnlamp.nn.linear import linear
from fnlamp.nn.shape import fun


def _gated(x: Array, activation: Callable[[Array], Array], where: str) -> Array:
    expected = "an array whose last axis has an even number of features: values, then gates"
    check_shape(x, lambda shape: len(shape) >= 1 and shape[-1] > 0 and shape[-1] % 2 == 0, expected, where)
    check_float(x, where)
    values, gates = jnp.split(x, 2, axis=-1)
    return values * activation(gates)


glu = fun(partial(_gated, activation=jax.nn.sigmoid, where="glu"), "glu")
"""a sigmoid(b), for the halves a and b of the last axis (Dauphin et al. 2017, eq. 1).  Shapes: `(..., 2 n) -> (..., n)`."""
geglu = fun(partial(_gated, activation=partial(jax.nn.gelu, approximate=False), where="geglu"), "geglu")
"""a gelu(b), for the halves a and b of the last axis (Shazeer 2020, eq. 5).  Shapes: `(..., 2 n) -> (..., n)`."""
swiglu = fun(partial(_gated, activation=jax.nn.silu, where="swiglu"), "swiglu")
"""a silu(b), for the halves a and b of the last axis (Shazeer 2020, eq. 5).  Shapes: `(..., 2 n) -> (..., n)`."""


@arguments("the input's size is inferred: nn.gated_linear(10), or nn.gated_linear(10, nn.silu)")
def gated_linear(
    out: int,
    activation: Layer = sigmoid,
    *,
    bias: bool = True,
    weight_init: Initializer = glorot_normal,
    bias_init: Initializer = jax.nn.initializers.zeros,
) -> Layer:
    """The gated unit with its weights: `(x W + b) * activation(x V + c)`, with `nn.silu` SwiGLU, with `nn.gelu` GEGLU.

    Shapes: `(batch, ..., features) -> (batch, ..., out)`.  Children: `value` and `gate`, both linear, and `activation`.
    Fails: as `linear`; `ShapeMismatch` for an activation that changes the shape.
    Reference: Dauphin et al. 2017, eq. 1; Shazeer 2020, eq. 5.

    >>> made = gated_linear(10, nn.silu).init(key, jax.ShapeDtypeStruct((8, 4), jnp.float32))
    >>> made.params["value"]["weight"].shape, made.params["gate"]["weight"].shape, made.spec.shape
    ((4, 10), (4, 10), (8, 10))
    """
    out, bias, activation = (
        whole("gated_linear: out", out),
        flag("gated_linear: bias", bias),
        as_layer(activation, "gated_linear: activation"),
    )
    check_initializers("gated_linear", weight_init=weight_init, bias_init=bias_init)
    one = linear(out, bias=bias, weight_init=weight_init, bias_init=bias_init)
    children = {"value": one, "gate": one, "activation": activation}

    def init(key: Key, spec: Spec) -> Init:
        made = {name: init_child(name, one, key, spec) for name in ("value", "gate")}
        made["activation"] = init_child("activation", activation, key, made["gate"].spec)
        _check_gate(made["value"].spec, made["activation"].spec)
        return gather(children, made, made["value"].spec)

    def apply(params: Params, state: State, x: Array, mode: Mode) -> tuple[Array, State]:
        values, _ = apply_child("value", one, params, state, x, mode)
        gates, _ = apply_child("gate", one, params, state, x, mode)
        gates, new = apply_child("activation", activation, params, state, gates, mode)
        _check_gate(values, gates)
        return values * gates, without_empty({"activation": new})

    return Layer(init, apply, f"gated_linear({out}, {activation})")


def _check_gate(values: Any, gates: Any) -> None:
    check_shape(gates, lambda shape: shape == values.shape, f"gates of the values' shape {values.shape}", "gated_linear")
