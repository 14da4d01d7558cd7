"""Decisions over the epochs' reports as pure folds: which weights to keep, when to stop, by how much to lower the rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from fnlamp.given import flag, function, instance, number, shown, text, whole
from fnlamp.track import Alert
from fnlamp.train.state import EpochReport


class Verdict(NamedTuple):
    """What a fold decides after an epoch: to stop, the slot to keep the weights in, and a factor of the learning rate.

    `alert` is a text, or a `track.Alert` with a level, that the observers of the run are told; it is not part of the state.
    """

    stop: bool = False
    keep: int | None = None
    rate: float = 1.0
    alert: str | Alert | None = None


@dataclass(frozen=True)
class Fold:
    """`step(accumulator, report) -> (accumulator, Verdict)` from `init`; the accumulator is a tree of numbers that is resumed.

    `metric` is the figure that it reads; a name is checked when the program is described. `highest` says that a high one is
    good. `slots` is how many weights it keeps at most, and `ranked(accumulator)` the slots in their order, best first. The
    accumulator keeps the structure of `init`: what is not known yet is NaN, and not `None`. `explain` shows what it `decides`.
    Before `earliest` figures it does not stop the run or change the rate: `explain` says if a run is too short for it.
    """

    init: Any
    step: Callable[[Any, EpochReport], tuple[Any, Verdict]]
    name: str
    metric: Metric | None = None
    slots: int = 1
    ranked: Callable[[Any], tuple[int, ...]] | None = None
    decides: str = ""
    earliest: int | None = None
    highest: bool = False

    def __post_init__(self) -> None:
        function("Fold: step", self.step, "a function (accumulator, report) -> (accumulator, Verdict)")
        text("Fold: name", self.name)
        if self.metric is not None:
            _sign("Fold", self.metric, False)
        whole("Fold: slots", self.slots, 0)
        if self.ranked is not None:
            function("Fold: ranked", self.ranked, "a function from the accumulator to slots")
        text("Fold: decides", self.decides)
        if self.earliest is not None:
            whole("Fold: earliest", self.earliest)
        flag("Fold: highest", self.highest)

    @property
    def figure(self) -> str:
        """The figure that it reads, in words."""
        return "" if self.metric is None else _named(self.metric, self.highest)

    def __repr__(self) -> str:
        return self.name


Metric: TypeAlias = str | Callable[[EpochReport], float | None]
"""The figure a fold reads: a field of the report, one of `metrics`, `train_` and one of `train_metrics`, or a function."""


def figure(metric: Metric, report: EpochReport) -> float | None:
    """The figure of that name; `None` in an epoch without it, as one without validation."""
    if callable(metric):
        return metric(report)
    for figures, name in _places(report, metric):
        if name in figures:
            found = figures[name]
            if np.ndim(found):
                hint = f'a function, as lambda report: report.validation_metrics["{name}"].min()'
                raise TypeError(f"the metric {metric!r} of a fold is an array of shape {np.shape(found)}; give {hint}")
            return None if found is None else float(found)
    return None


def _places(report: EpochReport, metric: str) -> tuple[tuple[Mapping[str, Any], str], ...]:
    """Where a figure may stand: in a field of the report, or among its metrics."""
    training = ((report.train_metrics, metric.removeprefix("train_")),) if metric.startswith("train_") else ()
    return (vars(report), metric), (report.validation_metrics, metric), *training


def best(metric: Metric = "validation_loss", *, highest: bool = False) -> Fold:
    """Keep the weights of the epoch with the lowest figure (or the highest); of equal ones the first. NaN is never best.

    >>> curve = [EpochReport(i + 1, 4, 1, 1, 0.0, 0.0, v) for i, v in enumerate([3.0, 1.0, float("nan"), 1.0])]
    >>> [verdict.keep for verdict in replay(best(), curve)]
    [0, 0, None, None]
    """
    return replace(top_k(1, metric, highest=highest), name=f"best({_named(metric, highest)})")


def top_k(count: int, metric: Metric = "validation_loss", *, highest: bool = False) -> Fold:
    """Keep the weights of the `count` epochs with the lowest figures (or the highest), best first."""
    slots = whole("top_k: count", count)
    sign = _sign("top_k", metric, highest)

    def step(kept: tuple[float, ...], report: EpochReport) -> tuple[tuple[float, ...], Verdict]:
        value = figure(metric, report)
        if value is None or math.isnan(value):
            return kept, Verdict()
        worst = max(range(slots), key=kept.__getitem__)
        if not sign * value < kept[worst]:
            return kept, Verdict()
        return (*kept[:worst], sign * value, *kept[worst + 1 :]), Verdict(keep=worst)

    def ranked(kept: tuple[float, ...]) -> tuple[int, ...]:
        return tuple(sorted(range(len(kept)), key=kept.__getitem__))

    name = f"top_k({slots}, {_named(metric, highest)})"
    return Fold((math.inf,) * slots, step, name, metric, slots, ranked, "keeps weights", highest=highest)


class _Waiting(NamedTuple):
    """The best figure so far, NaN before the first, the number of figures after it, and the factor of the rate."""

    best: float = math.nan
    since: int = 0
    rate: float = 1.0


def patience(epochs: int, metric: Metric = "validation_loss", *, threshold: float = 0.0, highest: bool = False) -> Fold:
    """Stop after `epochs` figures in a row that are not better than the best by more than `threshold`; NaN is never better.

    Epochs without the figure, as those without validation, do not count.
    """
    most, least = whole("patience: epochs", epochs), _threshold("patience", threshold)
    sign = _sign("patience", metric, highest)

    def step(waiting: _Waiting, report: EpochReport) -> tuple[_Waiting, Verdict]:
        waiting = _after(waiting, figure(metric, report), sign, least, relative=False)
        return waiting, Verdict(stop=waiting.since >= most)

    name = f"patience({most}, {_named(metric, highest)})"
    return Fold(_Waiting(), step, name, metric, 0, decides="stops the run", earliest=most, highest=highest)


def reduce_on_plateau(
    factor: float = 0.5,
    epochs: int = 10,
    metric: Metric = "validation_loss",
    *,
    threshold: float = 1e-4,
    relative: bool = True,
    stop_at: float = 0.0,
    highest: bool = False,
) -> Fold:
    """Multiply the learning rate by `factor` after `epochs` figures in a row that are not better than the best.

    Better is below `best * (1 - threshold)`, or `best - threshold` if not `relative`. A rate factor of `stop_at` or less stops.
    The first figure is the best one so far: waiting begins with the second.
    """
    relative = flag("reduce_on_plateau: relative", relative)
    share = number("reduce_on_plateau: factor", factor, "a factor above 0 and below 1", lambda f: 0 < f < 1)
    most, least = whole("reduce_on_plateau: epochs", epochs), _threshold("reduce_on_plateau", threshold)
    lowest = number("reduce_on_plateau: stop_at", stop_at, "a rate factor of 0 or more", lambda f: f >= 0)
    sign = _sign("reduce_on_plateau", metric, highest)

    def step(waiting: _Waiting, report: EpochReport) -> tuple[_Waiting, Verdict]:
        waiting = _after(waiting, figure(metric, report), sign, least, relative=relative)
        if waiting.since >= most:
            waiting = waiting._replace(since=0, rate=waiting.rate * share)
        return waiting, Verdict(stop=waiting.rate <= lowest, rate=waiting.rate)

    name = f"reduce_on_plateau({share:g} after {most}, {_named(metric, highest)})"
    decides = "lowers the learning rate" + (f", stops the run at a factor of {lowest:g}" if lowest else "")
    return Fold(_Waiting(), step, name, metric, 0, decides=decides, earliest=most, highest=highest)


def _after(waiting: _Waiting, value: float | None, sign: float, threshold: float, *, relative: bool) -> _Waiting:
    if value is None:
        return waiting
    least = abs(waiting.best) * threshold if relative and math.isfinite(waiting.best) else threshold
    better = not math.isnan(value) and (math.isnan(waiting.best) or sign * value < waiting.best - least)
    return waiting._replace(best=sign * value, since=0) if better else waiting._replace(since=waiting.since + 1)


def smoothed(share: float, inner: Fold) -> Fold:
    """The fold over the exponential mean `s = share * x + (1 - share) * s` of its figure x, from the first one on."""
    weight = number("smoothed: share", share, "the share of the new figure, above 0 and at most 1", lambda s: 0 < s <= 1)
    instance("smoothed: inner", inner, Fold, "a fold that reads a figure, as patience(5)")
    if not isinstance(inner.metric, str):
        raise TypeError(f"smoothed: inner is a fold that reads a figure by name, got {inner}")
    metric = inner.metric

    def step(state: tuple[float, Any], report: EpochReport) -> tuple[Any, Verdict]:
        mean, acc = state
        value = figure(metric, report)
        if value is not None:
            mean = value if math.isnan(mean) else weight * value + (1 - weight) * mean
            report = _with(report, metric, mean)
        acc, verdict = inner.step(acc, report)
        return (mean, acc), verdict

    ranked = inner.ranked
    own = None if ranked is None else lambda state: ranked(state[1])
    name = f"smoothed({weight:g}, {inner.name})"
    return Fold((math.nan, inner.init), step, name, metric, inner.slots, own, inner.decides, inner.earliest, inner.highest)


def _with(report: EpochReport, metric: str, value: float) -> EpochReport:
    fields = ("", "validation_metrics", "train_metrics")
    for field, (figures, name) in zip(fields, _places(report, metric), strict=False):
        if name in figures:
            changed: Any = {field: {**figures, name: value}} if field else {name: value}
            return replace(report, **changed)
    return report


def time_budget(seconds: float) -> Fold:
    """Stop after the epoch in which the epochs' times, training and validation, reach this sum."""
    most = number("time_budget: seconds", seconds, "a time above 0", lambda s: s > 0)

    def step(spent: float, report: EpochReport) -> tuple[float, Verdict]:
        spent += report.seconds
        return spent, Verdict(stop=spent >= most)

    return Fold(0.0, step, f"time_budget({most:g} s)", slots=0, decides="stops the run", earliest=1)


