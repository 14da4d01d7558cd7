"""What a process knows of the others, through the coordination service's store of keys and values.

Two threads talk to the coordinator, because its calls may hang when it does: `_beat` writes a sign of life every second and
reads those of the others, `_exchange` holds the meetings. The thread of the program only waits, and looks at what they found.
"""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import jax

from fnlamp.effect.runtime import GLANCE, Stopped
from fnlamp.fault import Fault, FaultError, Interrupted, MeetingsDiffer, ProcessFailed, ProcessLate, ProcessLost

LIFE: Final = "fnlamp/life/"
MEET: Final = "fnlamp/meet/"
VERDICT: Final = "verdict"
GET: Final = 500
"""Milliseconds for which a call waits for a key; then the thread looks again whether the run is over."""
_KINDS: Final[dict[str, Callable[..., Fault]]] = {
    each.__name__: each for each in (Interrupted, MeetingsDiffer, ProcessFailed, ProcessLate, ProcessLost)
}


class Patience:
    """Seconds waited so far, without those in which this process itself was stopped."""

    def __init__(self, most: float = 0.5) -> None:
        self.most, self.last, self.waited = most, time.monotonic(), 0.0

    def tick(self) -> float:
        now = time.monotonic()
        self.waited += min(now - self.last, self.most)
        self.last = now
        return self.waited


@dataclass
class Meeting:
    """A meeting in progress: what this process brings, and what it has found so far."""

    number: int
    name: str
    value: str
    missing: tuple[int, ...] = ()
    found: tuple[tuple[str, str], ...] | None = None
    error: Exception | None = None
    over: bool = False
    done: threading.Event = field(default_factory=threading.Event)


@dataclass
class Life:
    """The last sign of life of a process, and for how long it has been the last."""

    text: str = ""
    silent: float = 0.0

    @property
    def told(self) -> list[str]:
        return [*self.text.split("|", 3), "", "", ""][1:4]  # whether it knows the verdict, its meetings, what it does


