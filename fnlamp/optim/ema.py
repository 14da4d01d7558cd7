"""An exponential moving average of the parameters."""

from __future__ import annotations

import math

import jax.numpy as jnp

from fnlamp.arrays import Array, Params, Tree
from fnlamp.given import number
from fnlamp.optim.optimizer import Optimizer
from fnlamp.optim.wrap import Fields, filled, following, optimizer, started, towards


def ema(inner: Optimizer, decay: float = 0.999) -> Optimizer:
    """An optimizer whose evaluated parameters are the exponential moving average of the inner one's (Polyak & Juditsky 1992).

    With d the decay, p_t the inner one's evaluated parameters after step t, from 1:

    - `x_t = x_{t-1} + c_t (p_t - x_{t-1})`, with `c_t = (1 - d) / (1 - d^t)`

    This is the bias-corrected average, as in Adam (Kingma & Ba 2014, section 3): a weighted mean of p_1, ..., p_t, with no
    weight on the initial parameters. Training itself is not changed. A step that the inner optimizer skips is not averaged.
    The average is kept in at least float32. Raises: `ValueError` unless `0 <= decay < 1`.

    >>> from fnlamp import optim
    >>> optim.ema(optim.adamw(1e-3), decay=0.99)
    ema(adamw)
    """
    inner = optimizer("ema", inner)
    kept = number("ema: decay", decay, "a number of 0 or more and below 1", lambda d: 0 <= d < 1)
    rate = math.log(kept) if kept else -math.inf

    def own(params: Params, tags: Tree) -> Fields:
        return {"steps": jnp.zeros((), jnp.int32), "average": started(params, tags, inner.frozen)}

    def follow(state: Tree, params: Params, after: Tree, made: Array, scale: Array | float) -> tuple[Params, Fields]:
        steps = state["steps"] + made.astype(jnp.int32)
        share = (1 - kept) / -jnp.expm1(rate * jnp.maximum(steps, 1).astype(float))
        average = towards(state["average"], inner.evaluated(after, params), jnp.where(made, share, 0.0))
        return params, {"steps": steps, "average": average}

    return following(inner, "ema", own, follow, evaluated=lambda state, params: filled(state["average"], params))
