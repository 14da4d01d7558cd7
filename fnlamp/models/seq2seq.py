"""Sequence to sequence: an encoder of the source, and a decoder of the target that sees what the encoder made."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from fnlamp.arrays import Array, Key, Params, State, Tree, describe, to_device
from fnlamp.fault import FaultError, ShapeMismatch
from fnlamp.given import arguments, whole
from fnlamp.layer import Init, Layer, apply_child, as_layer, gather, init_child, without_empty
from fnlamp.mode import Decode, Eval, Mode
from fnlamp.nn.check import check_integer, check_shape
from fnlamp.nn.lengths import known, widened


@arguments("it takes two layers: models.seq2seq(encoder, decoder)")
def seq2seq(encoder: Layer, decoder: Layer) -> Layer:
    """An encoder and a decoder: `(source, target) -> decoder((target, encoder(source)))`.

    The encoder's output, the memory, is any tree of arrays; `Decode` makes it once.
    Children: `encoder`, `decoder`.
    Fails: `ShapeMismatch` for anything but a pair.
    Reference: Sutskever, Vinyals & Le 2014; Cho et al. 2014.

    >>> pair = jax.ShapeDtypeStruct((2, 7, 4), jnp.float32), jax.ShapeDtypeStruct((2, 5, 3), jnp.float32)
    >>> model = seq2seq(nn.linear(8), nn.cross_attention(3) >> nn.fun(lambda parts: parts[0], "features"))
    >>> model.init(key, pair).spec.shape
    (2, 5, 3)
    """
    children = {"encoder": as_layer(encoder, "seq2seq: encoder"), "decoder": as_layer(decoder, "seq2seq: decoder")}

    def init(key: Key, spec: Tree) -> Init:
        source, target = _pair(spec)
        made = {"encoder": init_child("encoder", encoder, key, source)}
        made["decoder"] = init_child("decoder", decoder, key, (target, made["encoder"].spec))
        return gather(children, made, made["decoder"].spec)

    def apply(params: Params, state: State, x: Tree, mode: Mode) -> tuple[Tree, State]:
        (source, target), new = _pair(x), {}
        if isinstance(mode, Decode):  # the source is read once, and whole
            new = {"encoder": state.get("encoder", {}), "decoded": state.get("decoded", {})}
            if not new["decoded"]:
                memory, _ = apply_child("encoder", encoder, params, state, source, Eval())
                new["decoded"] = {"memory": memory}
            memory = new["decoded"]["memory"]
        else:
            memory, new["encoder"] = apply_child("encoder", encoder, params, state, source, mode)
        y, new["decoder"] = apply_child("decoder", decoder, params, state, (target, memory), mode)
        return y, without_empty(new)

    return Layer(init, apply, f"seq2seq({encoder}, {decoder})")


def _pair(x: Tree) -> tuple[Any, Any]:
    if not isinstance(x, tuple | list) or len(x) != 2:
        expected = "a pair (source, target), each alone or with its lengths"
        raise FaultError(ShapeMismatch(expected, describe(x), where="seq2seq"))
    return x[0], x[1]


@arguments("the tokens of the target and of its start: models.teacher_forcing(target, lengths, start=1)")
def teacher_forcing(target: Array, lengths: Array | None = None, *, start: int, ignored: int = -100) -> tuple[Array, Array]:
    """`(inputs, targets)` of a decoder: at each time step it reads the true token before the one that it predicts.

    Inputs are the start token, then the target without its last token.  Targets are the target's tokens, but `ignored` after
    a row's length, so that `loss.cross_entropy` leaves padding out.  If a target ends with an end token, its length counts it.
    A length that is not possible makes all labels of the row -1, which is no class.
    Shapes: target `(batch, time)`, lengths `(batch,)`, integers; both results as the target, int32.
    Fails: `ShapeMismatch`, `DtypeMismatch`.  Reference: Williams & Zipser 1989, section 3.

    >>> inputs, targets = teacher_forcing(jnp.array([[5, 6, 7], [8, 9, 0]]), jnp.array([3, 2]), start=1)
    >>> inputs.tolist(), targets.tolist()
    ([[1, 5, 6], [1, 8, 9]], [[5, 6, 7], [8, 9, -100]])
    """
    start, ignored = whole("teacher_forcing: start", start, 0), whole("teacher_forcing: ignored", ignored, None)
    check_shape(target, lambda shape: len(shape) == 2, "tokens of shape (batch, time)", "teacher_forcing: target")
    check_integer(target, "teacher_forcing: target", "integer tokens")
    tokens = to_device(target).astype(jnp.int32)
    inputs = jnp.concatenate([jnp.full((len(tokens), 1), start), tokens], axis=1)[:, :-1]
    if lengths is None:
        return inputs, tokens
    where = "teacher_forcing: lengths"
    check_shape(lengths, lambda shape: shape == tokens.shape[:1], f"lengths of shape ({len(tokens)},)", where)
    check_integer(lengths, where, "integer lengths")
    own = jnp.arange(tokens.shape[1]) < widened(to_device(lengths))[:, None]
    labels = jnp.where(own, tokens, ignored)
    return inputs, jnp.where(known(to_device(lengths), tokens.shape[1])[:, None], labels, -1)
