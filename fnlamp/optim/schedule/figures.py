"""A schedule in three numbers."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from fnlamp.arrays import array_spec
from fnlamp.given import whole
from fnlamp.optim.schedule.base import Schedule, checked

Numbers: TypeAlias = np.ndarray[Any, np.dtype[Any]]

MOST = 2**20
"""The most steps at which a factor is computed for a summary or a picture."""


class Summary(NamedTuple):
    """The factors of a run: at its first step, the highest, and at its last step."""

    first: float
    highest: float
    last: float

    def __str__(self) -> str:
        return f"{self.first:.4g} at first, {self.highest:.4g} at most, {self.last:.4g} at last"


def summary(schedule: Schedule, steps: int) -> Summary:
    """The first, the highest and the last factor over `steps` steps; of more than 2^20 steps, every k-th one.

    >>> from fnlamp import optim
    >>> print(summary(optim.warmup(10, optim.cosine(90)), 100))
    0.1 at first, 1 at most, 0.0003046 at last
    """
    _, factors = table(schedule, steps)
    return Summary(float(factors[0]), float(factors.max()), float(factors[-1]))


def table(schedule: Schedule, steps: int) -> tuple[Numbers, Numbers]:
    """Steps from 0, at most 2^20 of them, evenly spaced and with the last of `steps`; and the factors at them."""
    factor, total = checked(schedule), whole("steps", steps)
    counter = jax.dtypes.canonicalize_dtype(int)
    if total - 1 > np.iinfo(counter).max:
        raise ValueError(f"steps must be at most {np.iinfo(counter).max + 1:,}, as many as the counter holds, got {total:,}")
    at = np.unique(np.append(np.arange(0, total, -(-total // MOST)), total - 1))
    always = jax.make_jaxpr(factor)(array_spec((), counter)).jaxpr.outvars[0]
    if isinstance(always, Literal):  # the same at every step: nothing to compile
        return at, np.full(at.shape, always.val)
    return at, np.asarray(jax.jit(jax.vmap(factor))(jnp.asarray(at, counter)))
