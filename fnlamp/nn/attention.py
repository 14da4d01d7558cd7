"""Attention."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import gcd, sqrt
from typing import Any

import jax
import jax.numpy as jnp

from fnlamp.arrays import Array, Key, Params, Spec, State, describe, is_float, platform, wide
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch
from fnlamp.given import arguments, flag, whole
from fnlamp.layer import Init, Layer
from fnlamp.mode import Mode
from fnlamp.nn.combine import sequence
from fnlamp.nn.initial import Initializer, check_initializers, glorot_normal
from fnlamp.nn.linear import in_memory, linear
from fnlamp.nn.shape import fun


@arguments("the width is inferred: nn.self_attention(4) has 4 heads")
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
    heads, causal = whole("self_attention: heads", heads, None), flag("self_attention: causal", causal)
    if heads < 1:
        raise ValueError(f"self_attention needs at least one head, got {heads} heads")
    bias = flag("self_attention: bias", bias)
    check_initializers("self_attention", weight_init=weight_init, output_init=output_init)

    def of_width(width: int) -> Layer:
        return sequence(
            input=linear(3 * width, bias=bias, weight_init=weight_init),
            attend=fun(lambda x: attend(x, heads, causal), "attend"),
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


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def attend(x: Array, heads: int, causal: bool) -> Array:
    """`softmax(q k' / sqrt(features)) v` for each head, q, k and v side by side in `x`; the softmax in at least float32.

    Shapes: `(batch, time, 3 width) -> (batch, time, width)`.
    """
    return _forward(x, heads, causal)[0]


def _forward(x: Array, heads: int, causal: bool) -> tuple[Array, list[tuple[Array, ...]]]:
    if not x.size:  # no rows, or no times, of which a softmax would be undefined
        empty = jnp.zeros((*x.shape[:2], x.shape[2] // 3), x.dtype)
        return empty, []
    made = [_forward_part(part, heads, causal) for part in jnp.split(x, _parts(x))]
    return jnp.concatenate([y for y, _ in made]), [kept for _, kept in made]


def _backward(heads: int, causal: bool, kept: list[tuple[Array, ...]], dy: Array) -> tuple[Array]:
    del causal  # where nothing is seen, p is 0, and so are the gradients
    if not kept:  # nothing was computed
        return (jnp.zeros((*dy.shape[:2], 3 * dy.shape[2]), dy.dtype),)
    parts = zip(kept, jnp.split(dy, len(kept)), strict=True)
    return (jnp.concatenate([_backward_part(heads, part, dy) for part, dy in parts]),)


attend.defvjp(_forward, _backward)


def _parts(x: Array) -> int:
    """Into how many parts the batch is cut.

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
    """From the probabilities, which are kept: on CPU to compute them again costs more than to read them."""
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
    """The matrices of `x` transposed; on CPU in memory, where a product that transposes its left factor takes twice as long."""
    y = x.swapaxes(2, 3)
    return in_memory(y) if platform() == "cpu" else y


def _width(x: Any, heads: int, where: str) -> int:
    if not hasattr(x, "shape") or len(x.shape) != 3 or x.shape[-1] % heads or not x.shape[-1]:
        expected = f"an array of shape (batch, time, width), the width divisible by {heads} heads"
        raise FaultError(ShapeMismatch(expected, describe(x), where=where))
    if not is_float(x):
        hint = "embed tokens first, as nn.embedding does"
        raise FaultError(DtypeMismatch("floating-point input", describe(x), hint, where=where))
    return int(x.shape[-1])
