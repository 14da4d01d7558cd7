"""Clipping."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from fnlamp.arrays import Array, Tree
from fnlamp.given import instance, number
from fnlamp.tree import scaled_norm


def clip_by_global_norm(grads: Tree, limit: Array | float) -> Tree:
    """`grads * min(1, limit / norm)`, the norm over all arrays together (Pascanu et al. 2012, Algorithm 1).

    torch's `clip_grad_norm_` adds 1e-6 to the norm; here nothing is added, and a zero gradient stays zero.  Large gradients do
    not overflow: (3e19, 4e19) clipped to 1 is (0.6, 0.8).  If any number is not finite, all become NaN.
    Each array keeps its dtype.  Raises: `ValueError` unless the limit is above 0.

    >>> clip_by_global_norm({"a": jnp.array([3.0]), "b": jnp.array([4.0])}, 1.0)
    {'a': Array([0.6], dtype=float32), 'b': Array([0.8], dtype=float32)}
    """
    if not isinstance(limit, jax.Array):
        limit = number("clip_by_global_norm: limit", limit, "a norm above 0", lambda n: n > 0)
    for leaf in jax.tree.leaves(grads):
        instance("clip_by_global_norm: grads", leaf, jax.Array | np.ndarray | np.generic, "a tree of arrays")
    norm, scale = scaled_norm(grads)
    bound, one, smallest = jnp.asarray(limit, norm.dtype), jnp.ones_like(norm), float(jnp.finfo(norm.dtype).tiny)  # type: ignore[no-untyped-call]
    above = norm > bound * scale
    share = jnp.where(above, bound / jnp.where(above, norm, one), one)
    # One factor, unless it would underflow; else two, the first of which brings the gradient into range.
    whole = share * jnp.where(above, scale, one)
    first, second = (jnp.where(whole >= smallest, a, b) for a, b in ((one, scale), (whole, share)))
    second = jnp.where(jnp.isfinite(norm), second, jnp.full_like(norm, jnp.nan))
    return jax.tree.map(lambda g: (g.astype(norm.dtype) * first * second).astype(g.dtype), grads)
