"""Programs without training, whose metric has a bottom at a rate of 0.2."""

from __future__ import annotations

from typing import Any

from fnlamp import track
from fnlamp.config import computed, group, options
from fnlamp.effect import Effect, Runtime, collect
from fnlamp.experiment import Place

SILENT = Runtime(log=None)


@group
class Model:
    width: int = 4


@group
class Settings:
    rate: float = 0.1
    seed: int = 0
    act: str = options({"relu": "r", "gelu": "g"}, default="relu")
    double: float = computed(lambda rate: 2 * rate)
    model: Model = Model()


def told(*losses: float, epochs: bool = True) -> Effect[Any, Any]:
    """A program whose epochs have these losses. It starts from the beginning each time."""
    events = [track.Measured({"loss": loss}, step, step if epochs else None) for step, loss in enumerate(losses, 1)]
    return collect([Effect.asks(lambda runtime, event=event: runtime.tell(event)) for event in events])


def bowl(place: Place[Settings]) -> Effect[Any, Any]:
    return told((place.config.rate - 0.2) ** 2).map(lambda _: place.config.rate)