class Peers:
    """The other processes of the cluster. `close` ends the threads."""

    def __init__(self, client: Any, process: int, processes: int, deadline: float, gone: threading.Event) -> None:
        self.client, self.process, self.processes, self.deadline, self.gone = client, process, processes, deadline, gone
        self.interval = min(1.0, deadline / 5)
        self.lives = {other: Life() for other in range(processes) if other != process}
        self.doing, self.meetings, self.answers, self.left, self.mute = "starting", 0, 0, False, False
        # `mute`: the coordinator does not answer, so that no further call is made, which would hang as well.
        self.verdict: Fault | None = None
        self.stopping, self.meeting = threading.Event(), threading.Lock()
        self.agenda: queue.SimpleQueue[Meeting | None] = queue.SimpleQueue()
        self.threads = [
            threading.Thread(target=function, name="fnlamp-cluster", daemon=True) for function in (self._beat, self._exchange)
        ]
        for thread in self.threads:
            thread.start()

    # ---- the program's thread

    def meet(self, name: str, value: str, deadline: float) -> tuple[str, ...]:
        """Every process's value.  Raises: `FaultError` with a `ClusterFault`; `Stopped` if another process was interrupted."""
        if not self.meeting.acquire(blocking=False):
            raise RuntimeError(f"the meeting {name!r} began during another one: only one thread of a process may meet")
        try:
            self._check_verdict()
            self.meetings += 1
            meeting = Meeting(self.meetings, name, value)
            self.doing = f"at {name!r}"
            self.agenda.put(meeting)
            self.wait(meeting.done.wait, name, deadline, lambda: meeting.missing)
        finally:
            self.meeting.release()
            self.doing = f"after {name!r}"
        if meeting.found is None:
            self.mute = True
            raise FaultError(self.settle(ProcessLost((0,), name, 0.0))) from meeting.error
        names = tuple(name for name, _ in meeting.found)
        if len({*names}) > 1:
            raise FaultError(self.settle(MeetingsDiffer(names)))
        return tuple(value for _, value in meeting.found)

    def wait(self, ready: Callable[[float], object], name: str, deadline: float, missing: Callable[[], Sequence[int]]) -> None:
        """Wait until `ready(seconds)`, as long as all processes live, and `missing()` for at most `deadline` seconds."""
        waited, unanswered, answers = Patience(), Patience(), self.answers
        while not ready(GLANCE):
            self._check_verdict()
            if answers != self.answers:
                unanswered, answers = Patience(), self.answers
            fault = self._lost(name, unanswered.tick()) or self._late(name, waited.tick(), deadline, missing())
            if fault is not None:
                raise FaultError(self.settle(fault))

    def _lost(self, name: str, unanswered: float) -> Fault | None:
        if self.process and (self.gone.is_set() or unanswered >= self.deadline):
            self.mute = True
            return ProcessLost((0,), name, unanswered, (self.lives[0].told[2],))
        return self.silent_for(self.deadline, name)

    def silent_for(self, seconds: float, name: str) -> Fault | None:
        """The fault of the processes that have given no sign of life for so long."""
        lost = tuple(other for other, life in self.lives.items() if life.silent >= seconds)
        if not lost:
            return None
        longest = max(self.lives[other].silent for other in lost)
        return ProcessLost(lost, name, longest, tuple(self.lives[other].told[2] for other in lost))

    def _late(self, name: str, waited: float, deadline: float, missing: Sequence[int]) -> Fault | None:
        if waited < deadline or not missing:
            return None
        quiet = self.silent_for(3 * self.interval, name)
        if isinstance(quiet, ProcessLost) and {*quiet.processes} & {*missing}:
            return quiet
        return ProcessLate(tuple(missing), name, waited, tuple(self.lives[other].told[2] for other in missing))

    def _check_verdict(self) -> None:
        if isinstance(self.verdict, Interrupted):
            raise Stopped
        if self.verdict is not None:
            raise FaultError(self.verdict)

    def settle(self, fault: Fault) -> Fault:
        """Publish why this cluster ends, and adopt what another process has published before."""
        if self.verdict is None:
            self.briefly(lambda: self._publish(fault))
        self.verdict = self.verdict or fault
        return self.verdict

    def _publish(self, fault: Fault) -> None:
        try:
            self.client.key_value_set(LIFE + VERDICT, _written(fault))
        except jax.errors.JaxRuntimeError:  # another one is there already, or the coordinator is gone
            self.verdict = _read(self.client.key_value_try_get(LIFE + VERDICT))

    def briefly(self, function: Callable[[], object]) -> None:
        """Call a function that may hang with the coordinator, on a thread, for at most a second or two; not if it has hung."""
        if self.mute:
            return

        def called() -> None:
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                function()

        thread = threading.Thread(target=called, name="fnlamp-cluster", daemon=True)
        thread.start()
        thread.join(2 * self.interval)
        self.mute = thread.is_alive()

    def leave(self) -> None:
        """Say that this process leaves; process 0, whose process the others talk to, waits until they know what to do."""
        self.left = True
        self.mute = self.mute or self.gone.is_set()
        self.briefly(self._sign)
        waited = Patience()
        while self.process == 0 and waited.tick() < self.deadline:
            if all(life.told[0] or life.silent > 3 * self.interval for life in self.lives.values()):
                break
            time.sleep(GLANCE)
        self.stopping.set()
        self.agenda.put(None)
        for thread in self.threads:  # one that returns from JAX while the interpreter ends would abort the process
            thread.join(0.0 if self.mute else 2 * GET / 1000)

    # ---- the threads

    def _sign(self) -> None:
        told = "left" if self.left else "seen" if self.verdict else ""
        text = f"{time.monotonic()}|{told}|{self.meetings}|{self.doing}"
        self.client.key_value_set(f"{LIFE}{self.process}", text, allow_overwrite=True)

    def _beat(self) -> None:
        passed, before = Patience(2 * self.interval), 0.0
        while not self.stopping.is_set():
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                self._sign()
                signs = dict(self.client.key_value_dir_get(LIFE))
                now = passed.tick()
                for other, life in self.lives.items():
                    text = signs.get(f"{LIFE}{other}", "")
                    life.silent = 0.0 if text != life.text else life.silent + now - before
                    life.text = text
                self.verdict = self.verdict or _read(signs.get(LIFE + VERDICT))
                before = now
                self.answers += 1
            self.stopping.wait(GLANCE if self.left else self.interval)

    def _exchange(self) -> None:
        while (meeting := self.agenda.get()) is not None:
            try:
                meeting.found = self._gather(meeting)
            except jax.errors.JaxRuntimeError as error:
                meeting.error = error
            meeting.done.set()
            # All have read the meeting before, else they would not be at this one: its keys can go.
            if self.process == 0 and meeting.found is not None and meeting.number > 1:
                with contextlib.suppress(jax.errors.JaxRuntimeError):
                    self.client.key_value_delete(f"{MEET}{meeting.number - 1}/")

    def _gather(self, meeting: Meeting) -> tuple[tuple[str, str], ...] | None:
        place = f"{MEET}{meeting.number}/"
        self.client.key_value_set(f"{place}{self.process}", json.dumps([meeting.name, meeting.value]))
        while not self.stopping.is_set():
            found = {int(key.rsplit("/", 1)[1]): text for key, text in self.client.key_value_dir_get(place)}
            meeting.missing = tuple(process for process in range(self.processes) if process not in found)
            if not meeting.missing:
                values = (json.loads(found[process]) for process in range(self.processes))
                return tuple((name, value) for name, value in values)
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # not yet there: look again
                self.client.blocking_key_value_get(f"{place}{meeting.missing[0]}", GET)
        return None


def _written(fault: Fault) -> str:
    kept = {name: value for name, value in vars(fault).items() if name not in ("state", "where")}
    return json.dumps([type(fault).__name__, kept])


def _read(text: str | None) -> Fault | None:
    if text is None:
        return None
    kind, kept = json.loads(text)
    return _KINDS[kind](**{name: tuple(value) if isinstance(value, list) else value for name, value in kept.items()})
