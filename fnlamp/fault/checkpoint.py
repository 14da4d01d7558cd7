"""Saved states that do not fit, and folders of saves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fnlamp.fault.base import Fault

SHOWN: Final = 8
"""Paths of each kind in a message; the fields of the fault have them all."""


@dataclass(frozen=True)
class StateMismatch(Fault):
    """A saved state does not fit: the paths of arrays that it lacks, that have no place, or that have another shape or dtype.

    Each of `differing` is `(path, expected, actual)`, such as `("out/bias", "float32[10]", "float32[8]")`.

    >>> print(StateMismatch(("out/bias",), ("head/bias",), hint="give rename"))
    expected the arrays of this state, got a saved one without out/bias, and with head/bias, which has no place; give rename
    """

    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    differing: tuple[tuple[str, str, str], ...] = ()
    hint: str = ""

    def __str__(self) -> str:
        parts = [f"without {_listed(self.missing)}"] if self.missing else []
        if self.extra:
            parts.append(f"with {_listed(self.extra)}, which {'has' if len(self.extra) == 1 else 'have'} no place")
        if self.differing:
            each = [f"{path} as {actual} where {expected} is expected" for path, expected, actual in self.differing]
            parts.append(f"with {_listed(each)}")
        hint = f"; {self.hint}" if self.hint else ""
        return self._say(f"expected the arrays of this state, got a saved one {', and '.join(parts)}{hint}")


def _listed(paths: tuple[str, ...] | list[str]) -> str:
    more = len(paths) - SHOWN
    return ", ".join(paths[:SHOWN]) + (f" and {more:,} more" if more > 0 else "")
