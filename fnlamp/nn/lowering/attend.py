"""Scaled dot-product attention; its derivatives use the probabilities that the forward pass keeps."""

from __future__ import annotations

import os
from functools import partial
from math import gcd
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnlamp.arrays import Array, device_count, platform, wide
from fnlamp.nn.lowering.linear_map import linear_map
from fnlamp.nn.lowering.matmul import in_memory


class How(NamedTuple):
    """What is known before the arrays: factor of the scores, bound that they approach, probability to drop a weight."""

    scale: float
    soft_cap: float | None = None
    drop_rate: float = 0.0


class Kept(NamedTuple):
    """What the derivatives read; `(batch, kv_heads, ...)`, the queries of all heads of a key's head as one axis.

    `slope` is the soft cap's derivative, `drawn` which weights dropout keeps; None without them.
    """

    q: Array
    k: Array
    v: Array
    p: Array
    slope: Array | None
    drawn: Array | None


@partial(jax.custom_jvp, nondiff_argnums=(5,))
def attend(q: Array, k: Array, v: Array, seen: Array | None, drawn: Array | None, how: How) -> Array:
    """`softmax(scale q k') v` for each head, the softmax in at least float32; zeros for a query that sees no key.

    Shapes: q `(batch, time, heads, features)`; k and v `(batch, keys, kv_heads, ...)`; seen, booleans, four axes that
    broadcast to `(batch, heads, time, keys)`; drawn, the weights that dropout keeps, as `Kept.p`.
    """
    return _forward(q, k, v, seen, drawn, how)[0]


