"""BERT: an encoder of text, its heads, and the tokens that it learns from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

from fnlamp.arrays import Array, Key, Params, State, Tree, describe, spec_after
from fnlamp.fault import FaultError, ShapeMismatch
from fnlamp.given import arguments, number, shown, whole
from fnlamp.layer import Init, Layer, apply_child, as_layer, gather, init_child, without_empty
from fnlamp.mode import Mode
from fnlamp.models.through import through
from fnlamp.nn.activation import gelu, tanh
from fnlamp.nn.check import check_integer, check_shape
from fnlamp.nn.combine import sequence
from fnlamp.nn.dropout import checked_rate, dropout
from fnlamp.nn.embedding import embedding
from fnlamp.nn.gather import gather_positions
from fnlamp.nn.linear import linear
from fnlamp.nn.multihead import self_attention
from fnlamp.nn.norm import layer_norm
from fnlamp.nn.positions import learned_positions
from fnlamp.nn.share import share
from fnlamp.nn.transformer import feed_forward, transformer_block

_norm = layer_norm(1e-12)
_small = jax.nn.initializers.normal(0.02)
IGNORED: Final = -100
"""The target of a token that is not hidden; losses ignore it."""
PARTS: Final = ("ids", "lengths", "segments", "positions")
"""The parts of an input, as `data.masked_batches` names them."""


@arguments("models.bert(30522, layers=12, width=768, heads=12, context=512)")
def bert(
    vocabulary: int,
    *,
    layers: int,
    width: int,
    heads: int,
    context: int,
    segments: int = 2,
    hidden: int | None = None,
    activation: Layer = gelu,
    norm: Layer = _norm,
    drop_rate: float = 0.0,
    attention_drop_rate: float = 0.0,
) -> Layer:
    """BERT's encoder: at each time step a vector that depends on the whole text, before and after.

    Embedded tokens plus a learned vector for each position and one for the segment, a norm, and blocks with norms after each
    sum.  The perceptron has `hidden` features inside, 4 `width` unless given.  `drop_rate` is that of the embedded text and
    of what is added to it, `attention_drop_rate` that of attention's weights.  Weights start normal with deviation 0.02,
    biases 0.
    Shapes: tokens `(batch, time) -> (batch, time, width)`, of up to `context` time steps; or `(tokens, lengths)`, integers
    `(batch,)`, or `(tokens, seen)`, booleans `(batch, time)`, so that no token sees the padding; or a dict of `ids`, and
    perhaps `lengths` (or booleans) and `segments`, integers `(batch, time)`, which are 0 unless given.
    Children: `tokens`, `segments`, `positions`, `norm`, `drop` if there is a rate, `block_0`, ...
    Fails: `ShapeMismatch` for another rank or a longer text; `DtypeMismatch` for tokens or segments that are not integers.
    Reference: Devlin et al. 2019, section 3.

    >>> base = bert(30522, layers=12, width=768, heads=12, context=512)
    >>> print(table(base, jax.ShapeDtypeStruct((1, 512), jnp.int32)).splitlines()[-1].split()[1])
    108,891,648
    """
    sizes = {"vocabulary": vocabulary, "layers": layers, "width": width, "heads": heads, "context": context}
    vocabulary, layers, width, heads, context = (whole(f"bert: {name}", n) for name, n in sizes.items())
    if width % heads:
        raise ValueError(f"bert needs a width that heads divides, got width={width}, heads={heads}")
    hidden = 4 * width if hidden is None else whole("bert: hidden", hidden)
    rate, attention_rate = (
        checked_rate(f"bert: {name}", given)
        for name, given in (("drop_rate", drop_rate), ("attention_drop_rate", attention_drop_rate))
    )
    drawn: dict[str, Any] = {"weight_init": _small, "output_init": _small}
    attention = self_attention(heads, drop_rate=attention_rate, **drawn)
    perceptron = feed_forward(hidden / width, as_layer(activation, "bert: activation"), **drawn)
    norm = as_layer(norm, "bert: norm")
    block = transformer_block(attention, perceptron, norm=norm, pre_norm=False, drop_rate=rate)
    embedded = {
        "tokens": embedding(vocabulary, width, weight_init=_small),
        "segments": embedding(whole("bert: segments", segments), width, weight_init=_small),
    }
    parts = {"positions": learned_positions(context), "norm": norm} | ({"drop": dropout(rate)} if rate else {})
    parts |= (blocks := {f"block_{i}": block for i in range(layers)})

    def init(key: Key, spec: Tree) -> Init:
        tokens = _checked(spec, context)["ids"]
        made = {name: init_child(name, layer, key, tokens) for name, layer in embedded.items()}
        rest = sequence(**parts).init(key, made["tokens"].spec)
        both = gather(embedded, made, rest.spec)
        return Init(
            both.params | rest.params, both.state | rest.state, rest.spec, both.tags | rest.tags, both.parts + rest.parts
        )

    def apply(params: Params, state: State, x: Tree, mode: Mode) -> tuple[Array, State]:
        given = _checked(x, context)
        kinds = given.get("segments", jnp.zeros((1, given["ids"].shape[1]), jnp.int32))
        tokens, _ = apply_child("tokens", embedded["tokens"], params, state, given["ids"], mode)
        segments, _ = apply_child("segments", embedded["segments"], params, state, kinds, mode)
        beside = dict.fromkeys(blocks, given["lengths"]) if "lengths" in given else {}
        return through(parts, params, state, tokens + segments, mode, beside)

    return Layer(init, apply, f"bert({vocabulary}, layers={layers}, width={width}, heads={heads}, context={context})")


@arguments("models.masked_language_model(models.bert(30522, ...), 30522)")
def masked_language_model(encoder: Layer, vocabulary: int, *, activation: Layer = gelu, norm: Layer = _norm) -> Layer:
    """BERT's head for masked tokens on its encoder: the logits of the token at each time step.

    A linear layer, the activation, a norm, and an output weight that is the embedding's, with a bias.
    Shapes: input as `bert`'s, to `(batch, time, vocabulary)`; with `positions` in the dict, integers `(batch, count)`, the
    logits at those of each row alone, `(batch, count, vocabulary)`, as `data.masked_batches` wants them.
    Children: `encoder`; `head` with `dense`, `norm`, and `out`, of which only the bias is its own.
    Fails: as `bert`; `ShapeMismatch` for an encoder whose tokens have another vocabulary.
    Reference: Devlin et al. 2019, section 3.1, task 1.

    >>> encoder = bert(99, layers=1, width=8, heads=2, context=16)
    >>> made = masked_language_model(encoder, 99).init(key, jax.ShapeDtypeStruct((4, 16), jnp.int32))
    >>> made.spec.shape, sorted(made.params["head"]["out"])
    ((4, 16, 99), ['bias'])
    """
    vocabulary = whole("masked_language_model: vocabulary", vocabulary)
    activation = as_layer(activation, "masked_language_model: activation")
    norm = as_layer(norm, "masked_language_model: norm")

    def head(width: int) -> Layer:
        dense, out = linear(width, weight_init=_small), linear(vocabulary, weight_init=_small)
        return sequence(dense=dense, activation=activation, norm=norm, out=out)

    def at(x: Tree, y: Array) -> Array:
        return gather_positions(y, x["positions"]) if isinstance(x, dict) and "positions" in x else y

    model = _with_head("masked_language_model", encoder, head, at)
    return share(model, "head/out/weight", of="encoder/tokens/weight", transpose=True)


@arguments("models.sentence_classifier(models.bert(30522, ...), 2)")
def sentence_classifier(encoder: Layer, classes: int, *, drop_rate: float = 0.0) -> Layer:
    """BERT's head for whole texts on its encoder: the logits of the classes, from the vector at the first time step.

    The vector is pooled, `tanh(x W + b)`, dropped out if there is a rate, and then multiplied by a weight.
    Shapes: input as `bert`'s, to `(batch, classes)`.  Children: `encoder`; `head` with `pooler` and `out`.
    Fails: as `bert`; `ShapeMismatch` for texts without a first token.  Reference: Devlin et al. 2019, section 4.1.

    >>> encoder = bert(99, layers=1, width=8, heads=2, context=16)
    >>> sentence_classifier(encoder, 3).init(key, jax.ShapeDtypeStruct((4, 16), jnp.int32)).spec.shape
    (4, 3)
    """
    classes = whole("sentence_classifier: classes", classes)
    rate = checked_rate("sentence_classifier: drop_rate", drop_rate)

    def head(width: int) -> Layer:
        parts = {"pooler": linear(width, weight_init=_small), "tanh": tanh} | ({"drop": dropout(rate)} if rate else {})
        return sequence(**parts, out=linear(classes, weight_init=_small))

    def first(x: Tree, y: Array) -> Array:
        del x
        check_shape(y, lambda shape: shape[1] > 0, "texts of at least one token", "sentence_classifier")
        return y[:, 0]

    return _with_head("sentence_classifier", encoder, head, first)


def _with_head(name: str, encoder: Layer, head: Callable[[int], Layer], at: Callable[[Tree, Array], Array]) -> Layer:
    """A head, which depends on the width, on what `at(input, vectors)` takes of the encoder's vectors."""
    encoder = as_layer(encoder, f"{name}: encoder")

    def init(key: Key, spec: Tree) -> Init:
        made = {"encoder": init_child("encoder", encoder, key, spec)}
        vectors = spec_after(at, spec, made["encoder"].spec)
        layers = {"encoder": encoder, "head": head(vectors.shape[-1])}
        made["head"] = init_child("head", layers["head"], key, vectors)
        return gather(layers, made, made["head"].spec)

    def apply(params: Params, state: State, x: Tree, mode: Mode) -> tuple[Array, State]:
        new = {}
        y, new["encoder"] = apply_child("encoder", encoder, params, state, x, mode)
        y = at(x, y)
        y, new["head"] = apply_child("head", head(y.shape[-1]), params, state, y, mode)
        return y, without_empty(new)

    return Layer(init, apply, f"{name}({encoder})")


