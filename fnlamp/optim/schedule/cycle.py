"""Schedules that rise and fall."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from fnlamp.given import arguments, function, number, whole
from fnlamp.optim.schedule.base import HINT, Schedule
from fnlamp.optim.schedule.compose import then
from fnlamp.optim.schedule.count import counted, rounds
from fnlamp.optim.schedule.ramp import at_least_one, cosine_ramp, linear_ramp


@arguments(HINT)
def cyclic(low: float, high: float, rise: int, fall: int | None = None) -> Schedule:
    """Triangles: linear from `low` to `high` in `rise` steps and back in `fall` (as many, if not given), again and again.

    The period is `rise + fall` steps; the factor is `low` at its first step and `high` at step `rise`, exactly. Smith 2015,
    "triangular", with `rise` for its `stepsize`.

    >>> [float(cyclic(1.0, 3.0, 2)(step)) for step in range(9)]
    [1.0, 2.0, 3.0, 2.0, 1.0, 2.0, 3.0, 2.0, 1.0]
    """
    bottom, top = number("cyclic: low", low), number("cyclic: high", high)
    up = at_least_one("cyclic", rise, "rise")
    down = up if fall is None else at_least_one("cyclic", fall, "fall")
    triangle = then(linear_ramp(bottom, top, up), up, linear_ramp(top, bottom, down))
    return lambda step: triangle(rounds(counted(step), up + down)[1])


@arguments(HINT)
def one_cycle(
    steps: int,
    peak: int,
    start: float = 1 / 25,
    end: float = 1 / 25e4,
    ramp: Callable[[float, float, int], Schedule] = cosine_ramp,
) -> Schedule:
    """One cycle: from `start` at step 0 up to 1 at step `peak`, then down to `end` at step `steps`; then `end`.

    The "1cycle" policy of Smith & Topin 2017. Their ramps are linear, `ramp=linear_ramp`; these defaults are those of torch's
    `OneCycleLR`, with cosines. `ramp` is any function `(start, end, steps)` that returns a schedule. `peak` is commonly 30 % of
    the steps. In torch the end is at the last step of the run, which is `steps` here: `one_cycle(total - 1, ...)`.

    >>> [round(float(one_cycle(5, 2, start=0.1, end=0.01)(step)), 3) for step in range(7)]
    [0.1, 0.55, 1.0, 0.752, 0.257, 0.01, 0.01]
    """
    last, top = at_least_one("one_cycle", steps), whole("one_cycle: peak", peak)
    if top >= last:
        raise ValueError(f"one_cycle: peak is a step before the end, got peak={top} of {last} steps")
    first, final = number("one_cycle: start", start), number("one_cycle: end", end)
    expected = "a function (start, end, steps) that returns a schedule, as optim.linear_ramp"
    try:
        inspect.signature(function("one_cycle: ramp", ramp, expected)).bind(first, final, last)
    except TypeError as error:
        raise TypeError(f"one_cycle: ramp is {expected}: {error}") from None
    return then(ramp(first, 1.0, top), top, ramp(1.0, final, last - top))
