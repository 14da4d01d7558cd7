"""A thread that calls functions which may hang, so that the thread of the program can wait for them with a deadline."""

from __future__ import annotations

import ctypes
import queue
import signal
import threading
from collections.abc import Callable
from typing import Any, Final

_FREEZE: Final = int(getattr(signal, "SIGRTMAX", signal.SIGUSR2))


class Call:
    """A function that another thread calls: its value or its exception, once `done`."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.value: Any = None
        self.error: Exception | None = None
        self.done = threading.Event()

    def make(self) -> None:
        try:
            self.value = self.function()
        except Exception as error:  # raised again by the thread that waits
            self.error = error
        finally:
            self.done.set()


class Worker:
    """Calls functions in the order in which they are given. A daemon: the program can end while a call hangs."""

    def __init__(self) -> None:
        self.calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._work, name="fnlamp-cluster", daemon=True)
        self.thread.start()

    def call(self, function: Callable[[], Any]) -> Call:
        call = Call(function)
        self.calls.put(call)
        return call

    def stop(self) -> threading.Thread:
        """Ask the thread to end after the present call."""
        self.calls.put(None)
        return self.thread

    def _work(self) -> None:
        while (call := self.calls.get()) is not None:
            call.make()
            del call  # with the arrays that it returned


def ended(thread: threading.Thread, seconds: float) -> None:
    """Wait for a thread to end; one that hangs in a call to C++ is suspended until the process ends.

    If such a call returned while the interpreter ends, Python would abort the process. A collective returns when the other
    processes end, so that this is the usual case. The thread then sleeps in the handler of a signal, which Python does not see.
    """
    thread.join(seconds)
    if thread.is_alive() and thread.ident is not None:
        system = ctypes.CDLL(None)
        system.signal.argtypes = ctypes.c_int, ctypes.c_void_p
        system.signal(_FREEZE, ctypes.cast(system.pause, ctypes.c_void_p))
        signal.pthread_kill(thread.ident, _FREEZE)
