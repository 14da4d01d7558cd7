"""Recurrent layers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnlamp.arrays import Array, Key, Params, Spec, State, along_last, array_spec, describe, is_float, wide
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch
from fnlamp.given import arguments, flag, whole
from fnlamp.layer import Init, Layer, tag_all
from fnlamp.mode import Mode
from fnlamp.nn.initial import Initializer, check_initializers, glorot_normal
from fnlamp.nn.linear import in_memory, product
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
    # there is no QR decomposition in half precision
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
    hidden, bias = whole("lstm: hidden", hidden, None), flag("lstm: bias", bias)
    check_initializers("lstm", input_init=input_init, recurrent_init=recurrent_init, bias_init=bias_init)
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
        if not x.size:
            return jnp.zeros((*x.shape[:2], hidden), weight.dtype), state
        gates = product(x.astype(weight.dtype).swapaxes(0, 1), weight)  # of all times at once: only h R must wait for the loop
        gates = gates + along_last(params["bias"], gates.ndim) if bias else gates
        return recur(gates, params["recurrent_weight"]).swapaxes(0, 1), state

    return Layer(init, apply, f"lstm({hidden})")


@jax.custom_vjp
def recur(gates: Array, weight: Array) -> Array:
    """The states h `(time, batch, hidden)` of the recurrence, of the inputs' share of the gates `(time, batch, 4 hidden)`.

    On CPU a turn of the loop costs its product and some microseconds for every other kernel. So a turn has few: the gates
    share one tanh, since `s(z) = (tanh(z / 2) + 1) / 2`; buffers are overwritten in place; what does not depend on the turn
    before is done for all times at once, before the loop or after it.
    """
    return _forward(gates, weight)[0]


def _lowest(hidden: int, dtype: Any) -> Array:
    """The lower end of each gate's range: 0, and -1 for g; the upper end is 1.  Of shape `(1, 4 hidden)`."""
    return jnp.repeat(jnp.array([[0, 0, -1, 0]], dtype), hidden, axis=1)


def _forward(gates: Array, weight: Array) -> tuple[Array, tuple[Array, ...]]:
    (time, batch), hidden, narrow = gates.shape[:2], weight.shape[0], weight.dtype
    long = wide(weight)  # a cell is a long sum, which half precision would lose
    low = _lowest(hidden, long)
    half, middle = (1 - low) / 2, (1 + low) / 2
    scaled = weight * half.astype(narrow)  # by 1/2 or 1: exact

    def turn(t: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        h, c, active, hs, cs = carry
        a = jnp.tanh(_at(active, t) + (h @ scaled).astype(long)) * half + middle
        i, f, g, o = jnp.split(a, 4, axis=-1)
        c = f * c + i * g
        h = (o * jnp.tanh(c)).astype(narrow)
        return h, c, _put(active, a, t), _put(hs, h, t), _put(cs, c, t)

    h, c = jnp.zeros((batch, hidden), narrow), jnp.zeros((batch, hidden), long)
    hs, cs = jnp.zeros((time, *h.shape), narrow), jnp.zeros((time, *c.shape), long)
    _, _, active, hs, cs = jax.lax.fori_loop(0, time, turn, (h, c, gates.astype(long) * half[None], hs, cs))
    return hs, (weight, hs, cs, active)


def _backward(kept: tuple[Array, ...], dh: Array) -> tuple[Array, Array]:
    weight, h, c, active = kept
    hidden, narrow, long = weight.shape[0], weight.dtype, c.dtype
    i, f, g, o = jnp.split(active, 4, axis=-1)
    u = jnp.tanh(c)
    through = o * (1 - u * u)  # dh/dc
    slopes = (active - _lowest(hidden, long)[None]) * (1 - active)  # of the sigmoids and the tanh, from their values
    slopes = slopes * jnp.concatenate([g, _earlier(c), i, u], axis=-1)  # of the cell, and of the state for o
    transposed = in_memory(weight.T)  # once, not in every turn

    def turn(n: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        back, dc, dgates = carry
        t = dh.shape[0] - 1 - n
        upstream = (back + _at(dh, t)).astype(long)
        dc = dc + upstream * _at(through, t)
        dz = jnp.concatenate([dc, dc, dc, upstream], axis=-1) * _at(dgates, t)
        return dz.astype(narrow) @ transposed, dc * _at(f, t), _put(dgates, dz, t)

    start = jnp.zeros(h.shape[1:], narrow), jnp.zeros(c.shape[1:], long), slopes
    dgates = jax.lax.fori_loop(0, dh.shape[0], turn, start)[2].astype(narrow)
    rows = dgates.shape[0] * dgates.shape[1]
    return dgates, _earlier(h).reshape(rows, -1).T @ dgates.reshape(rows, -1)


recur.defvjp(_forward, _backward)


def _at(x: Array, t: Array) -> Array:
    value: Array = jax.lax.dynamic_index_in_dim(x, t, keepdims=False)
    return value


def _put(x: Array, value: Array, t: Array) -> Array:
    new: Array = jax.lax.dynamic_update_index_in_dim(x, value, t, 0)
    return new


def _earlier(x: Array) -> Array:
    """What `x` was a time before; 0 at the first."""
    return jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]])


def _check(x: Any, features: int | None) -> None:
    if not hasattr(x, "shape") or len(x.shape) != 3 or features not in (None, x.shape[-1]):
        wanted = "features" if features is None else features
        raise FaultError(ShapeMismatch(f"an array of shape (batch, time, {wanted})", describe(x), where="lstm"))
    if x.shape[-1] == 0:
        raise FaultError(ShapeMismatch("at least one feature", describe(x), where="lstm"))
    if not is_float(x):
        hint = "embed tokens first, as nn.embedding does; cast numbers, as nn.rescale does"
        raise FaultError(DtypeMismatch("floating-point input", describe(x), hint, where="lstm"))
