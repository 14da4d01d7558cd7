"""Recurrent layers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnlamp.arrays import Array, Key, Params, Spec, State, along_last, array_spec, wide
from fnlamp.given import arguments, flag, whole
from fnlamp.layer import Init, Layer, tag_all
from fnlamp.mode import Mode
from fnlamp.nn.check import check_features
from fnlamp.nn.initial import Initializer, check_initializers, glorot_normal
from fnlamp.nn.lowering.matmul import product
from fnlamp.nn.lowering.recur import recur
from fnlamp.tag import Matrix, Role


def forget_one(key: Key, shape: tuple[int, ...], dtype: Any) -> Array:
    """An initialiser for the bias of `lstm`: 1 for the forget gates, so that cells start by remembering, and 0 for the others.

    Reference: Jozefowicz, Zaremba & Sutskever 2015, section 2.2.

    >>> forget_one(key, (8,), jnp.float32)
    Array([0., 0., 1., 1., 0., 0., 0., 0.], dtype=float32)
    """
    del key
    hidden = shape[0] // 4
    return jnp.zeros(shape, dtype).at[hidden : 2 * hidden].set(1)


def _orthogonal(key: Key, shape: tuple[int, ...], dtype: Any) -> Array:
    # QR decomposition is not implemented in half precision
    weight: Array = jax.nn.initializers.orthogonal()(key, shape, wide(array_spec(shape, dtype))).astype(dtype)
    return weight


@arguments("the number of features is inferred: nn.lstm(128)")
def lstm(
    hidden: int,
    *,
    bias: bool = True,
    input_init: Initializer = glorot_normal,
    recurrent_init: Initializer = _orthogonal,
    bias_init: Initializer = forget_one,
) -> Layer:
    """Long short-term memory over the time axis, from a state of zeros in every batch; returns the state at each time step.

    With s the sigmoid and `[i f g o] = x_t W + h_(t-1) R + b`:
    `c_t = s(f) c_(t-1) + s(i) tanh(g)` and `h_t = s(o) tanh(c_t)`; the gates are in torch's order, with one bias for its two.
    Shapes: `(batch, time, features) -> (batch, time, hidden)`; for the last state only, `>> nn.fun(lambda h: h[:, -1])`.
    Params: `input_weight` W `(features, 4 hidden)`, `recurrent_weight` R `(hidden, 4 hidden)`, and `bias` unless `bias=False`.
    Fails: `DtypeMismatch` for integer input (embed it); `ShapeMismatch` for another rank or number of features.
    Default initialisers: Glorot normal, orthogonal, and `forget_one`.  The gradient is taken in reverse mode only.
    Reference: Hochreiter & Schmidhuber 1997, with the forget gate of Gers, Schmidhuber & Cummins 2000, eq. 2 to 6.

    >>> made = lstm(128).init(key, jax.ShapeDtypeStruct((32, 64, 100), jnp.float32))
    >>> made.params["input_weight"].shape, made.params["recurrent_weight"].shape, made.spec.shape
    ((100, 512), (128, 512), (32, 64, 128))
    """
    hidden, bias = whole("lstm: hidden", hidden, None), flag("lstm: bias", bias)
    check_initializers("lstm", input_init=input_init, recurrent_init=recurrent_init, bias_init=bias_init)
    if hidden < 1:
        raise ValueError(f"lstm needs at least one hidden feature, got {hidden}")

    def init(key: Key, spec: Spec) -> Init:
        check_features(spec, "lstm", axes="batch, time")
        input_key, recurrent_key, bias_key = jax.random.split(key, 3)
        params = {
            "input_weight": input_init(input_key, (spec.shape[-1], 4 * hidden), spec.dtype),
            "recurrent_weight": recurrent_init(recurrent_key, (hidden, 4 * hidden), spec.dtype),
        }
        roles = dict.fromkeys(params, Role.WEIGHT)
        if bias:
            params["bias"], roles["bias"] = bias_init(bias_key, (4 * hidden,), spec.dtype), Role.BIAS
        return Init(params, {}, array_spec((*spec.shape[:-1], hidden), spec.dtype), tag_all("lstm", Matrix(blocks=4), **roles))

    def apply(params: Params, state: State, x: Array, mode: Mode) -> tuple[Array, State]:
        del mode
        weight = params["input_weight"]
        check_features(x, "lstm", weight.shape[0], axes="batch, time")
        if not x.size:
            return jnp.zeros((*x.shape[:2], hidden), weight.dtype), state
        gates = product(x.astype(weight.dtype).swapaxes(0, 1), weight)  # of all time steps at once: only h R needs the loop
        gates = gates + along_last(params["bias"], gates.ndim) if bias else gates
        return recur(gates, params["recurrent_weight"]).swapaxes(0, 1), state

    return Layer(init, apply, f"lstm({hidden})")
