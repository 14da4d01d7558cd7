"""A thread that calls functions which may hang, so that the thread of the program can wait for them with a deadline."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any


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

    def stop(self, seconds: float) -> bool:
        """End the thread; returns whether it has, within the time."""
        self.calls.put(None)
        self.thread.join(seconds)
        return not self.thread.is_alive()

    def _work(self) -> None:
        while (call := self.calls.get()) is not None:
            call.make()
