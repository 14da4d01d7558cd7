"""The writer of lines for people to standard output."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence

from fnlamp.track.entry import Entry, Progress
from fnlamp.track.writers.output import Output, called
from fnlamp.track.writers.words import chosen, lines_of


def console(*names: str) -> Output:
    """Print a line for each entry, and one for each alert and text: the names that match a pattern, as `train.*`.

    Without patterns, all but times and hardware. `epochs` logs the line of an epoch itself: with
    `Runtime(log=None)`, it is printed once.

    >>> from fnlamp import track
    >>> from fnlamp.effect import Runtime
    >>> figures = track.measure({"train.loss": 0.3167, "validation.accuracy": 0.9505, "epoch.seconds": 2}, step=1563, epoch=1)
    >>> _ = track.tracked(figures, track.console()).run()
    Epoch 1, Training Loss: 0.3167, Validation Accuracy: 95.05%
    """
    shows = chosen(names)

    @contextlib.contextmanager
    def open_console() -> Iterator[Callable[[Sequence[Entry]], None]]:
        epochs: float | None = None

        def write(entries: Sequence[Entry]) -> None:
            nonlocal epochs
            lines = []
            for entry in entries:
                epochs = epochs_in(entry, epochs)
                lines += lines_of(entry, shows, epochs)
            if lines:
                print("\n".join(lines), file=sys.stdout, flush=True)  # noqa: T201

        yield write

    return called("console", open_console)


def epochs_in(entry: Entry, before: float | None) -> float | None:
    """The number of epochs, which progress in epochs says."""
    for value in entry.values.values():
        if isinstance(value, Progress) and value.unit == "epochs":
            return value.total
    return before
