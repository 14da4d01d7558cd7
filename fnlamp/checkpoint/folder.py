"""A folder of saves: one file a save, named by its step, or one folder if it is sharded."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from os import PathLike
from typing import Any, Final, NamedTuple

from returns.result import Failure, Result, Success

from fnlamp.arrays import Tree
from fnlamp.checkpoint.file import NOTHING, Loaded, Saved, described, loaded, stored
from fnlamp.checkpoint.lock import Lock
from fnlamp.checkpoint.manifest import packed
from fnlamp.checkpoint.replace import check_name, expanded, flush_folder, reason_of, writing
from fnlamp.checkpoint.unread import opened_save
from fnlamp.checkpoint.verify import decoding, manifest_of, trailer_of
from fnlamp.effect import Effect, Runtime
from fnlamp.effect.runtime import polled
from fnlamp.fault import (
    Fault,
    FaultError,
    FileCorrupt,
    FileMissing,
    FileTooNew,
    FileUnwritable,
    FolderInUse,
    NoCheckpoint,
    NotStorable,
    OutOfMemory,
    printable,
)
from fnlamp.given import instance, whole

PART: Final = ".save"
_PART: Final = re.compile(r"\.save-[0-9a-f]{16}\.part")
_NAME: Final = re.compile(r"([0-9]{12,})(?:\.npz|-[0-9]+\.orbax)")


def save(
    folder: str | PathLike[str], step: int, tree: Tree, *, note: Mapping[str, Any] = NOTHING
) -> Effect[Saved, FileUnwritable | FolderInUse | NotStorable]:
    """Save a tree in a folder, which is created if missing, as `write` does; `latest` finds it.

    A save of the same step is replaced. `writer` saves while the program goes on, and deletes old saves.
    Fails: `FileUnwritable`; `FolderInUse`, if another run has the folder; `NotStorable`.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> save(folder, 100, {"loss": 0.25}).then(latest(folder)).map(lambda loaded: (loaded.step, loaded.tree)).run()
    <IOResult: <Success: (100, {'loss': 0.25})>>
    """
    name, step = expanded(folder, "folder"), whole("step", step, 0)
    instance("note", note, Mapping, "a dict of plain values")

    def run() -> Saved:
        content = packed(tree, note, copied=False)
        with contextlib.ExitStack() as stack:
            lock = locked_folder(name)
            stack.callback(lock.release)
            serial = 1 + last_serial(listed(name))

            def check() -> None:
                polled.check()
                lock.beat()

            return stored(path_of_step(name, step), content, step, check=check, serial=serial, part=PART)

    return described(Effect.checked(run), f"save step {step:,} in {printable(name)}")


def saves(folder: str | PathLike[str]) -> Effect[tuple[Saved, ...], FileMissing]:
    """The finished saves of a folder, in the order in which they were written; none for a folder that does not exist.

    A damaged one is left out, and a line of the log names it.  Fails: `FileMissing` for a folder that cannot be read.
    """
    name = expanded(folder, "folder")
    return described(
        Effect.call(lambda runtime: Success(tuple(finished(listed(name), runtime)))), f"list the saves in {printable(name)}"
    )


def latest(
    folder: str | PathLike[str],
) -> Effect[Loaded, NoCheckpoint | FileCorrupt | FileMissing | FileTooNew | OutOfMemory]:
    """The contents of the newest save that is whole: the last one written, whatever the clock or its step.

    A damaged one is passed over, and a line of the log says why. Fails: `NoCheckpoint`; the fault of the newest, if none is
    whole; `FileTooNew`, since an older save could lose the work of a newer fnlamp; `FileMissing`, `OutOfMemory`.
    """
    name = expanded(folder, "folder")

    def run(runtime: Runtime) -> Result[Loaded, Any]:
        passed: list[FileCorrupt] = []
        for each in reversed(listed(name)):
            try:
                return Success(_loaded(each))
            except FaultError as error:
                if _vanished(error.fault):
                    return run(runtime)
                if not isinstance(error.fault, FileCorrupt):
                    raise
                runtime.say(f"passed over a damaged save: {error.fault}")
                passed.append(error.fault)
        return Failure(passed[0] if passed else NoCheckpoint(name))

    return described(Effect.call(run), f"load the latest save in {printable(name)}")


def _loaded(each: Listed) -> Loaded:
    if each.fault is not None:
        raise FaultError(each.fault)
    return loaded(each.path)


def _vanished(fault: Fault) -> bool:
    """Whether another run deleted this save since it was listed; that run has a newer one."""
    return isinstance(fault, FileMissing) and not os.path.lexists(fault.path)


# ------------------------------------------------------------------------------- shared with the writer


class Listed(NamedTuple):
    """A file with the name of a save; `fault` says why it cannot be one."""

    path: str
    step: int
    serial: float
    fault: Fault | None = None


def listed(folder: str) -> list[Listed]:
    """The files with names of saves, oldest first. A damaged one is placed by its step.  Fails: `FileMissing`."""
    found, damaged = [], []
    for path, step in _named(folder):
        try:
            with opened_save(path) as (file, size):
                found.append(Listed(path, step, trailer_of(path, file, size).serial))
        except FaultError as error:
            if _vanished(error.fault):
                return listed(folder)
            damaged.append(Listed(path, step, 0, error.fault))
    for n, each in enumerate(damaged):
        before = max((other.serial for other in found if other.step <= each.step), default=0)
        damaged[n] = each._replace(serial=before + 0.5)
    return sorted([*found, *damaged], key=lambda each: (each.serial, each.step))


def _named(folder: str) -> list[tuple[str, int]]:
    try:
        check_name(folder)
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise FaultError(FileMissing(folder, reason_of(error))) from error
    return [(os.path.join(folder, match[0]), int(match[1])) for name in names if (match := _NAME.fullmatch(name))]


def last_serial(files: list[Listed]) -> int:
    """The largest serial number, 0 without any."""
    return int(files[-1].serial) if files else 0


def finished(files: list[Listed], runtime: Runtime) -> Iterator[Saved]:
    """Those that can be read, in the same order; a line of the log names each other one."""
    for each in files:
        try:
            if each.fault is not None:
                raise FaultError(each.fault)
            with opened_save(each.path) as (file, size):
                manifest = manifest_of(each.path, file, trailer_of(each.path, file, size), size)
            with decoding(each.path):
                note = manifest.note_value()
            yield Saved(each.path, manifest.step, note, int(each.serial))
        except FaultError as error:
            if not _vanished(error.fault):
                runtime.say(f"left out a save that cannot be read: {error.fault}")


def path_of_step(folder: str, step: int) -> str:
    """The file of a save."""
    return os.path.join(folder, f"{step:012d}.npz")


def locked_folder(folder: str) -> Lock:
    """Create the folder durably, if missing, and lock it.  Fails: `FolderInUse`, `FileUnwritable`."""
    with writing(folder):
        missing, at = [], os.path.abspath(folder)
        while not os.path.isdir(at):
            missing.append(at)
            at = os.path.dirname(at)
        os.makedirs(folder, exist_ok=True)
        for each in missing:
            flush_folder(os.path.dirname(each))
        return Lock(folder)


def remove_parts(folder: str) -> None:
    """Remove what killed processes left; the folder is locked."""
    for name in os.listdir(folder):
        if _PART.fullmatch(name):
            with contextlib.suppress(OSError):
                delete(os.path.join(folder, name))


def delete(path: str) -> None:
    """Delete a save or a part of one; one that is a folder loses its name first, so that a crash leaves no half of a save."""
    if not os.path.isdir(path):
        os.remove(path)
        return
    doomed = os.path.join(os.path.dirname(path), f"{PART}-{secrets.token_hex(8)}.part")
    os.rename(path, doomed)
    shutil.rmtree(doomed)
