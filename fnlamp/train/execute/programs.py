"""Compiled programs, kept by what they are a function of, so that the same training described again compiles nothing."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

A = TypeVar("A")


class Kept(Generic[A]):
    """The last `most` values that were requested, by key; an older one is dropped, and a compiled program's memory with it."""

    def __init__(self, most: int) -> None:
        self.most, self._lock = most, threading.Lock()
        self._values: OrderedDict[Hashable, A] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], A]) -> A:
        """The value of a key, made if there is none. What `make` raises is raised here, and nothing is kept."""
        with self._lock:
            kept = self._values.pop(key, None)
            if kept is not None:
                self._values[key] = kept  # as the newest
                return kept
        made = make()  # not under the lock: it may trace a user's function, which may train
        with self._lock:
            value = self._values.setdefault(key, made)
            while len(self._values) > self.most:
                self._values.popitem(last=False)
            return value

    def at_least(self, most: int) -> None:
        """Keep so many from now on, or more."""
        self.most = max(self.most, most)

    def __len__(self) -> int:
        return len(self._values)

    def clear(self) -> None:
        """Drop all of them."""
        with self._lock:
            self._values.clear()


PROGRAMS: Kept[Any] = Kept(32)
"""Each is one XLA program, of one shape of its arguments: a run needs two to five."""
BODIES: Kept[Any] = Kept(32)
"""Steps of training and of evaluation, traced and not compiled."""
