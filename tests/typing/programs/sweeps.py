"""A sweep has the type of its programs' values and of its config; its faults and theirs add up."""

from typing import assert_type

from fnlamp import config
from fnlamp.effect import Effect
from fnlamp.experiment import Place
from fnlamp.sweep import Sweep, SweepFault, grid, sweep


@config.group
class Settings:
    rate: float = 0.1


def program(place: Place[Settings]) -> Effect[int, str]:
    return Effect.from_value(round(place.config.rate))


def of_a_class_and_of_a_value() -> None:
    space = grid({"rate": (0.1, 0.2)})
    assert_type(sweep("a", program, Settings, space), Effect[Sweep[int, Settings], str | SweepFault])
    assert_type(sweep("a", program, Settings(rate=0.2), space), Effect[Sweep[int, Settings], str | SweepFault])


def best(found: Sweep[int, Settings]) -> None:
    assert_type(found.best.value, int)
    assert_type(found.best.config.rate, float)
