"""Hyperparameters that follow their own schedule."""

from __future__ import annotations

from collections.abc import Callable

from fnlamp.optim.schedule import Schedule, checked
from fnlamp.tag import Scheduled, Tag, check_hyper


def scheduled(hyper: float | Callable[[Tag], float], schedule: Schedule) -> Scheduled:
    """A hyperparameter times a schedule's factor, by the rule's own step from 0; accepted wherever a `Hyper` is.

    The schedule of `epochs` multiplies the learning rate of every rule; this one belongs to one hyperparameter of one rule.

    >>> from fnlamp import optim
    >>> optim.sgdw(0.1, momentum=scheduled(1.0, optim.linear_ramp(0.85, 0.95, 300)))
    sgdw
    """
    if isinstance(hyper, Scheduled):
        raise TypeError(f"scheduled: hyper is a number or a function of a Tag, got one that is scheduled: {hyper}")
    check_hyper("scheduled: hyper", hyper)
    return Scheduled(hyper, checked(schedule, "scheduled: schedule"))
