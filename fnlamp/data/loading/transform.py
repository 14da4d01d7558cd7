"""Functions of items, on the host, for `with_transform` and a loader's `transform`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fnlamp.arrays import describe
from fnlamp.convert import as_array
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch
from fnlamp.given import function as callable_of
from fnlamp.given import shown

Image = np.ndarray[Any, Any]


@dataclass(frozen=True)
class _Composed:
    functions: tuple[Callable[[Any], Any], ...]

    def __call__(self, item: Any) -> Any:
        for function in self.functions:
            item = function(item)
        return item


def compose(*functions: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The composition of functions, applied from first to last; the identity without any.

    >>> compose(str, len)(1000)
    4
    """
    return _Composed(tuple(callable_of("functions", each, "functions of an item") for each in functions))


@dataclass(frozen=True)
class _At:
    place: int | str
    function: Callable[[Any], Any]

    def __call__(self, item: Any) -> Any:
        if isinstance(item, dict):
            return {**item, self.place: self.function(item[self.place])}
        parts = list(item)
        parts[self.place] = self.function(parts[self.place])  # type: ignore[index]
        return type(item)(*parts) if hasattr(item, "_fields") else tuple(parts)


def at(place: int | str, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Apply a function to one part of an item, a tuple or a dict; the other parts are unchanged.

    >>> at(0, abs)((-5, "label")), at("x", abs)({"x": -5, "y": -1})
    ((5, 'label'), {'x': 5, 'y': -1})
    """
    if isinstance(place, bool) or not isinstance(place, int | str):
        raise TypeError(f"place is a position or a name, got {shown(place)}")
    return _At(place, callable_of("function", function, "a function of a part of an item"))


def to_float(image: Any) -> Image:
    """An image of bytes, 0 to 255, as float32 from 0 to 1.

    Shapes: any, kept. Fails: `DtypeMismatch` for another dtype, whose range is unknown.

    >>> to_float(np.array([0, 51, 255], np.uint8))
    array([0. , 0.2, 1. ], dtype=float32)
    """
    pixels = np.asarray(as_array(image, "to_float"))
    if pixels.dtype != np.uint8:
        raise FaultError(DtypeMismatch("uint8 from 0 to 255", str(pixels.dtype), "divide by its own range", where="to_float"))
    return np.asarray(np.divide(pixels, np.float32(255), dtype=np.float32))


@dataclass(frozen=True)
class _Normalize:
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, image: Any) -> Image:
        pixels = np.asarray(as_array(image, "normalize"))
        if pixels.dtype.kind != "f" and pixels.dtype.name != "bfloat16":
            hint = "put to_float before it" if pixels.dtype == np.uint8 else ""
            raise FaultError(DtypeMismatch("floating-point pixels", str(pixels.dtype), hint, where="normalize"))
        channels = len(self.mean)
        if channels > 1 and (pixels.ndim == 0 or pixels.shape[-1] != channels):
            expected = f"{channels} channels on the last axis"
            raise FaultError(ShapeMismatch(expected, describe(pixels), where="normalize"))
        wide = pixels.astype(np.float32, copy=False)
        return np.asarray((wide - np.array(self.mean, np.float32)) / np.array(self.std, np.float32))


def normalize(mean: float | Sequence[float], std: float | Sequence[float]) -> Callable[[Any], Image]:
    """`(image - mean) / std` in float32, channel by channel; a single number applies to all channels.

    Shapes: `(..., channels)`, kept. Fails: `DtypeMismatch` for integers, `ShapeMismatch` for another number of channels.

    >>> normalize(mean=(0.5, 0.25), std=(0.5, 0.25))(np.array([[1.0, 0.0]], np.float32))
    array([[ 1., -1.]], dtype=float32)
    """
    if isinstance(mean, bool) or isinstance(std, bool):
        raise TypeError(f"mean and std are numbers, or lists of one per channel, got {shown(mean)} and {shown(std)}")
    try:
        means, stds = (tuple(np.atleast_1d(np.asarray(x, np.float64)).tolist()) for x in (mean, std))
    except (TypeError, ValueError):
        raise TypeError(f"mean and std are numbers, or lists of one per channel, got {shown(mean)} and {shown(std)}") from None
    if len(means) != len(stds) or not means:
        raise ValueError(f"normalize needs as many means as deviations, got {len(means)} (mean) and {len(stds)} (std)")
    if not (np.isfinite(means).all() and np.isfinite(stds).all() and min(stds) > 0):
        raise ValueError(f"normalize needs finite means and deviations above 0, got mean={mean} and std={std}")
    return _Normalize(means, stds)
