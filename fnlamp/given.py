"""Arguments, looked at where they are given: a wrong one is the caller's bug, and raised by its name."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from fnlamp.arrays import describe


def whole(name: str, given: Any, least: int | None = 1) -> int:
    """The argument as an `int`, of NumPy's and JAX's integer types too.  Raises: `TypeError`, `ValueError`, which name it.

    Without a `least`, any whole number will do.

    >>> whole("batch_size", np.int64(32))
    32
    >>> whole("batch_size", 2.5)
    Traceback (most recent call last):
    TypeError: batch_size is a whole number of 1 or more, got 2.5 (float)
    """
    try:
        if isinstance(given, bool | np.bool_):
            raise TypeError
        number = operator.index(given)
    except TypeError:
        bound = "" if least is None else f" of {least} or more"
        raise TypeError(f"{name} is a whole number{bound}, got {shown(given)}") from None
    if least is not None and number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}; give a whole number of {least} or more")
    return number


def flag(name: str, given: Any) -> bool:
    """The argument as a `bool`.  Raises: `TypeError` for anything else, which Python would take for true or false.

    >>> flag("shuffle", "no")
    Traceback (most recent call last):
    TypeError: shuffle is True or False, got 'no' (str)
    """
    if not isinstance(given, bool | np.bool_):
        raise TypeError(f"{name} is True or False, got {shown(given)}")
    return bool(given)


def function(name: str, given: Any, what: str) -> Any:
    """The argument, which can be called.  Raises: `TypeError` for anything else."""
    if not callable(given):
        raise TypeError(f"{name} is {what}, got {shown(given)}")
    return given


def shown(given: Any) -> str:
    """What is given, in short, and its type."""
    text = describe(given) if hasattr(given, "shape") else repr(given)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(given).__name__})"
