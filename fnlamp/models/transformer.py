"""The transformer of "Attention Is All You Need"."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

from fnlamp.given import arguments, flag, whole
from fnlamp.layer import Layer, as_layer
from fnlamp.models.seq2seq import seq2seq
from fnlamp.models.tokens import on_rows, rows, token_vectors
from fnlamp.nn.activation import relu
from fnlamp.nn.combine import sequence
from fnlamp.nn.dropout import checked_rate, dropout
from fnlamp.nn.linear import linear
from fnlamp.nn.mask import causal
from fnlamp.nn.multihead import cross_attention, self_attention
from fnlamp.nn.norm import layer_norm
from fnlamp.nn.positions import learned_positions, sinusoidal_positions
from fnlamp.nn.shape import fun
from fnlamp.nn.share import share
from fnlamp.nn.transformer import feed_forward, transformer_block


@arguments("models.transformer(37_000, layers=6, width=512, heads=8)")
def transformer(
    source: int,
    target: int | None = None,
    *,
    layers: int,
    width: int,
    heads: int,
    expansion: float = 4,
    activation: Layer = relu,
    context: int | None = None,
    pre_norm: bool = True,
    shared: bool = False,
    drop_rate: float = 0.0,
) -> Layer:
    """The encoder-decoder transformer, from the tokens of two languages: at each time step the logits of the target's next.

    `source` and `target` are the sizes of the vocabularies, the target's that of the source unless given.  Positions are sines,
    or with a `context` learned, for so many time steps.  With `pre_norm`, norms come before attention and perceptron, and one
    after the last block; else after each sum, as in the paper.  If `shared`, one weight embeds both languages and is the last
    weight too.  Dropout, if there is a rate, of embeddings with positions and before each sum.
    Shapes: `(source, target) -> (batch, target time, target vocabulary)`, tokens `(batch, time)`, each alone or with lengths
    `(batch,)`, integers.  Padding of the source has no effect; `models.teacher_forcing` makes targets that are not counted.
    Children: `encoder` and `decoder`, each of `tokens`, `positions`, `block_0`, ..., `norm`, and the decoder's `out`.
    Fails: `ShapeMismatch` for another rank, other rows, or more time steps than `context`; `DtypeMismatch` for tokens that are
    not integers.  Raises: `ValueError` for a width that `heads` does not divide, or `shared` with two sizes.
    Reference: Vaswani et al. 2017, section 3 and figure 1; norms before: Xiong et al. 2020.

    >>> base = transformer(37_000, layers=6, width=512, heads=8, pre_norm=False, shared=True, drop_rate=0.1)
    >>> tokens = jax.ShapeDtypeStruct((2, 30), jnp.int32)
    >>> print(table(base, (tokens, tokens)).splitlines()[-1].split()[1])
    63,082,496
    """
    sizes = {"source": source, "target": source if target is None else target, "layers": layers, "width": width, "heads": heads}
    source, target, layers, width, heads = (whole(f"transformer: {name}", n) for name, n in sizes.items())
    context = None if context is None else whole("transformer: context", context)
    pre_norm, shared = flag("transformer: pre_norm", pre_norm), flag("transformer: shared", shared)
    activation, rate = as_layer(activation, "transformer: activation"), checked_rate("transformer: drop_rate", drop_rate)
    if width % heads:
        raise ValueError(f"transformer needs a width that heads divides, got width={width}, heads={heads}")
    if shared and source != target:
        raise ValueError(f"transformer: shared needs one vocabulary, got source={source} and target={target}")
    perceptron = feed_forward(expansion, activation)
    first = transformer_block(self_attention(heads), perceptron, pre_norm=pre_norm, drop_rate=rate)
    masked, cross = self_attention(heads, mask=causal), cross_attention(heads)
    second = transformer_block(masked, perceptron, cross=cross, pre_norm=pre_norm, drop_rate=rate)
    positions = sinusoidal_positions() if context is None else learned_positions(context)

    def stack(vocabulary: int, block: Layer) -> dict[str, Layer]:
        """The layers of one side; scaled, the embedding starts with deviation 1, as wide as sines are."""
        parts = {"tokens": token_vectors(vocabulary, width, width**-0.5), "scale": on_rows(_times(sqrt(width)))}
        parts |= {"positions": on_rows(positions)} | ({"drop": on_rows(dropout(rate))} if rate else {})
        parts |= {f"block_{i}": block for i in range(layers)}
        return parts | ({"norm": on_rows(layer_norm())} if pre_norm else {})

    # The decoder's layers see pairs (target, memory), of which only blocks need the memory.
    inside = {name: layer if name.startswith("block") else on_rows(layer) for name, layer in stack(target, second).items()}
    decoder = sequence(**inside, features=fun(lambda pair: rows(rows(pair)), "features"), out=linear(target, bias=not shared))
    model = seq2seq(sequence(**stack(source, first)), decoder)
    if shared:
        for path, transpose in (("decoder/tokens/weight", False), ("decoder/out/weight", True)):
            model = share(model, path, of="encoder/tokens/weight", transpose=transpose)
    name = f"transformer({source}, {target}, layers={layers}, width={width}, heads={heads})"
    return replace(model, name=name)


def _times(factor: float) -> Layer:
    return fun(lambda x: x * factor, f"times {factor:.4g}")
