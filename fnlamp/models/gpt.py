"""GPT-2, LLaMA and what lies between: decoder-only language models."""

from __future__ import annotations

from math import sqrt
from typing import Any

import jax

from fnlamp.arrays import Array, Key, Params, State, Tree, array_spec
from fnlamp.given import arguments, flag, number, whole
from fnlamp.layer import Init, Layer, as_layer
from fnlamp.logits import Logits
from fnlamp.mode import Mode
from fnlamp.models.through import through
from fnlamp.nn.activation import gelu_tanh
from fnlamp.nn.check import check_integer, check_shape
from fnlamp.nn.combine import sequence
from fnlamp.nn.dropout import checked_rate, dropout
from fnlamp.nn.embedding import embedding
from fnlamp.nn.head import logits
from fnlamp.nn.mask import causal, documents
from fnlamp.nn.multihead import self_attention
from fnlamp.nn.norm import layer_norm
from fnlamp.nn.positions import document_positions, learned_positions
from fnlamp.nn.transformer import feed_forward, transformer_block

_layer_norm = layer_norm()


@arguments("models.gpt(50257, layers=12, width=768, heads=12, context=1024)")
def gpt(
    vocabulary: int,
    *,
    layers: int,
    width: int,
    heads: int,
    context: int,
    kv_heads: int | None = None,
    query_key: Layer | None = None,
    norm: Layer = _layer_norm,
    hidden: int | None = None,
    activation: Layer = gelu_tanh,
    gated: bool = False,
    bias: bool = True,
    tied: bool = True,
    soft_cap: float | None = None,
    drop_rate: float = 0.0,
    attention_drop_rate: float = 0.0,
) -> Layer:
    """A decoder-only transformer: at each time step the logits of the next token.  GPT-2 unless told otherwise.

    Embedded tokens plus a learned vector for each position, causal blocks with norms before attention and perceptron, a norm,
    and an output weight that is the embedding's.
    With `query_key`, a layer for queries and keys as in `nn.self_attention`, there are no learned positions: the layer is
    `nn.rotary_positions()`.  `kv_heads` below `heads` is grouped-query attention; the perceptron has `hidden` features inside,
    4 `width` unless given, and a gate if `gated`; `bias` is that of all linear layers; without `tied` the output weight is its
    own; with a `soft_cap` c, logits x are `c tanh(x / c)`.  `drop_rate` is that of the embedded text and of what is added to
    it, `attention_drop_rate` that of attention's weights.
    Weights start normal with deviation 0.02, but those whose product is added to a block's input with 0.02 / sqrt(2 layers);
    biases 0.
    Shapes: tokens `(batch, time) -> (batch, time, vocabulary)`, of up to `context` time steps; or `(tokens, numbers)`, the
    numbers of documents that share a row, as `data.packed_batches` gives: a token sees those before it in its own document,
    where positions start at 0, so that the logits are those of the document alone.
    Children: `tokens`, `positions`, `block_0`, ..., `norm`; `drop` after the positions if there is a rate; `out` unless tied.
    Fails: `ShapeMismatch` for another rank or a longer text; `DtypeMismatch` for tokens or numbers that are not integers.
    Raises: `ValueError` for a width that `heads` does not divide.
    Reference: Radford et al. 2019, sections 2.2 and 2.3; the tied weight: Press & Wolf 2017; LLaMA: Touvron et al. 2023,
    section 2.2.

    >>> small = gpt(50257, layers=12, width=768, heads=12, context=1024)
    >>> print(table(small, jax.ShapeDtypeStruct((1, 1024), jnp.int32)).splitlines()[-1])
    total                                                              124,439,808  497,759,232
    >>> rotary, norm = nn.rotary_positions(500_000.0, halves=True), nn.rms_norm(1e-5)
    >>> llama = dict(query_key=rotary, norm=norm, activation=nn.silu, gated=True, bias=False)
    >>> llama_1b = gpt(128_256, layers=16, width=2048, heads=32, kv_heads=8, hidden=8192, context=8192, **llama)
    >>> print(table(llama_1b, jax.ShapeDtypeStruct((1, 8), jnp.int32)).splitlines()[-1].split()[1])
    1,235,814,400
    """
    sizes = {"vocabulary": vocabulary, "layers": layers, "width": width, "heads": heads, "context": context}
    vocabulary, layers, width, heads, context = (whole(f"gpt: {name}", n, None) for name, n in sizes.items())
    if layers < 1 or heads < 1 or context < 1 or width < 1 or width % heads:
        got = f"layers={layers}, heads={heads}, context={context}, width={width}"
        raise ValueError(f"gpt needs layers, heads and context of at least 1, and a width that heads divides, got {got}")
    hidden = 4 * width if hidden is None else whole("gpt: hidden", hidden)
    tied, rate = flag("gpt: tied", tied), checked_rate("gpt: drop_rate", drop_rate)
    soft_cap = None if soft_cap is None else number("gpt: soft_cap", soft_cap, "a number above 0", lambda cap: cap > 0)
    query_key = None if query_key is None else as_layer(query_key, "gpt: query_key")
    attention_rate = checked_rate("gpt: attention_drop_rate", attention_drop_rate)
    usual, added = (jax.nn.initializers.normal(deviation) for deviation in (0.02, 0.02 / sqrt(2 * layers)))
    drawn: dict[str, Any] = {"bias": flag("gpt: bias", bias), "weight_init": usual, "output_init": added}

    attention = self_attention(heads, kv_heads=kv_heads, mask=causal, query_key=query_key, drop_rate=attention_rate, **drawn)
    perceptron = feed_forward(hidden / width, as_layer(activation, "gpt: activation"), gated=gated, **drawn)
    block = transformer_block(attention, perceptron, norm=as_layer(norm, "gpt: norm"), drop_rate=rate)
    parts = {"tokens": embedding(vocabulary, width, weight_init=usual)}
    parts |= {"positions": learned_positions(context)} if query_key is None else {}
    parts |= {"drop": dropout(rate)} if rate else {}
    parts |= (blocks := {f"block_{i}": block for i in range(layers)}) | {"norm": norm}
    parts |= {} if tied else {"out": logits(vocabulary, bias=False, soft_cap=soft_cap, weight_init=usual)}

    def init(key: Key, spec: Tree) -> Init:
        tokens, _ = _checked(spec, context)
        made = sequence(**parts).init(key, tokens)
        out = array_spec((*tokens.shape, vocabulary), made.spec.dtype)
        return Init(made.params, made.state, out, made.tags, made.parts)

    def apply(params: Params, state: State, x: Tree, mode: Mode) -> tuple[Array, State]:
        tokens, numbers = _checked(x, context)
        beside: dict[str, Any] = {}
        if numbers is not None:
            beside = {"positions": document_positions(numbers)} | dict.fromkeys(blocks, documents(numbers))
        y, state = through(parts, params, state, tokens, mode, beside)
        y = Logits(y, params["tokens"]["weight"].T, soft_cap=soft_cap) if tied else y
        return y.array(), state

    return Layer(init, apply, f"gpt({vocabulary}, layers={layers}, width={width}, heads={heads}, context={context})")


def _checked(given: Tree, context: int) -> tuple[Any, Any]:
    """The tokens, and the numbers of their documents if there are any.  Fails: `ShapeMismatch`."""
    tokens, numbers = given if isinstance(given, tuple | list) and len(given) == 2 else (given, None)
    expected, hint = f"tokens of shape (batch, time), time at most {context}", "a longer text can be cut into pieces"
    check_shape(tokens, lambda shape: len(shape) == 2 and shape[1] <= context, expected, "gpt", hint)
    if numbers is not None:
        expected = f"numbers of documents of shape {tokens.shape}"
        check_shape(numbers, lambda shape: shape == tokens.shape, expected, "gpt")
        check_integer(numbers, "gpt", "integer numbers of documents")
    return tokens, numbers
