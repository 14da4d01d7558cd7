"""The cross-entropy of logits that are not held: some rows at a time, with their gradient in the same pass."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnlamp.arrays import Array, wide
from fnlamp.logits import Logits

PART = 2**24
"""Logits of a part, at most: 64 MiB in float32. Products of so many rows are as fast as those of all."""


class Rows(NamedTuple):
    """What the loss of each row is made of.

    Its label; the weight of `logsumexp(x) - x[label]`; and that of `logsumexp(x) sum(u) - sum(u x)`, where u, `uniform`,
    `(classes,)`, is what label smoothing gives each class, None without it.
    """

    label: Array
    picked: Array
    spread: Array
    uniform: Array | None


def total_in_parts(logits: Logits, rows: Rows) -> Array:
    """The sum of the losses of all rows, in at least float32.  Shapes: features `(rows, width)`, and `(rows,)`."""
    count, classes = logits.shape
    size = max(1, min(PART // classes, count))
    padding = -count % size
    features = jnp.pad(logits.features, ((0, padding), (0, 0)))
    label, picked, spread = (jnp.pad(x, (0, padding)) for x in rows[:3])  # rows of weight 0
    padded = Logits(features, logits.weight, logits.bias, logits.soft_cap)
    return _total(padded, Rows(label, picked, spread, rows.uniform), size)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _total(logits: Logits, rows: Rows, size: int) -> Array:
    def part(total: Array, at: tuple[Array, ...]) -> tuple[Array, None]:
        features, label, picked, spread = at
        return total + _loss(logits.of(features), Rows(label, picked, spread, rows.uniform))[0], None

    total, _ = jax.lax.scan(part, jnp.zeros((), wide(logits.weight)), _cut(logits, rows, size))
    return total


@_total.defjvp
def _with_gradient(size: int, primals: Any, tangents: Any) -> tuple[Array, Array]:
    """The gradient of a part is taken while its logits are there: three products for both passes, as many as without parts."""
    logits, rows = primals
    total, gradient = _total_and_gradient(logits, rows, size)
    pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(tangents[0]), strict=True)
    return total, sum((jnp.vdot(g, t.astype(g.dtype)) for g, t in pairs), jnp.zeros_like(total))


def _total_and_gradient(logits: Logits, rows: Rows, size: int) -> tuple[Array, Logits]:
    weight, dtype = logits.weight, wide(logits.weight)
    classes = weight.shape[1]

    def part(carry: tuple[Array, Array, Array], at: tuple[Array, ...]) -> tuple[tuple[Array, Array, Array], Array]:
        total, dweight, dbias = carry
        features, label, picked, spread = at
        x = logits.of(features)
        more, dx = _loss(x, Rows(label, picked, spread, rows.uniform))
        if logits.soft_cap is not None:
            dx = dx * (1 - jnp.square(x / logits.soft_cap))
        narrow = dx.astype(weight.dtype)
        # In memory, as a product that transposes its left factor is slow.
        across: Array = jax.lax.optimization_barrier(features.T.astype(weight.dtype))  # type: ignore[no-untyped-call]
        dweight = dweight + jnp.matmul(across, narrow, preferred_element_type=dtype)
        dbias = dbias if logits.bias is None else dbias + dx.sum(0)
        dfeatures = jnp.matmul(narrow, weight.T, preferred_element_type=dtype)
        return (total + more, dweight, dbias), dfeatures

    zeros = jnp.zeros((), dtype), jnp.zeros(weight.shape, dtype), jnp.zeros(classes, dtype)
    (total, dweight, dbias), dfeatures = jax.lax.scan(part, zeros, _cut(logits, rows, size))
    dfeatures = dfeatures.reshape(logits.features.shape)
    return total, Logits(dfeatures, dweight, None if logits.bias is None else dbias, logits.soft_cap)


def _cut(logits: Logits, rows: Rows, size: int) -> tuple[Array, ...]:
    return tuple(x.reshape(-1, size, *x.shape[1:]) for x in (logits.features, *rows[:3]))


def _loss(x: Array, rows: Rows) -> tuple[Array, Array]:
    """The sum of the losses of some rows of logits, and its gradient, which is not computed unless it is used."""
    largest = jnp.max(x, axis=-1, keepdims=True)
    e = jnp.exp(x - largest)
    sums = jnp.sum(e, axis=-1, keepdims=True)
    lse = jnp.log(sums) + largest
    label, picked, spread = rows.label[:, None], rows.picked[:, None], rows.spread[:, None]
    loss = picked * (lse - jnp.take_along_axis(x, label, axis=-1))
    scale = picked
    dx = -jnp.where(jnp.arange(x.shape[1])[None] == label, picked, 0)
    if rows.uniform is not None:
        u = rows.uniform[None]
        loss = loss + spread * (lse * jnp.sum(u) - jnp.sum(u * x, axis=-1, keepdims=True))
        scale, dx = picked + spread * jnp.sum(u), dx - spread * u
    return jnp.sum(jnp.where(spread > 0, loss, 0)), dx + scale / sums * e
