"""Options of readers and of batches, looked at when a program is built: a wrong one is the caller's bug, and raised."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real
from operator import index
from os import PathLike, fspath
from typing import Any

from fnlamp.given import shown


def path_of(path: str | PathLike[str]) -> str:
    """The path as text; bytes are a `TypeError`.

    >>> import pathlib
    >>> path_of(pathlib.PurePosixPath("data") / "train.csv")
    'data/train.csv'
    """
    if isinstance(path, bytes):
        raise TypeError(f"a path is a str or a pathlib.Path, got {path!r}; os.fsdecode makes a str of it")
    try:
        name: Any = fspath(path)
    except TypeError:
        raise TypeError(f"a path is a str or a pathlib.Path, got {shown(path)}") from None
    if not isinstance(name, str):
        raise TypeError(f"a path is a str or a pathlib.Path, got {name!r}; os.fsdecode makes a str of it")
    return name


def several(name: str, given: Iterable[str]) -> tuple[str, ...]:
    """The strings, of which one alone would be taken for as many as it has characters: that is a `TypeError`.

    >>> several("columns", ["length", "width"])
    ('length', 'width')
    """
    if isinstance(given, str | bytes):
        raise TypeError(f"{name} is a sequence of strings, got one by itself; give [{given!r}]")
    if not isinstance(given, Iterable):
        raise TypeError(f"{name} is a sequence of strings, got {shown(given)}")
    found = tuple(given)
    for each in found:
        if not isinstance(each, str):
            raise TypeError(f"{name} is a sequence of strings, got {each!r} in it")
    return found


def seconds_of(timeout: float) -> float:
    """The seconds to wait, some time above 0.

    >>> seconds_of(20)
    20
    """
    if isinstance(timeout, bool) or not isinstance(timeout, Real) or not 0 < timeout < math.inf:
        raise ValueError(f"timeout is a number of seconds above 0, got {timeout}")
    return timeout


def column_of(name: str, given: Any) -> str | int:
    """A column by its name, or by its position as an `int`, of NumPy's integers too.

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
