"""The processes that run one program together, for what one of them does for all of them, such as writing records."""

from __future__ import annotations

from typing import Protocol


class Together(Protocol):
    """One of several processes: its number, from 0, how many there are, and a barrier at which they exchange texts."""

    @property
    def process(self) -> int: ...

    @property
    def processes(self) -> int: ...

    def meet(self, name: str, value: str = "", *, deadline: float | None = None) -> tuple[str, ...]: ...


class Records:
    """An observer that writes records, of which a program in several processes has one."""


class Unrecorded(Records):
    """The observer of a process that writes nothing: with one, the steps are those of the process that does."""

    def __call__(self, event: object) -> None:
        """Drop the event."""


# Not a part of the runtime: a process joins others once, and an inner `run()` with its own runtime is still one of several.
_JOINED: list[Together] = []


def joined() -> Together | None:
    """The processes that this one has joined, if there are others."""
    return _JOINED[0] if _JOINED else None


def is_first() -> bool:
    """Whether this process writes records: process 0, or one that has joined no others."""
    return not _JOINED or _JOINED[0].process == 0


def join(here: Together) -> None:
    """From now on, this process is one of several."""
    _JOINED[:] = [here]


def part() -> None:
    """From now on, this process is by itself."""
    _JOINED.clear()