def when(condition: str | Callable[[EpochReport], Any] | Fold, message: str, *, level: str = "warning") -> Fold:
    """Alert after the first epoch of several in a row in which a condition holds; the run continues.

    The condition is a function of the report; or a fold, which holds when it would stop the run; or the name of a figure, which
    holds when that is NaN or infinite. `level` is "info", "warning" or "error". The alert is told to `Runtime.observers`.

    >>> curve = [EpochReport(i + 1, 4, 1, 1, loss, loss) for i, loss in enumerate([3.0, 1.0, 1.0, 1.0])]
    >>> fallen = when(patience(1, "train_loss"), "the loss has not fallen")
    >>> [verdict.alert and verdict.alert.text for verdict in replay(fallen, curve)]
    [None, None, 'the loss has not fallen', None]
    """
    if text("when: level", level) not in ("info", "warning", "error"):
        raise ValueError(f'when: level is "info", "warning" or "error", got {shown(level)}')
    alert = Alert(text("when: message", message), level)
    if isinstance(condition, Fold):
        inner, name = condition, condition.name
    elif isinstance(condition, str):
        inner, name = _not_finite(condition), f"{condition} is not finite"
    else:
        function("when: condition", condition, "a function of the report, a fold, or the name of a figure")
        inner = Fold(0, lambda acc, report: (acc, Verdict(stop=bool(condition(report)))), "condition")
        name = getattr(condition, "__name__", "a function of the report")

    def step(state: tuple[Any, bool], report: EpochReport) -> tuple[Any, Verdict]:
        acc, held = state
        acc, verdict = inner.step(acc, report)
        return (acc, verdict.stop), Verdict(alert=alert if verdict.stop and not held else None)

    return Fold((inner.init, False), step, f"when({name})", inner.metric, 0, decides=f"alerts: {message}")


