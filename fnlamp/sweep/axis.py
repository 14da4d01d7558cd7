"""Distributions of a setting: where a sample takes its values from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from fnlamp.given import instance, number, shown, text, whole


@dataclass(frozen=True)
class Uniform:
    """Values between `low` and `high`, each as likely."""

    low: float
    high: float

    def at(self, share: float) -> float:
        """The value below which that share lies, of 0 or more and below 1."""
        return min(self.low + share * (self.high - self.low), self.high)


@dataclass(frozen=True)
class LogUniform:
    """Values between `low` and `high`, each ratio as likely."""

    low: float
    high: float

    def at(self, share: float) -> float:
        """The value below which that share lies."""
        value = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        return min(max(value, self.low), self.high)


@dataclass(frozen=True)
class Integers:
    """Whole numbers from `low` to `high`, both included."""

    low: int
    high: int

    def at(self, share: float) -> int:
        """The value below which that share lies."""
        return self.low + int(share * (self.high - self.low + 1))


@dataclass(frozen=True)
class Choice:
    """One of some values, each as likely."""

    values: tuple[Any, ...]

    def at(self, share: float) -> Any:
        """The value below which that share lies, in their order."""
        return self.values[int(share * len(self.values))]


Axis: TypeAlias = Uniform | LogUniform | Integers | Choice


def uniform(low: float, high: float) -> Uniform:
    """Values between `low` and `high`, each as likely.  Raises: `ValueError` unless `low < high`.

    >>> uniform(0.0, 0.5).at(0.5)
    0.25
    """
    return Uniform(*_bounds("uniform", number("uniform: low", low), number("uniform: high", high)))


def log_uniform(low: float, high: float) -> LogUniform:
    """Values between `low` and `high`, both above 0, each ratio as likely.  Raises: `ValueError` unless `0 < low < high`.

    >>> round(log_uniform(1e-4, 1e-2).at(0.5), 6)
    0.001
    """
    bounds = (number(f"log_uniform: {name}", each, "a number above 0", lambda x: x > 0) for name, each in _named(low, high))
    return LogUniform(*_bounds("log_uniform", *bounds))


def integers(low: int, high: int) -> Integers:
    """Whole numbers from `low` to `high`, both included, each as likely.  Raises: `ValueError` unless `low < high`.

    >>> [integers(1, 3).at(share) for share in (0.0, 0.5, 0.99)]
    [1, 2, 3]
    """
    bounds = (whole(f"integers: {name}", each, None) for name, each in _named(low, high))
    return Integers(*_bounds("integers", *bounds))


def choice(values: Iterable[Any]) -> Choice:
    """One of the values, each as likely; a text is the name of an option.  Raises: `ValueError` for no values.

    >>> choice(["relu", "gelu"]).at(0.7)
    'gelu'
    """
    return Choice(values_of("choice: values", values))


def values_of(name: str, given: Any) -> tuple[Any, ...]:
    """The values of an axis; those of an array become Python's.  Raises: `TypeError`; `ValueError` if one is there twice."""
    if hasattr(given, "ndim") and given.ndim != 1:
        raise ValueError(f"{name}: expected values in one dimension, got an array of shape {given.shape}")
    if isinstance(given, str | bytes | Mapping) or not hasattr(given, "__iter__"):
        raise TypeError(f"{name} is a sequence of values, such as (1e-3, 1e-2), got {shown(given)}")
    found = tuple(map(_plain, given.tolist() if hasattr(given, "tolist") else given))
    if not found:
        raise ValueError(f"{name}: expected at least one value, got none")
    for at, value in enumerate(found):
        if any(_same(value, earlier) for earlier in found[:at]):
            raise ValueError(f"{name}: {value!r} is there twice; give seeds an axis of their own")
    return found


def axes_of(name: str, given: Any) -> dict[str, Axis]:
    """Distributions by path.  Raises: `TypeError`, `ValueError`."""
    found = dict(instance(f"{name}: axes", given, Mapping, "a dict from paths to distributions"))
    for path, axis in found.items():
        text(f"{name}: a path", path)
        instance(f"{name}: {path}", axis, Axis, "a distribution, such as uniform(0, 1) or choice([...])")
    if not found:
        raise ValueError(f"{name}: expected at least one path, got none")
    return found


def _plain(value: Any) -> Any:
    """A scalar of NumPy or JAX as Python's."""
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value


def _same(one: Any, other: Any) -> bool:
    try:
        return type(one) is type(other) and bool(one == other)
    except Exception:  # `==` of the caller's class
        return one is other


def _named(low: Any, high: Any) -> tuple[tuple[str, Any], tuple[str, Any]]:
    return ("low", low), ("high", high)


def _bounds(name: str, low: Any, high: Any) -> tuple[Any, Any]:
    if not low < high:
        raise ValueError(f"{name}: low is below high, got {low} and {high}")
    return low, high
