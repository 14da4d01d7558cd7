"""Figures to files and to the display."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fnlamp.extra import need
from fnlamp.fault import ExtraMissing, FaultError, FileUnwritable, LabelOutOfRange, NoDisplay, ShapeMismatch

PlotFault = ShapeMismatch | LabelOutOfRange | FileUnwritable | NoDisplay | ExtraMissing
"""The faults of drawing."""


def drawn(fill: Callable[[Any], None], file: Path | None, **options: Any) -> Path | None:
    """Draw a figure with these options; to the file, or on the display without one."""
    if file is not None:
        figure = need("matplotlib.figure", "plots").Figure(layout="constrained", **options)
        fill(figure)
        _save(figure, file)
        return file
    pyplot = need("matplotlib.pyplot", "plots")
    backends = need("matplotlib.backends", "plots")
    backend = pyplot.get_backend()
    if backend.lower() in backends.backend_registry.list_builtin(backends.BackendFilter.NON_INTERACTIVE):
        raise FaultError(NoDisplay(backend))
    figure = pyplot.figure(layout="constrained", **options)
    try:
        fill(figure)
        pyplot.show()
    finally:
        pyplot.close(figure)
    return None


def _save(figure: Any, file: Path) -> None:
    known = figure.canvas.get_supported_filetypes()
    if file.suffix[1:].lower() not in known:
        reason = f"expected an ending of {', '.join(sorted(known))}, got {file.suffix or 'none'}"
        raise FaultError(FileUnwritable(str(file), reason))
    try:
        figure.savefig(file)
    except (OSError, ValueError) as error:  # a NUL in the path is a ValueError
        if isinstance(error, ValueError):
            raise FaultError(FileUnwritable(ascii(str(file))[1:-1], "a file cannot have such a name")) from error
        raise FaultError(FileUnwritable(str(file), error.strerror or type(error).__name__)) from error
