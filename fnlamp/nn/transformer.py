"""The block of a transformer, and the perceptron in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from fnlamp.arrays import Array, Key, Params, Spec, State, Tree, describe
from fnlamp.fault import FaultError, ShapeMismatch
from fnlamp.given import arguments, flag, number
from fnlamp.layer import Init, Layer, apply_child, as_layer, gather, init_child, without_empty
from fnlamp.mode import Mode
from fnlamp.nn.activation import gelu_tanh
from fnlamp.nn.check import check_features
from fnlamp.nn.combine import check_sum, sequence
from fnlamp.nn.dropout import checked_rate, dropout, stochastic_depth
from fnlamp.nn.gated import gated_linear
from fnlamp.nn.initial import Initializer, check_initializers, glorot_normal
from fnlamp.nn.linear import linear
from fnlamp.nn.multihead import sequence_of, with_first
from fnlamp.nn.norm import layer_norm

_layer_norm = layer_norm()


@arguments("the width is inferred: nn.feed_forward(4) has 4 times as many features inside")
def feed_forward(
    expansion: float = 4,
    activation: Layer = gelu_tanh,
    *,
    gated: bool = False,
    bias: bool = True,
    drop_rate: float = 0.0,
    weight_init: Initializer = glorot_normal,
    output_init: Initializer = glorot_normal,
) -> Layer:
    """A perceptron at each time step: `out(activation(up(x)))`, inside with `expansion` times the width, rounded.

    If `gated`, `up` is `gated_linear`: SwiGLU with `nn.silu`, GEGLU with `nn.gelu`; 8/3 then has as many weights as 4 without
    a gate.  Dropout, if there is a rate, before `out`.
    Shapes: `(batch, ..., width)`, unchanged.  Children: `up`, `activation` unless gated, `drop`, `out`.  Fails: as `linear`.
    Reference: Vaswani et al. 2017, eq. 2; gated: Shazeer 2020, eq. 6.

    >>> feed_forward(3).init(key, jax.ShapeDtypeStruct((8, 16, 32), jnp.float32)).params["up"]["weight"].shape
    (32, 96)
    """
    expansion = number("feed_forward: expansion", expansion, "a number above 0", lambda e: e > 0)
    activation, rate = as_layer(activation, "feed_forward: activation"), checked_rate("feed_forward: drop_rate", drop_rate)
    gated, bias = flag("feed_forward: gated", gated), flag("feed_forward: bias", bias)
    check_initializers("feed_forward", weight_init=weight_init, output_init=output_init)

    def of_width(x: Any) -> Layer:
        check_features(x, "feed_forward")
        width = int(x.shape[-1])
        hidden = max(1, round(expansion * width))
        parts = {"up": linear(hidden, bias=bias, weight_init=weight_init), "activation": activation}
        if gated:
            parts = {"up": gated_linear(hidden, activation, bias=bias, weight_init=weight_init)}
        parts |= {"drop": dropout(rate)} if rate else {}
        return sequence(**parts, out=linear(width, bias=bias, weight_init=output_init))

    def init(key: Key, spec: Spec) -> Init:
        return of_width(spec).init(key, spec)

    def apply(params: Params, state: State, x: Array, mode: Mode) -> tuple[Array, State]:
        y, state = of_width(x).apply(params, state, x, mode)
        return y, state

    return Layer(init, apply, f"feed_forward({expansion:g}, {activation}{', gated' if gated else ''})")


_feed_forward = feed_forward()


@arguments("it takes its attention: nn.transformer_block(nn.self_attention(4))")
def transformer_block(
    attention: Layer,
    feed_forward: Layer = _feed_forward,
    *,
    cross: Layer | None = None,
    norm: Layer = _layer_norm,
    pre_norm: bool = True,
    drop_rate: float = 0.0,
    depth_drop_rate: float = 0.0,
    recompute: bool = False,
) -> Layer:
    """Self-attention, perhaps attention to a memory, then a perceptron at each time step; each is added to its input.

    With `pre_norm`, `x + f(norm(x))` for each of them, and a norm should follow the last block; else `norm(x + f(x))`.
    Dropout, if there is a rate, before each sum; with a `depth_drop_rate`, whole rows of f are dropped too.
    Without `cross` it is a block of an encoder, or with `nn.causal` of a language model: `(batch, time, width)`, unchanged, or
    `(x, lengths)` as `self_attention`.  With `cross=nn.cross_attention(...)` it is one of a decoder: `(x, memory) ->
    (y, memory)`, x and memory alone or with lengths; `nn.fun(lambda pair: pair[0])` ends the last block.
    With `recompute`, the backward pass computes the block again, and only its input is kept.
    Children: `attention`, `cross`, `feed_forward`, and the norm of each, as `attention_norm`.
    Fails: as the layers inside; `ShapeMismatch` if one changes the shape.
    Reference: Vaswani et al. 2017, section 3.1; norms before: Xiong et al. 2020; depth: Huang et al. 2016; recomputing: Chen
    et al. 2016.

    >>> block = transformer_block(nn.self_attention(4, mask=nn.causal), nn.feed_forward(8 / 3, nn.silu, gated=True))
    >>> block.init(key, jax.ShapeDtypeStruct((8, 16, 32), jnp.float32)).spec.shape
    (8, 16, 32)
    """
    if isinstance(attention, int):
        raise TypeError(f"transformer_block: attention is a layer: write nn.self_attention({attention}), got {attention}")
    branches = {"attention": as_layer(attention, "transformer_block: attention")}
    branches |= {} if cross is None else {"cross": as_layer(cross, "transformer_block: cross")}
    branches["feed_forward"] = as_layer(feed_forward, "transformer_block: feed_forward")
    norm, pre_norm = as_layer(norm, "transformer_block: norm"), flag("transformer_block: pre_norm", pre_norm)
    rate = checked_rate("transformer_block: drop_rate", drop_rate)
    depth_rate = checked_rate("transformer_block: depth_drop_rate", depth_drop_rate)
    recompute = flag("transformer_block: recompute", recompute)
    drops = ({"drop": dropout(rate)} if rate else {}) | ({"depth": stochastic_depth(depth_rate)} if depth_rate else {})
    children: dict[str, Layer] = {}
    for name, branch in branches.items():
        children |= {name: branch, f"{name}_norm": norm} | {f"{name}_{drop}": layer for drop, layer in drops.items()}

    def init(key: Key, spec: Tree) -> Init:
        made: dict[str, Init] = {}

        def through(name: str, spec: Tree) -> Tree:
            made[name] = init_child(name, children[name], key, spec)
            return made[name].spec

        out = _flow(spec, branches, drops, pre_norm, through, lambda x, y: x)
        return gather(children, made, out)

    def run(params: Params, state: State, x: Tree, mode: Mode) -> tuple[Tree, State]:
        new: dict[str, State] = {}

        def through(name: str, x: Tree) -> Tree:
            y, new[name] = apply_child(name, children[name], params, state, x, mode)
            return y

        return _flow(x, branches, drops, pre_norm, through, lambda x, y: x + y), without_empty(new)

    heads = ", ".join(map(str, (*branches.values(), norm)))
    return Layer(init, jax.checkpoint(run) if recompute else run, f"transformer_block({heads})")


def _flow(
    x: Tree,
    branches: dict[str, Layer],
    drops: dict[str, Layer],
    pre_norm: bool,
    through: Callable[[str, Tree], Tree],
    add: Callable[[Any, Any], Any],
) -> Tree:
    """The output for `x`, arrays or specs: `through(name, x)` is the child's output, `add` the sum."""
    crosses = "cross" in branches
    if crosses and not (isinstance(x, tuple | list) and len(x) == 2):
        raise FaultError(ShapeMismatch("a pair (x, memory)", describe(x), where="transformer_block"))
    own, memory = x if crosses else (x, None)
    at = sequence_of(own, "transformer_block").x
    for name in branches:
        inside = through(f"{name}_norm", at) if pre_norm else at
        if name == "attention":
            y = _first(through(name, with_first(own, inside)))
        else:
            y = _first(through(name, (inside, memory))) if name == "cross" else through(name, inside)
        for drop in drops:
            y = through(f"{name}_{drop}", y)
        check_sum(y, at, "transformer_block", f"{name} keeps the shape of its input")
        at = add(at, y) if pre_norm else through(f"{name}_norm", add(at, y))
    out = with_first(own, at)
    return (out, memory) if crosses else out


def _first(x: Tree) -> Any:
    return x[0] if isinstance(x, tuple | list) else x
