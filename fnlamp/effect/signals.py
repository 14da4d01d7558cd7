"""Signals during a run: the first asks it to stop, and none makes the interpreter lose a resource.

Ctrl-C is cooperative. The first signal only sets the run's cancel token, which the machine and polling loops check between
steps: an exception in the middle of `params, loss = step(params)` would lose donated buffers. A second signal raises
`KeyboardInterrupt` in the caller's code, but not during acquisition or release; a third one raises there too, for releases
that hang. No signal raises in the machine itself, which would lose track of its resources, nor in a release that has not
started, nor while the last good state is fetched.

Handlers that another library has installed are called as before, and may raise wherever a second Ctrl-C may; elsewhere the
call is delayed.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final

from fnlamp.effect.runtime import GLANCE, CancelToken, polled

_DEFAULTS: Final = (signal.default_int_handler, signal.SIG_DFL)
_OTHERS: Final = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
]
"""The signals for which programs install handlers that may raise."""

_NOT_THE_CALLERS: Final = frozenset(
    f"fnlamp.{room}.{name}"
    for room, names in {
        "effect": ["do", "effect", "failed", "interpret", "node", "resource", "salvage", "signals", "then"],
        "stream": ["ahead"],
        "checkpoint": ["folder", "lock", "writer"],
        "data.loading": ["loader", "pool", "processes", "shared", "threads"],
        "track": ["lane", "tracker"],
    }.items()
    for name in names
)
"""Modules that keep track of resources, and that wait only through `polled`."""


class Guard:
    """The signal handler of a run, and its number of active shields (acquire, release).

    While it is not `running`, handlers are being installed or restored: an exception then would leave them installed.
    """

    __slots__ = ("asking", "held", "other_signals", "others", "running", "shields", "signals", "token")

    def __init__(self) -> None:
        self.running, self.shields, self.signals, self.other_signals = False, 0, 0, 0
        self.token = CancelToken()
        self.asking: set[int] = set()  # the signals that ask the run to stop
        self.others: dict[int, Callable[[int, FrameType | None], Any]] = {}  # the handlers of other libraries
        self.held: list[tuple[int, FrameType | None]] = []  # their signals that arrived while nothing may raise

    def shielded(self) -> bool:
        return self.shields > 0

    def handle(self, number: int, frame: FrameType | None) -> None:
        at_work = self.running and frame is not None and not _in_machine(frame)
        if number in self.asking:
            self.signals += 1
            self.token._set = True  # not `cancel()`: a signal inside it would not count as in the machine
            self.token._again = self.signals > 1
            if at_work and self.signals >= (3 if self.shields else 2):
                raise KeyboardInterrupt
            return
        self.other_signals += 1
        if at_work and (not self.shields or self.other_signals >= 3):
            self.others[number](number, frame)
        else:
            self.held.append((number, frame))

    def deliver(self) -> None:
        """Call other libraries' handlers for the signals that were held back."""
        while self.held:
            number, frame = self.held.pop(0)
            self.others[number](number, frame)


class shielded:
    """A section that hands a resource over or returns it: a second Ctrl-C cannot interrupt between its statements."""

    __slots__ = ("guard",)

    def __enter__(self) -> None:
        main = threading.current_thread() is threading.main_thread()
        self.guard = _current[0] if main and _current else None
        if self.guard is not None:
            self.guard.shields += 1

    def __exit__(self, *_: object) -> None:
        if self.guard is not None:
            self.guard.shields -= 1
            if not self.guard.shields and self.guard.held:
                self.guard.deliver()


class locked:
    """A section under a lock that another thread may hold while it waits.  Raises: `Stopped`, if the run should stop."""

    __slots__ = ("lock",)

    def __init__(self, lock: Any) -> None:
        self.lock = lock

    def __enter__(self) -> None:
        while not self.lock.acquire(timeout=GLANCE):
            polled.check()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


class Bell:
    """Wakes a wait in another thread; a ring that nobody waits for is kept, once.

    Not `SimpleQueue.get(timeout=...)`: up to Python 3.12, if a signal's handler outlasts the timeout, it waits without end.
    """

    __slots__ = ("_silent",)

    def __init__(self) -> None:
        self._silent = threading.Lock()
        self._silent.acquire()

    def ring(self) -> None:
        """End the wait of one thread, or its next one."""
        try:
            self._silent.release()
        except RuntimeError:  # it has rung already
            return

    def wait(self, seconds: float) -> bool:
        """Wait at most that long; whether it rang."""
        return self._silent.acquire(timeout=max(seconds, 0))


def _in_machine(frame: FrameType) -> bool:
    """Whether the frame belongs to the machine, or to a function of `returns` that the machine calls."""
    name = str(frame.f_globals.get("__name__", ""))
    return name in _NOT_THE_CALLERS or name.startswith("returns.")


_current: list[Guard] = []  # the guard of the main thread's run, if any


@contextlib.contextmanager
def guarded(signals: tuple[signal.Signals, ...]) -> Iterator[Guard]:
    """Install a guard; a nested run shares the outer guard and adds its signals."""
    if threading.current_thread() is not threading.main_thread():
        yield Guard()
        return
    outer = _current[0] if _current else None
    guard = outer or Guard()
    before = guard.running, guard.asking, guard.others
    guard.running = False
    put_back: dict[int, Any] = {}
    try:
        _current[:] = [guard]
        guard.asking, guard.others = set(guard.asking), dict(guard.others)
        for number in {*signals, *(_OTHERS if outer is None else ())}:
            handler = signal.getsignal(number)
            if handler == guard.handle:
                continue
            if handler in _DEFAULTS or _is_asyncio_runner(handler):
                if number not in signals:
                    continue
                guard.asking.add(number)
            elif callable(handler) and not _module(handler).startswith("asyncio."):  # asyncio's do nothing and may be slow
                guard.others[number] = handler
            else:
                continue
            put_back[number] = handler
            signal.signal(number, guard.handle)
        yield guard
    finally:
        guard.running = False
        held, others = guard.held, guard.others
        if outer is None:
            _current.clear()
        _put_back(put_back, guard)
        guard.running, guard.asking, guard.others = before
        while outer is None and held:
            number, frame = held.pop(0)
            others[number](number, frame)


def _put_back(handlers: dict[int, Any], guard: Guard) -> None:
    """Restore the handlers, Ctrl-C's last, because from then on it raises; an exception in one does not stop the rest."""
    raised: BaseException | None = None
    for number in sorted(handlers, key=lambda number: number == signal.SIGINT):
        try:
            if signal.getsignal(number) == guard.handle:  # else someone has replaced it meanwhile
                signal.signal(number, handlers[number])
        except BaseException as error:  # a signal during the call above raises here: restore first, raise at the end
            signal.signal(number, handlers[number])
            raised = error
    if raised is not None:
        raise raised


def _is_asyncio_runner(handler: Any) -> bool:
    """Whether this is the handler that `asyncio.run` installs to cancel its main task."""
    return getattr(getattr(handler, "func", None), "__qualname__", "") == "Runner._on_sigint" and _module(handler).startswith(
        "asyncio."
    )


def _module(handler: Any) -> str:
    return str(getattr(getattr(handler, "func", handler), "__module__", ""))
