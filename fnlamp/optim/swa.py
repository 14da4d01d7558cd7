"""Stochastic weight averaging."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fnlamp.arrays import Array, Params, Tree
from fnlamp.given import whole
from fnlamp.optim.optimizer import Optimizer
from fnlamp.optim.wrap import Fields, filled, following, optimizer, started, towards


def swa(inner: Optimizer, start: int, every: int = 1) -> Optimizer:
    """An optimizer whose evaluated parameters are the mean of the inner one's at regular steps (Izmailov et al. 2018, Alg. 1).

    The mean is over the inner one's evaluated parameters after steps `start`, `start + every`, `start + 2 every`, ..., counted
    from 1. Until step `start` the inner one's are evaluated. Training itself is not changed; its learning rate should be
    constant or cyclic from `start` on. Steps that the inner optimizer skips do not count. The mean is kept in at least float32.

    >>> from fnlamp import optim
    >>> optim.swa(optim.sgdw(0.1, momentum=0.9), start=1000, every=100)
    swa(sgdw)
    """
    inner = optimizer("swa", inner)
    first, interval = whole("swa: start", start), whole("swa: every", every)

    def own(params: Params, tags: Tree) -> Fields:
        counts = {"steps": jnp.zeros((), jnp.int32), "averaged": jnp.zeros((), jnp.int32)}
        return {**counts, "average": started(params, tags, inner.frozen)}

    def follow(state: Tree, params: Params, after: Tree, made: Array, scale: Array | float) -> tuple[Params, Fields]:
        steps = state["steps"] + made.astype(jnp.int32)
        due = made & (steps >= first) & ((steps - first) % interval == 0)
        averaged = state["averaged"] + due.astype(jnp.int32)
        share = jnp.where(due, 1 / jnp.maximum(averaged, 1).astype(float), 0.0)
        average = towards(state["average"], inner.evaluated(after, params), share)
        return params, {"steps": steps, "averaged": averaged, "average": average}

    def evaluated(state: Tree, params: Params) -> Params:
        mean, now = filled(state["average"], params), inner.evaluated(state["inner"], params)
        chosen: Params = jax.tree.map(lambda x, p: jnp.where(state["averaged"] > 0, x, p), mean, now)
        return chosen

    return following(inner, "swa", own, follow, evaluated=evaluated)
