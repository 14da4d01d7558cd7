"""GPT-2."""

from __future__ import annotations

from math import sqrt
from typing import Any

import jax

from fnlamp.arrays import Array, Key, Params, Spec, State, array_spec
from fnlamp.given import arguments, whole
from fnlamp.layer import Init, Layer, tag_all
from fnlamp.mode import Mode
from fnlamp.nn.check import check_shape
from fnlamp.nn.combine import sequence
from fnlamp.nn.dropout import dropout
from fnlamp.nn.embedding import embedding
from fnlamp.nn.lowering.matmul import product
from fnlamp.nn.norm import layer_norm
from fnlamp.nn.transformer import transformer_block
from fnlamp.tag import Matrix, Role


@arguments("models.gpt(50257, layers=12, width=768, heads=12, context=1024)")
def gpt(vocabulary: int, *, layers: int, width: int, heads: int, context: int, drop_rate: float = 0.0) -> Layer:
    """GPT-2's decoder-only transformer: at each time step the logits of the next token.

    Embedded tokens plus a learned vector for each position, causal blocks, a norm, and an output weight that is the
    embedding's.  Weights start normal with deviation 0.02, those of `residual_init` with 0.02 / sqrt(2 layers), biases 0.
    Shapes: tokens `(batch, time) -> (batch, time, vocabulary)`, of up to `context` time steps.
    Children: `tokens`, `positions`, `block_0`, ..., `norm`, and `drop` after the positions if there is a rate.
    Fails: `ShapeMismatch` for another rank or a longer text; `DtypeMismatch` for tokens that are not integers.
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
        return Init(params, {}, spec, tag_all("positions", Matrix(), weight=Role.EMBEDDING))

    def apply(params: Params, state: State, x: Array, mode: Mode) -> tuple[Array, State]:
        del mode
        return x + params["weight"][None, : x.shape[1]], state

    return Layer(init, apply, "positions")


def _check(x: Any, context: int) -> None:
    expected, hint = f"tokens of shape (batch, time), time at most {context}", "a longer text can be cut into pieces"
    check_shape(x, lambda shape: len(shape) == 2 and shape[1] <= context, expected, "gpt", hint)
