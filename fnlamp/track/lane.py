"""One writer on its own thread, behind a bounded queue: nothing that it does holds the program up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, final

from fnlamp.fault import WriterFailed, printable
from fnlamp.track.entry import Entry, Figure, Histogram, Image, Indexed, Rows, Text, cancelled, shown_only
from fnlamp.track.writers.output import Output

INTERVAL: Final = 0.2
"""Seconds between two looks at the queue; an entry waits no longer for a writer that keeps up."""
MOST: Final = 2**17
"""Entries that a queue holds."""
MOST_BYTES: Final = 2**28
"""Bytes of arrays and texts that a queue holds."""
PIECE: Final = 2_000
"""Entries that a writer gets at once."""
PAUSES: Final = (0.5, 1.0, 2.0, 5.0)
"""Seconds before a write is tried again; the last one for all later times."""


@final
class Lane:
    """The queue and the thread of one writer."""

    def __init__(self, output: Output) -> None:
        self.name = name_of(output)
        self._output = output
        self._guard = threading.Lock()
        self._queue: list[Entry] = []
        self._taken: list[Entry] = []  # by the thread, and not written yet
        self._bytes, self._lost = 0, 0
        self._reason: str | None = None
        self._ended = False  # the writer has failed for good, or is closed
        self._closing = threading.Event()
        self.finished = 0  # calls of the writer that have returned
        self._thread: threading.Thread | None = threading.Thread(target=self._run, name=f"fnlamp {self.name}", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # the system has no more threads
            self._thread, self._ended, self._reason = None, True, str(error)

    def put(self, entry: Entry, size: int, brief: bool) -> None:
        """Queue an entry of this many bytes; never waits. A full queue refuses it, unless it says that the run resumes.

        `brief` entries are progress, of which the newest is enough.
        """
        with self._guard:
            full = len(self._queue) >= MOST or (size and self._bytes + size > MOST_BYTES)
            if self._ended or (full and cancelled(entry) is None):
                if not brief:
                    self._refuse()
                return
            if brief and self._queue and _same_progress(entry, self._queue[-1]):
                self._queue.pop()
            self._queue.append(entry)
            self._bytes += size

    def _refuse(self) -> None:
        self._lost += 1
        self._reason = self._reason or f"it fell behind, and more than {MOST:,} entries or {MOST_BYTES // 2**20} MiB waited"

    @property
    def warning(self) -> WriterFailed | None:
        """What went wrong so far, if something did."""
        if self._reason is None:
            return None
        return WriterFailed(self.name, self._reason, self._lost)

    @property
    def troubled(self) -> bool:
        """Whether something went wrong."""
        return self._reason is not None

    def close(self) -> None:
        """Have the thread write what is queued, and end; `join` waits for it."""
        self._closing.set()

    def join(self, seconds: float) -> bool:
        """Wait at most that long until the thread has ended; return whether it has."""
        if self._thread is None:
            return True
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def abandon(self) -> None:
        """Stop waiting for the thread: what it has not written counts as lost."""
        with self._guard:
            if not self._ended:
                self._ended = True
                self._lost += _stored(self._queue) + _stored(self._taken)
                self._reason = self._reason or "it did not finish in time at the end of the run"
                self._queue = []

    # ---- the thread

    def _run(self) -> None:
        try:
            with self._output() as write:
                while True:
                    closing = self._closing.wait(INTERVAL)
                    self._take()
                    while self._taken:
                        self._write(write, self._taken[:PIECE])
                        self._taken = self._taken[PIECE:]
                    if self._ended or (closing and not self._queue):
                        break
        except BaseException as error:  # a writer may be anybody's; the program continues
            self._failed(reason_of(error))
        finally:
            with self._guard:
                if not self._ended:
                    self._ended = True
                    self._lost += _stored(self._queue) + _stored(self._taken)
                self._queue, self._taken = [], []

    def _take(self) -> None:
        with self._guard:
            self._taken, self._queue, self._bytes = self._queue, [], 0

    def _write(self, write: Callable[[Sequence[Entry]], Any], piece: list[Entry]) -> None:
        """Write, again after an `OSError` until it succeeds or the run ends."""
        tries = 0
        while not self._ended:
            last = self._closing.is_set()
            try:
                write(piece)
                self.finished += 1
                return
            except OSError as error:
                if last and tries:
                    raise
                self._failed(reason_of(error))
                self._closing.wait(PAUSES[min(tries, len(PAUSES) - 1)])
                tries += 1

    def _failed(self, reason: str) -> None:
        with self._guard:
            self._reason = self._reason or reason


def name_of(output: Output) -> str:
    """What a warning calls a writer."""
    return str(getattr(output, "__name__", None) or type(output).__name__)


def reason_of(error: BaseException) -> str:
    """The reason in words: a system's error, or one with its type."""
    said = getattr(error, "strerror", None)
    return printable(said or (str(error) if isinstance(error, RuntimeError) else f"{type(error).__name__}: {error}"))


def _same_progress(entry: Entry, before: Entry) -> bool:
    return before.values.keys() == entry.values.keys() and shown_only(before)


def _stored(entries: Sequence[Entry]) -> int:
    return sum(not shown_only(entry) for entry in entries)


def bytes_of(value: Any) -> int:
    """The bytes of arrays and texts in a value, about."""
    match value:
        case float():
            return 0
        case Histogram(edges, counts):
            return int(edges.nbytes + counts.nbytes)
        case Indexed(indices, values):
            return int(indices.nbytes + values.nbytes)
        case Image(pixels):
            return int(pixels.nbytes)
        case Figure(content):
            return len(content)
        case Text(text):
            return len(text)
        case Rows(columns, rows):
            return 64 * len(columns) * len(rows)
    return 0
