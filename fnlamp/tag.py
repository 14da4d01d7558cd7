"""Tags of parameters, and hyperparameters that depend on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from numbers import Real
from typing import Any, Self, TypeAlias

import numpy as np


class Role(Enum):
    """The role of a parameter in its layer."""

    WEIGHT = "weight"
    BIAS = "bias"
    SCALE = "scale"
    SHIFT = "shift"
    EMBEDDING = "embedding"


@dataclass(frozen=True)
class Matrix:
    """How a parameter is a linear map: the axes of its inputs and of its outputs, and how many maps are in it.

    `blocks` maps with the same inputs are side by side along the outputs, as query, key and value in one weight.  Along
    the axes `each`, the first ones, maps are independent, as those of layers that are stacked.
    """

    inputs: tuple[int, ...] = (0,)
    outputs: tuple[int, ...] = (1,)
    blocks: int = 1
    each: tuple[int, ...] = ()

    def stacked(self) -> Matrix:
        """The same maps of several layers, along a new first axis."""
        inputs, outputs, each = (tuple(axis + 1 for axis in axes) for axes in (self.inputs, self.outputs, self.each))
        return Matrix(inputs, outputs, self.blocks, (0, *each))


@dataclass(frozen=True)
class Tag:
    """A parameter's kind of layer, its role there, its path of names from the outermost model, and how it is a matrix.

    `matrix` is `None` for a parameter that is not one: a bias, a scale, the kernels of a depthwise convolution.
    """

    layer: str
    role: Role
    path: tuple[str, ...] = ()
    matrix: Matrix | None = None

    def inside(self, name: str) -> Self:
        """The same tag, one level further out."""
        return replace(self, path=(name, *self.path))


@dataclass(frozen=True)
class Scheduled:
    """A hyperparameter that changes: a number (or a function of the tag) times a factor by the rule's own step from 0."""

    hyper: float | Callable[[Tag], float]
    schedule: Callable[[Any], Any]


Hyper: TypeAlias = float | Callable[[Tag], float] | Scheduled
"""A hyperparameter: one number, or a function from a parameter's tag to a number, or one of these times a schedule.

>>> decay: Hyper = lambda tag: 1e-2 if tag.role is Role.WEIGHT else 0.0
>>> at(decay, Tag("linear", Role.BIAS))
0.0
"""


def at(hyper: Hyper, tag: Tag) -> float:
    """The value of the hyperparameter for one parameter, before its schedule if it has one."""
    hyper = base(hyper)
    return hyper(tag) if callable(hyper) else hyper


def base(hyper: Hyper) -> float | Callable[[Tag], float]:
    """The hyperparameter without its schedule."""
    return hyper.hyper if isinstance(hyper, Scheduled) else hyper


def check_hyper(name: str, hyper: Any, where: str = "") -> float:
    """The number of a hyperparameter; 0 for a function, which is called later, and for one that is scheduled.

    Raises: `TypeError` for anything else; `ValueError` for a number below 0, infinite or NaN.

    >>> check_hyper("learning_rate", -1)
    Traceback (most recent call last):
    ValueError: learning_rate is a finite number of 0 or more, got -1
    """
    if isinstance(hyper, Scheduled):
        check_hyper(name, hyper.hyper, where)
        return 0.0
    if callable(hyper) and not isinstance(hyper, type) and not hasattr(hyper, "init") and not hasattr(hyper, "parameters"):
        return 0.0
    if isinstance(hyper, np.generic | np.ndarray) or type(hyper).__module__.startswith("jax"):
        array = np.asarray(hyper)
        hyper = array.item() if (array.size == 1 and array.dtype.kind in "fiu") or array.dtype.name == "bfloat16" else array
    if isinstance(hyper, bool) or not isinstance(hyper, Real):
        raise TypeError(
            f"{name} is a number, or a function from a Tag to a number, got {type(hyper).__name__}: {hyper!r}{where}"
        )
    number = float(hyper)
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{name} is a finite number of 0 or more, got {hyper}{where}")
    return number


def values_of(name: str, hyper: Hyper, tags: Sequence[Tag]) -> list[float]:
    """The hyperparameter's number for each parameter, before a schedule.  Raises: as `check_hyper`."""
    plain = base(hyper)
    return [_value(name, plain, tag) for tag in tags] if callable(plain) else [check_hyper(name, plain)] * len(tags)


def _value(name: str, hyper: Callable[[Tag], Any], tag: Tag) -> float:
    try:
        value = hyper(tag)
    except Exception as error:  # the caller's function may raise anything: it is raised again with a note
        error.add_note(
            f"in the function given as {name}, which is called with a Tag; a schedule of steps is epochs(schedule=...)"
        )
        raise
    if callable(value):
        raise TypeError(f"{name} is a function from a Tag to a number; for {tag} it returned {type(value).__name__}")
    return check_hyper(name, value, f" for {tag}")
