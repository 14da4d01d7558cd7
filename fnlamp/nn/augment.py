"""Augmentation as a layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fnlamp.arrays import Array, Key, Params, Spec, State, describe, spec_after
from fnlamp.fault import FaultError, ShapeMismatch
from fnlamp.given import shown
from fnlamp.layer import Init, Layer
from fnlamp.mode import Mode, Train


def augment(*functions: Callable[[Key, Any], Any]) -> Layer:
    """Functions of a key and a batch, as those of `fnlamp.augment`, one after the other, while training.

    `Train` gives each function a key of its own, by its position; `Eval` is the identity, so what both modes need, as
    `augment.normalize`, is a layer of its own. Shapes: unchanged.
    Fails: `ShapeMismatch` for a function that changes shape or dtype, which `Eval` would not do.

    >>> from fnlamp import augment
    >>> nn.augment(augment.random_crop(4), augment.random_flip()) >> nn.rescale(1 / 255)
    augment(crop, flip) >> rescale(0.00392157)
    """

    for position, function in enumerate(functions):
        # What fnlamp.augment defines itself makes a function; what that is, is defined inside.
        maker = getattr(function, "__module__", "") == "fnlamp.augment" and "<locals>" not in function.__qualname__
        if maker or not callable(function):
            expected = "functions (key, images) -> images, such as fnlamp.augment.random_flip()"
            hint = "; call it, it makes one" if maker else ""
            raise TypeError(f"augment: functions: expected {expected}, got {shown(function)} at {position}{hint}")

    def all_of(mode: Train, x: Array) -> Array:
        for position, one in enumerate(functions):
            x = one(mode.inside(str(position)).key, x)
        return x

    def init(key: Key, spec: Spec) -> Init:
        after = spec_after(lambda key, x: all_of(Train(key), x), key, spec)
        if describe(after) != describe(spec):
            hint = "an augmentation keeps shape and dtype: evaluating leaves it out"
            raise FaultError(ShapeMismatch(describe(spec), describe(after), hint, where="augment"))
        return Init({}, {}, spec, {})

    def apply(params: Params, state: State, x: Array, mode: Mode) -> tuple[Array, State]:
        del params
        return (all_of(mode, x) if isinstance(mode, Train) else x), state

    names = [getattr(one, "__name__", type(one).__name__) for one in functions]
    return Layer(init, apply, f"augment({', '.join(names)})")
