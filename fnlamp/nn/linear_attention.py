"""Linearised attention: a product of features in place of the softmax, in time linear in the length."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fnlamp.arrays import Array, State, wide
from fnlamp.fault import FaultError, ShapeMismatch
from fnlamp.given import arguments, flag
from fnlamp.layer import Layer
from fnlamp.mode import Decode, Mode
from fnlamp.nn.initial import Initializer, glorot_normal
from fnlamp.nn.mask import Mask, for_all_queries
from fnlamp.nn.multihead import multi_head
from fnlamp.nn.shape import check_whole


@arguments("the width is inferred: nn.linear_attention(4) has 4 heads")
def linear_attention(
    heads: int,
    *,
    causal: bool = False,
    query_key: Layer | None = None,
    bias: bool = True,
    weight_init: Initializer = glorot_normal,
    output_init: Initializer = glorot_normal,
) -> Layer:
    """Multi-head attention whose weights are products of features f(x) = elu(x) + 1 of queries and keys, not a softmax.

    `y_t = f(q_t) S / (f(q_t) . z)` with `S = sum f(k_s) v_s'` and `z = sum f(k_s)` over all keys, or if `causal` over those up
    to t, which costs a state of `features x values` for each time step in the backward pass.
    Shapes, children, faults and forms as `self_attention`; a mask `(x, seen)` is `(batch, keys)`, the same for all queries.
    Reference: Katharopoulos et al. 2020, eq. 5, 7 and 9 to 12.

    >>> linear_attention(4).init(key, jax.ShapeDtypeStruct((8, 16, 32), jnp.float32)).spec.shape
    (8, 16, 32)
    """
    causal = flag("linear_attention: causal", causal)

    def attention(q: Array, k: Array, v: Array, mask: Mask | None, mode: Mode, kept: State) -> tuple[Array, State]:
        f, g = (jax.nn.elu(x.astype(wide(x))) + 1 for x in (q, k))
        if mask is not None:
            if not for_all_queries(mask):
                raise FaultError(
                    ShapeMismatch("lengths or booleans (batch, keys)", type(mask).__name__, where="linear_attention")
                )
            mask.check((q.shape[0], q.shape[2], 1, k.shape[1]))
            seen = mask.seen(jnp.zeros(1, int), jnp.arange(k.shape[1]))  # (batch, heads or 1, 1, keys)
            g = jnp.where(seen.transpose(0, 3, 1, 2), g, jnp.zeros_like(g))
        if not causal:
            check_whole(mode, "linear_attention", "it shows all time steps; it needs causal=True")
            return _all(f, g, v.astype(f.dtype)).astype(q.dtype), kept
        if isinstance(mode, Decode):
            own = mode.slots(k.shape[1]) < mode.room
            g = jnp.where(own[:, :, None, None], g, jnp.zeros_like(g))
        y, sums = _causal(f, g, v.astype(f.dtype), kept)
        return y.astype(q.dtype), sums if isinstance(mode, Decode) else kept

    return multi_head("linear_attention", attention, heads, None, query_key, bias, weight_init, output_init)


def _all(f: Array, g: Array, v: Array) -> Array:
    state = jnp.einsum("bshd,bshe->bhde", g, v)
    return _divided(jnp.einsum("bthd,bhde->bthe", f, state), jnp.einsum("bthd,bhd->bth", f, g.sum(1)))


def _causal(f: Array, g: Array, v: Array, kept: State) -> tuple[Array, State]:
    def step(state: tuple[Array, Array], at: tuple[Array, ...]) -> tuple[tuple[Array, Array], Array]:
        f, g, v = at
        products, total = state[0] + g[..., None] * v[..., None, :], state[1] + g
        return (products, total), _divided(jnp.einsum("bhd,bhde->bhe", f, products), jnp.sum(f * total, -1))

    batch, _, heads, features = g.shape
    zeros = jnp.zeros((batch, heads, features, v.shape[3]), v.dtype), jnp.zeros((batch, heads, features), v.dtype)
    start = (kept["products"], kept["total"]) if kept else zeros
    (products, total), ys = jax.lax.scan(step, start, tuple(x.swapaxes(0, 1) for x in (f, g, v)))
    return ys.swapaxes(0, 1), {"products": products, "total": total}


def _divided(y: Array, total: Array) -> Array:
    """`y / total`; zeros if no key is seen, where both are 0."""
    return y / jnp.where(total == 0, jnp.ones_like(total), total)[..., None]
