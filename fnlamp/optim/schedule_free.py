"""Schedule-free learning."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fnlamp.arrays import Array, Params, Tree
from fnlamp.given import number
from fnlamp.optim.optimizer import Optimizer
from fnlamp.optim.wrap import Fields, around, filled, innermost, started, towards, was_made


def schedule_free(inner: Optimizer, beta: float = 0.9, power: float = 2.0) -> Optimizer:
    """An optimizer that averages instead of following a falling schedule (Defazio et al. 2024, eq. 5 to 7 and Algorithm 1).

    The parameters of the run are z; the gradient is taken at y, `at(state, params)`; x is `evaluated(state, params)`. With b
    `beta`, and m_t the largest of the schedule's factors at steps 1 to t:

    - `y_t = (1 - b) z_t + b x_t`
    - `z_{t+1} = z_t + (y' - y_t)`, with y' the inner optimizer's step from `y_t`
    - `x_{t+1} = (1 - c_t) x_t + c_t z_{t+1}`, with `c_t = m_t^power / (m_1^power + ... + m_t^power)`

    `b` takes the place of momentum, so the inner optimizer should have none: `sgdw(rate)`, `adamw(rate, b1=0.0)`. A schedule
    is a warm-up at most. Decay is of y. x is kept in at least float32. With `adamw` inside this is schedule-free AdamW;
    Algorithm 1 has a simpler bias correction: it multiplies the rate, and so decay and weights, by `sqrt(1 - b2^t)`.
    Raises: `ValueError` for an inner optimizer that evaluates an average, which goes outside.

    >>> from fnlamp import optim
    >>> optim.schedule_free(optim.adamw(1e-3, b1=0.0))
    schedule_free(adamw)
    """
    inner = innermost("schedule_free", inner)
    part = number("schedule_free: beta", beta, "a number from 0 to 1", lambda b: 0 <= b <= 1)
    exponent = number("schedule_free: power", power, "a number of 0 or more", lambda p: p >= 0)

    def own(params: Params, tags: Tree) -> Fields:
        counts = {"steps": jnp.zeros((), jnp.int32), "largest": jnp.zeros(()), "weight": jnp.zeros(())}
        return {**counts, "x": started(params, tags, inner.frozen)}

    def update(
        grads: Tree, state: Tree, params: Params, tags: Tree, scale: Array | float, numbers: Tree
    ) -> tuple[Params, Tree]:
        y = towards(state["x"], params, 1 - part)
        moved, after = inner.update(grads, state["inner"], filled(y, params, cast=False), tags, scale, numbers)
        made = was_made(inner.skipped, state["inner"], after)
        params = _moved(params, y, moved, made)
        return params, {"inner": after, **averaged(state, params, made, scale)}

    def averaged(state: Tree, params: Params, made: Array, scale: Array | float) -> Fields:
        steps = state["steps"] + made.astype(jnp.int32)
        count = jnp.maximum(steps, 1).astype(float)
        largest = jnp.where(made, jnp.maximum(state["largest"], jnp.asarray(scale, float)), state["largest"])
        # The mean weight and the number of steps: a sum in float32 would stop at 2^24.
        now, mean = largest**exponent, state["weight"]
        mean = jnp.where(made, mean + (now - mean) / count, mean)
        share = jnp.where(made & (mean > 0), now / jnp.where(mean > 0, mean * count, 1.0), 0.0)
        return {"steps": steps, "largest": largest, "weight": mean, "x": towards(state["x"], params, share)}

    def at(state: Tree, params: Params) -> Params:
        return filled(towards(state["x"], params, 1 - part), params)

    return around(inner, "schedule_free", own, update, at=at, evaluated=lambda state, params: filled(state["x"], params))


def _moved(z: Params, y: Tree, moved: Params, made: Array) -> Params:
    """`z + (moved - y)` if the step was made; frozen parameters as they are."""

    def one(z: Array, y: Array | None, moved: Array) -> Array:
        return z if y is None else jnp.where(made, (moved + (z.astype(y.dtype) - y)).astype(z.dtype), z)

    new: Params = jax.tree.map(one, z, y, moved)
    return new