def mask_tokens(
    key: Key, tokens: Array, *, vocabulary: int, mask: int, special: Sequence[int] = (), share: float = 0.15
) -> tuple[Array, Array]:
    """Hidden tokens and what they were, `(inputs, targets)`, to train a masked language model; a pure function of the key.

    Each token is chosen with probability `share`, at least one of each row; of the chosen, 80 % become `mask`, 10 % any token
    of the vocabulary, and 10 % stay.  The targets are the chosen tokens, and elsewhere -100, which `loss.cross_entropy`
    ignores.  `mask` and the `special` ids, such as that of padding, are never chosen and never drawn; a row of nothing else
    stays as it is.
    Shapes: integers `(batch, time)`; both parts so too, int32.  Fails: `ShapeMismatch`, `DtypeMismatch`.
    Raises: `ValueError` for ids that are not of the vocabulary, or if all are special.
    Reference: Devlin et al. 2019, section 3.1 and appendix A.1.

    >>> inputs, targets = mask_tokens(key, jnp.array([[5, 6, 7, 0]]), vocabulary=9, mask=1, special=[0], share=1.0)
    >>> targets
    Array([[   5,    6,    7, -100]], dtype=int32)
    """
    vocabulary, mask = whole("mask_tokens: vocabulary", vocabulary), whole("mask_tokens: mask", mask, 0)
    if not isinstance(special, Iterable):
        raise TypeError(f"mask_tokens: special is a list of ids, got {shown(special)}")
    never = sorted({mask, *(whole("mask_tokens: special", each, 0) for each in special)})
    if never[-1] >= vocabulary or len(never) == vocabulary:
        raise ValueError(f"mask_tokens: mask and special are some ids of a vocabulary of {vocabulary}, got {never}")
    share = number("mask_tokens: share", share, "a probability above 0", lambda p: 0 < p <= 1)
    check_shape(tokens, lambda shape: len(shape) == 2, "tokens of shape (batch, time)", "mask_tokens")
    check_integer(tokens, "mask_tokens", "integer tokens")
    tokens = jnp.asarray(tokens).astype(jnp.int32)
    choice, fate, draw = jax.random.split(key, 3)
    ordinary = ~jnp.isin(tokens, jnp.array(never, jnp.int32))
    chance = jnp.where(ordinary, jax.random.uniform(choice, tokens.shape), 1)
    least = jnp.min(chance, axis=1, keepdims=True, initial=1)
    chosen = ordinary & ((chance < share) | (chance == least))
    plain = np.setdiff1d(np.arange(vocabulary, dtype=np.int32), never)
    drawn = jnp.asarray(plain)[jax.random.randint(draw, tokens.shape, 0, len(plain))]
    way = jax.random.uniform(fate, tokens.shape)
    hidden = jnp.where(way < 0.8, mask, jnp.where(way < 0.9, drawn, tokens))
    return jnp.where(chosen, hidden, tokens), jnp.where(chosen, tokens, IGNORED)


def _checked(given: Tree, context: int) -> dict[str, Any]:
    """The parts of an input by name.  Fails: `ShapeMismatch`, `DtypeMismatch`."""
    if isinstance(given, tuple | list) and len(given) == 2:
        parts = dict(zip(PARTS, given, strict=False))
    else:
        parts = given if isinstance(given, dict) else {"ids": given}
    if "ids" not in parts or not set(parts) <= set(PARTS):
        expected = "tokens, (tokens, lengths), or a dict of ids, and perhaps lengths, segments, positions"
        raise FaultError(ShapeMismatch(expected, describe(given), where="bert"))
    ids = parts["ids"]
    expected, hint = f"tokens of shape (batch, time), time at most {context}", "a longer text can be cut into pieces"
    check_shape(ids, lambda shape: len(shape) == 2 and shape[1] <= context, expected, "bert", hint)
    if "segments" in parts:
        check_shape(parts["segments"], lambda shape: shape == ids.shape, f"segments of shape {ids.shape}", "bert")
    return parts
