"""Batches made ahead by a thread, and data loaded ahead for several batches at once."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, NamedTuple, Never

from fnlamp import tree
from fnlamp.arrays import Tree
from fnlamp.effect import CancelToken, Defect, Effect, Exit, Interrupted, Resource
from fnlamp.effect.runtime import GLANCE, polled
from fnlamp.effect.signals import Bell, locked, shielded
from fnlamp.fault import BufferReused, FaultError
from fnlamp.stream.memory import Handed, Prints, fingerprints, overwritten
from fnlamp.stream.nested import Stepper, pull
from fnlamp.stream.step import Emit, End, Fail, Step

PATIENCE = 5.0
"""Seconds that a release waits for the step in progress; a thread stuck in a step ends with the process."""


def haste(exit: Exit[Any, Any]) -> float:
    """The share of `PATIENCE` that a release may wait: less if the run is being stopped."""
    stopped = isinstance(exit, Interrupted) or (isinstance(exit, Defect) and not isinstance(exit.cause, Exception))
    return 0.1 if stopped else 1.0


def prefetching(count: int) -> Resource[Callable[[Stepper], Stepper], Never]:
    """A function that gives the same step, with up to `count` batches made ahead by a thread, once it is called."""
    threads = Effect.suspend(lambda: _Threads(count))
    return Resource.make(threads, lambda threads, end: Effect.suspend(lambda: threads.close(haste(end))))


class _Threads:
    """The threads of one prefetched stream: one for its batches, and one for each part of them that is read."""

    def __init__(self, count: int) -> None:
        self._count, self._made, self._closed = count, list[Ahead](), False

    def __call__(self, step: Stepper) -> Stepper:
        made = Ahead(step, self._count, lambda item: None)
        self._made.append(made)
        if self._closed:  # read after the first `close`, which has not seen it: its step raises
            made.close()
        return made.step

    def close(self, part: float) -> None:
        self._closed = True
        with contextlib.ExitStack() as stack:  # an error of one does not keep the others open
            for thread in self._made:
                stack.callback(thread.close, part)


def ahead(step: Stepper, count: int, discard: Callable[[Tree], object] = lambda item: None) -> Resource[Ahead, Never]:
    """A thread that makes items ahead; `discard` receives each item that is not used."""
    start = Effect.suspend(lambda: Ahead(step, count, discard))
    return Resource.make(start, lambda thread, end: Effect.suspend(lambda: thread.close(haste(end))))


class _Ready(NamedTuple):
    """The outcome of the step at a state, with the fingerprints of its batch."""

    state: Any
    outcome: Step | BaseException
    prints: Prints


class Ahead:
    """A thread that runs `step` ahead from the last requested state, and keeps up to `count` items.

    The items depend on the states alone; a request for another state than the next one starts the thread again from there.
    Several threads may make requests, one after the other. No signal interrupts a shielded section, and the locks and queues
    are written in C: a signal at the wrong moment makes Python's own conditions and events lose their lock.
    """

    def __init__(self, step: Stepper, count: int, discard: Callable[[Tree], object]) -> None:
        self._make, self._count, self._discard = step, count, discard
        self._asking = threading.Lock()
        self._lock = threading.Lock()  # guards the attributes below; held briefly
        self._ready: deque[_Ready] = deque()
        self._handed = Handed(count + 1)
        self._next: Any = None  # the state of the next item to make, while `_going`
        self._going = self._closed = False
        self._asked = 0  # counts the starts; items of an earlier start are discarded
        self._bug: BaseException | None = None  # raised by `discard`; the next request raises it again
        self._thread: threading.Thread | None = None
        self._token = CancelToken(*([] if polled.cancel is None else [polled.cancel]))  # for waits inside the thread
        self._work: SimpleQueue[None] = SimpleQueue()  # wakes the thread
        self._news = Bell()  # wakes the requesting thread

    def step(self, state: Any, keep: Callable[[Any], object] = lambda item: None) -> Step:
        """The batch at this state, as soon as it is ready; `keep` receives it before anything can interrupt.

        Raises: `Stopped`, if the run should stop.
        """
        with locked(self._asking):
            with shielded(), self._lock:
                if not self._at(state):
                    self._begin(state)
            while True:
                with shielded(), self._lock:
                    got = self._taken(keep)
                if isinstance(got, BaseException):
                    raise got
                if got is not None:
                    return got
                polled.check()
                self._news.wait(GLANCE)

    def close(self, part: float = 1.0) -> None:
        """Stop the thread, waiting for it at most a `part` of `PATIENCE`, and discard its items."""
        with self._lock:
            self._closed = True
        self._token.cancel()
        self._work.put(None)
        try:
            if self._thread is not None:
                self._thread.join(part * PATIENCE)
        finally:
            with self._lock:
                self._clear()

    def _taken(self, keep: Callable[[Any], object]) -> Step | BaseException | None:
        """The next item; `None` if it is not ready yet."""
        if self._closed:
            return RuntimeError("a prefetched stream was used after it had been released")
        if self._bug is not None:
            return self._bug
        if not self._ready:
            return None
        first = self._ready.popleft()
        self._work.put(None)
        if isinstance(first.outcome, Emit):
            if (leaf := overwritten(first.outcome.item, first.prints)) is not None:
                self._drop(first.outcome)
                return Fail(BufferReused(leaf))
            keep(first.outcome.item)
        return first.outcome

    def _at(self, state: Any) -> bool:
        if not (self._ready or self._going):
            return False
        first = self._ready[0].state if self._ready else self._next
        return first is state or tree.equal(first, state)

    def _begin(self, state: Any) -> None:
        self._clear()
        self._asked += 1
        self._next, self._going = state, True
        self._work.put(None)
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(target=self._run, name="fnlamp prefetch", daemon=True)
            self._thread.start()

    def _clear(self) -> None:
        try:
            while self._ready:
                self._drop(self._ready.popleft().outcome)
        finally:
            if self._ready:  # `discard` raised for one item; discard the others too
                self._clear()

    def _drop(self, got: Step | BaseException) -> None:
        if isinstance(got, Emit):
            self._discard(got.item)

    def _run(self) -> None:
        polled.cancel = self._token
        while True:
            while not self._work.empty():
                self._work.get()
            with self._lock:
                if self._closed:
                    return
                wanted = self._going and len(self._ready) < self._count
                state, asked = self._next, self._asked
            if not wanted:
                self._work.get()
                continue
            made = self._made(state)
            with self._lock:
                if wanted := asked == self._asked and not self._closed:
                    self._ready.append(made)
                    self._going = isinstance(made.outcome, Emit)
                    self._next = made.outcome.state if isinstance(made.outcome, Emit) else None
            try:
                if not wanted:
                    self._drop(made.outcome)
            except BaseException as error:
                with self._lock:
                    self._bug = error
            self._news.ring()

    def _made(self, state: Any) -> _Ready:
        try:
            got = pull(self._make, state)
            if not isinstance(got, Emit):
                return _Ready(state, got, [])
            prints = fingerprints(got.item)
            if (leaf := self._handed.again(got.item, prints)) is not None:
                return _Ready(state, Fail(BufferReused(leaf)), [])
            return _Ready(state, got, prints)
        except FaultError as error:
            return _Ready(state, Fail(error.fault), [])
        except BaseException as error:  # a bug: the request for this batch raises it
            return _Ready(state, error, [])


def stage(
    buckets: Ahead, per_bucket: int, length: int, cut: Callable[[Any, int, int], Tree], release: Callable[[Any], object]
) -> Resource[Stage, Never]:
    """Batches cut from buckets that are loaded ahead."""
    start = Effect.suspend(lambda: Stage(buckets, per_bucket, length, cut, release))
    return Resource.make(start, lambda stage, _: Effect.suspend(stage.close))


class Stage:
    """Holds one bucket at a time, and releases it at the first batch of another bucket; the state is the position."""

    def __init__(
        self,
        buckets: Ahead,
        per_bucket: int,
        length: int,
        cut: Callable[[Any, int, int], Tree],
        release: Callable[[Any], object],
    ) -> None:
        self._buckets, self._per_bucket, self._length = buckets, per_bucket, length
        self._cut, self._release = cut, release
        self._held: list[tuple[int, Any]] = []
        self._lock = threading.Lock()
        self._closed = False

    def step(self, position: int) -> Step:
        """The batch at this position."""
        with locked(self._lock):
            if position >= self._length:
                self._empty()
                return End()
            number, within = divmod(position, self._per_bucket)
            if not (self._held and self._held[0][0] == number):
                self._empty()
                got = self._buckets.step(number, lambda item: self._hold(number, item))
                if not isinstance(got, Emit):
                    return got
            return Emit(self._cut(self._held[0][1], number, within), position + 1)

    def close(self) -> None:
        """Release the bucket that is held, if any."""
        self._closed = True
        self._empty()

    def _hold(self, number: int, item: Any) -> None:
        self._held.append((number, item))
        if self._closed:  # by another thread, during the wait
            self._empty()

    def _empty(self) -> None:
        with shielded():
            while self._held:
                self._release(self._held.pop()[1])
