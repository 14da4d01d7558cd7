"""Batches that are made by a thread before they are asked for, and data that is staged for several batches at once."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, Never

from fnlamp import tree
from fnlamp.arrays import Tree
from fnlamp.effect import Effect, Resource
from fnlamp.fault import BufferReused, FaultError
from fnlamp.stream.memory import Handed, Prints, fingerprints, overwritten
from fnlamp.stream.step import Emit, End, Fail, Step
from fnlamp.stream.transform import Stepper, pull

PATIENCE = 5.0
"""Seconds that a release waits for a step that is being made; a thread that is stuck in one ends with the process."""


def prefetched(step: Stepper, count: int) -> Resource[Stepper, Never]:
    """The same step, with up to `count` batches made ahead by a thread."""
    return ahead(step, count).map(lambda thread: thread.step)


def ahead(step: Stepper, count: int, discard: Callable[[Tree], object] = lambda item: None) -> Resource[Ahead, Never]:
    """A thread that makes items ahead; `discard` is given each one that nobody asked for."""
    start = Effect.suspend(lambda: Ahead(step, count, discard))
    return Resource.make(start, lambda thread, _: Effect.suspend(thread.close))


def is_ahead(step: Stepper) -> bool:
    """Whether a thread goes on making what this step gives while nobody asks for it."""
    return isinstance(getattr(step, "__self__", None), Ahead)


class _Ready(NamedTuple):
    """What was made at a state, and what was in it then."""

    state: Any
    came: Step | BaseException
    prints: Prints


class Ahead:
    """A thread that asks `step` for what comes after the last state that it was asked for, and keeps up to `count` items.

    What it makes depends on the states alone; asked for another state than the next one, it begins again there. Several
    threads may ask, one after the other.
    """

    def __init__(self, step: Stepper, count: int, discard: Callable[[Tree], object]) -> None:
        self._make, self._count, self._discard = step, count, discard
        self._asking = threading.Lock()
        self._changed = threading.Condition()
        self._ready: deque[_Ready] = deque()
        self._handed = Handed(count + 1)
        self._next: Any = None  # the state of the next item to make; only with `_going`
        self._going = self._closed = False
        self._asked = 0  # how often it began at another state: what was made for an older one is discarded
        self._bug: BaseException | None = None  # from discarding; raised when something is asked for
        self._thread: threading.Thread | None = None

    def step(self, state: Any) -> Step:
        """The batch at this state, as soon as it is ready."""
        with self._asking, self._changed:
            if not self._at(state):
                self._begin(state)
            while not (self._ready or self._closed or self._bug):
                self._changed.wait()
            if self._closed:
                raise RuntimeError("a prefetched stream was used after it had been released")
            if self._bug is not None:
                raise self._bug
            first = self._ready.popleft()
            self._changed.notify_all()
        if isinstance(first.came, BaseException):
            raise first.came
        if isinstance(first.came, Emit) and (leaf := overwritten(first.came.item, first.prints)) is not None:
            return Fail(BufferReused(leaf))
        return first.came

    def close(self) -> None:
        """Stop the thread and discard what is ready."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(PATIENCE)
        self._clear()

    def _at(self, state: Any) -> bool:
        if not (self._ready or self._going):
            return False
        first = self._ready[0].state if self._ready else self._next
        return first is state or tree.equal(first, state)

    def _begin(self, state: Any) -> None:
        self._clear()
        self._asked += 1
        self._next, self._going = state, True
        self._changed.notify_all()
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(target=self._run, name="fnlamp prefetch", daemon=True)
            self._thread.start()

    def _clear(self) -> None:
        while self._ready:
            self._drop(self._ready.popleft().came)

    def _drop(self, came: Step | BaseException) -> None:
        if isinstance(came, Emit):
            self._discard(came.item)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closed and not (self._going and len(self._ready) < self._count):
                    self._changed.wait()
                if self._closed:
                    return
                state, asked = self._next, self._asked
            made = self._made(state)
            with self._changed:
                if asked == self._asked and not self._closed:
                    self._ready.append(made)
                    self._going = isinstance(made.came, Emit)
                    self._next = made.came.state if isinstance(made.came, Emit) else None
                    self._changed.notify_all()
                    continue
            try:
                self._drop(made.came)
            except BaseException as error:
                with self._changed:
                    self._bug = error
                    self._changed.notify_all()

    def _made(self, state: Any) -> _Ready:
        try:
            came = pull(self._make, state)
            if not isinstance(came, Emit):
                return _Ready(state, came, [])
            prints = fingerprints(came.item)
            if (leaf := self._handed.again(came.item, prints)) is not None:
                return _Ready(state, Fail(BufferReused(leaf)), [])
            return _Ready(state, came, prints)
        except FaultError as error:
            return _Ready(state, Fail(error.fault), [])
        except BaseException as error:  # a bug: raised where the batch is asked for
            return _Ready(state, error, [])


def stage(
    buckets: Ahead, per_bucket: int, length: int, cut: Callable[[Any, int, int], Tree], release: Callable[[Any], object]
) -> Resource[Stage, Never]:
    """Batches cut from what is loaded ahead."""
    start = Effect.suspend(lambda: Stage(buckets, per_bucket, length, cut, release))
    return Resource.make(start, lambda stage, _: Effect.suspend(stage.close))


class Stage:
    """Holds one bucket at a time, and releases it when a batch of another one is asked for; the state is the position."""

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
        self._lock = threading.RLock()

    def step(self, position: int) -> Step:
        """The batch at this position."""
        with self._lock:
            if position >= self._length:
                self.close()
                return End()
            number, within = divmod(position, self._per_bucket)
            if not (self._held and self._held[0][0] == number):
                self.close()
                came = self._buckets.step(number)
                if not isinstance(came, Emit):
                    return came
                self._held.append((number, came.item))
            return Emit(self._cut(self._held[0][1], number, within), position + 1)

    def close(self) -> None:
        """Release the bucket that is held, if any."""
        with self._lock:
            while self._held:
                self._release(self._held.pop()[1])
