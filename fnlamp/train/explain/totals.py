"""What a program would cost, as numbers: what `explain` says in lines, for whoever adds programs up."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, NamedTuple

from fnlamp.effect import Effect
from fnlamp.train.check import recipe_of
from fnlamp.train.execute.body import form
from fnlamp.train.execute.vmapped import form_of
from fnlamp.train.explain.explained import in_all, plan_of
from fnlamp.train.explain.idle import epochs_left
from fnlamp.train.explain.inside import programs_of
from fnlamp.train.explain.memory import on_device
from fnlamp.train.explain.work import Work


class Totals(NamedTuple):
    """One training program: its steps, the work of all of them with validation, its bytes on the device, and what is compiled.

    Two programs with the same `compiled` share their compiled steps: they differ in numbers alone. Those with the same
    `beside()` can take their steps side by side; it is `None` for data that is not on the device.
    """

    steps: int
    work: Work
    memory: int
    compiled: Hashable
    beside: Callable[[], Hashable | None]


def totals(effect: Effect[Any, Any]) -> list[Totals]:
    """The costs of the training programs inside, as far as their streams are in memory.

    Fails: with the fault that a run is sure to end with.  Raises: `TypeError` if no training program can be seen.
    """
    found = []
    for program in programs_of("program", effect):
        planned = plan_of(program)
        if planned is not None:
            plan, _ = planned
            work = Work()
            for part in in_all(program, plan):
                work = work.plus(part)
            key = plan.body, recipe_of(plan.train).identity, form(plan.carry), form(plan.train.spec)
            steps = (plan.train.length or 0) * epochs_left(program)
            beside = partial(form_of, plan.body, plan.shared, plan.carry, plan.train)
            found.append(Totals(steps, work, sum(on_device(plan).values()), key, beside))
    return found
