"""What a writer is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

from fnlamp.track.entry import Entry

Output: TypeAlias = Callable[[], AbstractContextManager[Callable[[Sequence[Entry]], Any]]]
"""A writer: a function that opens it, and yields the function that writes entries.

Both are called on the writer's own thread. `write` receives entries in order, some at a time. If it raises an `OSError`, it is
called again later with the same entries; another exception ends the writer. A `@contextmanager` of some lines is one.
"""


def called(name: str, output: Output) -> Output:
    """The writer under the name that a fault and `explain` say."""
    output.__name__ = output.__qualname__ = name
    return output
