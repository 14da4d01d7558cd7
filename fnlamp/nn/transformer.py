"""The block of a transformer."""

from __future__ import annotations

from fnlamp.given import arguments, flag, whole
from fnlamp.layer import Layer
from fnlamp.nn.activation import gelu_tanh
from fnlamp.nn.attention import for_width, self_attention
from fnlamp.nn.combine import residual, sequence
from fnlamp.nn.dropout import checked_rate, dropout
from fnlamp.nn.initial import Initializer, check_initializers, glorot_normal
from fnlamp.nn.linear import linear
from fnlamp.nn.norm import layer_norm


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
    """Self-attention, then a perceptron at each time step; each after a norm, and added to its input.

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
