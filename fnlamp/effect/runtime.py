"""What a running program needs from the outside world, as one record of replaceable services."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Final, NamedTuple, Protocol, final

from fnlamp.given import function, shown


@final
class CancelToken:
    """Cooperative cancellation: `cancel()` asks, the interpreter and polling loops look at `requested` between steps.

    A token is requested when one of its parents is, and is deaf while `masked()` holds: a run's own token is masked while
    something is acquired or released, so that what polls and sleeps there is not cut short either.
    """

    __slots__ = ("_masked", "_parents", "_set")

    def __init__(self, *parents: CancelToken, masked: Callable[[], object] = lambda: False) -> None:
        self._set = False
        self._parents = parents
        self._masked = masked

    @property
    def requested(self) -> bool:
        # No generator expression: a second Ctrl-C while one is closed would be printed and lost.
        return (self._set or any(map(_REQUESTED, self._parents))) and not self._masked()

    def cancel(self) -> None:
        """Ask the run to stop at its next step; another thread may do this."""
        self._set = True


_REQUESTED = attrgetter("requested")


class Stopped(BaseException):
    """Raised where something is waited for, when the run is to stop; the interpreter makes an interruption of it."""


class Polled(threading.local):
    """The cancel token of what runs in this thread: for what waits in a place that is not given a runtime."""

    cancel: CancelToken | None = None

    def check(self) -> None:
        """Raises: `Stopped`, if the run is to stop. What waits for long calls this every `GLANCE` seconds."""
        if self.cancel is not None and self.cancel.requested:
            raise Stopped

    def wait(self, ready: Callable[[float], object]) -> None:
        """Call `ready(seconds)`, which waits that long at most, until it returns something true.  Raises: `Stopped`."""
        self.check()
        while not ready(GLANCE):
            self.check()


polled: Final = Polled()
GLANCE: Final = 0.05
"""Seconds after which what waits looks up."""


class Clock(Protocol):
    """Where seconds come from; tests pass one of their own."""

    def now(self) -> float: ...

    def sleep(self, seconds: float, cancel: CancelToken) -> None: ...


@final
@dataclass(frozen=True)
class SystemClock:
    """The machine's monotonic clock, in seconds."""

    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float, cancel: CancelToken) -> None:
        """Wait, but not longer than a twentieth of a second after `cancel` was asked for."""
        end = self.now() + seconds
        while (left := end - self.now()) > 0 and not cancel.requested:
            time.sleep(min(left, GLANCE))


class Reached(NamedTuple):
    """What a fold has reached: the carry, the position in the stream, and a code for the next step if it breaks the carry."""

    carry: Any
    position: Any
    broken: int = 0


class Executor(Protocol):
    """How a fold over a stream is carried out: step by step, many steps in one compiled program, ...

    `fold` yields what it has reached after each dispatch; between two of them the caller may look, report or stop. Nothing
    comes after a step that breaks the carry, and the carry is the one before it.
    """

    def fold(self, body: Any, shared: Any, carry: Any, stream: Any, position: Any, workspace: Any) -> Iterator[Reached]: ...


@dataclass(frozen=True)
class Runtime:
    """The interpreter's settings: another `Runtime` runs the same program differently.

    `executor`: how training steps are run; `None` lets `epochs` choose.  `log`: called with each line of progress; `None` is
    silent.  `device`: a `jax.Device`; `None` is JAX's default.  `signals`: which signals stop the program between two steps
    (in the main thread, where no other handler is installed); add `signal.SIGTERM` on machines that can be pre-empted.
    """

    executor: Executor | None = None
    log: Callable[[str], object] | None = print
    clock: Clock = field(default_factory=SystemClock)
    device: Any = None
    signals: tuple[signal.Signals, ...] = (signal.SIGINT,)
    cancel: CancelToken = field(default_factory=CancelToken)

    def __post_init__(self) -> None:
        if self.executor is not None and (isinstance(self.executor, type) or not hasattr(self.executor, "fold")):
            hint = f"; call it, as {self.executor.__name__}()" if isinstance(self.executor, type) else ""
            raise TypeError(f"Runtime.executor is an executor, as train.Fused(), got {shown(self.executor)}{hint}")
        if self.log is not None:
            function("Runtime.log", self.log, "a function of a line of text, or None")
        for name, kind in (("clock", "now"), ("cancel", "requested")):
            if isinstance(getattr(self, name), type) or not hasattr(getattr(self, name), kind):
                expected = "a Clock, as SystemClock()" if name == "clock" else "a CancelToken"
                raise TypeError(f"Runtime.{name} is {expected}, got {shown(getattr(self, name))}")
        if not (self.device is None or isinstance(self.device, str) or hasattr(self.device, "platform")):
            raise TypeError(f'Runtime.device is a jax.Device, or the name of a platform, as "cpu", got {shown(self.device)}')
        if not isinstance(self.signals, tuple) or not all(isinstance(each, signal.Signals) for each in self.signals):
            raise TypeError(f"Runtime.signals is a tuple, as (signal.SIGINT, signal.SIGTERM), got {shown(self.signals)}")

    def say(self, line: str) -> None:
        """One line of progress, if anyone listens."""
        if self.log is not None:
            self.log(line)

    def sleep(self, seconds: float) -> None:
        """Wait by the clock; a cancelled run ends the wait."""
        self.clock.sleep(seconds, self.cancel)
