"""Clipping."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fnlamp.arrays import Tree
from fnlamp.tree import global_norm


def clip_by_global_norm(grads: Tree, limit: float) -> Tree:
    """`grads * min(1, limit / norm)`, the norm over all arrays together (Pascanu et al. 2012, Algorithm 1).

    torch's `clip_grad_norm_` adds 1e-6 to the norm; here nothing is added, and a zero gradient stays zero.

    >>> clip_by_global_norm({"a": jnp.array([3.0]), "b": jnp.array([4.0])}, 1.0)
    {'a': Array([0.6], dtype=float32), 'b': Array([0.8], dtype=float32)}
    """
    norm = global_norm(grads)
    factor = jnp.where(norm > limit, limit / jnp.where(norm > limit, norm, 1), 1)
    return jax.tree.map(lambda g: (g * factor).astype(g.dtype), grads)
