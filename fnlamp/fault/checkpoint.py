"""Checkpoints: folders without one, files that this version cannot read, trees that cannot be stored or do not fit."""

from __future__ import annotations

from dataclasses import dataclass

from fnlamp.fault.base import Fault


@dataclass(frozen=True)
class StateMismatch(Fault):
    """A saved tree does not have the leaves of the tree that it is loaded into. Each leaf is named by its path.

    `missing` are wanted and not saved, `extra` are saved and not wanted; `differing` say which shape or dtype was expected.

    >>> print(StateMismatch(("params/bias",), (), ("params/weight: expected float32[2, 3], got float32[2, 4]",)))
    the saved state does not fit; missing: params/bias; differing: params/weight: expected float32[2, 3], got float32[2, 4]
    """

    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    differing: tuple[str, ...] = ()
    hint: str = ""

    def __str__(self) -> str:
        groups = {"missing": self.missing, "extra": self.extra, "differing": self.differing}
        parts = [f"{name}: {_some(paths)}" for name, paths in groups.items() if paths]
        return self._say("; ".join(["the saved state does not fit", *parts, *filter(None, [self.hint])]))


def _some(paths: tuple[str, ...], most: int = 10) -> str:
    more = f" and {len(paths) - most:,} more" if len(paths) > most else ""
    return ", ".join(paths[:most]) + more
