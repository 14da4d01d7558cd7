"""The value of an experiment has the type of its program's; the function of a place sees the config's type."""

from dataclasses import dataclass
from typing import assert_type

from fnlamp.config import Resolved
from fnlamp.effect import Effect
from fnlamp.experiment import ExperimentFault, Place, Run, experiment


@dataclass(frozen=True)
class Settings:
    rate: float = 0.1


def program(place: Place[Settings]) -> Effect[float, str]:
    return Effect.from_value(place.config.rate)


def alone(effect: Effect[int, str]) -> Effect[Run[int], str | ExperimentFault]:
    return experiment("a", effect)


def of_a_place(resolved: Resolved[Settings]) -> None:
    assert_type(experiment("a", program, Settings()), Effect[Run[float], str | ExperimentFault])
    assert_type(experiment("a", program, resolved), Effect[Run[float], str | ExperimentFault])
