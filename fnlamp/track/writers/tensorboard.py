"""The writer of TensorBoard's event files."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, Final

from fnlamp.extra import installed
from fnlamp.given import instance, shown
from fnlamp.track.entry import Entry
from fnlamp.track.place import folder_at
from fnlamp.track.writers.events import Events
from fnlamp.track.writers.output import Output, called

NOTHING: Final[Mapping[str, Any]] = {}


def tensorboard(folder: str | PathLike[str], *, hyper: Mapping[str, Any] = NOTHING) -> Output:
    """Write event files for TensorBoard: scalars, histograms, images, and the rest as texts; `hyper` for its table of runs.

    `train.loss` gets the tag `train/loss`; lanes other than 0 get folders `lane1`, `lane2`, ... of their own. Where a run
    resumes, TensorBoard leaves out the later steps of before. `tensorboard --logdir folder` shows them; nothing here opens a
    socket. It needs the extra `tensorboard`.  Fails: `ExtraMissing`.
    """
    name = folder_at(folder)
    found = instance("hyper", hyper, Mapping, "a dict of numbers and texts")
    chosen = {str(key): hyperparameter(key, value) for key, value in found.items()}
    installed("tensorboardX", "tensorboard")
    installed("crc32c", "tensorboard")

    @contextlib.contextmanager
    def open_tensorboard() -> Iterator[Callable[[Sequence[Entry]], None]]:
        with contextlib.ExitStack() as stack:
            lanes: dict[int, Events] = {}

            def write(entries: Sequence[Entry]) -> None:
                texts: dict[int, io.BytesIO] = {}
                for entry in entries:
                    if entry.lane not in lanes:
                        place = os.path.join(name, f"lane{entry.lane}") if entry.lane else name
                        lanes[entry.lane] = stack.enter_context(contextlib.closing(Events(place, chosen)))
                    lanes[entry.lane].put(entry, texts.setdefault(entry.lane, io.BytesIO()))
                for lane, text in texts.items():
                    lanes[lane].write(text.getvalue())

            yield write

    return called(f"tensorboard({folder})", open_tensorboard)


def hyperparameter(key: Any, value: Any) -> bool | float | str:
    """A hyperparameter as a plain value.  Raises: `TypeError`, which names it."""
    if getattr(value, "shape", None) == () and hasattr(value, "tolist"):
        value = value.tolist()  # a scalar of NumPy or JAX
    if not isinstance(value, bool | int | float | str):
        raise TypeError(f"hyper[{key!r}] is a number, a text or a boolean, got {shown(value)}")
    return value
