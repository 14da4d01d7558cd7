"""Attention as a pure function."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any, Final

import jax
import jax.numpy as jnp

from fnlamp.arrays import Array, describe
from fnlamp.fault import DtypeMismatch, FaultError
from fnlamp.given import arguments, instance, number, whole
from fnlamp.mode import Decode, Eval, Mode, Train
from fnlamp.nn.check import check_float, check_shape
from fnlamp.nn.dropout import checked_rate
from fnlamp.nn.lowering import flash
from fnlamp.nn.lowering.attend import How
from fnlamp.nn.lowering.attend import attend as kernel
from fnlamp.nn.lowering.drawn import kept
from fnlamp.nn.mask import Mask, as_mask

EVAL: Final = Eval()


@arguments("queries, keys and values, each (batch, time, heads, features): nn.attend(q, k, v, nn.causal)")
def attend(
    q: Array,
    k: Array,
    v: Array,
    mask: Mask | None = None,
    *,
    scale: float | None = None,
    soft_cap: float | None = None,
    drop_rate: float = 0.0,
    mode: Mode = EVAL,
    block_size: int | None = None,
) -> Array:
    """Scaled dot-product attention, a pure function: `softmax(scale q k') v` for each head, over the keys that `mask` shows.

    `scale` is `1 / sqrt(features)` unless given.  With a `soft_cap` c the scores s are `c tanh(s / c)`.  A query that sees no
    key has zeros.  `Train` drops each weight of the softmax with probability `drop_rate` and divides the others by
    `1 - drop_rate`; `Eval` drops none.  In `Decode` a row's first query is at its `position`.  Fewer heads of keys than of
    queries: query head i has key head `i // (heads / kv_heads)`.
    With a `block_size`, queries are taken so many at a time, and their weights computed again in the backward pass: memory
    grows with the number of keys and not with its square.  Forward and reverse mode; the softmax in at least float32.
    On a CUDA device, in half precision, without dropout and soft cap, and with a mask of lengths, `causal` or a `window` that
    looks back, cuDNN's kernel computes it if it takes these sizes, in a program for one device that is not exported; it never
    holds all weights. `docs/how-to/devices.md` lists the conditions.
    Shapes: q `(batch, time, heads, features)`, k `(batch, keys, kv_heads, features)`, v `(batch, keys, kv_heads, values)`;
    the result `(batch, time, heads, values)`.  Fails: `ShapeMismatch`, `DtypeMismatch`.
    Reference: Vaswani et al. 2017, eq. 1; soft cap: Gemma 2 2024, section 2; groups: Ainslie et al. 2023; blocks: Rabe &
    Staats 2021.

    >>> q = jnp.ones((1, 2, 1, 4))
    >>> attend(q, q, jnp.array([2.0, 4.0]).reshape(1, 2, 1, 1), nn.causal).ravel()
    Array([2., 3.], dtype=float32)
    """
    scale, soft_cap, drop_rate, block_size = options("attend", scale, soft_cap, drop_rate, block_size)
    instance("attend: mode", mode, Train | Eval | Decode, "Train(key), Eval() or Decode(...)")
    q, k, v = _checked(q, k, v)
    how = How(1 / sqrt(q.shape[3]) if scale is None else scale, soft_cap, drop_rate)
    mask = None if mask is None else as_mask("attend: mask", mask)
    time, keys = q.shape[1], k.shape[1]
    if mask is not None:
        mask.check((q.shape[0], q.shape[2], time, keys))
    if not q.size or not k.size:
        return jnp.zeros((*q.shape[:3], v.shape[3]), q.dtype)

    def block(q: Array, positions: Array, mode: Mode) -> Array:
        seen = None if mask is None else _seen(mask, positions, jnp.arange(keys), mode)
        weights = q.shape[0], k.shape[2], q.shape[1] * q.shape[2] // k.shape[2], keys
        drawn = kept(mode.root, mode.path, drop_rate, weights) if isinstance(mode, Train) and drop_rate else None
        return kernel(q, k, v, seen, drawn, how)

    drops = isinstance(mode, Train) and drop_rate > 0
    if not (drops or isinstance(mode, Decode)) and flash.fits(q, k, v, mask, how):
        y = flash.attend(q, k, v, mask, how)
    else:
        y = _by_blocks(block, q, mode, min(block_size or time, time))
    impossible = False if mask is None else mask.impossible(keys)
    impossible = impossible | mode.overflows if isinstance(mode, Decode) else impossible
    return jnp.where(impossible[:, None, None, None], jnp.nan, y) if isinstance(impossible, Array) else y


def _seen(mask: Mask, queries: Array, keys: Array, mode: Mode) -> Array:
    """What the mask shows; in `Decode` the queries follow what each row has had."""
    if isinstance(mode, Decode):
        return mask.rows(mode.position[:, None] + queries, keys)
    return mask.seen(queries, keys)


def options(
    where: str, scale: float | None, soft_cap: float | None, drop_rate: float, block_size: int | None
) -> tuple[float | None, float | None, float, int | None]:
    """The options of `attend`, checked.  Raises: `TypeError`, `ValueError`."""
    return (
        None if scale is None else number(f"{where}: scale", scale),
        None if soft_cap is None else number(f"{where}: soft_cap", soft_cap, "a number above 0", lambda cap: cap > 0),
        checked_rate(f"{where}: drop_rate", drop_rate),
        None if block_size is None else whole(f"{where}: block_size", block_size),
    )


def _checked(q: Any, k: Any, v: Any) -> tuple[Array, Array, Array]:
    expected = "an array of shape (batch, time, heads, features)"
    for name, x in (("q", q), ("k", k), ("v", v)):
        check_shape(x, lambda shape: len(shape) == 4 and min(shape[2:]) > 0, expected, f"attend: {name}")
        check_float(x, f"attend: {name}")
        if x.dtype != q.dtype:
            raise FaultError(DtypeMismatch(f"the dtype of q, {q.dtype}", describe(x), where=f"attend: {name}"))
    keys = f"keys of shape ({q.shape[0]}, keys, kv_heads, {q.shape[3]}), kv_heads a divisor of {q.shape[2]}"
    alike = q.shape[0], q.shape[3]
    check_shape(k, lambda s: (s[0], s[3]) == alike and q.shape[2] % s[2] == 0, keys, "attend: k")
    check_shape(v, lambda s: s[:3] == k.shape[:3], f"values of shape {(*k.shape[:3], 'features')}", "attend: v")
    return jnp.asarray(q), jnp.asarray(k), jnp.asarray(v)


def _by_blocks(block: Callable[[Array, Array, Mode], Array], q: Array, mode: Mode, size: int) -> Array:
    """The blocks of queries one after the other; the backward pass computes each again."""
    batch, time, *rest = q.shape
    if size == time:
        return block(q, jnp.arange(time), mode)
    count = -(-time // size)
    padded = jnp.pad(q, ((0, 0), (0, count * size - time), (0, 0), (0, 0)))

    @jax.checkpoint
    def one(given: tuple[Array, Array]) -> Array:
        q, number = given
        own = mode.at(number) if isinstance(mode, Train) else mode
        return block(q, number * size + jnp.arange(size), own)

    ys = jax.lax.map(one, (padded.reshape(batch, count, size, *rest).swapaxes(0, 1), jnp.arange(count)))
    together: Array = ys.swapaxes(0, 1).reshape(batch, count * size, *ys.shape[3:])
    return together[:, :time]
