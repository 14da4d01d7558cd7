"""Values as short texts, for people."""

from __future__ import annotations

import math
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Final

from fnlamp.fault import printable
from fnlamp.given import several
from fnlamp.track.entry import Alert, Entry, Text

HIDDEN: Final = ("epoch.*", "time.*", "hardware.*", "*loss_of_batches")
"""The names that are shown only on request."""
MOST: Final = 8
"""Values on one line."""

_SETS: Final = {"train.": "Training ", "validation.": "Validation "}


def chosen(names: tuple[str, ...]) -> Callable[[str], bool]:
    """Whether to show a name: one that matches a pattern, or without patterns any that is not in `HIDDEN`."""
    patterns = several("names", names)
    if patterns:
        return lambda name: any(fnmatchcase(name, pattern) for pattern in patterns)
    return lambda name: not any(fnmatchcase(name, pattern) for pattern in HIDDEN)


def number_text(name: str, value: float) -> str:
    """The number with four digits; a share that is an accuracy in percent.

    >>> number_text("accuracy", 0.9505), number_text("loss", 0.31674), number_text("rate", 1e-5), number_text("n", 60000.0)
    ('95.05%', '0.3167', '1e-05', '60000')
    """
    if name.endswith("accuracy"):
        return f"{100 * value:.2f}%"
    if value != 0 and math.isfinite(value) and not 1e-3 <= abs(value) < 1e4:
        return f"{value:.10g}" if value == round(value) and abs(value) < 1e10 else f"{value:.4g}"
    return f"{value:.4f}"


def title_of(name: str) -> str:
    """`train.loss` as `Training Loss`; other names as they are."""
    for start, words in _SETS.items():
        if name.startswith(start):
            return words + name.removeprefix(start).replace("_", " ").title()
    return name


def lines_of(entry: Entry, shows: Callable[[str], bool], epochs: float | None) -> list[str]:
    """The lines of an entry: its scalars on one, and one for each alert and text.

    >>> values = {"train.loss": 0.3167, "validation.loss": 0.1802, "validation.accuracy": 0.9505, "epoch.seconds": 1.5}
    >>> lines_of(Entry(values, 1563, 1), chosen(()), 5)
    ['Epoch 1/5, Training Loss: 0.3167, Validation Loss: 0.1802, Validation Accuracy: 95.05%']
    >>> lines_of(Entry({"gradients.norm": 0.5, "data": Alert("the loader is slow")}, 50), chosen(()), None)
    ['Step 50, gradients.norm: 0.5000', 'Step 50, data: warning: the loader is slow']
    """
    head = f"Step {entry.step}"
    if entry.epoch is not None and any(name.startswith("epoch.") for name in entry.values):
        head = f"Epoch {entry.epoch}" + ("" if epochs is None else f"/{epochs:.0f}")
    head += f", lane {entry.lane}" if entry.lane else ""
    numbers = {name: value for name, value in entry.values.items() if type(value) is float and shows(name)}
    parts = [f"{title_of(name)}: {number_text(name, value)}" for name, value in [*numbers.items()][:MOST]]
    more = [f"and {len(numbers) - MOST} more"] if len(numbers) > MOST else []
    found = [", ".join([head, *parts, *more])] if parts else []
    for name, value in entry.values.items():
        if isinstance(value, Alert):
            found.append(f"{head}, {name}: {value.level}: {value.text}")
        elif isinstance(value, Text) and shows(name):
            found.append(f"{head}, {name}: {value.text}")
    return [printable(line) for line in found]
