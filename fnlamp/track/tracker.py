"""The tracker: an observer that turns events into entries and hands them to writers."""

from __future__ import annotations

import atexit
import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, Never, TypeVar, final

from fnlamp.effect import Effect, Exit, Resource
from fnlamp.effect.explain import Around
from fnlamp.effect.runtime import GLANCE
from fnlamp.effect.together import Records, is_first
from fnlamp.fault import WriterFailed
from fnlamp.given import function, instance
from fnlamp.track.entry import checked_name
from fnlamp.track.event import Advanced, Event, entry_of
from fnlamp.track.lane import Lane, bytes_of, name_of
from fnlamp.track.writers.output import Output

A = TypeVar("A")
E = TypeVar("E")

PATIENCE: Final = 5.0
"""Seconds that the end of a run waits for a writer that finishes nothing."""
LONGEST: Final = 60.0
"""Seconds that the end of a run waits at most, for a writer that continues."""


@dataclass(frozen=True)
class Tracked(Generic[A]):
    """The value of a tracked program, and a warning for each writer that failed."""

    value: A
    warnings: tuple[WriterFailed, ...] = ()


def tracker(*writers: Output) -> Resource[Tracker, Never]:
    """A tracker for `Runtime.observers`; its release waits until all is written.

    The wait ends 5 seconds after the last call of a writer has returned, 60 seconds after the release has begun, or at a second
    Ctrl-C; what is lost is in `Tracker.warnings`. `tracked` is this around a program. Inside of a cluster, process 0 alone
    writes.
    """
    for output in writers:
        function("writers", output, "a writer such as track.lines(folder), or a function that opens one")
    start = Effect.asks(lambda runtime: Tracker(writers if is_first() else (), runtime.say))

    def stop(each: Tracker, _: Exit[Any, Any]) -> Effect[None, Never]:
        return Effect.asks(lambda runtime: each.close(lambda: runtime.cancel.insisted))

    return Resource.make(start, stop)


def tracked(program: Effect[A, E], *writers: Output) -> Effect[Tracked[A], E]:
    """Run a program with these writers of what it reports. A writer that fails is a warning, and the program continues.

    >>> from fnlamp import track
    >>> import contextlib
    >>> @contextlib.contextmanager
    ... def printed():
    ...     yield lambda entries: print(*(entry.values for entry in entries))
    >>> track.tracked(track.measure({"loss": 0.5}, step=10), printed).run()
    {'loss': 0.5}
    <IOResult: <Success: Tracked(value=None, warnings=())>>
    """
    instance("program", program, Effect, "an Effect, such as train.epochs(...)")
    run = tracker(*writers).use(lambda each: observed(program, each).map(lambda value: (value, each)))
    line = f"record in {', '.join(map(name_of, writers)) or 'nothing'}:"

    def tracked(pair: tuple[A, Tracker]) -> Tracked[A]:  # after the release; `explain` shows this name
        return Tracked(pair[0], pair[1].warnings)

    return run.outlined(Around(program._inner_value, (line,))).map(tracked)


def observed(program: Effect[A, E], observer: Callable[[Any], object]) -> Effect[A, E]:
    """The program, run with one more observer."""
    return program.local(lambda runtime: replace(runtime, observers=(*runtime.observers, observer)))


@final
class Tracker(Records):
    """Hands each event, as an entry, to the queues of its writers; made by `tracker`. Any thread may call it."""

    def __init__(self, writers: tuple[Output, ...], say: Callable[[str], object]) -> None:
        self._say = say
        self._pid = os.getpid()
        self._names: set[str] = set()
        self._last = 0
        self._lanes = [Lane(output) for output in writers]
        self._unsaid = list(self._lanes)
        atexit.register(self.close)  # for a program that never gets to its release

    def __call__(self, event: Event) -> None:
        """Queue the event for each writer.  Raises: `TypeError` or `ValueError` for a value that cannot be recorded."""
        if os.getpid() != self._pid:
            return  # a forked worker, which has no writers
        entry = entry_of(event, time.time(), self._last)
        if not self._names.issuperset(entry.values):
            self._names.update(map(checked_name, entry.values))
        self._last = entry.step
        brief = type(event) is Advanced
        size = 0 if brief else sum([bytes_of(value) for value in entry.values.values() if type(value) is not float])
        for lane in self._lanes:
            lane.put(entry, size, brief)
        if self._unsaid:
            self._speak()

    @property
    def warnings(self) -> tuple[WriterFailed, ...]:
        """A warning for each writer that has failed so far."""
        return tuple(found for lane in self._lanes if (found := lane.warning) is not None)

    def _speak(self) -> None:
        """Say once of each writer that it failed; here, on the program's thread."""
        for lane in [lane for lane in self._unsaid if lane.troubled]:
            self._unsaid.remove(lane)
            with contextlib.suppress(Exception):  # a closed log must not stop the program
                self._say(f"warning: {lane.warning}")

    def close(self, give_up: Callable[[], bool] = lambda: False) -> None:
        """Write what is queued and close the writers; waits as `tracker` says."""
        atexit.unregister(self.close)
        if os.getpid() != self._pid:
            return
        for lane in self._lanes:
            lane.close()
        start = moved = time.monotonic()
        finished = -1
        while waiting := [lane for lane in self._lanes if not lane.join(0)]:
            now = time.monotonic()
            if (done := sum(lane.finished for lane in self._lanes)) != finished:
                finished, moved = done, now
            if give_up() or now - moved > PATIENCE or now - start > LONGEST:
                break
            waiting[0].join(GLANCE)
        for lane in waiting:
            lane.abandon()
        self._speak()
