"""The writer of a live bar: how far each part is, its rate, the time left, and the newest values."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from fnlamp.extra import installed, need
from fnlamp.fault import printable
from fnlamp.track.entry import Entry, Progress
from fnlamp.track.writers.output import Output, called
from fnlamp.track.writers.words import MOST, chosen, lines_of, number_text, title_of

WINDOW: Final = 30.0
"""Seconds of which a rate is the mean."""
PAUSE: Final = 10.0
"""Seconds between two plain lines."""


def bar(*names: str) -> Output:
    """Show a live bar in a terminal or a notebook: how far each part is, its rate, the time left, and the newest values.

    Elsewhere, as in a file, a plain line every ten seconds. The names shown are those that match a pattern, as `train.*`;
    without patterns, all but times and hardware. Printed lines appear above the bar. It needs the extra `rich`.
    Fails: `ExtraMissing`.
    """
    shows = chosen(names)
    installed("rich", "rich")

    @contextlib.contextmanager
    def open_bar() -> Iterator[Callable[[Sequence[Entry]], None]]:
        board = Board(shows)
        with screen() as show:

            def write(entries: Sequence[Entry]) -> None:
                lines = [line for entry in entries for line in board.take(entry)]
                show(board, lines)

            yield write

    return called("bar", open_bar)


class Meter:
    """How far one part is, and its rate: that of the last half minute, from this run's own counts."""

    def __init__(self) -> None:
        self.now = Progress(0)
        self._window: deque[tuple[float, float]] = deque()

    def take(self, progress: Progress, time: float) -> None:
        """A later count. The window starts again where a part does, and where the clock was set back."""
        if self._window and (progress.done < self._window[-1][1] or time < self._window[-1][0]):
            self._window.clear()
        self._window.append((time, progress.done))
        while len(self._window) > 2 and time - self._window[0][0] > WINDOW:
            self._window.popleft()
        self.now = progress

    @property
    def rate(self) -> float | None:
        """Units a second, if that is known."""
        if len(self._window) < 2:
            return None
        (start, first), (end, last) = self._window[0], self._window[-1]
        return (last - first) / (end - start) if end > start and last > first else None

    @property
    def left(self) -> float | None:
        """Seconds left, if that is known; never negative."""
        if self.rate is None or self.now.total is None:
            return None
        return max(0.0, self.now.total - self.now.done) / self.rate

    @property
    def text(self) -> str:
        """The count, the rate and the time left."""
        total = "" if self.now.total is None else f"/{self.now.total:,.0f}"
        parts = [f"{self.now.done:,.0f}{total} {self.now.unit}"]
        if self.rate is not None:
            parts.append(f"{self.rate:,.3g}/s" if self.rate < 1000 else f"{self.rate:,.0f}/s")
        if self.left is not None:
            parts.append(f"{clock(self.left)} left")
        return ", ".join(parts)


def clock(seconds: float) -> str:
    """The duration as `h:mm:ss`, or `m:ss` below an hour.

    >>> clock(59.6), clock(3723)
    ('1:00', '1:02:03')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Board:
    """What is shown: a meter for each part that runs, and the newest values."""

    def __init__(self, shows: Callable[[str], bool]) -> None:
        self._shows = shows
        self.meters: dict[str, Meter] = {}
        self.values: dict[str, float] = {}

    def take(self, entry: Entry) -> list[str]:
        """Take an entry, and return the lines of its alerts."""
        for name, value in entry.values.items():
            if isinstance(value, Progress):
                self.meters.setdefault(name, Meter()).take(value, entry.time)
            elif type(value) is float:
                if name.startswith("time."):  # a section has ended
                    self.meters.pop(name.removeprefix("time."), None)
                if self._shows(name) and entry.lane == 0:
                    self.values[name] = value
        return lines_of(entry, lambda name: False, None)

    @property
    def figures(self) -> str:
        """The newest values on one line."""
        found = [f"{title_of(name)}: {number_text(name, value)}" for name, value in self.values.items()]
        return printable(", ".join(found[:MOST]))

    @property
    def line(self) -> str:
        """Everything on one line."""
        parts = [f"{name} {meter.text}" for name, meter in self.meters.items()]
        return printable("; ".join([*parts, *filter(None, [self.figures])]))


Show = Callable[[Board, list[str]], None]
"""Shows a board, and these lines above it."""


@contextlib.contextmanager
def screen() -> Iterator[Show]:
    """What is there to show a board on: a notebook, a terminal, or a file of lines."""
    if (display := notebook()) is not None:
        with in_notebook(display) as show:
            yield show
        return
    console = need("rich.console", "rich").Console(file=sys.stdout)
    if not console.is_terminal or console.is_dumb_terminal:
        with plain() as show:
            yield show
        return
    with in_terminal(console) as show:
        yield show


def notebook() -> Any:
    """The function that displays in this notebook, if this is one."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if not hasattr(shell, "kernel"):
        return None
    return need("IPython.display", "rich").display


@contextlib.contextmanager
def in_terminal(console: Any) -> Iterator[Show]:
    """A bar that is drawn again in place."""
    live = need("rich.live", "rich").Live(console=console, auto_refresh=False, vertical_overflow="crop")
    with live:

        def show(board: Board, lines: list[str]) -> None:
            for line in lines:
                live.console.print(line, markup=False, highlight=False)
            live.update(drawn(board), refresh=True)

        yield show


@contextlib.contextmanager
def in_notebook(display: Any) -> Iterator[Show]:
    """An output that is replaced; it needs no widgets."""
    make = need("rich.console", "rich").Console
    handle = display({"text/plain": ""}, raw=True, display_id=True)
    above: list[str] = []

    def show(board: Board, lines: list[str]) -> None:
        above.extend(lines)
        text = io.StringIO()
        make(file=text, width=100, force_jupyter=False).print(drawn(board))
        handle.update({"text/plain": "\n".join([*above, text.getvalue()])}, raw=True)

    yield show


@contextlib.contextmanager
def plain() -> Iterator[Show]:
    """A line now and then, and one at the end."""
    due, unsaid = 0.0, ""

    def show(board: Board, lines: list[str]) -> None:
        nonlocal due, unsaid
        unsaid = board.line
        if unsaid and time.monotonic() >= due:
            lines, due, unsaid = [*lines, unsaid], time.monotonic() + PAUSE, ""
        for line in lines:
            print(line, file=sys.stdout, flush=True)  # noqa: T201

    yield show
    if unsaid:
        print(unsaid, file=sys.stdout, flush=True)  # noqa: T201


def drawn(board: Board) -> Any:
    """The board for rich: a row for each part, and the values below."""
    table, text = need("rich.table", "rich").Table.grid(padding=(0, 1)), need("rich.text", "rich").Text
    table.add_column(no_wrap=True, overflow="ellipsis")
    table.add_column(min_width=4, max_width=30)
    table.add_column(no_wrap=True, overflow="ellipsis")
    for name, meter in board.meters.items():
        total = meter.now.total or None
        strip = need("rich.progress_bar", "rich").ProgressBar(total=total, completed=meter.now.done, pulse=total is None)
        table.add_row(text(printable(name)), strip, text(meter.text))
    group = need("rich.console", "rich").Group
    return group(table, text(board.figures, no_wrap=True, overflow="ellipsis"))
