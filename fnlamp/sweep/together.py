"""Lanes side by side: each runs as it does alone, up to the steps that it asks for; those are taken for many lanes at once."""

from __future__ import annotations

import contextlib
import contextvars
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from enum import Enum, auto
from functools import partial
from typing import Any, Final, Protocol

import jax
from returns.result import Result

from fnlamp import tree
from fnlamp.arrays import platform
from fnlamp.effect import CancelToken, Interrupted, Runtime
from fnlamp.train import Fused
from fnlamp.train.execute.exhausted import exhaustion
from fnlamp.train.execute.programs import BODIES, PROGRAMS
from fnlamp.train.execute.vmapped import Asked, Lanes, Vmapped

AT_ONCE: Final = 16
"""Lanes that train side by side on an accelerator, unless the sweep says otherwise."""
EACH: Final = 8
"""Traced and compiled functions of a lane, at most, if none of them is that of another lane too."""


class Turn(Enum):
    """What became of a claim: a lane was run; other processes, or other threads, run all that is left; or nothing is left."""

    RAN = auto()
    WAIT = auto()
    DONE = auto()


class Claiming(Protocol):
    """One process at a sweep."""

    def next(self, runtime: Runtime) -> Turn | Result[Any, Any] | Interrupted: ...

    def wait(self, runtime: Runtime) -> None: ...

    def finished(self, runtime: Runtime) -> Result[Any, Any]: ...


def at_once(together: int | None, device: Any = None) -> int:
    """How many lanes train side by side: on a CPU one, whose step has all cores, and the bits of a solo run."""
    if together is not None:
        return together
    found = platform() if device is None else device if isinstance(device, str) else device.platform
    return 1 if found == "cpu" else AT_ONCE


def side_by_side(worker: Claiming, count: int, runtime: Runtime) -> Result[Any, Any] | Interrupted:
    """All lanes, so many of them at a time."""
    executor: Any = runtime.executor or Fused()
    lanes, stop = Lanes(executor), CancelToken(runtime.cancel)
    BODIES.at_least(EACH * count)
    PROGRAMS.at_least(EACH * count)

    def work(slot: Slot) -> Any:
        inside = replace(runtime, cancel=stop, executor=Vmapped(lanes, slot.ask))
        while not stop.requested:
            found = worker.next(inside)
            if found is Turn.WAIT:
                slot.ask(None)
            elif found is not Turn.RAN:
                return found
            else:
                slot.ended += 1
        return Interrupted()

    slots = [Slot(work) for _ in range(count)]
    try:
        outcome = _scheduled(slots, lanes, worker, replace(runtime, cancel=stop))
    finally:
        stop.cancel()
        for slot in slots:
            slot.finish()
    filled = f", {lanes.computed - lanes.taken:,} more to fill up" if lanes.computed > lanes.taken else ""
    runtime.say(f"side by side: {lanes.taken:,} steps of lanes{filled}, in {len(lanes.programs)} programs")
    return worker.finished(runtime) if outcome is Turn.DONE else outcome


def _scheduled(slots: list[Slot], lanes: Lanes, worker: Claiming, runtime: Runtime) -> Any:
    """Resume the slots until one has an outcome that ends the sweep, or all of them are done."""
    for slot in slots:
        slot.resume(None)
    while True:
        for slot in slots:
            if slot.done and slot.outcome() is not Turn.DONE:
                return slot.outcome()
        running = [slot for slot in slots if not slot.done]
        asking = [slot for slot in running if slot.asked is not None]
        if not running:
            return Turn.DONE
        if runtime.cancel.requested:
            return Interrupted()
        ended = sum(slot.ended + slot.done for slot in slots)
        if asking:
            chosen = [asking[at] for at in lanes.chosen([slot.asked for slot in asking])]
            asked = [slot.asked for slot in chosen]
            with exhaustion(partial(bytes_of, asked), runtime, asked[0].device, len(asked)):
                answers = lanes.answers(asked)
            for slot, answer in zip(chosen, answers, strict=True):
                slot.resume(answer)
        else:
            worker.wait(runtime)
        if not asking or sum(slot.ended + slot.done for slot in slots) > ended:  # there may be lanes to claim now
            for slot in running:
                if not slot.done and slot.asked is None:
                    slot.resume(None)


def bytes_of(asked: Sequence[Asked]) -> dict[str, int]:
    """What lanes have on their device, by part: their state, in two copies, and the data of the first, which others share."""
    state = sum(tree.nbytes(carry) for *_, carry in (lane.own for lane in asked))
    return {"state of the lanes, twice": 2 * state, "data": tree.nbytes(asked[0].fixed[1])}


class Slot:
    """A thread that runs only while `resume` waits for it: no two slots run at once, so what they share needs no lock.

    `asked` is what it waits for: steps, or with `None` a lane.
    """

    def __init__(self, work: Callable[[Slot], Any]) -> None:
        self.asked: Any = None
        self.done, self.ended, self._running, self._begun = False, 0, False, False
        self._found: Any = None
        self._error: BaseException | None = None
        self._in: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._out: queue.SimpleQueue[None] = queue.SimpleQueue()
        target = partial(contextvars.copy_context().run, self._run, work, _settings())
        self._thread = threading.Thread(target=target, name="lane", daemon=True)

    def resume(self, answer: Any) -> None:
        """Run the thread until it asks for something, or is done."""
        self._running = True
        if self._begun:
            self._in.put(answer)
        else:
            self._begun = True
            self._thread.start()
        self._out.get()
        self._running = False

    def ask(self, asked: Any) -> Any:
        """Called by the thread: wait for the answer."""
        self.asked = asked
        self._out.put(None)
        answer = self._in.get()
        self.asked = None
        return answer

    def finish(self) -> None:
        """Answer `None` until the thread is done: what it runs has been cancelled."""
        if self._running:  # a second Ctrl-C came while `resume` waited
            self._out.get()
            self._running = False
        while self._begun and not self.done:
            self.resume(None)

    def outcome(self) -> Any:
        """What the work has returned.  Raises: what it has raised."""
        if self._error is not None:
            raise self._error
        return self._found

    def _run(self, work: Callable[[Slot], Any], settings: contextlib.AbstractContextManager[None]) -> None:
        try:
            with settings:
                self._found = work(self)
        except BaseException as error:  # raised again by the thread of the sweep
            self._error = error
        self.done = True
        self._out.put(None)


@contextlib.contextmanager
def _same_settings(device: Any, wide: bool) -> Iterator[None]:
    with jax.default_device(device), jax.enable_x64(wide):
        yield


def _settings() -> contextlib.AbstractContextManager[None]:
    """The settings of JAX that belong to this thread, for another one."""
    return _same_settings(jax.config.jax_default_device, jax.config.jax_enable_x64)  # type: ignore[attr-defined]
