"""Affine maps."""

from __future__ import annotations

import math
from typing import Any

import jax

from fnlamp.arrays import Array, Key, Params, Spec, State, along_last, array_spec, describe, is_float
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch
from fnlamp.given import arguments, flag, whole
from fnlamp.layer import Init, Layer, tag_all
from fnlamp.mode import Mode
from fnlamp.nn.initial import Initializer, bias_of, by_fan_in, check_initializers, glorot_normal
from fnlamp.tag import Role


@arguments("the input's size is inferred, only the output's is written: nn.linear(10)")
def linear(
    out: int,
    *,
    bias: bool = True,
    weight_init: Initializer = glorot_normal,
    bias_init: Initializer | by_fan_in = jax.nn.initializers.zeros,
) -> Layer:
    """Multiply the last axis by a weight of shape `(features, out)` and add a bias, in the dtype of the weight.

    Shapes: `(batch, ..., features) -> (batch, ..., out)`.  Params: `weight`, and `bias` unless `bias=False`.
    Fails: `DtypeMismatch` for integer input (cast it: `rescale`, `fun`); `ShapeMismatch` for another number of features.
    Default initialisers: Glorot & Bengio 2010, eq. 12's normal form, and zeros; torch's are `torch_weight`, `torch_bias`.

    >>> import jax.numpy as jnp
    >>> layer = linear(10)
    >>> made = layer.init(jax.random.key(0), jax.ShapeDtypeStruct((32, 784), jnp.float32))
    >>> made.params["weight"].shape, made.spec.shape
    ((784, 10), (32, 10))
    """
    out, bias = whole("linear: out", out, None), flag("linear: bias", bias)
    check_initializers("linear", weight_init=weight_init, bias_init=bias_init)
    if out < 1:
        raise ValueError(f"linear needs at least one output, got {out} for out")

    def init(key: Key, spec: Spec) -> Init:
        _check(spec, None)
        weight_key, bias_key = jax.random.split(key)
        features = spec.shape[-1]
        params = {"weight": weight_init(weight_key, (features, out), spec.dtype)}
        roles = {"weight": Role.WEIGHT}
        if bias:
            params["bias"] = bias_of(bias_init, features)(bias_key, (out,), spec.dtype)
            roles["bias"] = Role.BIAS
        return Init(params, {}, array_spec((*spec.shape[:-1], out), spec.dtype), tag_all("linear", **roles))

    def apply(params: Params, state: State, x: Array, mode: Mode) -> tuple[Array, State]:
        weight = params["weight"]
        _check(x, weight.shape[0])
        y = product(x.astype(weight.dtype), weight)
        return (y + along_last(params["bias"], y.ndim) if bias else y), state

    return Layer(init, apply, f"linear({out})")


def product(x: Array, weight: Array) -> Array:
    """`x @ weight` as a product of two matrices, the leading axes of `x` taken as one.

    The gradients are then products of matrices too.  With more axes XLA:CPU transposes them in ways that cost a third of
    the time of a layer, forward and backward together.
    """
    return (x.reshape(math.prod(x.shape[:-1]), x.shape[-1]) @ weight).reshape(*x.shape[:-1], weight.shape[-1])


def in_memory(x: Array) -> Array:
    """`x` as an array of its own, where XLA would transpose or copy it inside each product that reads it."""
    made: Array = jax.lax.optimization_barrier(x)  # type: ignore[no-untyped-call]
    return made


def _check(x: Any, features: int | None) -> None:
    if not hasattr(x, "shape") or len(x.shape) < 1 or features not in (None, x.shape[-1]):
        wanted = "..." if features is None else features
        raise FaultError(ShapeMismatch(f"an array of shape (batch, ..., {wanted})", describe(x), where="linear"))
    if x.shape[-1] == 0:
        raise FaultError(ShapeMismatch("an array with at least one feature", describe(x), where="linear"))
    if not is_float(x):
        raise FaultError(
            DtypeMismatch(
                "floating-point input",
                describe(x),
                "cast first, as nn.rescale(1 / 255) does for pixels, or embed it if it is an index",
                where="linear",
            )
        )
