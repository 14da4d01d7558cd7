"""Where a run is recorded: its id and its folder."""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from fnlamp.checkpoint.replace import writing
from fnlamp.given import text

C = TypeVar("C")


@dataclass(frozen=True)
class Place(Generic[C]):
    """Where a run is recorded, given to the function that builds its program.

    `folder` is that of the run, `checkpoints` a folder inside for its saves. `config` is the config's value. `resumed` says
    whether the run was there before.

    >>> from pathlib import Path
    >>> Place("20260502-100000-123-9f4c1a", "mnist", Path("runs/mnist/20260502-100000-123-9f4c1a"), None).checkpoints.name
    'checkpoints'
    """

    id: str
    name: str
    folder: Path
    config: C
    resumed: bool = False

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"


def checked_name(name: Any, of: str = "experiment") -> str:
    """The name of an experiment, which is that of a folder.  Raises: `TypeError`, `ValueError`."""
    found = text(f"{of}: name", name)
    shaped = found != "" and found.isprintable() and found == found.strip() and found[0] not in ".-"
    if not shaped or set(found) & set('/\\:*?"<>|') or len(os.fsencode(found)) > 200:
        raise ValueError(
            f"{of}: name is a name of a folder, such as mnist, that begins with neither a dot nor a dash, "
            f'without any of /\\:*?"<>|, got {found!r}'
        )
    return found


def new_id(now: float) -> str:
    """An id: ids sort by time, to the millisecond, and end in 24 random bits.

    >>> new_id(0.5)[:20]
    '19700101-000000-500-'
    """
    milliseconds = int(now * 1000)
    date = time.strftime("%Y%m%d-%H%M%S", time.gmtime(milliseconds // 1000))
    return f"{date}-{milliseconds % 1000:03d}-{secrets.token_hex(3)}"


def create(root: str, name: str, now: float) -> str:
    """Create the folder of a new run, which no other process has created.  Fails: `FileUnwritable`."""
    parent = os.path.join(root, name)
    with writing(parent):
        os.makedirs(parent, exist_ok=True)
        while True:
            folder = os.path.join(parent, new_id(now))
            try:
                os.mkdir(folder)
                return folder
            except FileExistsError:
                continue
