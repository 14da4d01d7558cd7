"""Layers from plain functions, and the ones that prepare a batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from fnlamp.arrays import Array, Key, Params, State, Tree, is_float, spec_after, wide
from fnlamp.fault import FaultError, NotDecodable
from fnlamp.given import arguments, dtype_of, number, shown, text
from fnlamp.layer import Init, Layer
from fnlamp.mode import Decode, Eval, Mode


def fun(function: Callable[[Any], Any], name: str | None = None) -> Layer:
    """A pure function of one batch as a layer: no parameters, no state, the same in both modes.

    Shapes: whatever `function` does to the whole batch, the batch axis included.

    >>> import jax
    >>> fun(jax.nn.log_softmax)
    log_softmax
    """

    if isinstance(function, Layer):
        raise TypeError(f"nn.fun makes a layer of a function, and {function} is a layer already: leave out nn.fun")
    if not callable(function):
        raise TypeError(f"nn.fun makes a layer of a function of one batch, got {shown(function)}")
    if name is not None:
        text("fun: name", name)

    def init(key: Key, spec: Tree) -> Init:
        del key
        return Init({}, {}, spec_after(function, spec), {})

    def apply(params: Params, state: State, x: Tree, mode: Mode) -> tuple[Tree, State]:
        del params, mode
        return function(x), state

    return Layer(init, apply, name or getattr(function, "__name__", None) or "fun")


def of_mode(function: Callable[[Any, Mode], Any], name: str) -> Layer:
    """A pure function of a batch and the mode, as a layer without parameters."""

    def init(key: Key, spec: Tree) -> Init:
        del key
        return Init({}, {}, spec_after(lambda x: function(x, Eval()), spec), {})

    def apply(params: Params, state: State, x: Tree, mode: Mode) -> tuple[Tree, State]:
        del params
        return function(x, mode), state

    return Layer(init, apply, name)


def check_whole(mode: Mode, where: str, reason: str) -> None:
    """Fails: `NotDecodable` in `Decode`."""
    if isinstance(mode, Decode):
        raise FaultError(NotDecodable(where, reason, where=where))


def whole_only(layer: Layer, reason: str = "it mixes time steps") -> Layer:
    """The layer, which takes sequences whole: in `Decode` it fails with `NotDecodable`."""
    where = layer.name.partition("(")[0]

    def apply(params: Params, state: State, x: Tree, mode: Mode) -> tuple[Tree, State]:
        check_whole(mode, where, reason)
        return layer.apply(params, state, x, mode)

    return replace(layer, apply=apply)


def _flatten(x: Array) -> Array:
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


flatten = whole_only(fun(_flatten, "flatten"))
"""All axes after the batch axis as one, in row-major order. Shapes: `(batch, a, b, ...) -> (batch, a b ...)`."""


@arguments("the output is x scale + shift: nn.rescale(1 / 255)")
def rescale(scale: float, shift: float = 0.0, *, dtype: Any = None) -> Layer:
    """Cast to `dtype`, then `x scale + shift`: the cast that pixels need, inside the model, so that data stays in bytes.

    Without a `dtype`, float64 stays float64, other floats become float32, and integers JAX's default: float32, or float64 with
    `jax_enable_x64`.
    Shapes: unchanged. `rescale(1 / 255)` maps the pixels 0 to 255 to 0.0 to 1.0.

    >>> layer = rescale(1 / 255)
    >>> layer.apply({}, {}, jnp.array([[0, 255]], jnp.uint8), None)[0]
    Array([[0., 1.]], dtype=float32)
    """

    if dtype is not None:
        known = dtype_of("rescale: dtype", dtype, jnp.number, "a dtype of numbers, such as jnp.float32")
        dtype = float if dtype is float else known  # Python's float means JAX's default at the time of use
    factor, added = number("rescale: scale", scale), number("rescale: shift", shift)

    def apply(x: Array) -> Array:
        chosen = wide(x) if dtype is None and is_float(x) else dtype or float
        chosen = jax.dtypes.canonicalize_dtype(float) if chosen is float else chosen
        y = x.astype(chosen) * factor
        return y + added if added else y

    return fun(apply, f"rescale({factor:.6g}{f', {added:.6g}' if added else ''})")
