"""Recurrent layers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnlamp.arrays import Array, Key, Params, Spec, State, array_spec, describe, is_float
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch
from fnlamp.layer import Init, Layer, tag_all
from fnlamp.mode import Mode
from fnlamp.nn.initial import Initializer, glorot_normal
from fnlamp.tag import Role


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
    wide = jnp.promote_types(dtype, jnp.float32)  # there is no QR decomposition in half precision
    weight: Array = jax.nn.initializers.orthogonal()(key, shape, wide).astype(dtype)
    return weight


def lstm(
    hidden: int,
    *,
    bias: bool = True,
    input_init: Initializer = glorot_normal,
    recurrent_init: Initializer = _orthogonal,
    bias_init: Initializer = forget_one,
) -> Layer:
    """Long short-term memory over the time axis, from a state of zeros in every batch; the output is the state at each time.

    With s the sigmoid and `[i f g o] = x_t W + h_(t-1) R + b`:
    `c_t = s(f) c_(t-1) + s(i) tanh(g)` and `h_t = s(o) tanh(c_t)`; the gates are in torch's order, with one bias for its two.
    Shapes: `(batch, time, features) -> (batch, time, hidden)`; for the last state alone, `>> nn.fun(lambda h: h[:, -1])`.
    Params: `input_weight` W `(features, 4 hidden)`, `recurrent_weight` R `(hidden, 4 hidden)`, and `bias` unless `bias=False`.
    Fails: `DtypeMismatch` for integer input (embed it); `ShapeMismatch` for another rank or number of features.
    Default initialisers: Glorot normal, orthogonal, and `forget_one`.  The gradient is taken in reverse mode only.
    Reference: Hochreiter & Schmidhuber 1997, with the forget gate of Gers, Schmidhuber & Cummins 2000, eq. 2 to 6.

    >>> made = lstm(128).init(key, jax.ShapeDtypeStruct((32, 64, 100), jnp.float32))
    >>> made.params["input_weight"].shape, made.params["recurrent_weight"].shape, made.spec.shape
    ((100, 512), (128, 512), (32, 64, 128))
    """
    if hidden < 1:
        raise ValueError(f"lstm needs at least one hidden feature, got {hidden}")

    def init(key: Key, spec: Spec) -> Init:
        _check(spec, None)
        input_key, recurrent_key, bias_key = jax.random.split(key, 3)
        params = {
            "input_weight": input_init(input_key, (spec.shape[-1], 4 * hidden), spec.dtype),
            "recurrent_weight": recurrent_init(recurrent_key, (hidden, 4 * hidden), spec.dtype),
        }
        roles = dict.fromkeys(params, Role.WEIGHT)
        if bias:
            params["bias"], roles["bias"] = bias_init(bias_key, (4 * hidden,), spec.dtype), Role.BIAS
        return Init(params, {}, array_spec((*spec.shape[:-1], hidden), spec.dtype), tag_all("lstm", **roles))

    def apply(params: Params, state: State, x: Array, mode: Mode) -> tuple[Array, State]:
        del mode
        weight = params["input_weight"]
        _check(x, weight.shape[0])
        gates = x.astype(weight.dtype).swapaxes(0, 1) @ weight  # of all times at once: only h R must wait for the loop
        gates = gates + params["bias"] if bias else gates
        return recur(gates, params["recurrent_weight"]).swapaxes(0, 1), state

    return Layer(init, apply, f"lstm({hidden})")


@jax.custom_vjp
def recur(gates: Array, weight: Array) -> Array:
    """The states h `(time, batch, hidden)` of the recurrence, of the inputs' share of the gates `(time, batch, 4 hidden)`."""
    return _forward(gates, weight)[0]


def _forward(gates: Array, weight: Array) -> tuple[Array, tuple[Array, Array, Array, Array]]:
    wide = jnp.promote_types(gates.dtype, jnp.float32)  # a cell is a long sum, which half precision would lose

    def turn(carry: tuple[Array, Array], z: Array) -> tuple[tuple[Array, Array], tuple[Array, Array, Array]]:
        h, c = carry
        z = (z + h @ weight).astype(wide)
        i, f, g, o = jnp.split(z, 4, axis=-1)
        i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
        c = f * c + i * g
        h = (o * jnp.tanh(c)).astype(h.dtype)
        return (h, c), (h, c, jnp.concatenate([i, f, g, o], axis=-1))

    start = gates.shape[1], weight.shape[0]
    _, (h, c, active) = jax.lax.scan(turn, (jnp.zeros(start, gates.dtype), jnp.zeros(start, wide)), gates)
    return h, (weight, h, c, active)


def _backward(kept: tuple[Array, Array, Array, Array], dh: Array) -> tuple[Array, Array]:
    """The loop finds the gates' gradients alone; the weight's is one product over all times after it."""
    weight, h, c, active = kept

    def turn(carry: tuple[Array, Array], now: tuple[Array, ...]) -> tuple[tuple[Array, Array], Array]:
        dh, dc = carry
        upstream, active, c, before = now
        i, f, g, o = jnp.split(active, 4, axis=-1)
        u = jnp.tanh(c)
        dh = (dh + upstream).astype(c.dtype)
        dc = dc + dh * o * (1 - u * u)
        dz = [dc * g * i * (1 - i), dc * before * f * (1 - f), dc * i * (1 - g * g), dh * u * o * (1 - o)]
        dgates = jnp.concatenate(dz, axis=-1).astype(weight.dtype)
        return (dgates @ weight.T, dc * f), dgates

    start = jnp.zeros(h.shape[1:], h.dtype), jnp.zeros(c.shape[1:], c.dtype)
    _, dgates = jax.lax.scan(turn, start, (dh, active, c, _earlier(c)), reverse=True)
    return dgates, jnp.einsum("tbh,tbg->hg", _earlier(h), dgates)


recur.defvjp(_forward, _backward)


def _earlier(x: Array) -> Array:
    """What `x` was a time before; 0 at the first."""
    return jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]])


def _check(x: Any, features: int | None) -> None:
    if not hasattr(x, "shape") or len(x.shape) != 3 or features not in (None, x.shape[-1]):
        wanted = "features" if features is None else features
        raise FaultError(ShapeMismatch(f"an array of shape (batch, time, {wanted})", describe(x), where="lstm"))
    if not is_float(x):
        hint = "embed tokens first, as nn.embedding does; cast numbers, as nn.rescale does"
        raise FaultError(DtypeMismatch("floating-point input", describe(x), hint, where="lstm"))
