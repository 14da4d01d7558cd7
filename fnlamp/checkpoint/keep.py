"""Which saves to keep: pure functions from the saves of a folder, oldest first, to those to delete."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

from fnlamp.checkpoint.file import Saved
from fnlamp.given import flag, function, text, whole

Keep: TypeAlias = Callable[[tuple[Saved, ...]], tuple[Saved, ...]]
"""From the finished saves, oldest first, to those to delete. A writer never deletes the newest."""


def keep_all(saves: tuple[Saved, ...]) -> tuple[Saved, ...]:
    """Delete nothing.

    >>> keep_all((Saved("1.npz", 1, {}),))
    ()
    """
    return ()


def keep_last(count: int) -> Keep:
    """Keep the newest `count` saves.

    >>> [saved.step for saved in keep_last(2)(tuple(Saved(f"{n}.npz", n, {}) for n in range(5)))]
    [0, 1, 2]
    """
    count = whole("count", count)
    return lambda saves: saves[:-count]


def keep_every(steps: int) -> Keep:
    """Keep the saves whose step is a multiple of `steps`.

    >>> [saved.step for saved in keep_every(2)(tuple(Saved(f"{n}.npz", n, {}) for n in range(5)))]
    [1, 3]
    """
    steps = whole("steps", steps)
    return lambda saves: tuple(saved for saved in saves if saved.step % steps)


def keep_best(figure: str, count: int = 1, *, highest: bool = False) -> Keep:
    """Keep the `count` saves with the lowest `note[figure]`, or with the highest; of equal ones the older.

    A save without that figure, or whose figure is NaN, is never among the best.

    >>> saves = tuple(Saved(f"{n}.npz", n, {"loss": loss}) for n, loss in enumerate([0.5, 0.2, math.nan, 0.3]))
    >>> [saved.step for saved in keep_best("loss")(saves)]
    [0, 2, 3]
    """
    figure, count, highest = text("figure", figure), whole("count", count), flag("highest", highest)

    def keep(saves: tuple[Saved, ...]) -> tuple[Saved, ...]:
        rated = [saved for saved in saves if _is_number(saved.note.get(figure))]
        best = sorted(rated, key=lambda saved: -saved.note[figure] if highest else saved.note[figure])[:count]
        return tuple(saved for saved in saves if saved not in best)

    return keep


def keep_any(*keeps: Keep) -> Keep:
    """Keep the saves that at least one of them keeps.

    >>> saves = tuple(Saved(f"{n}.npz", n, {}) for n in range(5))
    >>> [saved.step for saved in keep_any(keep_last(1), keep_every(3))(saves)]
    [1, 2]
    """
    if not keeps:
        raise TypeError("keep_any needs at least one of keeps; keep_all keeps everything")
    for each in keeps:
        function("keeps", each, "functions from saves to those to delete, such as keep_last(3)")

    def keep(saves: tuple[Saved, ...]) -> tuple[Saved, ...]:
        doomed = [each(saves) for each in keeps]
        return tuple(saved for saved in saves if all(saved in each for each in doomed))

    return keep


def _is_number(figure: Any) -> bool:
    return isinstance(figure, int | float) and not isinstance(figure, bool) and not math.isnan(figure)
