"""Checks of the options of readers and batches when a program is built: a wrong option is the caller's bug, and raises."""

from __future__ import annotations

import math
from numbers import Real
from operator import index
from typing import Any

from fnlamp.given import path_of, several, shown, whole

__all__ = ["column_of", "limit_of", "path_of", "seconds_of", "several"]


def seconds_of(timeout: float, name: str = "timeout") -> float:
    """The seconds to wait, above 0.

    >>> seconds_of(20)
    20
    """
    if isinstance(timeout, bool) or not isinstance(timeout, Real) or not 0 < timeout < math.inf:
        raise ValueError(f"{name} is a number of seconds above 0, got {shown(timeout)}")
    return timeout


def limit_of(limit: int | None) -> int | None:
    """How many bytes may be unpacked, as an `int`; `None` for any number.

    >>> limit_of(2**20)
    1048576
    """
    return None if limit is None else whole("limit", limit, 0)


def column_of(name: str, given: Any) -> str | int:
    """A column by its name, or by its position as an `int`; NumPy's integers count too.

    >>> column_of("label", 2)
    2
    """
    if isinstance(given, str):
        return given
    try:
        if isinstance(given, bool):
            raise TypeError
        return index(given)
    except TypeError:
        raise TypeError(f"{name} is the name or the position of a column, got {given!r}") from None
