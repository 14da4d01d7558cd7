"""Batch norm folded into the layer before it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnlamp import tree
from fnlamp.arrays import Array, Key, Params, Spec, State, along_last, wide
from fnlamp.given import instance
from fnlamp.layer import Init, Layer, abstract_init, chain, named_children, tag_all, without_empty
from fnlamp.mode import Eval, Mode
from fnlamp.nn.combine import sequence
from fnlamp.surgery.named import leaves_of
from fnlamp.tag import Role

CONVOLUTIONS = {f"{kind}{n}d" for kind in ("conv", "conv_transpose") for n in (1, 2, 3)} | {"depthwise_conv2d"}
FOLDABLE = {"linear"} | CONVOLUTIONS
"""Layers whose output is a product with a weight, its outputs last, plus a bias."""


def fold_batch_norm(layer: Layer, params: Params, state: State, spec: Spec) -> tuple[Layer, Params, State]:
    """The sequence without each batch norm that follows a linear layer or convolution, whose weight and bias take it over.

    In `Eval` the new layer with the new parameters and state does the same, in fewer operations; it has no batch norm to
    train.  In place of the norm is nothing, or its shift if the layer before has no bias.  Sequences inside sequences are
    folded too; other layers, and a norm that is first or after something else, stay as they are.
    `spec` is that of the input, as for `layer.init`.  Reference: Jacob et al. 2018, section 3.2.

    >>> layer = nn.linear(2) >> nn.batch_norm() >> nn.relu
    >>> spec = jax.ShapeDtypeStruct((4, 3), jnp.float32)
    >>> made = layer.init(jax.random.key(0), spec)
    >>> folded, params, state = fold_batch_norm(layer, made.params, made.state, spec)
    >>> list(tree.paths(params)), state
    (['0/bias', '0/weight'], {})
    """
    instance("fold_batch_norm: layer", layer, Layer, "a layer, such as nn.linear(3) >> nn.batch_norm()")
    leaves_of("fold_batch_norm: params", params)
    leaves_of("fold_batch_norm: state", state)
    if not hasattr(spec, "shape"):
        raise TypeError(f"fold_batch_norm: spec is that of the input, as for layer.init, got {type(spec).__name__}")
    return _folded(layer, abstract_init(layer, spec), params, state)


def _folded(layer: Layer, made: Init, params: Params, state: State) -> tuple[Layer, Params, State]:
    if layer.chain is None:
        return layer, params, state
    parts, before = dict(named_children(layer.chain)), None
    params, state = dict(params), dict(state)
    for name, child, init in made.parts:
        kinds = {tag.layer for tag in tree.leaves(init.tags)}
        if kinds == {"batch_norm"} and set(init.state) == {"mean", "variance"} and before is not None:
            slope, shift = _line(child, params[name], state.pop(name))
            parts[name], params[before], params[name] = _into(params[before], slope, shift)
        else:
            parts[name], params[name], state[name] = _folded(child, init, params.get(name, {}), state.get(name, {}))
        before = name if kinds and kinds <= FOLDABLE and _is_product(init) else None
    names = [given for given, _ in layer.chain]
    folded = chain(*zip(names, parts.values(), strict=True))
    return folded, without_empty(params), without_empty(state)


def _is_product(init: Init) -> bool:
    """Whether the output is a product with one weight, whose last axis is the features, and a bias."""
    if not set(init.params) <= {"weight", "bias"} or "weight" not in init.params:
        return False
    matrix, last = init.tags["weight"].matrix, init.params["weight"].ndim - 1
    return matrix is None or matrix.outputs == (last,)


def _line(norm: Layer, params: Params, state: State) -> tuple[Array, Array]:
    """Slope and shift of batch norm in `Eval`, of each feature."""
    zero = jnp.zeros((1, *state["mean"].shape), state["mean"].dtype)
    shift, slope = jax.jvp(lambda x: norm.apply(params, state, x, Eval())[0], (zero,), (jnp.ones_like(zero),))
    return slope[0], shift[0]


def _into(product: Params, slope: Array, shift: Array) -> tuple[Layer, Params, Params]:
    """What takes the place of the norm, the layer before it with the norm inside, and the parameters of that place."""
    weight = product["weight"]
    scaled = (weight.astype(wide(weight)) * along_last(slope, weight.ndim)).astype(weight.dtype)
    if "bias" not in product:
        return _shifted(), {"weight": scaled}, {"shift": shift.astype(weight.dtype)}
    bias = (product["bias"].astype(wide(weight)) * slope + shift).astype(weight.dtype)
    return sequence(), {"weight": scaled, "bias": bias}, {}


def _shifted() -> Layer:
    """Adds a vector to the features."""

    def init(key: Key, spec: Any) -> Init:
        del key
        return Init({"shift": jnp.zeros(spec.shape[-1:], spec.dtype)}, {}, spec, tag_all("shift", shift=Role.SHIFT))

    def apply(params: Params, state: State, x: Array, mode: Mode) -> tuple[Array, State]:
        del mode
        return x + along_last(params["shift"], x.ndim), state

    return Layer(init, apply, "shift")
