"""What a running program tells its observers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from fnlamp.given import whole
from fnlamp.track.entry import Alert, Entry, Progress, Resumed, Value, value_of


@dataclass(frozen=True)
class Measured:
    """Values by name after a step, as `{"train.loss": 0.25}`; `step=None` is the step of the event before."""

    values: Mapping[str, Value]
    step: int | None = None
    epoch: int | None = None
    lane: int = 0


@dataclass(frozen=True)
class Advanced:
    """A part of the program, such as `train` or `load data`, has come so far."""

    name: str
    progress: Progress
    step: int | None = None
    epoch: int | None = None


@dataclass(frozen=True)
class Started:
    """Training starts after this step: 0, or that of the save that it resumes.

    `within` is the start of the names of this training, if the program has several: `pretrain.`.
    """

    step: int
    within: str = field(default="", repr=False)


@dataclass(frozen=True)
class Alerted:
    """A fold, or the program, has something to say that someone should see."""

    name: str
    alert: Alert
    step: int | None = None
    epoch: int | None = None


@dataclass(frozen=True)
class Timed:
    """A section has ended: its name, with those around it before it, as `prepare/load`, and its seconds."""

    name: str
    seconds: float
    step: int | None = None
    failed: bool = False


Event: TypeAlias = Measured | Advanced | Started | Alerted | Timed


def entry_of(event: Event, time: float, last: int = 0) -> Entry:
    """The entry of an event that is received at this time, after an entry of the step `last`.

    >>> entry_of(Timed("load", 1.5), 0.0)
    Entry(values={'time.load': 1.5}, step=0, epoch=None, lane=0, time=0.0)

    Raises: `TypeError` or `ValueError`, for a value that cannot be recorded.
    """
    step = event.step if type(event.step) is int else last if event.step is None else whole("step", event.step, None)
    if type(event) is Measured:  # most events; floats need no look
        values = {name: x if type(x) is float else value_of(name, x) for name, x in event.values.items()}
        return Entry(values, step, event.epoch, event.lane, time)
    match event:
        case Measured(given, _, epoch, lane):
            return Entry({name: value_of(name, value) for name, value in given.items()}, step, epoch, lane, time)
        case Advanced(name, progress, _, epoch):
            return Entry({name: progress}, step, epoch, time=time)
        case Started(_, within):
            return Entry({f"{within}run": Resumed()}, step, time=time)
        case Alerted(name, alert, _, epoch):
            return Entry({name: alert}, step, epoch, time=time)
        case Timed(name, seconds):
            return Entry({f"time.{name}": seconds}, step, time=time)
