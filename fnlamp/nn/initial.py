"""Initialisers: functions `(key, shape, dtype) -> array`, as `jax.nn.initializers` makes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import Any, TypeAlias

import jax

from fnlamp.arrays import Array, Key
from fnlamp.given import function, shown

Initializer: TypeAlias = Callable[..., Array]
"""`(key, shape, dtype) -> array`."""


@dataclass(frozen=True)
class by_fan_in:
    """An initialiser for a bias that depends on how many inputs its layer has, which the bias's own shape does not tell.

    >>> from fnlamp import nn
    >>> layer = nn.linear(10, bias_init=by_fan_in(lambda n: jax.nn.initializers.constant(1 / n)))
    """

    make: Callable[[int], Initializer]

    def __post_init__(self) -> None:
        function("by_fan_in: make", self.make, "a function from the number of inputs to an initialiser")


def check_initializers(where: str, **given: Any) -> None:
    """Raises: `TypeError` for what is not an initialiser; those of biases may be `by_fan_in`."""
    for name, init in given.items():
        if not (callable(init) or (name == "bias_init" and isinstance(init, by_fan_in))):
            what = "a function (key, shape, dtype) -> array, as jax.nn.initializers.normal(0.02)"
            raise TypeError(f"{where}: {name} is {what}, got {shown(init)}")


def bias_of(init: Initializer | by_fan_in, fan_in: int) -> Initializer:
    """The plain initialiser for a layer with `fan_in` inputs."""
    return init.make(fan_in) if isinstance(init, by_fan_in) else init


def _uniform(bound: float) -> Initializer:
    def init(key: Key, shape: tuple[int, ...], dtype: Any) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


glorot_normal: Initializer = jax.nn.initializers.glorot_normal()
"""Normal with variance 2 / (fan_in + fan_out) (Glorot & Bengio 2010, eq. 12's normal form)."""

torch_weight: Initializer = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""torch's default for weights: uniform in +-1/sqrt(fan_in) (Kaiming uniform with a = sqrt(5); `torch.nn.Linear`)."""

torch_bias = by_fan_in(lambda fan_in: _uniform(1 / sqrt(fan_in)))
"""torch's default for biases: uniform in +-1/sqrt(fan_in) of the layer's weight."""
