"""Curves as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

WIDTH: Final = 64
HEIGHT: Final = 12
MARKS: Final = "o+x*#@%&abcdefghijklmn"


def sketch(title: str, curves: Mapping[str, tuple[Any, Any]], *, log: bool = False) -> str:
    """Curves of steps and values as lines of text, a mark for each; a column in which a value is not finite has `!` below.

    >>> print(sketch("loss", {"a": (np.arange(3), np.array([3.0, 2.0, 1.0]))}).splitlines()[0])
    loss
    """
    steps = [np.asarray(x) for x, _ in curves.values()]
    values = [_scaled(np.asarray(y, float), log) for _, y in curves.values()]
    finite = np.concatenate([y[np.isfinite(y)] for y in values] or [np.zeros(0)])
    if not len(finite):
        return f"{title}\n  no finite values"
    low, high = float(finite.min()), float(finite.max())
    start, end = float(min(x.min() for x in steps if len(x))), float(max(x.max() for x in steps if len(x)))
    canvas = np.full((HEIGHT + 1, WIDTH), " ")
    for number, (x, y) in enumerate(zip(steps, values, strict=True)):
        _draw(canvas, _places(x, start, end, WIDTH), y, low, high, MARKS[number % len(MARKS)])
    labels = {0: high, HEIGHT - 1: low}
    rows = [
        f"{_label(labels[row], log) if row in labels else '':>10} |{''.join(canvas[row]).rstrip()}"
        for row in range(HEIGHT + bool((canvas[HEIGHT] != " ").any()))
    ]
    axis = f"{'':>10} +{'-' * WIDTH}\n{'':>12}{start:<.6g}{f'step {end:.6g}':>{WIDTH - len(f'{start:.6g}')}}"
    legend = [f"{'':>12}{MARKS[number % len(MARKS)]} {id}" for number, id in enumerate(curves)]
    return "\n".join([title, *rows, axis, *legend])


def _draw(canvas: Any, columns: Any, values: Any, low: float, high: float, mark: str) -> None:
    known = np.isfinite(values)
    canvas[HEIGHT, columns[~known]] = "!"
    rows = HEIGHT - 1 - _places(values[known], low, high, HEIGHT)
    canvas[rows, columns[known]] = mark


def _places(values: Any, low: float, high: float, count: int) -> Any:
    share = (values - low) / (high - low) if high > low else np.full(len(values), 0.5)
    return np.clip((share * count).astype(int), 0, count - 1)


def _scaled(values: Any, log: bool) -> Any:
    if not log:
        return values
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log10(values)


def _label(value: float, log: bool) -> str:
    return f"{10**value if log else value:.4g}"
