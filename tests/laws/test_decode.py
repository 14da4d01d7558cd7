"""`Decode`: piece by piece, with rows of unequal lengths, each layer has the output of `Eval`, or is a typed fault."""

from __future__ import annotations

import catalogue
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import Decode, Eval, nn
from fnlamp.fault import FaultError, NotDecodable
from fnlamp.layer import Layer

ANOTHER_MEMORY = {"cross_attention", "transformer_block of a decoder"}  # in each call; below is one whose memory stays
SEQUENCES = {
    name: case.layer
    for name, case in catalogue.LAYERS.items()
    if case.spec in (catalogue.TIMES, catalogue.TOKENS) and name not in ANOTHER_MEMORY
}
BLOCK = nn.transformer_block(nn.self_attention(2, mask=nn.causal), recompute=True)
EXTRA: dict[str, Layer] = {
    "scanned": nn.repeat(BLOCK, 2, scan=True),
    "shared": nn.repeat(BLOCK, 2, shared=True),
    "window of groups, rotated": nn.self_attention(2, kv_heads=1, mask=nn.window(2), query_key=nn.rotary_positions()),
    "blocks of queries": nn.self_attention(2, mask=nn.causal & nn.window(1, 1), block_size=2),
    "stacked recurrences": nn.residual(nn.lstm(4)) >> nn.gru(3) >> nn.rnn(2),
    "cross of memory": nn.branch(nn.linear(4), nn.fun(lambda x: 1 + jnp.ones((x.shape[0], 3, 2)).cumsum(1), "memory"))
    >> nn.cross_attention(2, query_key=nn.rotary_positions())
    >> catalogue.first,
}
WHOLE = {"lstm of lengths", "lstm carried", "gru of lengths carried", "bidirectional", "bidirectional of lengths", "last_step"}
WHOLE |= {"conv1d", "conv_transpose1d", "max_pool1d", "avg_pool1d", "group_norm", "linear_attention", "self_attention"}
WHOLE |= {"self_attention of groups and lengths", "transformer_block after norms", "transformer_block of a depth"}
WHOLE |= {"repeat scanned of blocks", "einsum of each head", "bert", "masked_language_model", "sentence_classifier"}
PIECES = [((2, 1), 2), ((0, 2), 2), ((2, 2), 2)]
"""Time steps of each row in each call, and time steps of the call."""


def decoded(layer, params, state, x, room=8):
    """The outputs of each row, of pieces, without padding."""
    position, rows = np.zeros(2, int), [[], []]
    run = jax.jit(layer.apply)
    for lengths, time in PIECES:
        piece = np.full((2, time, *x.shape[2:]), 0.5, x.dtype)
        for row, length in enumerate(lengths):
            piece[row, :length] = x[row, position[row] : position[row] + length]
        y, state = run(params, state, jnp.asarray(piece), Decode(jnp.asarray(position), jnp.asarray(lengths), room))
        for row, length in enumerate(lengths):
            rows[row].append(np.asarray(y)[row, :length])
        position = position + np.array(lengths)
    return [np.concatenate(parts) for parts in rows]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["self_attention causal", *sorted({*SEQUENCES, *EXTRA} - {"self_attention causal"})])
def test_a_layer_computes_a_sequence_piece_by_piece_or_says_that_it_cannot(name):
    layer = {**SEQUENCES, **EXTRA}[name]
    spec = catalogue.LAYERS[name].spec if name in SEQUENCES else catalogue.TIMES
    x = np.asarray(jax.random.normal(jax.random.key(3), spec.shape))
    made = jax.jit(lambda key: (lambda m: (m.params, m.state))(layer.init(key, spec)))(jax.random.key(5))
    if name in WHOLE:
        with pytest.raises(FaultError) as caught:
            decoded(layer, *made, x)
        assert isinstance(caught.value.fault, NotDecodable)
        return
    whole = jax.jit(layer.apply)(*made, jnp.asarray(x), Eval())[0]
    for row, own in enumerate(decoded(layer, *made, x)):
        np.testing.assert_allclose(own, whole[row, : len(own)], rtol=2e-5, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("layer", [nn.self_attention(2, mask=nn.causal), nn.learned_positions(2)], ids=str)
def test_a_row_that_needs_more_room_is_nan_and_the_others_are_not(layer):
    x = jnp.ones((2, 3, 4))
    params = layer.init(jax.random.key(5), catalogue.array_spec((2, 2, 4), jnp.float32)).params
    mode = Decode(jnp.array([0, 0]), jnp.array([2, 3]), room=2)
    y, _ = layer.apply(params, {}, x[:, :2] if "learned" in str(layer) else x, mode)
    if "learned" in str(layer):
        y, _ = layer.apply(params, {}, x[:, :1], Decode(jnp.array([1, 2]), jnp.array([1, 1]), room=8))
    assert not np.isnan(y[0, :2]).any()
    assert np.isnan(y[1]).any()
