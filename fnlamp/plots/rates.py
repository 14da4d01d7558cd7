"""Plots of schedules, and of the search for a learning rate."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from fnlamp.effect import Effect
from fnlamp.fault import ExtraMissing, FileUnwritable, NoDisplay
from fnlamp.given import instance, path_of, whole
from fnlamp.optim.schedule import Schedule, checked, table
from fnlamp.plots.draw import drawn
from fnlamp.train.rates import RateRange


def schedule(
    schedule: Schedule, steps: int, *, path: str | PathLike[str] | None = None
) -> Effect[Path | None, FileUnwritable | NoDisplay | ExtraMissing]:
    """Draw a schedule's factor at each of `steps` steps; to the file `path`, or on the display without a path.

    The ending of `path` determines the format. Yields the path.
    Fails: `FileUnwritable`; `NoDisplay` if no window can be opened; `ExtraMissing` without the extra `plots`.

    >>> import pathlib, tempfile
    >>> from fnlamp import optim
    >>> path = pathlib.Path(tempfile.mkdtemp(), "schedule.svg")
    >>> schedule(optim.warmup(10, optim.cosine(90)), 100, path=path).map(lambda path: path.name).run()
    <IOResult: <Success: schedule.svg>>
    """
    factor, total = checked(schedule), whole("schedule: steps", steps)
    file = None if path is None else Path(path_of(path, "schedule: path"))

    def fill(figure: Any) -> None:
        axes = figure.subplots()
        axes.plot(*table(factor, total))
        axes.set(xlabel="step", ylabel="factor of the learning rate")

    return Effect.checked(lambda: drawn(fill, file))


def rate_range(
    found: RateRange, *, path: str | PathLike[str] | None = None
) -> Effect[Path | None, FileUnwritable | NoDisplay | ExtraMissing]:
    """Draw what `train.learning_rate_range` found: losses over rates, also smoothed, and the suggested and steepest rates.

    It draws to the file `path`, or on the display without a path. The ending of `path` determines the format. Yields the path.
    Fails: `FileUnwritable`; `NoDisplay` if no window can be opened; `ExtraMissing` without the extra `plots`.

    >>> import pathlib, tempfile
    >>> from fnlamp import train
    >>> path = pathlib.Path(tempfile.mkdtemp(), "rates.svg")
    >>> rates, losses = np.geomspace(1e-3, 1, 4), np.array([2.0, 1.5, 1.0, 3.0])
    >>> found = train.RateRange(rates, losses, smoothed=losses, diverged=False)
    >>> rate_range(found, path=path).map(lambda path: path.name).run()
    <IOResult: <Success: rates.svg>>
    """
    instance("rate_range: found", found, RateRange, "what train.learning_rate_range found")
    file = None if path is None else Path(path_of(path, "rate_range: path"))

    def fill(figure: Any) -> None:
        axes = figure.subplots()
        axes.plot(found.rates, found.losses, alpha=0.3, label="loss of the batch")
        axes.plot(found.rates, found.smoothed, label="smoothed")
        for name, rate, style in (("suggested", found.suggested, "--"), ("steepest", found.steepest, ":")):
            if rate is not None:
                axes.axvline(rate, color="black", linestyle=style, label=f"{name}: {rate:.2g}")
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
        axes.legend()

    return Effect.checked(lambda: drawn(fill, file))
