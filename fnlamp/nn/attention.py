"""Attention."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import sqrt
from typing import Any

import jax
import jax.numpy as jnp

from fnlamp.arrays import Array, Key, Params, Spec, State, describe, is_float
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch
from fnlamp.layer import Init, Layer
from fnlamp.mode import Mode
from fnlamp.nn.combine import sequence
from fnlamp.nn.initial import Initializer, glorot_normal
from fnlamp.nn.linear import linear
from fnlamp.nn.shape import fun


def self_attention(
    heads: int,
    *,
    causal: bool = False,
    bias: bool = True,
    weight_init: Initializer = glorot_normal,
    output_init: Initializer = glorot_normal,
) -> Layer:
    """Every time looks at all times, or if `causal` at those up to its own: multi-head scaled dot-product attention.

    Shapes: `(batch, time, width) -> (batch, time, width)`, each head of `width / heads` features.
    Children: `input`, a linear layer to queries, keys and values, in this order and each head by head (as torch's
    `in_proj_weight`), and `output`, a linear layer of the heads' results; with biases unless `bias=False`.
    Fails: `DtypeMismatch` for integer input; `ShapeMismatch` for another rank, or a width that `heads` does not divide.
    The gradient is taken in reverse mode only.  Reference: Vaswani et al. 2017, eq. 1 and section 3.2.2.

    >>> layer = self_attention(4, causal=True)
    >>> made = layer.init(key, jax.ShapeDtypeStruct((8, 16, 32), jnp.float32))
    >>> made.params["input"]["weight"].shape, made.params["output"]["weight"].shape, made.spec.shape
    ((32, 96), (32, 32), (8, 16, 32))
    """
    if heads < 1:
        raise ValueError(f"self_attention needs at least one head, got {heads}")

    def of_width(width: int) -> Layer:
        return sequence(
            input=linear(3 * width, bias=bias, weight_init=weight_init),
            heads=fun(partial(_by_heads, heads=heads, causal=causal), "heads"),
            output=linear(width, bias=bias, weight_init=output_init),
        )

    return for_width(of_width, heads, f"self_attention({heads}{', causal' if causal else ''})", "self_attention")


def for_width(of_width: Callable[[int], Layer], heads: int, name: str, where: str) -> Layer:
    """The layer `of_width(width)` for an input `(batch, time, width)` whose width `heads` divides."""

    def init(key: Key, spec: Spec) -> Init:
        return of_width(_width(spec, heads, where)).init(key, spec)

    def apply(params: Params, state: State, x: Array, mode: Mode) -> tuple[Array, State]:
        y, state = of_width(_width(x, heads, where)).apply(params, state, x, mode)
        return y, state

    return Layer(init, apply, name)


def _by_heads(x: Array, heads: int, causal: bool) -> Array:
    """Attention of `(batch, time, 3 width)`, where queries, keys and values lie side by side."""
    batch, time, width = x.shape[0], x.shape[1], x.shape[2] // 3
    q, k, v = x.reshape(batch, time, 3, heads, width // heads).transpose(2, 0, 3, 1, 4)
    return attend(q, k, v, causal).transpose(0, 2, 1, 3).reshape(batch, time, width)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def attend(q: Array, k: Array, v: Array, causal: bool) -> Array:
    """`softmax(q k' / sqrt(features)) v`, each `(batch, heads, time, features)`; the softmax in at least float32."""
    return _forward(q, k, v, causal)[0]


def _forward(q: Array, k: Array, v: Array, causal: bool) -> tuple[Array, tuple[Array, ...]]:
    wide = jnp.promote_types(q.dtype, jnp.float32)
    scores = jnp.einsum("bhtd,bhsd->bhts", q, k, preferred_element_type=wide) / sqrt(q.shape[-1])
    if causal:
        seen = jnp.tri(q.shape[2], dtype=bool)
        scores = jnp.where(seen, scores, -jnp.inf)
    p = jax.nn.softmax(scores).astype(q.dtype)
    y = jnp.einsum("bhts,bhsd->bhtd", p, v)
    return y, (q, k, v, p)


def _backward(causal: bool, kept: tuple[Array, ...], dy: Array) -> tuple[Array, Array, Array]:
    """From the probabilities, which are kept: on CPU to compute them again costs more than to read them."""
    del causal  # where nothing is seen, p is 0, and so are the gradients
    q, k, v, p = kept
    wide = jnp.promote_types(q.dtype, jnp.float32)
    dv = jnp.einsum("bhts,bhtd->bhsd", p, dy)
    dp = jnp.einsum("bhtd,bhsd->bhts", dy, v, preferred_element_type=wide)
    ds = (p * (dp - jnp.sum(p * dp, axis=-1, keepdims=True)) / sqrt(q.shape[-1])).astype(q.dtype)
    return jnp.einsum("bhts,bhsd->bhtd", ds, k), jnp.einsum("bhts,bhtd->bhsd", ds, q), dv


attend.defvjp(_forward, _backward)


def _width(x: Any, heads: int, where: str) -> int:
    if not hasattr(x, "shape") or len(x.shape) != 3 or x.shape[-1] % heads:
        expected = f"an array of shape (batch, time, width), the width divisible by {heads} heads"
        raise FaultError(ShapeMismatch(expected, describe(x), where=where))
    if not is_float(x):
        hint = "embed tokens first, as nn.embedding does"
        raise FaultError(DtypeMismatch("floating-point input", describe(x), hint, where=where))
    return int(x.shape[-1])
