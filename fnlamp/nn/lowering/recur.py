"""The recurrence of long short-term memory as a loop with few kernels an iteration."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnlamp.arrays import Array, platform, wide
from fnlamp.nn.lowering.matmul import in_memory

Pair = tuple[Array, Array]


@jax.custom_vjp
def recur(gates: Array, weight: Array, h: Array, c: Array) -> Pair:
    """The states h `(time, batch, hidden)` and the last c, from the inputs' share of the gates `(time, batch, 4 hidden)`.

    `h` and `c` `(batch, hidden)` are the state before the first time step.
    On CPU an iteration costs its product and some microseconds for every other kernel. So it has few kernels: the gates share
    one tanh, since `s(z) = (tanh(z / 2) + 1) / 2`; buffers are overwritten in place; whatever does not depend on the previous
    iteration is computed for all time steps at once, before or after the loop.
    """
    return plain_recur(gates, weight, h, c) if platform() == "any" else _forward(gates, weight, h, c)[0]


def plain_recur(gates: Array, weight: Array, h: Array, c: Array) -> Pair:
    """`recur` as the paper writes it, in operations that other tools know."""

    def iteration(carry: Pair, z: Array) -> tuple[Pair, Array]:
        h, c = lstm_step(weight, *carry, z)
        return (h, c), h

    (_, last), states = jax.lax.scan(iteration, (h, c), gates.astype(wide(weight)))
    return states, last


def lstm_step(weight: Array, h: Array, c: Array, z: Array) -> Pair:
    """h and c after one time step, whose input's share of the gates is z `(batch, 4 hidden)`."""
    i, f, g, o = jnp.split(z.astype(c.dtype) + (h @ weight).astype(c.dtype), 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return (jax.nn.sigmoid(o) * jnp.tanh(c)).astype(weight.dtype), c


def _lowest(hidden: int, dtype: Any) -> Array:
    """The lower end of each gate's range: 0, and -1 for g; the upper end is 1.  Of shape `(1, 4 hidden)`."""
    return jnp.repeat(jnp.array([[0, 0, -1, 0]], dtype), hidden, axis=1)


def _forward(gates: Array, weight: Array, h: Array, c: Array) -> tuple[Pair, tuple[Array, ...]]:
    time, hidden, narrow = gates.shape[0], weight.shape[0], weight.dtype
    first, long = (h, c), wide(weight)  # a cell is a long sum, which half precision would lose
    low = _lowest(hidden, long)
    half, middle = (1 - low) / 2, (1 + low) / 2
    scaled = weight * half.astype(narrow)  # by 1/2 or 1: exact

    def iteration(t: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        h, c, active, hs, cs = carry
        a = jnp.tanh(_at(active, t) + (h @ scaled).astype(long)) * half + middle
        i, f, g, o = jnp.split(a, 4, axis=-1)
        c = f * c + i * g
        h = (o * jnp.tanh(c)).astype(narrow)
        return h, c, _put(active, a, t), _put(hs, h, t), _put(cs, c, t)

    hs, cs = jnp.zeros((time, *h.shape), narrow), jnp.zeros((time, *c.shape), long)
    _, c, active, hs, cs = jax.lax.fori_loop(0, time, iteration, (h, c, gates.astype(long) * half[None], hs, cs))
    return (hs, c), (weight, *first, hs, cs, active)


def _backward(kept: tuple[Array, ...], upstreams: Pair) -> tuple[Array, ...]:
    weight, h_first, c_first, h, c, active = kept
    dh, dc_last = upstreams
    hidden, narrow, long = weight.shape[0], weight.dtype, c.dtype
    i, f, g, o = jnp.split(active, 4, axis=-1)
    u = jnp.tanh(c)
    through = o * (1 - u * u)  # dh/dc
    slopes = (active - _lowest(hidden, long)[None]) * (1 - active)  # of the sigmoids and the tanh, from their values
    slopes = slopes * jnp.concatenate([g, _earlier(c, c_first), i, u], axis=-1)  # of the cell, and of the state for o
    transposed = in_memory(weight.T)  # once, not in every iteration

    def iteration(n: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        back, dc, dgates = carry
        t = dh.shape[0] - 1 - n
        upstream = (back + _at(dh, t)).astype(long)
        dc = dc + upstream * _at(through, t)
        dz = jnp.concatenate([dc, dc, dc, upstream], axis=-1) * _at(dgates, t)
        return dz.astype(narrow) @ transposed, dc * _at(f, t), _put(dgates, dz, t)

    start = jnp.zeros(h.shape[1:], narrow), dc_last, slopes
    dh_first, dc_first, dgates = jax.lax.fori_loop(0, dh.shape[0], iteration, start)
    dgates = dgates.astype(narrow)
    rows = dgates.shape[0] * dgates.shape[1]
    dweight = _earlier(h, h_first).reshape(rows, -1).T @ dgates.reshape(rows, -1)
    return dgates, dweight, dh_first, dc_first


recur.defvjp(_forward, _backward)


def _at(x: Array, t: Array) -> Array:
    value: Array = jax.lax.dynamic_index_in_dim(x, t, keepdims=False)
    return value


def _put(x: Array, value: Array, t: Array) -> Array:
    new: Array = jax.lax.dynamic_update_index_in_dim(x, value, t, 0)
    return new


def _earlier(x: Array, first: Array) -> Array:
    """`x` one time step earlier; `first` at the first."""
    return jnp.concatenate([first[None], x[:-1]])
