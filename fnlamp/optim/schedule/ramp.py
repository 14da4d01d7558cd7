"""Schedules that go once from one factor to another."""

from __future__ import annotations

import jax.numpy as jnp

from fnlamp.arrays import Array
from fnlamp.given import arguments, number, whole
from fnlamp.optim.schedule.base import HINT, Schedule
from fnlamp.optim.schedule.count import between, complements, raised, shares


@arguments(HINT)
def constant(factor: float = 1.0) -> Schedule:
    """The same factor at every step.

    >>> constant(0.5)(7)
    0.5
    """
    plain = number("constant: factor", factor)
    return lambda step: plain


@arguments(HINT)
def linear_ramp(start: float, end: float, steps: int) -> Schedule:
    """Linear from `start` at step 0 to `end` at step `steps`; then `end`.

    Both ends are exact, and the factor is monotonic between them.

    >>> [float(linear_ramp(1.0, 0.0, 4)(step)) for step in (0, 1, 4, 9)]
    [1.0, 0.75, 0.0, 0.0]
    """
    first, final = number("linear_ramp: start", start), number("linear_ramp: end", end)
    last = at_least_one("linear_ramp", steps)
    return lambda step: between(first, final, *shares(step, last))


@arguments(HINT)
def cosine_ramp(start: float, end: float, steps: int) -> Schedule:
    """Half a cosine from `start` at step 0 to `end` at step `steps`, flat at both; then `end`.

    >>> [round(float(cosine_ramp(0.5, 1.5, 4)(step)), 3) for step in (0, 1, 2, 4, 9)]
    [0.5, 0.646, 1.0, 1.5, 1.5]
    """
    first, final = number("cosine_ramp: start", start), number("cosine_ramp: end", end)
    last = at_least_one("cosine_ramp", steps)

    def schedule(step: Array) -> Array:
        # (1 + cos(pi t)) / 2 = 1 - sin^2(pi t / 2) = sin^2(pi (1 - t) / 2), each used where it does not cancel
        done, left = (jnp.square(jnp.sin(jnp.pi / 2 * share)) for share in shares(step, last))
        return between(first, final, *complements(done, left))

    return schedule


@arguments(HINT)
def cosine(steps: int, end: float = 0.0) -> Schedule:
    """Half a cosine from 1 to `end` over `steps` steps; then `end` (Loshchilov & Hutter 2016, eq. 5).

    >>> [round(float(cosine(4)(step)), 4) for step in (0, 2, 4, 9)]
    [1.0, 0.5, 0.0, 0.0]
    """
    last, final = at_least_one("cosine", steps), number("cosine: end", end)
    return cosine_ramp(1.0, final, last)


@arguments(HINT)
def polynomial(steps: int, power: float, end: float = 0.0) -> Schedule:
    """`end + (1 - end) (1 - step/steps)^power`, from 1 at step 0 to `end` at step `steps`; then `end`.

    >>> [float(polynomial(4, 2.0)(step)) for step in (0, 1, 2, 3, 4, 9)]
    [1.0, 0.5625, 0.25, 0.0625, 0.0, 0.0]
    """
    last, exponent, final = at_least_one("polynomial", steps), _power("polynomial", power), number("polynomial: end", end)

    def schedule(step: Array) -> Array:
        done, left = shares(step, last)
        left, done = raised(left, done, exponent)
        return between(1.0, final, done, left)

    return schedule


@arguments(HINT)
def power_cooldown(steps: int, power: float = 0.5, end: float = 0.0) -> Schedule:
    """`end + (1 - end) (1 - (step/steps)^power)`, from 1 at step 0 to `end` at step `steps`; then `end`.

    A power of 0.5 is the "1-sqrt" cool-down of Hägele et al. 2024, section 3: fast at first, slow at the end. A power of 1 is
    linear.

    >>> [round(float(power_cooldown(4)(step)), 3) for step in (0, 1, 2, 3, 4, 9)]
    [1.0, 0.5, 0.293, 0.134, 0.0, 0.0]
    """
    last, exponent = at_least_one("power_cooldown", steps), _power("power_cooldown", power)
    final = number("power_cooldown: end", end)
    return lambda step: between(1.0, final, *raised(*shares(step, last), exponent))


def at_least_one(name: str, steps: int, argument: str = "steps") -> int:
    """The number of steps.  Raises: `TypeError`, `ValueError`, which name the schedule and its argument."""
    try:
        return whole(f"{name}: {argument}", steps)
    except ValueError:
        raise ValueError(f"{name}: a schedule needs at least one step, got {steps} {argument}") from None


def _power(name: str, power: float) -> float:
    return number(f"{name}: power", power, "a power above 0", lambda n: n > 0)
