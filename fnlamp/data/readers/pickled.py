"""The objects that a pickle of arrays may build: stand-ins for NumPy's objects, and checked writes into lists and dicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

EXPECTED: Final = "a pickle of NumPy arrays, numbers, strings, tuples, lists and dicts"
KNOWN: Final = frozenset(
    {
        "numpy.ndarray",
        "numpy.dtype",
        "numpy._core.multiarray._reconstruct",
        "numpy._core.multiarray.scalar",
        "numpy._core.numeric._frombuffer",
        "_codecs.encode",
        "builtins.bytes",
        "builtins.complex",
    }
)
"""The globals that it may name."""


@dataclass(frozen=True, slots=True)
class Global:
    """The name of a global; nothing is imported."""

    name: str


@dataclass(slots=True)
class Dtype:
    """A dtype, whose byte order follows later."""

    code: str
    order: str = "="

    def resolved(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.code)


@dataclass(slots=True)
class Array:
    """An array, whose dtype, shape and data follow later, when other objects may already refer to it."""

    dtype: Dtype | None = None
    shape: tuple[int, ...] = ()
    fortran: bool = False
    data: bytes | bytearray = b""


def extend(target: Any, items: list[Any]) -> None:
    if type(target) is not list:
        raise ValueError("an item for something that is not a list")
    target.extend(items)


def update(target: Any, items: list[Any]) -> None:
    if type(target) is not dict or len(items) % 2:
        raise ValueError("a key and a value for something that is not a dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Other keys can be crafted to collide, or to take forever to hash.
        if type(key) not in (str, bytes, bool) and not (type(key) is int and abs(key) < 2**60):
            raise ValueError(f"a key that is not a string, bytes or an integer below 2**60, but {kind_of(key)}")
        target[key] = value


def kind_of(x: Any) -> str:
    """The name of an object in a message."""
    if x is None or type(x) in (bool, int, float, complex):
        shown = repr(x)
        return shown if len(shown) <= 40 else shown[:37] + "..."
    if isinstance(x, np.generic):
        return f"a number of {x.dtype}"
    if type(x) is Array:
        return "an array"
    return x.name if type(x) is Global else f"a {type(x).__name__.lower()}"


def lengths(shape: tuple[Any, ...]) -> tuple[int, ...]:
    if len(shape) > 64 or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("a shape that an array cannot have")
    return shape
