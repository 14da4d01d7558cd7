"""Scaled dot-product attention; its own backward pass uses the probabilities that the forward pass keeps."""

from __future__ import annotations

from functools import partial
from math import gcd, sqrt

import jax
import jax.numpy as jnp

from fnlamp.arrays import Array, platform, wide
from fnlamp.nn.lowering.matmul import in_memory


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def attend(x: Array, heads: int, causal: bool) -> Array:
    """`softmax(q k' / sqrt(features)) v` for each head, q, k and v side by side in `x`; the softmax in at least float32.

    Shapes: `(batch, time, 3 width) -> (batch, time, width)`.
    """
    return _forward(x, heads, causal)[0]


def _forward(x: Array, heads: int, causal: bool) -> tuple[Array, list[tuple[Array, ...]]]:
    if not x.size:  # no rows, or no time steps: the softmax would be undefined
        empty = jnp.zeros((*x.shape[:2], x.shape[2] // 3), x.dtype)
        return empty, []
    if (count := _parts(x)) == 1:
        y, kept = _forward_part(x, heads, causal)
        return y, [kept]
    made = [_forward_part(part, heads, causal) for part in jnp.split(x, count)]
    return jnp.concatenate([y for y, _ in made]), [kept for _, kept in made]


def _backward(heads: int, causal: bool, kept: list[tuple[Array, ...]], dy: Array) -> tuple[Array]:
    del causal  # masked positions have p = 0, and so no gradient
    if not kept:  # nothing was computed
        return (jnp.zeros((*dy.shape[:2], 3 * dy.shape[2]), dy.dtype),)
    parts = zip(kept, jnp.split(dy, len(kept)), strict=True)
    return (jnp.concatenate([_backward_part(heads, part, dy) for part, dy in parts]),)


attend.defvjp(_forward, _backward)


def _parts(x: Array) -> int:
    """The number of parts that the batch is cut into.

    XLA:CPU computes a product of many small matrices on one core, but several products at once, if enough of them are ready.
    """
    return gcd(x.shape[0], 8) if platform() == "cpu" else 1


def _forward_part(x: Array, heads: int, causal: bool) -> tuple[Array, tuple[Array, ...]]:
    dtype = wide(x)
    q, k, v = (_split(part, heads) for part in jnp.split(x, 3, axis=-1))
    scores = jnp.einsum("bhtd,bhsd->bhts", q, k, preferred_element_type=dtype) / sqrt(q.shape[-1])
    if causal:
        seen = jnp.tri(q.shape[2], dtype=bool)
        scores = jnp.where(seen[None, None], scores, -jnp.inf)
    p = jax.nn.softmax(scores).astype(x.dtype)
    return _joined(jnp.einsum("bhts,bhsd->bhtd", p, v)), (q, k, v, p)


def _backward_part(heads: int, kept: tuple[Array, ...], dy: Array) -> Array:
    """Uses the kept probabilities: on CPU, reading them costs less than computing them again."""
    q, k, v, p = kept
    dtype = wide(q)
    dy = _split(dy, heads)
    dv = jnp.einsum("bhdt,bhts->bhds", _transposed(dy), p)
    dp = jnp.einsum("bhtd,bhds->bhts", dy, _transposed(v), preferred_element_type=dtype)
    seen = p.astype(dtype)
    ds = (seen * (dp - jnp.sum(seen * dp, axis=-1, keepdims=True)) / sqrt(q.shape[-1])).astype(q.dtype)
    dq = jnp.einsum("bhts,bhsd->bhtd", ds, k)
    dk = jnp.einsum("bhdt,bhts->bhds", _transposed(q), ds)
    return jnp.concatenate([_joined(d) for d in (dq, dk.swapaxes(2, 3), dv.swapaxes(2, 3))], axis=-1)


def _split(x: Array, heads: int) -> Array:
    """`(batch, time, width)` as `(batch, heads, time, width / heads)`."""
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)


def _joined(x: Array) -> Array:
    """The inverse of `_split`."""
    x = x.swapaxes(1, 2)
    return x.reshape(*x.shape[:2], -1)


def _transposed(x: Array) -> Array:
    """The matrices of `x` transposed; on CPU in memory, as products that transpose the left factor take twice as long."""
    y = x.swapaxes(2, 3)
    return in_memory(y) if platform() == "cpu" else y
