"""Transformers."""

from __future__ import annotations

from math import sqrt
from typing import Any

import jax

from fnlamp.arrays import Array, Key, Params, Spec, State, array_spec, describe
from fnlamp.fault import FaultError, ShapeMismatch
from fnlamp.given import arguments, flag, whole
from fnlamp.layer import Init, Layer, tag_all
from fnlamp.mode import Mode
from fnlamp.nn.activation import gelu_tanh
from fnlamp.nn.attention import for_width, self_attention
from fnlamp.nn.combine import residual, sequence
from fnlamp.nn.dropout import checked_rate, dropout
from fnlamp.nn.embedding import embedding
from fnlamp.nn.initial import Initializer, check_initializers, glorot_normal
from fnlamp.nn.linear import linear
from fnlamp.nn.lowering.matmul import product
from fnlamp.nn.norm import layer_norm
from fnlamp.tag import Role


@arguments("the width is inferred: nn.transformer_block(4) has 4 heads")
def transformer_block(
    heads: int,
    *,
    expansion: int = 4,
    causal: bool = False,
    drop_rate: float = 0.0,
    weight_init: Initializer = glorot_normal,
    residual_init: Initializer = glorot_normal,
) -> Layer:
    """Self-attention, then a perceptron at each time by itself; the norm comes before each, and each is added to its input.

    `x = x + attention(norm(x))`, `x + out(gelu(up(norm(x))))`, `up` to `expansion` times the width; dropout, if there is a
    rate, before each sum.  `residual_init` is for the two weights whose product is added to the input.
    Shapes and faults as `self_attention`.  Children: `attention` and `perceptron`, both `residual`.
    Reference: Vaswani et al. 2017, section 3.1, with the norms as in Radford et al. 2019, section 2.3.

    >>> transformer_block(4, causal=True).init(key, jax.ShapeDtypeStruct((8, 16, 32), jnp.float32)).spec.shape
    (8, 16, 32)
    """
    heads, expansion = whole("transformer_block: heads", heads), whole("transformer_block: expansion", expansion, None)
    if expansion < 1:
        raise ValueError(f"transformer_block needs an expansion of at least 1, got {expansion}")
    causal, drop_rate = flag("transformer_block: causal", causal), checked_rate("transformer_block: drop_rate", drop_rate)
    check_initializers("transformer_block", weight_init=weight_init, residual_init=residual_init)
    drop = {"drop": dropout(drop_rate)} if drop_rate else {}

    def of_width(width: int) -> Layer:
        attention = self_attention(heads, causal=causal, weight_init=weight_init, output_init=residual_init)
        up = linear(expansion * width, weight_init=weight_init)
        out = linear(width, weight_init=residual_init)
        return sequence(
            attention=residual(sequence(norm=layer_norm(), attention=attention, **drop)),
            perceptron=residual(sequence(norm=layer_norm(), up=up, gelu=gelu_tanh, out=out, **drop)),
        )

    return for_width(of_width, heads, f"transformer_block({heads}{', causal' if causal else ''})", "transformer_block")


@arguments("nn.gpt(50257, layers=12, width=768, heads=12, context=1024)")
def gpt(vocabulary: int, *, layers: int, width: int, heads: int, context: int, drop_rate: float = 0.0) -> Layer:
    """A decoder-only transformer, GPT-2's: at each time the logits of the next token.

    Embedded tokens plus a learned vector for each position, causal blocks, a norm, and an output weight that is the
    embedding's.  Weights start normal with deviation 0.02, those of `residual_init` with 0.02 / sqrt(2 layers), biases 0.
    Shapes: tokens `(batch, time) -> (batch, time, vocabulary)`, for any time up to `context`.
    Children: `tokens`, `positions`, `block_0`, ..., `norm`, and `drop` after the positions if there is a rate.
    Fails: `ShapeMismatch` for another rank or a longer time; `DtypeMismatch` for tokens that are no integers.
    Raises: `ValueError` for a width that `heads` does not divide.
    Reference: Radford et al. 2019, sections 2.2 and 2.3; the tied weight: Press & Wolf 2017.

    >>> small = gpt(50257, layers=12, width=768, heads=12, context=1024)
    >>> print(table(small, jax.ShapeDtypeStruct((1, 1024), jnp.int32)).splitlines()[-1])
    total                                                              124,439,808  497,759,232
    """
    vocabulary, layers, width, heads, context = (
        whole(f"gpt: {name}", n, None)
        for name, n in {"vocabulary": vocabulary, "layers": layers, "width": width, "heads": heads, "context": context}.items()
    )
    if layers < 1 or heads < 1 or context < 1 or width % heads:
        got = f"layers={layers}, heads={heads}, context={context}, width={width}"
        raise ValueError(f"gpt needs layers, heads and context of at least 1, and a width that heads divides, got {got}")
    normal = jax.nn.initializers.normal
    block = transformer_block(
        heads, causal=True, drop_rate=drop_rate, weight_init=normal(0.02), residual_init=normal(0.02 / sqrt(2 * layers))
    )
    parts = {"tokens": embedding(vocabulary, width, weight_init=normal(0.02)), "positions": _positions(context)}
    parts |= {"drop": dropout(drop_rate)} if drop_rate else {}
    parts |= {f"block_{i}": block for i in range(layers)}
    features = sequence(**parts, norm=layer_norm())

    def init(key: Key, spec: Spec) -> Init:
        _check(spec, context)
        made = features.init(key, spec)
        return Init(made.params, made.state, array_spec((*spec.shape, vocabulary), made.spec.dtype), made.tags, made.parts)

    def apply(params: Params, state: State, x: Array, mode: Mode) -> tuple[Array, State]:
        _check(x, context)
        y, state = features.apply(params, state, x, mode)
        return product(y, params["tokens"]["weight"].T), state

    return Layer(init, apply, f"gpt({vocabulary}, layers={layers}, width={width}, heads={heads}, context={context})")


def _positions(context: int) -> Layer:
    """Adds a learned vector for each position."""

    def init(key: Key, spec: Spec) -> Init:
        params = {"weight": jax.nn.initializers.normal(0.02)(key, (context, spec.shape[-1]), spec.dtype)}
        return Init(params, {}, spec, tag_all("positions", weight=Role.EMBEDDING))

    def apply(params: Params, state: State, x: Array, mode: Mode) -> tuple[Array, State]:
        del mode
        return x + params["weight"][None, : x.shape[1]], state

    return Layer(init, apply, "positions")


def _check(x: Any, context: int) -> None:
    if not hasattr(x, "shape") or len(x.shape) != 2 or x.shape[1] > context:
        expected = f"tokens of shape (batch, time), time at most {context}"
        raise FaultError(ShapeMismatch(expected, describe(x), "a longer text can be cut into pieces", where="gpt"))
