"""The check of a number of seconds."""

from __future__ import annotations

from typing import Any

from fnlamp.given import number


def seconds(name: str, given: Any) -> float:
    """The argument, a positive number of seconds.  Raises: `TypeError`, `ValueError`."""
    return number(name, given, "a positive number of seconds", lambda value: value > 0)
