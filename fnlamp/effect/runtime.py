"""The services that a running program needs from outside, as one record; each can be replaced."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Final, NamedTuple, Protocol, final

from fnlamp.given import function, shown, whole


@final
class CancelToken:
    """Cooperative cancellation: `cancel()` sets it; the interpreter and polling loops check `requested` between steps.

    A token is requested if one of its parents is, and never while `masked()` is true: a run's token is masked during
    acquisition and release, so that a poll or a sleep there is not cut short either.
    """

    __slots__ = ("_again", "_masked", "_parents", "_set")

    def __init__(self, *parents: CancelToken, masked: Callable[[], object] = lambda: False) -> None:
        self._set = self._again = False
        self._parents = parents
        self._masked = masked

    @property
    def requested(self) -> bool:
        # Not a generator expression: a second Ctrl-C while it is being closed would be printed and lost.
        return (self._set or any(map(_REQUESTED, self._parents))) and not self._masked()

    @property
    def insisted(self) -> bool:
        """Whether a second signal has arrived: a release that waits for work to finish stops waiting. Never masked."""
        return self._again or any(map(_INSISTED, self._parents))

    def cancel(self) -> None:
        """Ask the run to stop at its next step; any thread may call this."""
        self._set = True


_REQUESTED, _INSISTED = attrgetter("requested"), attrgetter("insisted")


class Stopped(BaseException):
    """Raised by a wait when the run should stop; the interpreter turns it into an interruption."""


class Polled(threading.local):
    """The cancel token of this thread's run, for code that waits and has no runtime."""

    cancel: CancelToken | None = None

    def check(self) -> None:
        """Raises: `Stopped`, if the run should stop. A long wait calls this every `GLANCE` seconds."""
        if self.cancel is not None and self.cancel.requested:
            raise Stopped

    def wait(self, ready: Callable[[float], object]) -> None:
        """Call `ready(seconds)`, which waits at most that long, until its result is true.  Raises: `Stopped`."""
        self.check()
        while not ready(GLANCE):
            self.check()


polled: Final = Polled()
GLANCE: Final = 0.05
"""Seconds between two checks of a wait."""


class Clock(Protocol):
    """The source of time; tests pass their own."""

    def now(self) -> float: ...

    def sleep(self, seconds: float, cancel: CancelToken) -> None: ...


@final
@dataclass(frozen=True)
class SystemClock:
    """The machine's monotonic clock, in seconds."""

    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float, cancel: CancelToken) -> None:
        """Wait; a cancelled wait ends within a twentieth of a second."""
        end = self.now() + seconds
        while (left := end - self.now()) > 0 and not cancel.requested:
            time.sleep(min(left, GLANCE))


class StepRow(NamedTuple):
    """What a step left behind: its number, from 1, which of the parts of a recorder this is, and its arrays on the host."""

    step: int
    part: int
    row: Any


class Reached(NamedTuple):
    """Where a fold is: the carry, the position in the stream, and a code for the next step if that step breaks the carry.

    `waited` is how many seconds before this dispatch, or during it, the device had nothing to do because it lacked a batch.
    `recorded` are the rows of its steps, in their order, if the body records any; the last may be of the step that breaks.
    """

    carry: Any
    position: Any
    broken: int = 0
    waited: float = 0.0
    recorded: tuple[StepRow, ...] = ()


class Executor(Protocol):
    """How a fold over a stream is executed: step by step, many steps in one compiled program, ...

    `fold` yields a `Reached` after each dispatch; between two dispatches the caller may inspect, report or stop. The fold ends
    before a step that breaks the carry.
    """

    def fold(self, body: Any, shared: Any, carry: Any, stream: Any, position: Any, workspace: Any) -> Iterator[Reached]: ...


@dataclass(frozen=True)
class Runtime:
    """The interpreter's settings: a different `Runtime` runs the same program differently.

    `executor`: how training steps are run; `None` lets `epochs` choose.  `log`: called with each line of progress; `None` is
    silent.  `device`: a `jax.Device`; `None` is JAX's default.  `signals`: the signals that stop the program between two steps
    (in the main thread, unless another handler is installed): Ctrl-C, and SIGTERM, which a machine sends before it goes.
    `observers`: each is called with every event that the program tells, in order, on the program's thread (those of
    `track.hardware` on another); see `fnlamp.track`.  `memory`: the bytes that a run may take on its device; training with a
    larger plan is a `DeviceOutOfMemory` before its first step, for which one step is compiled. `None` is what the device
    reports, if it does; state and data are then compared with it, and XLA says whether a step fits.
    """

    executor: Executor | None = None
    log: Callable[[str], object] | None = print
    clock: Clock = field(default_factory=SystemClock)
    device: Any = None
    signals: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGTERM)
    cancel: CancelToken = field(default_factory=CancelToken)
    observers: tuple[Callable[[Any], object], ...] = ()
    memory: int | None = None

    def __post_init__(self) -> None:
        if self.executor is not None and (isinstance(self.executor, type) or not hasattr(self.executor, "fold")):
            hint = f"; call it, as {self.executor.__name__}()" if isinstance(self.executor, type) else ""
            raise TypeError(f"Runtime.executor is an executor, such as train.Fused(), got {shown(self.executor)}{hint}")
        if self.log is not None:
            function("Runtime.log", self.log, "a function of a line of text, or None")
        for name, kind in (("clock", "now"), ("cancel", "requested")):
            if isinstance(getattr(self, name), type) or not hasattr(getattr(self, name), kind):
                expected = "a Clock, such as SystemClock()" if name == "clock" else "a CancelToken"
                raise TypeError(f"Runtime.{name} is {expected}, got {shown(getattr(self, name))}")
        if not (self.device is None or isinstance(self.device, str) or hasattr(self.device, "platform")):
            raise TypeError(f'Runtime.device is a jax.Device, or a platform such as "cpu", got {shown(self.device)}')
        if self.memory is not None:
            object.__setattr__(self, "memory", whole("Runtime.memory", self.memory))
        if not isinstance(self.signals, tuple) or not all(isinstance(each, signal.Signals) for each in self.signals):
            raise TypeError(f"Runtime.signals is a tuple, such as (signal.SIGINT, signal.SIGTERM), got {shown(self.signals)}")
        if not isinstance(self.observers, tuple) or not all(map(callable, self.observers)):
            raise TypeError(f"Runtime.observers is a tuple of functions of an event, got {shown(self.observers)}")

    def say(self, line: str) -> None:
        """Log one line of progress."""
        if self.log is not None:
            self.log(line)

    def tell(self, event: Any) -> None:
        """Call each observer with an event."""
        for observer in self.observers:
            observer(event)

    def sleep(self, seconds: float) -> None:
        """Wait on the clock; cancelling the run ends the wait."""
        self.clock.sleep(seconds, self.cancel)
