"""Dynamic loss scaling, for gradients in float16."""

from __future__ import annotations

import math

import jax.numpy as jnp

from fnlamp.arrays import Array, Params, Tree
from fnlamp.given import number, whole
from fnlamp.optim.optimizer import Optimizer
from fnlamp.optim.wrap import Fields, guarded, optimizer

MOST = 2.0**24
"""The largest scale, with which a loss of up to 1e31 is still finite in float32."""


def loss_scaled(inner: Optimizer, start: float = 2.0**16, every: int = 2000) -> Optimizer:
    """An optimizer with a loss scale that adapts itself (Micikevicius et al. 2017, section 3.2), as torch's `GradScaler`.

    `loss_scale(state)` is a power of two from 1 to 2^24, `start` at first. The step multiplies the loss by it and divides the
    gradient by it, which is exact, so that gradients that are too small for float16 do not become zero. Here:

    - a gradient with a number that is not finite: the step is skipped, and the scale is halved
    - `every` steps in a row without one: the scale is doubled

    At a scale of 1 no step is skipped any more, so that a loss that is not finite at all ends the run. `skipped(state)` counts.

    >>> from fnlamp import optim
    >>> optim.loss_scaled(optim.adamw(1e-3))
    loss_scaled(adamw)
    """
    inner = optimizer("loss_scaled", inner)
    if inner.loss_scale is not None:
        raise ValueError(f"loss_scaled: inner has a loss scale already: {inner}")
    first = number("loss_scaled: start", start, "a power of two from 1 to 2^24", _is_scale)
    interval = whole("loss_scaled: every", every)

    def own(params: Params, tags: Tree) -> Fields:
        return {"loss_scale": jnp.full((), first, jnp.float32), "good_steps": jnp.zeros((), jnp.int32)}

    def judge(state: Tree, good: Array) -> tuple[Array, Fields]:
        now, steps = state["loss_scale"], jnp.where(good, state["good_steps"] + 1, 0)
        grown = steps >= interval
        better = jnp.where(grown, jnp.minimum(2 * now, MOST), now)
        scale = jnp.where(good, better, jnp.maximum(now / 2, 1.0))
        return good | (now <= 1), {"loss_scale": scale, "good_steps": jnp.where(grown, 0, steps)}

    return guarded(inner, "loss_scaled", own, judge, loss_scale=lambda state: state["loss_scale"])


def _is_scale(number: float) -> bool:
    return 1 <= number <= MOST and math.frexp(number)[0] == 0.5
