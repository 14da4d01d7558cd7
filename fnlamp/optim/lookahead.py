"""Lookahead: slow weights that follow the fast ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fnlamp.arrays import Array, Params, Tree
from fnlamp.given import number, whole
from fnlamp.optim.optimizer import Optimizer
from fnlamp.optim.wrap import Fields, filled, following, innermost, started, towards


def lookahead(inner: Optimizer, steps: int = 5, alpha: float = 0.5) -> Optimizer:
    """k steps forward, 1 step back (Zhang et al. 2019, Algorithm 1), with k `steps`.

    With w the slow weights, p the fast ones, which are the parameters of the run:

    - k steps of the inner optimizer on p
    - `w = w + alpha (p - w)`, then `p = w`; the inner optimizer's slots stay as they are

    w is evaluated, and kept in at least float32. Steps that the inner optimizer skips do not count.
    Raises: `ValueError` unless `0 < alpha <= 1`, and for an inner optimizer that evaluates an average, which goes outside.

    >>> from fnlamp import optim
    >>> optim.lookahead(optim.adamw(1e-3), steps=5, alpha=0.5)
    lookahead(adamw)
    """
    inner = innermost("lookahead", inner)
    period = whole("lookahead: steps", steps)
    share = number("lookahead: alpha", alpha, "a number above 0 and at most 1", lambda a: 0 < a <= 1)

    def own(params: Params, tags: Tree) -> Fields:
        return {"steps": jnp.zeros((), jnp.int32), "slow": started(params, tags, inner.frozen)}

    def follow(state: Tree, params: Params, after: Tree, made: Array, scale: Array | float) -> tuple[Params, Fields]:
        count = (state["steps"] + made.astype(jnp.int32)) % period
        due = made & (count == 0)
        slow = towards(state["slow"], params, jnp.where(due, share, 0.0))
        params = jax.tree.map(lambda w, p: jnp.where(due, w, p), filled(slow, params), params)
        return params, {"steps": count, "slow": slow}

    return following(inner, "lookahead", own, follow, evaluated=lambda state, params: filled(state["slow"], params))
