"""Schedules that multiply their factor again and again."""

from __future__ import annotations

import jax.numpy as jnp

from fnlamp.arrays import Array
from fnlamp.given import arguments, number
from fnlamp.optim.schedule.base import HINT, Schedule
from fnlamp.optim.schedule.count import counted, largest, powers, rounds
from fnlamp.optim.schedule.ramp import at_least_one


@arguments(HINT)
def step_decay(every: int, factor: float) -> Schedule:
    """A staircase: 1 for `every` steps, then `factor`, then `factor^2`, ...: `factor^floor(step / every)`.

    >>> [float(step_decay(2, 0.5)(step)) for step in range(6)]
    [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    """
    length, each = at_least_one("step_decay", every, "every"), _factor("step_decay", factor)
    return lambda step: _power(each, rounds(counted(step), length)[0], 1)


@arguments(HINT)
def exponential(every: int, factor: float) -> Schedule:
    """Exponential, by `factor` in `every` steps: `factor^(step / every)`; it meets `step_decay` at each of its stairs.

    >>> [round(float(exponential(2, 0.25)(step)), 4) for step in range(5)]
    [1.0, 0.5, 0.25, 0.125, 0.0625]
    """
    length, each = at_least_one("exponential", every, "every"), _factor("exponential", factor)
    return lambda step: _power(each, counted(step), length)


def _power(factor: float, exponent: Array, every: int) -> Array:
    return powers(factor, exponent, every) if largest(exponent) > 0 else jnp.power(factor, exponent / every)


def _factor(name: str, factor: float) -> float:
    return number(f"{name}: factor", factor, "a factor above 0", lambda n: n > 0)
