"""The recurrent encoder and decoder with attention."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp

from fnlamp.arrays import Key, Params, State, Tree, array_spec, spec_after
from fnlamp.given import arguments, instance, whole
from fnlamp.layer import Init, Layer, abstract_init, gather, init_child
from fnlamp.mode import Decode, Eval, Mode
from fnlamp.models.seq2seq import seq2seq
from fnlamp.models.tokens import on_rows, rows, token_vectors
from fnlamp.nn.activation import tanh
from fnlamp.nn.cell import Cell
from fnlamp.nn.combine import branch, sequence
from fnlamp.nn.dropout import checked_rate, dropout
from fnlamp.nn.lengths import masked, split
from fnlamp.nn.linear import linear
from fnlamp.nn.multihead import cross_attention
from fnlamp.nn.recurrent import recurrent, unroll
from fnlamp.nn.shape import fun


@arguments("models.recurrent_seq2seq(30_000, layers=2, width=500, cell=nn.lstm_cell(500))")
def recurrent_seq2seq(
    source: int, target: int | None = None, *, cell: Cell, layers: int, width: int, drop_rate: float = 0.0
) -> Layer:
    """Two stacks of recurrences with attention: at each time step the logits of the target's next token.

    `source` and `target` are the sizes of the vocabularies, the target's that of the source unless given; tokens are embedded
    with `width` features.  The decoder starts from the encoder's carry at the end of each source.  Its output h and what it
    sees of the source, c, make `tanh(W [c h])`, from which a linear layer makes logits; c is `nn.cross_attention` with one
    head.  Dropout, if there is a rate, of embeddings and before the last layer.
    Shapes: `(source, target) -> (batch, target time, target vocabulary)`, tokens `(batch, time)`, each alone or with lengths
    `(batch,)`, integers.  Padding of the source has no effect; `models.teacher_forcing` makes targets that are not counted.
    Children: `encoder` of `tokens` and `cells`; `decoder` of `tokens`, `cells`, `attention`, `combined`, `out`.
    Fails: `ShapeMismatch` for another rank or other rows; `DtypeMismatch` for tokens that are not integers.
    Reference: Luong, Pham & Manning 2015, section 3.1 with the general score, whose matrix is a product of two here, eq. 5, 6.

    >>> model = recurrent_seq2seq(9, 7, cell=nn.gru_cell(8), layers=2, width=4)
    >>> model.init(key, (jax.ShapeDtypeStruct((2, 6), jnp.int32), jax.ShapeDtypeStruct((2, 5), jnp.int32))).spec.shape
    (2, 5, 7)
    """
    instance("recurrent_seq2seq: cell", cell, Cell, "a cell, such as nn.lstm_cell(500)")
    sizes = {"source": source, "target": source if target is None else target, "layers": layers, "width": width}
    source, target, layers, width = (whole(f"recurrent_seq2seq: {name}", n) for name, n in sizes.items())
    rate = checked_rate("recurrent_seq2seq: drop_rate", drop_rate)

    hidden = abstract_init(recurrent(cell), array_spec((1, 1, width), jnp.float32)).spec.shape[-1]

    def vectors(vocabulary: int) -> Layer:
        vectors = token_vectors(vocabulary, width)
        return sequence(vectors=vectors, drop=on_rows(dropout(rate))) if rate else vectors

    decoder = {
        "tokens": on_rows(vectors(target)),
        "cells": _cells(cell, layers, follows=True),
        "attention": branch(own=fun(rows, "own"), seen=cross_attention(1)),
        "both": fun(lambda both: jnp.concatenate([both[1][0], both[0]], axis=-1), "both"),
        "combined": linear(hidden, bias=False),
        "activation": tanh,
        **({"drop": dropout(rate)} if rate else {}),
        "out": linear(target),
    }
    model = seq2seq(sequence(tokens=vectors(source), cells=_cells(cell, layers)), sequence(**decoder))
    return replace(model, name=f"recurrent_seq2seq({source}, {target}, {cell}, layers={layers}, width={width})")


def _cells(cell: Cell, layers: int, *, follows: bool = False) -> Layer:
    """A stack of a cell: `x -> (y, carries)`, x alone or with lengths, and the carry of each layer after the last time step.

    One that follows starts from such carries: `(x, (memory, carries)) -> (y, memory)`.
    """
    children = {f"cell_{i}": recurrent(cell) for i in range(layers)}

    def init(key: Key, spec: Tree) -> Init:
        one, made = split(spec[0] if follows else spec, "recurrent_seq2seq").x, {}
        for name, child in children.items():
            made[name] = init_child(name, child, key, one)
            one = made[name].spec
        gathered = gather(children, made, one)
        return replace(gathered, spec=spec_after(lambda params, x: apply(params, {}, x, Eval())[0], gathered.params, spec))

    def apply(params: Params, state: State, x: Tree, mode: Mode) -> tuple[Tree, State]:
        given, (memory, carries) = x if follows else (x, (None, {}))
        parts, new = split(given, "recurrent_seq2seq"), {}
        y = masked(parts)
        # A carry after padding is of no use to a decoder in training, and the loop is faster without lengths.
        lengths = None if follows else parts.lengths
        if isinstance(mode, Decode):
            lengths, carries = mode.lengths, state.get("decoded", carries)
        for name in children:
            y, new[name] = unroll(cell, params[name], y, carries.get(name), lengths=lengths)
        y = parts.with_x(masked(parts._replace(x=y), nan=True))
        state = {"decoded": new} if isinstance(mode, Decode) else state
        return ((rows(y), memory) if follows else (y, new)), state

    return Layer(init, apply, f"{cell} x {layers}")
