"""Checkpoints: folders without one, files that this version cannot read, trees that cannot be stored or do not fit."""

from __future__ import annotations

from dataclasses import dataclass

from fnlamp.fault.base import Fault


@dataclass(frozen=True)
class NoCheckpoint(Fault):
    """A folder has no finished save.

    >>> print(NoCheckpoint("runs/1"))
    runs/1: expected at least one finished save, got none
    """

    folder: str

    def __str__(self) -> str:
        return self._say(f"{self.folder}: expected at least one finished save, got none")


@dataclass(frozen=True)
class FolderInUse(Fault):
    """Another run holds the lock of a folder of saves. `owner` names its process, `since` is when it took the lock.

    >>> print(FolderInUse("runs/1", "process 42 on node3", "2026-05-02 10:00:00 UTC"))
    runs/1: expected a folder that no other run uses, got one in use by process 42 on node3 since 2026-05-02 10:00:00 UTC; ...
    """

    folder: str
    owner: str
    since: str

    def __str__(self) -> str:
        return self._say(
            f"{self.folder}: expected a folder that no other run uses, got one in use by {self.owner} since {self.since}; "
            "end that run, or give this one its own folder"
        )


@dataclass(frozen=True)
class FileTooNew(Fault):
    """A checkpoint was written in a later version of the format than this fnlamp reads.

    >>> print(FileTooNew("runs/1/000000000100.npz", 2, 1))
    runs/1/000000000100.npz: expected a checkpoint in version 1 of the format or an earlier one, got version 2; update fnlamp
    """

    path: str
    version: int
    known: int

    def __str__(self) -> str:
        return self._say(
            f"{self.path}: expected a checkpoint in version {self.known} of the format or an earlier one, "
            f"got version {self.version}; update fnlamp"
        )


@dataclass(frozen=True)
class NotStorable(Fault):
    """A tree has a leaf, at the path `where`, that a checkpoint cannot hold; nothing was written.

    >>> print(NotStorable("an array of the dtype object", "give an array of numbers", where="params/weight"))
    params/weight: expected an array of numbers or a plain value, got an array of the dtype object; give an array of numbers
    """

    actual: str
    hint: str = ""

    def __str__(self) -> str:
        hint = f"; {self.hint}" if self.hint else ""
        return self._say(f"expected an array of numbers or a plain value, got {self.actual}{hint}")


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
