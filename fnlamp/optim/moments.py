"""What rules with moving averages share."""

from __future__ import annotations

import math

import jax.numpy as jnp

from fnlamp.arrays import Array
from fnlamp.given import number

SHARE = "the decay rate of a moving average, a number from 0 to below 1"


def share(name: str, given: float) -> float:
    """The decay rate of a moving average.  Raises: `TypeError`, `ValueError` for anything but a number from 0 to below 1."""
    return number(name, given, SHARE, lambda b: 0 <= b < 1)


def above_zero(name: str, given: float) -> float:
    """Raises: `TypeError`, `ValueError` for anything but a number above 0."""
    return number(name, given, "a number above 0", lambda n: n > 0)


def one_minus_power(b: float, t: Array) -> Array:
    """`1 - b^t` without cancellation: in float32 `1 - 0.999` alone would be off by 1 part in 20,000."""
    return -jnp.expm1(t * math.log(b)) if b else jnp.ones_like(t)
