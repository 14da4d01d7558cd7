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


@dataclass(frozen=True)
class ProgramDiffers(Fault):
    """A save is resumed by another program; each part in which they differ, with what the save and the program have there.

    >>> print(ProgramDiffers("runs/a/000000000090.npz", (("optimizer", "sgdw, learning_rate 0.1", "sgdw, learning_rate 0.2"),)))
    runs/a/000000000090.npz: expected the program that was saved, got another in 1 part:
      optimizer: sgdw, learning_rate 0.1 -> sgdw, learning_rate 0.2
    continue under other hyperparameters with resume=train.fork(saved), or start again from its weights with initial=saved
    """

    path: str
    differing: tuple[tuple[str, str, str], ...]

    def __str__(self) -> str:
        parts = "".join(f"\n  {name}: {saved} -> {now}" for name, saved, now in self.differing)
        count = f"{len(self.differing)} part{'s' if len(self.differing) > 1 else ''}"
        return self._say(
            f"{self.path}: expected the program that was saved, got another in {count}:{parts}\n"
            "continue under other hyperparameters with resume=train.fork(saved), or start again from its weights with "
            "initial=saved"
        )


@dataclass(frozen=True)
class RunExists(Fault):
    """A run would save into a folder in which another, or a later part of the same, is saved already.

    >>> print(RunExists("runs/a", "runs/a/000000000090.npz", 90))
    runs/a: expected a folder without saves for a new run, got runs/a/000000000090.npz, after step 90; ...
    """

    folder: str
    newest: str
    step: int
    start: int | None = None

    def __str__(self) -> str:
        wanted = "a folder without saves for a new run" if self.start is None else f"no save after step {self.start:,}"
        return self._say(
            f"{self.folder}: expected {wanted}, got {self.newest}, after step {self.step:,}; resume the newest, as "
            "train.resumable does, or save into another folder"
        )