def _not_finite(metric: str) -> Fold:
    def step(acc: int, report: EpochReport) -> tuple[int, Verdict]:
        value = figure(metric, report)
        return acc, Verdict(stop=value is not None and not math.isfinite(value))

    return Fold(0, step, metric, metric, 0)


def replay(fold: Fold, curve: Iterable[EpochReport]) -> list[Verdict]:
    """What the fold decides after each of these reports: over a stored curve the same as during training."""
    acc, verdicts = instance("replay: fold", fold, Fold, "a fold such as train.patience(5)").init, []
    for report in instance("replay: curve", curve, Iterable, "reports, such as trained.curve"):
        acc, verdict = fold.step(acc, instance("replay: curve", report, EpochReport, "the reports of trained.curve"))
        verdicts.append(verdict)
    return verdicts


def checked_step(name: str, fold: Fold, acc: Any, report: EpochReport) -> tuple[Any, Verdict]:
    """The fold's step.  Raises: `TypeError`, `ValueError` for anything but an accumulator like `init` and a verdict."""
    made = fold.step(acc, report)
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], Verdict)):
        raise TypeError(f"folds[{name!r}]: step returned {shown(made)}, expected (accumulator, train.Verdict(...))")
    acc, verdict = made
    expected, actual = str(jax.tree.structure(fold.init)), str(jax.tree.structure(acc))
    if expected != actual:  # a resumed run could not distinguish it from another fold's
        raise TypeError(f"folds[{name!r}]: the accumulator has the structure of init, {expected}, got {actual}")
    if not isinstance(verdict.alert, str | Alert | None):
        raise TypeError(f"folds[{name!r}]: alert is a text or a track.Alert, got {shown(verdict.alert)}")
    if verdict.keep is not None and not 0 <= verdict.keep < fold.slots:
        slots = f"keep is a slot from 0 to {fold.slots - 1}" if fold.slots else "it keeps no weights"
        raise ValueError(f"folds[{name!r}]: {slots}, got {verdict.keep}")
    return acc, verdict


def _sign(name: str, metric: Any, highest: Any) -> float:
    if not isinstance(metric, str):
        function(f"{name}: metric", metric, "the name of a figure, or a function of the report")
    return -1.0 if flag(f"{name}: highest", highest) else 1.0


def _threshold(name: str, given: Any) -> float:
    return number(f"{name}: threshold", given, "0 or more", lambda t: t >= 0)


def _named(metric: Metric, highest: bool) -> str:
    name = metric if isinstance(metric, str) else getattr(metric, "__name__", "a function of the report")
    return f"highest {name}" if highest else name
