"""Schedule-free learning."""

from __future__ import annotations

import jax.numpy as jnp

from fnlamp.arrays import Array, Params, Tree
from fnlamp.given import number
from fnlamp.optim.optimizer import Optimizer
from fnlamp.optim.wrap import Fields, filled, following, optimizer, started, towards


def schedule_free(inner: Optimizer, beta: float = 0.9, power: float = 2.0) -> Optimizer:
    """An optimizer that averages instead of following a falling schedule (Defazio et al. 2024, eq. 5 to 7 and Algorithm 1).

    The parameters of the run are z; the gradient is taken at y, `at(state, params)`; x is `evaluated(state, params)`. With b
    `beta`, f_t the schedule's factor at step t, from 1:

    - `y_t = (1 - b) z_t + b x_t`
    - `z_{t+1}` is the inner optimizer's step from `z_t`, with the gradient at `y_t`
    - `x_{t+1} = (1 - c_t) x_t + c_t z_{t+1}`, with `c_t = f_t^power / (f_1^power + ... + f_t^power)`

    `b` takes the place of momentum, so the inner optimizer should have none: `sgdw(rate)`, `adamw(rate, b1=0.0)`. A schedule
    is a warm-up at most. x is kept in at least float32. With `adamw` inside, Algorithm 1 differs in two things: it multiplies
    the weights of c_t by Adam's `1 - b2^t` as well, and it decays y, where the inner optimizer decays z.

    >>> from fnlamp import optim
    >>> optim.schedule_free(optim.adamw(1e-3, b1=0.0))
    schedule_free(adamw)
    """
    inner = optimizer("schedule_free", inner)
    part = number("schedule_free: beta", beta, "a number from 0 to 1", lambda b: 0 <= b <= 1)
    exponent = number("schedule_free: power", power, "a number of 0 or more", lambda p: p >= 0)

    def own(params: Params, tags: Tree) -> Fields:
        return {"steps": jnp.zeros((), jnp.int32), "weight": jnp.zeros(()), "x": started(params, tags, inner.frozen)}

    def follow(state: Tree, params: Params, after: Tree, made: Array, scale: Array | float) -> tuple[Params, Fields]:
        steps = state["steps"] + made.astype(jnp.int32)
        count = jnp.maximum(steps, 1).astype(float)
        # The mean weight and the number of steps: a sum in float32 would stop at 2^24.
        now, mean = jnp.asarray(scale, float) ** exponent, state["weight"]
        mean = jnp.where(made, mean + (now - mean) / count, mean)
        share = jnp.where(made & (mean > 0), now / jnp.where(mean > 0, mean * count, 1.0), 0.0)
        x = towards(state["x"], params, share)
        return params, {"steps": steps, "weight": mean, "x": x}

    def at(state: Tree, params: Params) -> Params:
        y = towards(state["x"], params, 1 - part)
        return inner.at(state["inner"], filled(y, params))

    def evaluated(state: Tree, params: Params) -> Params:
        return inner.evaluated(state["inner"], filled(state["x"], params))

    return following(inner, "schedule_free", own, follow, at=at, evaluated=evaluated)
