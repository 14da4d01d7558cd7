"""What a parameter is, and hyperparameters that depend on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Self, TypeAlias


class Role(Enum):
    """What a parameter does in its layer."""

    WEIGHT = "weight"
    BIAS = "bias"
    SCALE = "scale"
    SHIFT = "shift"
    EMBEDDING = "embedding"


@dataclass(frozen=True)
class Tag:
    """A parameter's layer kind, its role there, and its path of names from the outermost model to it."""

    layer: str
    role: Role
    path: tuple[str, ...] = ()

    def inside(self, name: str) -> Self:
        """The same tag, seen from one level further out."""
        return replace(self, path=(name, *self.path))


Hyper: TypeAlias = float | Callable[[Tag], float]
"""A hyperparameter: one number, or a function from a parameter's tag to a number.

>>> decay: Hyper = lambda tag: 1e-2 if tag.role is Role.WEIGHT else 0.0
>>> at(decay, Tag("linear", Role.BIAS))
0.0
"""


def at(hyper: Hyper, tag: Tag) -> float:
    """The value of the hyperparameter for one parameter."""
    return hyper(tag) if callable(hyper) else hyper
