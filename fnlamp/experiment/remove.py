"""Removing runs, and old files of runs. Nothing outside the folder of runs is removed, and nothing of a running run."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from typing import Final

from fnlamp.checkpoint.folder import listed
from fnlamp.checkpoint.lock import Lock
from fnlamp.checkpoint.replace import reason_of
from fnlamp.experiment import lease
from fnlamp.experiment.folder import CHECKPOINTS, RunRecord, is_run
from fnlamp.fault import Fault, FaultError, FileUnwritable, NotInside, RunActive

REMOVED: Final = ".removed-"
"""How the name of a run begins while it is being removed: it is not listed any more."""
_PART: Final = re.compile(r"\..*\.part")
_ID: Final = re.compile(r"\d{8}-\d{6}-\d{3}-[0-9a-f]{6}")
OLD: Final = 3600.0
"""Seconds after which an unfinished file belongs to nobody."""


def remove(root: str, records: Sequence[RunRecord]) -> tuple[list[str], list[Fault]]:
    """Remove runs; returns the folders that are gone, and why each other one is still there."""
    removed, faults = [], []
    for record in records:
        try:
            _remove(root, record)
            removed.append(record.folder)
        except FaultError as error:
            faults.append(error.fault)
        except OSError as error:
            faults.append(FileUnwritable(record.folder, reason_of(error)))
    return removed, faults


def _remove(root: str, record: RunRecord) -> None:
    """Fails: `RunActive`, `FolderInUse`, `NotInside`.  Raises: `OSError`."""
    with _ended(root, record):
        parent, name = os.path.split(record.folder)
        hidden = os.path.join(parent, f"{REMOVED}{name}")
        os.rename(record.folder, hidden)
    shutil.rmtree(hidden)  # it follows no links
    with contextlib.suppress(OSError):  # other runs are in it
        os.rmdir(parent)


@contextlib.contextmanager
def _ended(root: str, record: RunRecord) -> Iterator[None]:
    """Hold the lock of a run that has ended: nobody resumes it meanwhile.  Fails: `RunActive`, `FolderInUse`, `NotInside`."""
    check_inside(root, record.folder)
    owner = lease.owner(record.folder)
    if owner is not None:
        raise FaultError(RunActive(record.folder, owner))
    lock = Lock(record.folder)
    try:
        yield
    finally:
        lock.release()


def check_inside(root: str, folder: str) -> None:
    """Fails: `NotInside`, if the folder is a link, or inside one that leads elsewhere."""
    real = os.path.realpath(folder)
    expected = os.path.join(os.path.realpath(root), os.path.relpath(folder, root))
    if real != expected or real == os.path.realpath(root):
        raise FaultError(NotInside(folder, real))


def size_of(records: Sequence[RunRecord]) -> int:
    """The bytes of the runs' files."""
    return sum(_size(os.path.join(path, name)) for each in records for path, _, names in os.walk(each.folder) for name in names)


def _size(path: str) -> int:
    with contextlib.suppress(OSError):
        return os.lstat(path).st_size
    return 0


def clean(root: str, records: Sequence[RunRecord], keep: int, *, pretend: bool) -> tuple[list[str], int]:
    """Remove all but the newest saves of each folder of checkpoints, and files that killed processes left.

    Returns the files, and their bytes. Runs that are running, or are not inside the root, are left as they are.
    """
    found: list[tuple[str, int]] = []
    for record in records:
        with contextlib.suppress(FaultError, OSError), _ended(root, record):
            for path in list(_superfluous(record.folder, keep)):
                with contextlib.suppress(OSError):  # what cannot be removed is not in the answer
                    size = _size(path)
                    if not pretend:
                        os.remove(path)
                    found.append((path, size))
    for path in _abandoned({os.path.dirname(each.folder) for each in records}):
        if not pretend:
            shutil.rmtree(path, ignore_errors=True)
        if pretend or not os.path.lexists(path):
            found.append((path, 0))
    return [path for path, _ in found], sum(size for _, size in found)


def _abandoned(parents: set[str]) -> Iterator[str]:
    """Folders of which a killed process left a part: of a run that was being removed, or created."""
    for each in [each for parent in parents for each in os.scandir(parent)]:
        if each.is_symlink() or not each.is_dir():
            continue
        created = _ID.fullmatch(each.name) and not is_run(each.path) and each.stat().st_mtime < time.time() - OLD
        if each.name.startswith(REMOVED) or created:
            yield each.path


def _superfluous(folder: str, keep: int) -> Iterator[str]:
    for path, _, names in os.walk(folder):  # it follows no links
        for name in names:
            file = os.path.join(path, name)
            with contextlib.suppress(OSError):
                if _PART.fullmatch(name) and os.lstat(file).st_mtime < time.time() - OLD:
                    yield file
        if os.path.relpath(path, folder).split(os.sep)[0] == CHECKPOINTS:
            saves = [each for each in listed(path) if each.fault is None]
            yield from (each.path for each in saves[: len(saves) - keep if keep else None])
