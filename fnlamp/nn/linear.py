"""Affine maps."""

from __future__ import annotations

from dataclasses import replace

import jax

from fnlamp.arrays import Array, Key, Params, Spec, State, along_last, array_spec
from fnlamp.given import arguments, flag, whole
from fnlamp.layer import Init, Layer
from fnlamp.mode import Mode
from fnlamp.nn.check import check_features
from fnlamp.nn.initial import Initializer, check_initializers, glorot_normal, weight_and_bias
from fnlamp.nn.lowering.matmul import product


@arguments("the input's size is inferred, only the output's is written: nn.linear(10)")
def linear(
    out: int,
    *,
    bias: bool = True,
    weight_init: Initializer = glorot_normal,
    bias_init: Initializer = jax.nn.initializers.zeros,
) -> Layer:
    """Multiply the last axis by a weight of shape `(features, out)` and add a bias, in the dtype of the weight.

    Shapes: `(batch, ..., features) -> (batch, ..., out)`.  Params: `weight`, and `bias` unless `bias=False`.
    Fails: `DtypeMismatch` for integer input (cast it: `rescale`, `fun`); `ShapeMismatch` for another number of features.
    Default initialisers: Glorot & Bengio 2010, eq. 12's normal form, and zeros; torch's are `torch_uniform` for both.

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
        check_features(spec, "linear")
        shape = spec.shape[-1], out
        params, tags = weight_and_bias("linear", key, shape, spec.dtype, weight_init, bias_init if bias else None)
        return Init(params, {}, array_spec((*spec.shape[:-1], out), spec.dtype), tags)

    def apply(params: Params, state: State, x: Array, mode: Mode) -> tuple[Array, State]:
        weight = params["weight"]
        check_features(x, "linear", weight.shape[0])
        y = product(x.astype(weight.dtype), weight)
        return (y + along_last(params["bias"], y.ndim) if bias else y), state

    return Layer(init, apply, f"linear({out})")


def in_blocks(layer: Layer, blocks: int) -> Layer:
    """A linear layer whose weight is `blocks` matrices side by side: its tag says so."""

    def init(key: Key, spec: Spec) -> Init:
        made = layer.init(key, spec)
        weight = made.tags["weight"]
        return replace(made, tags={**made.tags, "weight": replace(weight, matrix=replace(weight.matrix, blocks=blocks))})

    return replace(layer, init=init)
