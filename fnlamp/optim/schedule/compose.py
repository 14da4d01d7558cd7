"""Schedules made of schedules."""

from __future__ import annotations

import jax.numpy as jnp

from fnlamp.arrays import Array
from fnlamp.given import arguments, whole
from fnlamp.optim.schedule.base import HINT, Schedule, checked, factor_dtype
from fnlamp.optim.schedule.count import before, counted, rounds, since
from fnlamp.optim.schedule.ramp import at_least_one, constant, power_cooldown


@arguments(HINT)
def then(first: Schedule, steps: int, second: Schedule) -> Schedule:
    """`first` for `steps` steps, then `second` from its own step 0.

    >>> [float(then(constant(1.0), 2, power_cooldown(4, power=1.0))(step)) for step in range(7)]
    [1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    ahead, after, length = checked(first, "then: first"), checked(second, "then: second"), whole("then: steps", steps, 0)

    def schedule(step: Array) -> Array:
        at = counted(step)
        # Both are computed, and past its end `first` might divide by zero; so it is given step 0 there.
        held = jnp.where(before(at, length), at, jnp.zeros_like(at))
        return jnp.where(before(at, length), ahead(held), after(since(at, length)))

    return schedule


@arguments(HINT)
def times(a: Schedule, b: Schedule) -> Schedule:
    """The product of two schedules, step by step.

    >>> [float(times(constant(0.5), power_cooldown(4, power=1.0))(step)) for step in range(5)]
    [0.5, 0.375, 0.25, 0.125, 0.0]
    """
    left, right = checked(a, "times: a"), checked(b, "times: b")
    return lambda step: left(step) * right(step)


@arguments(HINT)
def by_epoch(schedule: Schedule, steps_per_epoch: int) -> Schedule:
    """The schedule as a function of the epoch (0, 1, ...), the same for all steps of one: `schedule(step // steps_per_epoch)`.

    >>> [float(by_epoch(power_cooldown(2, power=1.0), 3)(step)) for step in range(7)]
    [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.0]
    """
    of_epoch, length = checked(schedule, "by_epoch: schedule"), at_least_one("by_epoch", steps_per_epoch, "steps_per_epoch")
    return lambda step: of_epoch(rounds(counted(step), length)[0])


@arguments(HINT)
def warmup(steps: int, then: Schedule) -> Schedule:
    """1/steps, 2/steps, ..., 1 times the first factor of `then`; after `steps` steps, `then` from its own step 0.

    >>> [float(warmup(2, constant(1.0))(step)) for step in (0, 1, 2, 3)]
    [0.5, 1.0, 1.0, 1.0]
    """
    first, after = at_least_one("warmup", steps), checked(then, "warmup: then")

    def schedule(step: Array) -> Array:
        at = counted(step)
        rise = jnp.minimum(at.astype(factor_dtype()) + 1, float(first)) / float(first)
        return rise * after(since(at, first))

    return schedule


@arguments(HINT)
def warmup_stable_decay(steps: int, warmup_steps: int, decay_steps: int, power: float = 0.5, end: float = 0.0) -> Schedule:
    """A run of `steps` steps: `warmup` for the first, 1 in the middle, and `power_cooldown` to `end` over the last.

    "WSD" of Hu et al. 2024, section 4, with the cool-down of Hägele et al. 2024. Until the cool-down no factor depends on
    `steps`, so a run that is resumed from there may have more of them.

    >>> [round(float(warmup_stable_decay(8, 2, 4)(step)), 3) for step in range(9)]
    [0.5, 1.0, 1.0, 1.0, 1.0, 0.5, 0.293, 0.134, 0.0]
    """
    name = "warmup_stable_decay"
    last, first = at_least_one(name, steps), whole(f"{name}: warmup_steps", warmup_steps, 0)
    final = at_least_one(name, decay_steps, "decay_steps")
    if first + final > last:
        raise ValueError(f"{name}: {first} warmup_steps and {final} decay_steps are more than {last} steps")
    held = then(constant(1.0), last - first - final, power_cooldown(final, power, end))
    return warmup(first, held) if first else held
