"""Tracking: writers that fail while the program continues."""

from __future__ import annotations

from dataclasses import dataclass

from fnlamp.fault.base import Fault


@dataclass(frozen=True)
class WriterFailed(Fault):
    """A writer of tracked values failed, and `lost` entries are not in what it writes; other writers have them.

    >>> print(WriterFailed("lines(runs/1)", "No space left on device", 20))
    lines(runs/1): cannot write (No space left on device); 20 entries are lost here, other writers have them
    """

    writer: str
    reason: str
    lost: int = 0

    def __str__(self) -> str:
        lost = f"{self.lost:,} entries are lost here, other writers have them" if self.lost else "no entry is lost so far"
        return self._say(f"{self.writer}: cannot write ({self.reason}); {lost}")
