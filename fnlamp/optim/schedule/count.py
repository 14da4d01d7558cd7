"""Arithmetic on the step: exact up to the largest integer that the counter holds, although float32 ends at 2^24."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from fnlamp.arrays import Array
from fnlamp.optim.schedule.base import factor_dtype


def counted(step: ArrayLike) -> Array:
    """The step as an array.  Raises: `ValueError` for a number that the counter cannot hold."""
    try:
        return jnp.asarray(step)
    except OverflowError:
        raise ValueError(f"a step is a whole number below 2^31, got {step}") from None


def largest(at: Array) -> int:
    """The last step that the counter can hold; -1 for a counter that is not an integer."""
    return int(jnp.iinfo(at.dtype).max) if jnp.issubdtype(at.dtype, jnp.integer) else -1  # type: ignore[no-untyped-call]


def since(at: Array, steps: int) -> Array:
    """How many steps after step `steps` this is; 0 before."""
    held = _held(at, steps)
    return jnp.maximum(at, held) - held


def before(at: Array, steps: int) -> Array:
    """Whether step `steps` is still to come."""
    if largest(at) >= 0 and steps > largest(at):
        return jnp.ones(at.shape, bool)
    return at < jnp.asarray(steps, at.dtype)


def rounds(at: Array, steps: int) -> tuple[Array, Array]:
    """How many times `steps` steps are over, and the steps since the last time."""
    if largest(at) >= 0 and steps > largest(at):
        return jnp.zeros_like(at), at
    each = jnp.asarray(steps, at.dtype)
    return at // each, at % each


def shares(step: ArrayLike, steps: int) -> tuple[Array, Array]:
    """The shares of `steps` done and left, from 0 to 1; computed from integers, so that no digit is lost near 0."""
    at = counted(step)
    total = jnp.asarray(steps, at.dtype) if steps <= largest(at) else jnp.asarray(float(steps), factor_dtype())
    done = jnp.clip(at.astype(total.dtype), 0, total)
    left = total - done
    return done.astype(factor_dtype()) / float(steps), left.astype(factor_dtype()) / float(steps)


def complements(done: Array, left: Array) -> tuple[Array, Array]:
    """Two shares that add up to 1, the larger computed from the smaller, which has all its digits."""
    return jnp.where(done < left, done, 1 - left), jnp.where(done < left, 1 - done, left)


def raised(done: Array, left: Array, power: float) -> tuple[Array, Array]:
    """`done^power` and `1 - done^power`, which near `done = 1` is computed from what is left."""
    if power == 1:
        return done, left
    risen = jnp.power(done, power)
    near_one = -jnp.expm1(power * jnp.log1p(-left))
    return risen, jnp.where(risen < 0.5, 1 - risen, near_one)


def between(start: float, end: float, done: Array, left: Array) -> Array:
    """Interpolate from `start` to `end`, based on the smaller one, which the larger would round off; exact at both ends."""
    value = end + (start - end) * left if abs(start) >= abs(end) else start + (end - start) * done
    low, high = sorted((start, end))
    value = jnp.clip(value, low, high)
    return jnp.where(left == 0, end, jnp.where(done == 0, start, value))


def powers(factor: float, exponent: Array, every: int = 1) -> Array:
    """`factor^(exponent / every)` of a whole exponent, as a product over its digits in base 256.

    A float32 would round a large exponent, and the power would multiply the error. The powers of the digits come from tables,
    which are computed in float64.
    """
    rest = exponent if exponent.dtype.itemsize > 2 else exponent.astype(jnp.int32)
    rest = jnp.maximum(rest, jnp.zeros_like(rest))
    base = jnp.asarray(256, rest.dtype)
    product = jnp.ones((), factor_dtype())
    for place in range(rest.dtype.itemsize):
        with np.errstate(over="ignore", under="ignore"):
            table = (np.float64(factor) ** (np.arange(256) * 256.0**place / every)).astype(factor_dtype())
        product = product * jnp.asarray(table)[rest % base]
        rest = rest // base
    return product


def _held(at: Array, steps: int) -> Array:
    most = largest(at)
    return jnp.asarray(min(steps, most) if most > 0 else float(steps), at.dtype)
