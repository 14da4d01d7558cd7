"""Learning-rate schedules: pure functions from the step (0, 1, ...) to a factor of the learning rate."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fnlamp.arrays import Array
from fnlamp.given import arguments, number, whole

Schedule: TypeAlias = Callable[[Array], ArrayLike]
"""`step -> factor`; the step is a traced integer, so write `jnp.where`, not `if`."""

HINT = "schedules are optim.constant(factor), linear(start, end, steps), cosine(steps), warmup(steps, then)"


@arguments(HINT)
def constant(factor: float = 1.0) -> Schedule:
    """The same factor at every step.

    >>> constant(0.5)(7)
    0.5
    """
    plain = number("constant: factor", factor)
    return lambda step: plain


@arguments(HINT)
def linear(start: float, end: float, steps: int) -> Schedule:
    """Linear from `start` at step 0 to `end` at step `steps`; then `end`.

    Both ends are exact, and the factor is monotonic between them.

    >>> [float(linear(1.0, 0.0, 4)(step)) for step in (0, 1, 4, 9)]
    [1.0, 0.75, 0.0, 0.0]
    """
    ends, last = (number("linear: start", start), number("linear: end", end)), _steps("linear", steps)
    return lambda step: _between(*ends, *_shares(step, last))


@arguments(HINT)
def cosine(steps: int, end: float = 0.0) -> Schedule:
    """Half a cosine from 1 to `end` over `steps` steps; then `end` (Loshchilov & Hutter 2016, eq. 5).

    >>> [round(float(cosine(4)(step)), 4) for step in (0, 2, 4, 9)]
    [1.0, 0.5, 0.0, 0.0]
    """
    last, final = _steps("cosine", steps), number("cosine: end", end)

    def schedule(step: Array) -> Array:
        # (1 + cos(pi t)) / 2 = 1 - sin^2(pi t / 2) = sin^2(pi (1 - t) / 2), each used where it does not cancel
        done, left = (jnp.square(jnp.sin(jnp.pi / 2 * share)) for share in _shares(step, last))
        return _between(1.0, final, *_complements(done, left))

    return schedule


@arguments(HINT)
def warmup(steps: int, then: Schedule) -> Schedule:
    """1/steps, 2/steps, ..., 1 times the first factor of `then`; after `steps` steps, `then` from its own step 0.

    >>> [float(warmup(2, constant(1.0))(step)) for step in (0, 1, 2, 3)]
    [0.5, 1.0, 1.0, 1.0]
    """
    first, after = _steps("warmup", steps), checked(then, "warmup: then")

    def schedule(step: Array) -> Array:
        at = _counted(step)
        largest = _largest(at)
        within = jnp.asarray(min(first, largest) if largest > 0 else float(first), at.dtype)
        rise = jnp.minimum(at.astype(_float()) + 1, float(first)) / float(first)
        return rise * after(jnp.maximum(at, within) - within)

    return schedule


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
    if isinstance(schedule, type) or (getattr(schedule, "__module__", "") == __name__ and schedule.__name__ in MAKERS):
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
        try:
            made = jnp.asarray(value)
        except (TypeError, ValueError):
            made = None
        if made is None or not jnp.issubdtype(made.dtype, jnp.number) or jnp.iscomplexobj(made):
            raise TypeError(f"{name}: {_named(schedule)} returned {_named(value)}, expected a number: the factor at that step")
        if made.shape:
            raise ValueError(f"{name}: {_named(schedule)} returned an array of shape {list(made.shape)}, expected one number")
        return made.astype(_float())

    return factor


MAKERS = {"constant", "linear", "cosine", "warmup"}


def _named(given: Any) -> str:
    return str(getattr(given, "__name__", None) or f"{given!r} ({type(given).__name__})")


def _steps(name: str, steps: Any) -> int:
    try:
        return whole(f"{name}: steps", steps)
    except ValueError:
        raise ValueError(f"{name}: a schedule needs at least one step, got {steps} steps") from None


def _float() -> Any:
    """The dtype of factors: float64 if it is enabled, so that nothing is rounded before the rule."""
    return jax.dtypes.canonicalize_dtype(float)


def _counted(step: ArrayLike) -> Array:
    try:
        return jnp.asarray(step)
    except OverflowError:
        raise ValueError(f"a step is a whole number below 2^31, got {step}") from None


def _shares(step: ArrayLike, steps: int) -> tuple[Array, Array]:
    """The shares of `steps` done and left, from 0 to 1; computed from integers, so that no digit is lost near 0."""
    at = _counted(step)
    total = jnp.asarray(steps, at.dtype) if steps <= _largest(at) else jnp.asarray(float(steps), _float())
    done = jnp.clip(at.astype(total.dtype), 0, total)
    left = total - done
    return done.astype(_float()) / float(steps), left.astype(_float()) / float(steps)


def _largest(at: Array) -> int:
    """The last step that the counter can hold; -1 for a counter that is not an integer."""
    return int(jnp.iinfo(at.dtype).max) if jnp.issubdtype(at.dtype, jnp.integer) else -1  # type: ignore[no-untyped-call]


def _complements(done: Array, left: Array) -> tuple[Array, Array]:
    """Two shares that add up to 1, the larger computed from the smaller, which has all its digits."""
    return jnp.where(done < left, done, 1 - left), jnp.where(done < left, 1 - done, left)


def _between(start: float, end: float, done: Array, left: Array) -> Array:
    """Interpolate from `start` to `end`, based on the smaller one, which the larger would round off; exact at both ends."""
    value = end + (start - end) * left if abs(start) >= abs(end) else start + (end - start) * done
    low, high = sorted((start, end))
    value = jnp.clip(value, low, high)
    return jnp.where(left == 0, end, jnp.where(done == 0, start, value))
