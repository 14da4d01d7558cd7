"""Learning-rate schedules: pure functions from the step (0, 1, ...) to a factor of the learning rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax.numpy as jnp
from jax.typing import ArrayLike

from fnlamp.arrays import Array

Schedule: TypeAlias = Callable[[Array], ArrayLike]
"""`step -> factor`; the step is a traced integer, so write `jnp.where`, not `if`."""


def constant(factor: float = 1.0) -> Schedule:
    """The same factor at every step.

    >>> constant(0.5)(7)
    0.5
    """
    return lambda step: factor


def linear(start: float, end: float, steps: int) -> Schedule:
    """From `start` at step 0 to `end` at step `steps`, on a straight line; `end` from there on.

    >>> [float(linear(1.0, 0.0, 4)(step)) for step in (0, 1, 4, 9)]
    [1.0, 0.75, 0.0, 0.0]
    """
    _positive(steps)
    return lambda step: start + (end - start) * jnp.clip(step / steps, 0, 1)


def cosine(steps: int, end: float = 0.0) -> Schedule:
    """From 1 to `end` on half a cosine over `steps` steps; `end` from there on (Loshchilov & Hutter 2016, eq. 5).

    >>> [round(float(cosine(4)(step)), 4) for step in (0, 2, 4, 9)]
    [1.0, 0.5, 0.0, 0.0]
    """
    _positive(steps)
    return lambda step: end + (1 - end) * 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(step / steps, 0, 1)))


def warmup(steps: int, then: Schedule) -> Schedule:
    """Factors 1/steps, 2/steps, ..., 1 of `then`'s first factor, and after `steps` steps `then`, from its own step 0.

    >>> [float(warmup(2, constant(1.0))(step)) for step in (0, 1, 2, 3)]
    [0.5, 1.0, 1.0, 1.0]
    """
    _positive(steps)

    def schedule(step: Array) -> Array:
        return jnp.minimum((step + 1) / steps, 1) * then(jnp.maximum(step - steps, 0))

    return schedule


def _positive(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"a schedule needs at least one step, got {steps}")
