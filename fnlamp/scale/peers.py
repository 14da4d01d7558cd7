"""What a process knows of the others, through the coordination service's store of keys and values.

Two threads talk to the coordinator, because calls to it may hang: `_beat` writes a sign of life every second and reads those
of the others, a worker holds the meetings. The thread of the program only waits, and looks at what they have found.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import jax

from fnlamp.effect.runtime import GLANCE, Stopped
from fnlamp.fault import Fault, FaultError, Interrupted, MeetingsDiffer, ProcessFailed, ProcessLate, ProcessLost
from fnlamp.scale.worker import Worker, ended

LIFE: Final = "fnlamp/life/"
MEET: Final = "fnlamp/meet/"
VERDICT: Final = "verdict"
GET: Final = 500
"""Milliseconds for which a call waits for a key; then the thread looks again whether the run is over."""

_FAULTS: Final[tuple[Callable[..., Fault], ...]] = (Interrupted, MeetingsDiffer, ProcessFailed, ProcessLate, ProcessLost)
_KINDS: Final = {each.__name__: each for each in _FAULTS}


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
class Life:
    """The last sign of life of a process, and for how long it has been the last."""

    text: str = ""
    silent: float = 0.0

    @property
    def knows(self) -> bool:
        """Whether it knows why the cluster ends, or has left."""
        return bool(self._told(1))

    @property
    def unsaved(self) -> str:
        """The last save whose part it could not write."""
        return self._told(2)

    @property
    def doing(self) -> str:
        return self._told(3)

    def _told(self, at: int) -> str:
        return [*self.text.split("|", 3), "", "", ""][at]


class Peers:
    """The other processes of the cluster, until `leave`. `gone` is set when the connection to process 0 is lost."""

    def __init__(self, client: Any, process: int, processes: int, deadline: float, gone: threading.Event) -> None:
        self.client, self.process, self.processes, self.deadline, self.gone = client, process, processes, deadline, gone
        self.interval = min(1.0, deadline / 5)
        self.lives = {other: Life() for other in range(processes) if other != process}
        self.doing, self.meetings, self.answers, self.left = "starting", 0, 0, False
        self.unsaved = ""  # the last save whose part this process could not write
        self.mute = False  # the coordinator does not answer: further calls would hang as well
        self.missing: tuple[int, ...] = ()  # who has not come to the present meeting
        self.verdict: Fault | None = None  # why the cluster ends, the same in all processes
        self.stopping, self.present = threading.Event(), threading.Lock()
        self.exchange, self.computing = Worker(), Worker()
        self.beat = threading.Thread(target=self._beat, name="fnlamp-cluster", daemon=True)
        self.brief: list[threading.Thread] = []
        self.beat.start()

    # ---- the program's thread

    def meet(self, name: str, value: str, deadline: float) -> tuple[str, ...]:
        """Every process's value.  Raises: `FaultError` with a `ClusterFault`; `Stopped` if another process was interrupted."""
        if not self.present.acquire(blocking=False):
            raise RuntimeError(f"the meeting {name!r} began during another one: only one thread of a process may meet")
        try:
            self._check_verdict()
            self.meetings, self.missing, self.doing = self.meetings + 1, (), f"at {name!r}"
            number, brought = self.meetings, json.dumps([name, value])
            call = self.exchange.call(lambda: self._gather(number, brought))
            self.wait(call.done.wait, name, deadline, lambda: self.missing)
        finally:
            self.present.release()
        self.doing = f"after {name!r}"
        if call.error is not None:
            self._end(self._no_coordinator(name, 0.0), call.error)
        names = tuple(each for each, _ in call.value)
        if len({*names}) > 1:
            self._end(MeetingsDiffer(names))
        if self.process == 0 and number > 1:  # all have read the meeting before, else they would not be at this one
            self.exchange.call(lambda: self.client.key_value_delete(f"{MEET}{number - 1}/"))
        return tuple(each for _, each in call.value)

    def wait(
        self, ready: Callable[[float], object], name: str, deadline: float | None, missing: Callable[[], Sequence[int]]
    ) -> None:
        """Wait until `ready(seconds)`, as long as all processes live; for those `missing()`, at most `deadline` seconds."""
        waited, unanswered, answers = Patience(), Patience(), self.answers
        while not ready(GLANCE):
            self._check_verdict()
            if answers != self.answers:
                unanswered, answers = Patience(), self.answers
            fault = self._lost(name, unanswered.tick())
            if fault is None and deadline is not None and waited.tick() >= deadline:
                fault = self._late(name, waited.waited, missing())
            if fault is not None:
                self._end(fault)

    def broken(self, name: str) -> None:
        """Raise the fault of the process that has broken a collective, if it is known yet: a short silence is enough then."""
        self._check_verdict()
        fault = self._lost(name, 0.0) or self._silent(3 * self.interval, name)
        if fault is not None:
            self._end(fault)

    def _end(self, fault: Fault, cause: Exception | None = None) -> NoReturn:
        """Raise what all agree on: this fault, or one that another process has published before."""
        agreed = self.settle(fault)
        if isinstance(agreed, Interrupted):
            raise Stopped from cause
        raise FaultError(agreed) from cause

    def settle(self, fault: Fault) -> Fault:
        """Publish why the cluster ends; returns what all agree on, which another process may have published before."""
        if self.verdict is None:
            self._briefly(lambda: self._publish(fault))
        self.verdict = self.verdict or fault
        return self.verdict

    def leave(self) -> None:
        """Say that this process leaves; process 0, through which the others talk, waits until they know what to do."""
        self.left = True
        self.mute = self.mute or self.gone.is_set()
        self._briefly(self._sign)
        waited = Patience()
        while self.process == 0 and waited.tick() < self.deadline:
            if all(life.knows or life.silent > 3 * self.interval for life in self.lives.values()):
                break
            time.sleep(GLANCE)
        self.stopping.set()
        for thread in (*self.brief, self.beat, self.exchange.stop(), self.computing.stop()):
            ended(thread, 2 * GET / 1000)

    def _check_verdict(self) -> None:
        if isinstance(self.verdict, Interrupted):
            raise Stopped
        if self.verdict is not None:
            raise FaultError(self.verdict)

    def _lost(self, name: str, unanswered: float) -> Fault | None:
        if self.process and (self.gone.is_set() or unanswered >= self.deadline):
            return self._no_coordinator(name, unanswered)
        return self._silent(self.deadline, name)

    def _no_coordinator(self, name: str, seconds: float) -> ProcessLost:
        self.mute = True
        return ProcessLost((0,), name, seconds, tuple(self.lives[0].doing for _ in range(1) if self.process))

    def _silent(self, seconds: float, name: str) -> ProcessLost | None:
        lost = tuple(other for other, life in self.lives.items() if life.silent >= seconds)
        if not lost:
            return None
        longest = max(self.lives[other].silent for other in lost)
        return ProcessLost(lost, name, longest, tuple(self.lives[other].doing for other in lost))

    def _late(self, name: str, waited: float, missing: Sequence[int]) -> Fault | None:
        quiet = self._silent(3 * self.interval, name)
        if quiet is not None and {*quiet.processes} & {*missing}:
            return quiet
        return (
            ProcessLate(tuple(missing), name, waited, tuple(self.lives[other].doing for other in missing)) if missing else None
        )

    def _briefly(self, function: Callable[[], object]) -> None:
        """Call a function that may hang, for a second or two."""
        if self.mute:
            return

        def called() -> None:
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                function()

        thread = threading.Thread(target=called, name="fnlamp-cluster", daemon=True)
        self.brief.append(thread)
        thread.start()
        thread.join(2 * self.interval)
        self.mute = thread.is_alive()

    def _publish(self, fault: Fault) -> None:
        try:
            self.client.key_value_set(LIFE + VERDICT, _written(fault))
        except jax.errors.JaxRuntimeError:  # another one is there already
            self.verdict = _read(self.client.key_value_try_get(LIFE + VERDICT))

    # ---- the threads

    def _sign(self) -> None:
        knows = "left" if self.left else "ends" if self.verdict else ""
        sign = f"{time.monotonic()}|{knows}|{self.unsaved}|{self.doing}"
        self.client.key_value_set(f"{LIFE}{self.process}", sign, allow_overwrite=True)

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

    def _gather(self, number: int, brought: str) -> tuple[tuple[str, str], ...]:
        place = f"{MEET}{number}/"
        self.client.key_value_set(f"{place}{self.process}", brought)
        while not self.stopping.is_set():
            found = {int(key.rsplit("/", 1)[1]): text for key, text in self.client.key_value_dir_get(place)}
            self.missing = tuple(process for process in range(self.processes) if process not in found)
            if not self.missing:
                values = (json.loads(found[process]) for process in range(self.processes))
                return tuple((name, value) for name, value in values)
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # not yet there: look again
                self.client.blocking_key_value_get(f"{place}{self.missing[0]}", GET)
        return ()


def _written(fault: Fault) -> str:
    kept = {name: value for name, value in vars(fault).items() if name not in ("state", "where")}
    return json.dumps([type(fault).__name__, kept])


def _read(text: str | None) -> Fault | None:
    if text is None:
        return None
    kind, kept = json.loads(text)
    return _KINDS[kind](**{name: tuple(value) if isinstance(value, list) else value for name, value in kept.items()})
