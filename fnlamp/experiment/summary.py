"""The summary of a run: the last, lowest and highest value of each scalar, for the list of runs."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
from returns.result import Success

from fnlamp import track
from fnlamp.effect import Runtime
from fnlamp.experiment.edit import write_often
from fnlamp.experiment.folder import SUMMARY
from fnlamp.track import Entry, Resumed
from fnlamp.track.curves import History

EVERY: Final = 2.0
"""Seconds between two summaries of a running run."""

Writer = Callable[[], contextlib.AbstractContextManager[Callable[[Sequence[Entry]], None]]]


class Summary:
    """The figures so far. `partial` says that only the lines know all values: after a resume in the same process, or a kill.

    `lines` are those of earlier attempts. A killed process did not summarise its last seconds, so a resume reads them.
    """

    def __init__(self, stored: dict[str, Any], lines: str | None = None) -> None:
        self.step: int | None = stored.get("step")
        self.epoch: int | None = stored.get("epoch")
        self.scalars: dict[str, dict[str, Any]] = dict(stored.get("scalars", {}))
        self.partial = lines is not None
        self._lines = lines

    def add(self, entry: Entry) -> None:
        """Take the scalars of an entry of lane 0."""
        for name, value in entry.values.items():
            if type(value) is float and not entry.lane:
                self._scalar(name, value, entry.step)
            elif isinstance(value, Resumed):
                self._resumed(entry.step, name.removesuffix("run"))
        self.step, self.epoch = entry.step, self.epoch if entry.epoch is None else entry.epoch

    def _scalar(self, name: str, value: float, step: int) -> None:
        before = self.scalars.get(name)
        stored = value if math.isfinite(value) else str(value)
        if before is None:
            bound = None if math.isnan(value) else stored
            self.scalars[name] = {"last": stored, "step": step, "lowest": bound, "highest": bound}
            return
        before["last"], before["step"] = stored, step
        if value == value:
            lowest, highest = before["lowest"], before["highest"]
            before["lowest"] = stored if lowest is None or value < float(lowest) else lowest
            before["highest"] = stored if highest is None or value > float(highest) else highest

    def _resumed(self, step: int, start: str) -> None:
        history, self._lines = None if self._lines is None else read(self._lines), None
        if history is not None:
            self.scalars = scalars_of(history, lambda name: step if name.startswith(start) else None)
            return
        cancelled = [name for name, each in self.scalars.items() if name.startswith(start) and each["step"] > step]
        for name in cancelled:
            self.partial = True
            del self.scalars[name]

    def stored(self) -> dict[str, Any]:
        return {"step": self.step, "epoch": self.epoch, "scalars": self.scalars}


def writer(folder: str, summary: Summary) -> Writer:
    """The writer of `summary.json`."""

    @contextlib.contextmanager
    def summary_json() -> Iterator[Callable[[Sequence[Entry]], None]]:
        due = 0.0

        def write(entries: Sequence[Entry]) -> None:
            nonlocal due
            for entry in entries:
                summary.add(entry)
            if time.monotonic() >= due:
                write_often(folder, SUMMARY, summary.stored())
                due = time.monotonic() + EVERY

        yield write
        write_often(folder, SUMMARY, summary.stored())

    return summary_json


def read(path: str) -> History | None:
    """What the lines say, if they can be read."""
    match track.history(path).run_exit(Runtime(log=None, signals=())):
        case Success(history):
            return history
    return None


def scalars_of(history: History, until: Callable[[str], int | None] = lambda name: None) -> dict[str, dict[str, Any]]:
    """The figures of each scalar, up to a step of each name."""
    scalars = {}
    for name in history.names:
        with contextlib.suppress(KeyError):  # not a scalar
            series, last = history.scalars(name), until(name)
            count = len(series) if last is None else int(np.searchsorted(series.steps, last, side="right"))
            if count:
                scalars[name] = {**_figures(series.values[:count]), "step": int(series.steps[count - 1])}
    return scalars


def _figures(values: np.ndarray[Any, Any]) -> dict[str, Any]:
    known = values[~np.isnan(values)]
    lowest, highest = (known.min(), known.max()) if len(known) else (None, None)
    return {kind: _number(value) for kind, value in {"last": values[-1], "lowest": lowest, "highest": highest}.items()}


def _number(value: Any) -> Any:
    return None if value is None else float(value) if math.isfinite(value) else str(float(value))