@attend.defjvp
def _with_tangents(how: How, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    q, k, v, seen, drawn = primals
    y, kept = _forward(q, k, v, seen, drawn, how)
    heads = q.shape[2]
    tangent = linear_map(partial(_tangents, how, heads), partial(_backward, how, heads), kept, tangents[:3])
    return y, tangent


def _forward(q: Array, k: Array, v: Array, seen: Array | None, drawn: Array | None, how: How) -> tuple[Array, tuple[Kept, ...]]:
    count = _parts(q)
    parts = zip(*(_cut(x, count) for x in (q, k, v, seen, drawn)), strict=True)
    made = [_forward_part(q, k, v, seen, drawn, how) for q, k, v, seen, drawn in parts]
    return _whole([y for y, _ in made]), tuple(kept for _, kept in made)


def _tangents(how: How, heads: int, kept: tuple[Kept, ...], x: tuple[Array, ...]) -> Array:
    parts = zip(kept, *(_cut(each, len(kept)) for each in x), strict=True)
    return _whole([_tangent_part(how, heads, *part) for part in parts])


def _backward(how: How, heads: int, kept: tuple[Kept, ...], dy: Array) -> tuple[Array, ...]:
    made = [_backward_part(how, heads, *part) for part in zip(kept, _cut(dy, len(kept)), strict=True)]
    return tuple(_whole(list(part)) for part in zip(*made, strict=True))


def _parts(x: Array) -> int:
    """The number of parts that the batch is cut into.

    XLA:CPU computes a product of many small matrices on one core, but several products at once, if enough of them are ready.
    Each part is compiled for itself: on two cores 4 of them are as fast as 8, and take two thirds of the time to compile.
    In a program for several devices each has its own rows, and parts of the whole batch would have to be exchanged.
    """
    return gcd(x.shape[0], 4 if (os.cpu_count() or 1) <= 4 else 8) if platform() == "cpu" and device_count() == 1 else 1


def _cut(x: Array | None, count: int) -> list[Any]:
    return [x] * count if x is None or x.shape[0] == 1 or count == 1 else jnp.split(x, count)


def _whole(parts: list[Array]) -> Array:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


def _forward_part(q: Array, k: Array, v: Array, seen: Array | None, drawn: Array | None, how: How) -> tuple[Array, Kept]:
    heads, groups, dtype = q.shape[2], k.shape[2], wide(q)
    q, k, v = _split(q, groups), _split(k, groups), _split(v, groups)
    scores, slope = _scores(q, k, how, dtype)
    if seen is not None:
        scores = jnp.where(_by_group(seen, heads, groups, scores), scores, -jnp.inf)
    # Without keys there is no maximum; jax2onnx does not convert one with an initial value.
    highest = jnp.max(scores, axis=-1, keepdims=True) if scores.shape[-1] else jnp.zeros((*scores.shape[:-1], 1), dtype)
    e = jnp.exp(scores - jnp.where(highest == -jnp.inf, jnp.zeros_like(highest), highest))
    total = jnp.sum(e, axis=-1, keepdims=True)
    p = (e / jnp.where(total == 0, jnp.ones_like(total), total)).astype(q.dtype)  # total is 0 if no key is seen, and so is p
    y = jnp.einsum("bgts,bgsd->bgtd", _dropped(p, drawn, how), v)
    return _joined(y, heads), Kept(q, k, v, p, slope, drawn)


def _scores(q: Array, k: Array, how: How, dtype: Any) -> tuple[Array, Array | None]:
    scores = how.scale * jnp.einsum("bgtd,bgsd->bgts", q, k, preferred_element_type=dtype)
    if how.soft_cap is None:
        return scores, None
    capped = jnp.tanh(scores / how.soft_cap)
    return how.soft_cap * capped, 1 - jnp.square(capped)


def _tangent_part(how: How, heads: int, kept: Kept, q: Array, k: Array, v: Array) -> Array:
    groups, dtype, p = kept.k.shape[1], wide(kept.q), kept.p
    q, k, v = _split(q, groups), _split(k, groups), _split(v, groups)
    products = [jnp.einsum("bgtd,bgsd->bgts", a, b, preferred_element_type=dtype) for a, b in ((q, kept.k), (kept.q, k))]
    scores = _times(how.scale * (products[0] + products[1]), kept.slope)
    wider = p.astype(dtype)
    change = (wider * (scores - jnp.sum(wider * scores, axis=-1, keepdims=True))).astype(p.dtype)
    products = [jnp.einsum("bgts,bgsd->bgtd", _dropped(a, kept.drawn, how), b) for a, b in ((change, kept.v), (p, v))]
    return _joined(products[0] + products[1], heads)


def _backward_part(how: How, heads: int, kept: Kept, dy: Array) -> tuple[Array, Array, Array]:
    """Uses the kept probabilities: on CPU, reading them costs less than computing them again."""
    q, k, v, p, slope, drawn = kept
    dtype = wide(q)
    dy = _split(dy, k.shape[1])
    dv = jnp.einsum("bgdt,bgts->bgds", _transposed(dy), _dropped(p, drawn, how))
    dp = _dropped(jnp.einsum("bgtd,bgds->bgts", dy, _transposed(v), preferred_element_type=dtype), drawn, how)
    wider = p.astype(dtype)
    ds = _times(how.scale * (wider * (dp - jnp.sum(wider * dp, axis=-1, keepdims=True))), slope).astype(q.dtype)
    dq = jnp.einsum("bgts,bgsd->bgtd", ds, k)
    dk = jnp.einsum("bgdt,bgts->bgds", _transposed(q), ds)
    return _joined(dq, heads), dk.transpose(0, 3, 1, 2), dv.transpose(0, 3, 1, 2)


def _times(x: Array, factor: Array | None) -> Array:
    return x if factor is None else x * factor


def _dropped(p: Array, drawn: Array | None, how: How) -> Array:
    return p if drawn is None else jnp.where(drawn, p / (1 - how.drop_rate), 0)


def _split(x: Array, groups: int) -> Array:
    """`(batch, time, heads, features)` as `(batch, groups, heads / groups * time, features)`."""
    batch, time, heads, features = x.shape
    if heads == groups:
        return x.swapaxes(1, 2)
    x = x.reshape(batch, time, groups, heads // groups, features).transpose(0, 2, 3, 1, 4)
    return x.reshape(batch, groups, heads // groups * time, features)


def _joined(x: Array, heads: int) -> Array:
    """The inverse of `_split`."""
    batch, groups, rows, features = x.shape
    if heads == groups:
        return x.swapaxes(1, 2)
    each = heads // groups
    return x.reshape(batch, groups, each, rows // each, features).transpose(0, 3, 1, 2, 4).reshape(batch, -1, heads, features)


def _by_group(seen: Array, heads: int, groups: int, scores: Array) -> Array:
    """`seen` in a shape that broadcasts against the scores of grouped heads."""
    if heads == groups:
        return seen
    each = heads // groups
    split = seen.reshape(seen.shape[0], -1, each if seen.shape[1] == heads else 1, *seen.shape[2:])
    shape = (*split.shape[:2], each, scores.shape[2] // each, split.shape[4])
    return jnp.broadcast_to(split, shape).reshape(*split.shape[:2], scores.shape[2], split.shape[4])


def _transposed(x: Array) -> Array:
    """The matrices of `x` transposed; on CPU in memory, as products that transpose the left factor take twice as long."""
    y = x.swapaxes(2, 3)
    return in_memory(y) if platform() == "cpu" else y
