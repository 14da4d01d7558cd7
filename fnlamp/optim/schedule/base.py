"""The type of schedules, and the check that a function is one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fnlamp.arrays import Array
from fnlamp.given import number

Schedule: TypeAlias = Callable[[Array], ArrayLike]
"""`step -> factor`; the step is a traced integer, so write `jnp.where`, not `if`."""

HINT = (
    "schedules are optim.constant(factor), linear_ramp(start, end, steps), cosine(steps), warmup(steps, then), "
    "step_decay(every, factor), one_cycle(steps, peak), warmup_stable_decay(steps, warmup_steps, decay_steps), ..."
)


def checked(schedule: Any, name: str = "schedule") -> Callable[[Array], Array]:
    """The schedule, with checks: its factor becomes one number, in float64 if that is enabled.

    Raises: `TypeError` at once for anything but a function; when called, `TypeError` for Python's `if`, `float`, `math` or
    NumPy on the step, and for anything but a number; `ValueError` for an array of several numbers.

    >>> checked(0.1)
    Traceback (most recent call last):
    TypeError: schedule is a function from the step to a factor, got 0.1 (float); write optim.constant(0.1)
    """
    if not callable(schedule):
        try:
            hint = f"write optim.constant({number(name, schedule)})"
        except (TypeError, ValueError):
            hint = HINT
        raise TypeError(f"{name} is a function from the step to a factor, got {_named(schedule)}; {hint}")
    if isinstance(schedule, type) or _makes_schedules(schedule):
        raise TypeError(f"{name} is a function from the step to a factor, got {_named(schedule)}; {HINT}")

    try:
        inspect.signature(schedule).bind(0)
    except TypeError as error:
        raise TypeError(f"{name} is a function from the step to a factor, got {_named(schedule)}: {error}") from None
    except ValueError:  # some functions written in C have no signature
        pass

    def factor(step: Array) -> Array:
        try:
            value = schedule(step)
        except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError) as error:
            raise TypeError(
                f"{name}: {_named(schedule)} treats the step as a Python number, but it is traced, as in all compiled code; "
                "instead of `if` write jnp.where(step < n, a, b), instead of math and NumPy jax.numpy"
            ) from error
        return _one_number(name, schedule, value)

    return factor


def _one_number(name: str, schedule: Any, value: Any) -> Array:
    try:
        made = jnp.asarray(value)
    except (TypeError, ValueError):
        made = None
    if made is None or not jnp.issubdtype(made.dtype, jnp.number) or jnp.iscomplexobj(made):
        raise TypeError(f"{name}: {_named(schedule)} returned {_named(value)}, expected a number: the factor at that step")
    if made.shape:
        raise ValueError(f"{name}: {_named(schedule)} returned an array of shape {list(made.shape)}, expected one number")
    return made.astype(factor_dtype())


def factor_dtype() -> Any:
    """The dtype of factors: float64 if it is enabled, so that nothing is rounded before the rule."""
    return jax.dtypes.canonicalize_dtype(float)


def _makes_schedules(function: Any) -> bool:
    """Whether this is `cosine` itself, say, and not the schedule that `cosine(steps)` returns."""
    package = __name__.rpartition(".")[0]
    return str(getattr(function, "__module__", "")).startswith(package) and "<locals>" not in function.__qualname__


def _named(given: Any) -> str:
    return str(getattr(given, "__name__", None) or f"{given!r} ({type(given).__name__})")
