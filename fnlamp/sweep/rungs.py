"""Rungs: which lanes of a sweep continue after some epochs. Decisions are pure functions of the curves so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Final, TypeAlias, final

from fnlamp.given import function, number, shown, text, whole

Curves: TypeAlias = Mapping[int, tuple[float, ...]]
"""The values so far of each lane by its number, one for each epoch that has one; lower is better."""


@final
@dataclass(frozen=True)
class Rungs:
    """After each of these epochs, the lanes that `decide(curves)` names continue; the others stop.

    `decide` is given the curves of the lanes that reached the rung, as values of which lower is better, and returns the numbers
    of those that continue.
    """

    epochs: tuple[int, ...]
    decide: Callable[[Curves], Sequence[int]]
    name: str = "rungs"

    def __post_init__(self) -> None:
        object.__setattr__(self, "epochs", checked_epochs("Rungs: epochs", self.epochs))
        function("Rungs: decide", self.decide, "a function of curves by lane that returns the lanes that continue")
        text("Rungs: name", self.name)

    def __str__(self) -> str:
        return f"{self.name} after epochs {', '.join(map(str, self.epochs))}"


def halving(rungs: Sequence[int], *, keep: float = 1 / 3) -> Rungs:
    """Successive halving: at each rung the best `keep` of its lanes continue, at least one.

    Of `n` lanes at a rung, `max(1, floor(keep n))` continue. Of equal lanes, that of the lower number is the better one.
    Jamieson & Talwalkar 2016, "Non-stochastic best arm identification and hyperparameter optimization", Figure 1, with `keep`
    in place of 1/2.

    >>> halving((1, 3)).decide({0: (0.3,), 1: (0.1,), 2: (0.2,)})
    (1,)
    """
    share = number("halving: keep", keep, "a share between 0 and 1", lambda share: 0 < share < 1)

    def decide(curves: Curves) -> tuple[int, ...]:
        order = sorted(curves, key=lambda lane: (curves[lane][-1], lane))
        return tuple(sorted(order[: max(1, math.floor(share * len(order) + 1e-9))]))

    return Rungs(checked_epochs("halving: rungs", rungs), decide, f"halving, of which {share:.3g} continue,")


def median_stopping(rungs: Sequence[int]) -> Rungs:
    """The median rule: a lane stops if its best value so far is above the median of all lanes' means so far.

    Golovin et al. 2017, "Google Vizier", section 3.2.2, with all lanes of the rung in place of completed trials.

    >>> median_stopping((2,)).decide({0: (0.3, 0.2), 1: (0.9, 0.8), 2: (0.5, 0.4)})
    (0, 2)
    """

    def decide(curves: Curves) -> tuple[int, ...]:
        middle = median(fmean(curve) for curve in curves.values())
        return tuple(lane for lane in sorted(curves) if min(curves[lane]) <= middle)

    return Rungs(checked_epochs("median_stopping: rungs", rungs), decide, "the median rule")


@dataclass(frozen=True)
class Progress:
    """How far a lane is: the last rung that it stopped at, whether it has ended for good, and its curve by epochs.

    `waits` says that it is stopped there now, and does not run again.
    """

    reached: int = 0
    ended: bool = False
    curve: tuple[tuple[int, float], ...] = ()
    waits: bool = False

    def until(self, epoch: int) -> tuple[float, ...]:
        """The values up to an epoch; what is not a number is worse than any number."""
        return tuple(math.inf if math.isnan(value) else value for at, value in self.curve if at <= epoch)


NONE: Final = Progress()


def stage(lanes: Sequence[Progress], rungs: Rungs | None) -> tuple[list[int], int | None]:
    """What is to do next: the lanes that must still run, and up to which epoch; no lanes if the sweep is finished.

    Pure: from the same curves, every process decides the same. A lane whose value is not a number does not continue.

    >>> stage([Progress(1, curve=((1, 0.2),)), Progress(1, curve=((1, 0.1),))], halving((1,), keep=0.5))
    ([1], None)
    """
    alive = list(range(len(lanes)))
    for epoch in () if rungs is None else rungs.epochs:
        missing = [n for n in alive if not (lanes[n].ended or lanes[n].reached >= epoch)]
        if missing:
            return missing, epoch
        curves = {n: lanes[n].until(epoch) for n in alive}
        known = {n: curve for n, curve in curves.items() if curve and curve[-1] < math.inf}
        alive = decided(rungs, known) if rungs is not None and known else []
    return [n for n in alive if not lanes[n].ended], None


def continues(lane: int, lanes: Sequence[Progress], rungs: Rungs) -> bool:
    """Whether a lane that waits at a rung continues, by the lanes that have reached it so far: later ones do not count.

    Li et al. 2020, "A system for massively parallel hyperparameter tuning", Algorithm 2, without later promotions.

    >>> first, second = (Progress(1, curve=((1, loss),), waits=True) for loss in (0.1, 0.2))
    >>> continues(0, [first], halving((1,), keep=0.5)), continues(1, [first, second], halving((1,), keep=0.5))
    (True, False)
    """
    epoch = lanes[lane].reached
    there = {n: each.until(epoch) for n, each in enumerate(lanes) if each.ended or each.reached >= epoch}
    known = {n: curve for n, curve in there.items() if curve and curve[-1] < math.inf}
    return lane in known and lane in decided(rungs, known)


def after(epoch: int, rungs: Rungs | None) -> int | None:
    """The next rung, or `None` if none is left."""
    return None if rungs is None else next((each for each in rungs.epochs if each > epoch), None)


def decided(rungs: Rungs, curves: Curves) -> list[int]:
    """The lanes that continue.  Raises: `ValueError`, `TypeError` if `decide` names others."""
    found = rungs.decide(curves)
    try:
        lanes = sorted(set(found))
    except TypeError:
        raise TypeError(f"{rungs.name}: decide returns the numbers of lanes, got {shown(found)}") from None
    if not set(lanes) <= set(curves):
        raise ValueError(f"{rungs.name}: decide returns numbers of the lanes {sorted(curves)}, got {lanes}")
    return lanes


def checked_epochs(name: str, given: Sequence[int]) -> tuple[int, ...]:
    """Rising epochs of 1 or more.  Raises: `TypeError`, `ValueError`."""
    if isinstance(given, str | bytes | Mapping) or not hasattr(given, "__iter__"):
        raise TypeError(f"{name} is a sequence of epochs, such as (1, 3, 9), got {shown(given)}")
    found = tuple(whole(name, each) for each in given)
    if not found or list(found) != sorted(set(found)):
        raise ValueError(f"{name} is a sequence of rising epochs, such as (1, 3, 9), got {found}")
    return found
