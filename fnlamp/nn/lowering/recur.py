"""The recurrence of long short-term memory as a loop with few kernels an iteration."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnlamp.arrays import Array, platform, wide
from fnlamp.nn.lowering.matmul import in_memory


@jax.custom_vjp
def recur(gates: Array, weight: Array) -> Array:
    """The states h `(time, batch, hidden)`, from the inputs' share of the gates `(time, batch, 4 hidden)`.

    On CPU an iteration costs its product and some microseconds for every other kernel. So it has few kernels: the gates share
    one tanh, since `s(z) = (tanh(z / 2) + 1) / 2`; buffers are overwritten in place; whatever does not depend on the previous
    iteration is computed for all time steps at once, before or after the loop.
    """
    return plain_recur(gates, weight) if platform() == "any" else _forward(gates, weight)[0]


def plain_recur(gates: Array, weight: Array) -> Array:
    """`recur` as the paper writes it, in operations that other tools know."""
    long = wide(weight)

    def iteration(carry: tuple[Array, Array], z: Array) -> tuple[tuple[Array, Array], Array]:
        h, c = carry
        i, f, g, o = jnp.split(z + (h @ weight).astype(long), 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = (jax.nn.sigmoid(o) * jnp.tanh(c)).astype(weight.dtype)
        return (h, c), h

    start = gates.shape[1], weight.shape[0]
    states: Array = jax.lax.scan(iteration, (jnp.zeros(start, weight.dtype), jnp.zeros(start, long)), gates.astype(long))[1]
    return states


def _lowest(hidden: int, dtype: Any) -> Array:
    """The lower end of each gate's range: 0, and -1 for g; the upper end is 1.  Of shape `(1, 4 hidden)`."""
    return jnp.repeat(jnp.array([[0, 0, -1, 0]], dtype), hidden, axis=1)


def _forward(gates: Array, weight: Array) -> tuple[Array, tuple[Array, ...]]:
    (time, batch), hidden, narrow = gates.shape[:2], weight.shape[0], weight.dtype
    long = wide(weight)  # a cell is a long sum, which half precision would lose
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

    h, c = jnp.zeros((batch, hidden), narrow), jnp.zeros((batch, hidden), long)
    hs, cs = jnp.zeros((time, *h.shape), narrow), jnp.zeros((time, *c.shape), long)
    _, _, active, hs, cs = jax.lax.fori_loop(0, time, iteration, (h, c, gates.astype(long) * half[None], hs, cs))
    return hs, (weight, hs, cs, active)


def _backward(kept: tuple[Array, ...], dh: Array) -> tuple[Array, Array]:
    weight, h, c, active = kept
    hidden, narrow, long = weight.shape[0], weight.dtype, c.dtype
    i, f, g, o = jnp.split(active, 4, axis=-1)
    u = jnp.tanh(c)
    through = o * (1 - u * u)  # dh/dc
    slopes = (active - _lowest(hidden, long)[None]) * (1 - active)  # of the sigmoids and the tanh, from their values
    slopes = slopes * jnp.concatenate([g, _earlier(c), i, u], axis=-1)  # of the cell, and of the state for o
    transposed = in_memory(weight.T)  # once, not in every iteration

    def iteration(n: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        back, dc, dgates = carry
        t = dh.shape[0] - 1 - n
        upstream = (back + _at(dh, t)).astype(long)
        dc = dc + upstream * _at(through, t)
        dz = jnp.concatenate([dc, dc, dc, upstream], axis=-1) * _at(dgates, t)
        return dz.astype(narrow) @ transposed, dc * _at(f, t), _put(dgates, dz, t)

    start = jnp.zeros(h.shape[1:], narrow), jnp.zeros(c.shape[1:], long), slopes
    dgates = jax.lax.fori_loop(0, dh.shape[0], iteration, start)[2].astype(narrow)
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
    """`x` one time step earlier; 0 at the first."""
    return jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]])
