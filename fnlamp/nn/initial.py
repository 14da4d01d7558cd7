"""Initialisers: functions `(key, shape, dtype) -> array`, as `jax.nn.initializers` makes them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from fnlamp.arrays import Array, Key, Params
from fnlamp.given import function
from fnlamp.layer import tag_all
from fnlamp.tag import Matrix, Role, Tag

Initializer: TypeAlias = Callable[..., Array]
"""`(key, shape, dtype) -> array`."""


@dataclass(frozen=True)
class by_fan_in:
    """An initialiser that depends on the number of inputs, of a weight (all its axes but the last) or of its bias.

    >>> from fnlamp import nn
    >>> layer = nn.linear(10, bias_init=by_fan_in(lambda n: jax.nn.initializers.constant(1 / n)))
    """

    make: Callable[[int], Initializer]

    def __post_init__(self) -> None:
        function("by_fan_in: make", self.make, "a function from the number of inputs to an initialiser")

    def __call__(self, key: Key, shape: tuple[int, ...], dtype: Any) -> Array:
        """Raises: `TypeError` for one axis, which does not determine the number of inputs."""
        if len(shape) < 2:
            raise TypeError(f"by_fan_in: shape {shape} has no inputs; it is for weights, and biases of linear and conv2d")
        return self.make(math.prod(shape[:-1]))(key, shape, dtype)


def check_initializers(where: str, **given: Any) -> None:
    """Raises: `TypeError` for anything but an initialiser."""
    for name, init in given.items():
        function(f"{where}: {name}", init, "a function (key, shape, dtype) -> array, as jax.nn.initializers.normal(0.02)")


def bias_of(init: Initializer, fan_in: int) -> Initializer:
    """The initialiser of the bias of a layer with `fan_in` inputs."""
    return init.make(fan_in) if isinstance(init, by_fan_in) else init


def by_group(init: Initializer, groups: int) -> Initializer:
    """The initialiser of weights that are `groups` side by side along the last axis, each with inputs of its own.

    Each group is drawn by itself: the scale depends on its inputs and outputs, not on those of all groups.
    """

    def drawn(key: Key, shape: tuple[int, ...], dtype: Any) -> Array:
        each = (*shape[:-1], shape[-1] // groups)
        made = jax.vmap(lambda key: init(key, each, dtype))(jax.random.split(key, groups))
        return jnp.moveaxis(made, 0, -2).reshape(shape)

    return drawn if groups > 1 else init


def weight_and_bias(
    layer: str,
    key: Key,
    shape: tuple[int, ...],
    dtype: Any,
    weight_init: Initializer,
    bias_init: Initializer | None,
    blocks: int = 1,
) -> tuple[Params, dict[str, Tag]]:
    """Parameters and tags: a weight of that shape, its outputs last, and a bias if there is an initialiser for it.

    The weight is `blocks` matrices side by side; none of it is a matrix if `blocks` is 0.
    """
    weight_key, bias_key = jax.random.split(key)
    params, roles = {"weight": weight_init(weight_key, shape, dtype)}, {"weight": Role.WEIGHT}
    if bias_init is not None:
        params["bias"] = bias_of(bias_init, math.prod(shape[:-1]))(bias_key, shape[-1:], dtype)
        roles["bias"] = Role.BIAS
    last = len(shape) - 1
    matrix = Matrix(tuple(range(last)), (last,), blocks) if blocks else None
    return params, tag_all(layer, matrix, **roles)


def _uniform(bound: float) -> Initializer:
    def init(key: Key, shape: tuple[int, ...], dtype: Any) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


glorot_normal: Initializer = jax.nn.initializers.glorot_normal()
"""Normal with variance 2 / (fan_in + fan_out) (Glorot & Bengio 2010, eq. 12's normal form)."""

torch_uniform = by_fan_in(lambda fan_in: _uniform(1 / math.sqrt(fan_in)))
"""torch's default for weights and biases: uniform in +-1/sqrt(fan_in) (Kaiming uniform with a = sqrt(5); `torch.nn.Linear`)."""
