"""What the loop tells the observers of a run: how far it is, the figures of each epoch, and alerts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from fnlamp.track import Advanced, Alert, Alerted, Indexed, Measured, Progress, Rows
from fnlamp.track.entry import Value
from fnlamp.train import tally
from fnlamp.train.state import Carry, EpochReport


class Timing(NamedTuple):
    """Figures of the host about the steps of the running epoch, as far as this process takes them.

    `step` steps of the run, `done` batches and `rows` rows of the epoch came before its first step, at the time `begun`; after
    it, the steps took `seconds`, `waited` of which the device had nothing to do because it lacked a batch.
    """

    step: int = 0
    done: int = 0
    rows: int = 0
    begun: float = 0.0
    seconds: float = 0.0
    waited: float = 0.0

    @classmethod
    def of(cls, carry: Carry) -> Timing:
        """Before the first step from this carry."""
        sums = tally.sums(carry.tally)
        return cls(int(carry.step), int(sums.steps), int(sums.rows), time.perf_counter())

    def after(self, waited: float) -> Timing:
        """After a dispatch."""
        return self._replace(seconds=time.perf_counter() - self.begun, waited=self.waited + waited)

    def advanced(self, step: int, batches: int | None, epoch: int) -> Advanced:
        """The event of a dispatch, after this step of the run."""
        done = self.done + step - self.step
        return Advanced("train", Progress(done, None if batches is None else float(batches)), step, epoch)


def measured(report: EpochReport, timing: Timing, step: int, classes: tuple[str, ...] | None) -> Measured:
    """The figures of an epoch, by dotted names."""
    figures: dict[str, Any] = {
        "train.loss": report.train_loss,
        "train.loss_of_batches": report.train_loss_of_batches,
        **{f"train.{name}": figure for name, figure in report.train_metrics.items()},
        "validation.loss": report.validation_loss,
        "validation.loss_of_batches": report.validation_loss_of_batches,
        **{f"validation.{name}": figure for name, figure in report.validation_metrics.items()},
        "epoch.steps": report.steps,
        "epoch.samples": report.samples,
        "epoch.skipped": report.skipped,
        "epoch.seconds": report.seconds,
    }
    if timing.seconds > 0:
        figures["epoch.samples_per_second"] = (report.samples - timing.rows) / timing.seconds
        figures["epoch.waiting"] = timing.waited / timing.seconds
    values = {name: value_of(figure, classes) for name, figure in figures.items() if figure is not None}
    return Measured(values, step, report.epoch)


def counted(report: EpochReport, step: int) -> Advanced:
    """The event of an epoch's end: how many of the epochs are done."""
    return Advanced("epochs", Progress(report.epoch, report.epochs, "epochs"), step, report.epoch)


def value_of(figure: Any, classes: tuple[str, ...] | None = None) -> Value:
    """A figure as a value: a number, a number for each index, or the rows of a matrix, under the names of classes if they fit.

    >>> value_of(np.float64(0.5))
    0.5
    >>> value_of(np.array([[5.0, 1.0], [0.0, 2.0]]), ("cat", "dog"))
    Rows(columns=('', 'cat', 'dog'), rows=(('cat', 5.0, 1.0), ('dog', 0.0, 2.0)))
    """
    array = np.asarray(figure, np.float64)
    if array.ndim == 0:
        return float(array)
    if array.ndim != 2:
        return Indexed(np.arange(array.size), array.reshape(-1))
    names = [_names(count, classes) for count in array.shape]
    rows = tuple((name, *map(float, row)) for name, row in zip(names[0], array, strict=True))
    return Rows(("", *names[1]), rows)


def _names(count: int, classes: tuple[str, ...] | None) -> tuple[str, ...]:
    return classes if classes is not None and len(classes) == count else tuple(map(str, range(count)))


def alerted(alerts: Mapping[str, str | Alert], step: int, epoch: int) -> Iterator[Alerted]:
    """The events of what folds say."""
    for name, alert in alerts.items():
        yield Alerted(name, alert if isinstance(alert, Alert) else Alert(alert), step, epoch)
