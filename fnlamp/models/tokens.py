"""Sequences of tokens as a network's input: alone, or with their lengths."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax

from fnlamp.arrays import Key, Params, State, Tree
from fnlamp.layer import Init, Layer
from fnlamp.mode import Mode
from fnlamp.nn.check import check_shape
from fnlamp.nn.embedding import embedding


def token_vectors(vocabulary: int, width: int, deviation: float = 1.0) -> Layer:
    """An embedding of tokens `(batch, time)`, alone or with their lengths; weights start normal.

    Fails: `ShapeMismatch` for another rank; as `embedding`.
    """
    table = embedding(vocabulary, width, weight_init=jax.nn.initializers.normal(deviation))

    def check(x: Any) -> Any:
        check_shape(x, lambda shape: len(shape) == 2, "tokens of shape (batch, time)", "embedding")
        return x

    def init(key: Key, spec: Tree) -> Init:
        return table.init(key, check(spec))

    def apply(params: Params, state: State, x: Tree, mode: Mode) -> tuple[Tree, State]:
        return table.apply(params, state, check(x), mode)

    return on_rows(Layer(init, apply, table.name))


def on_rows(layer: Layer) -> Layer:
    """The layer on x of `x`, and on the first of a tuple, such as `(x, lengths)`; the rest stays as it is."""

    def init(key: Key, spec: Tree) -> Init:
        made = layer.init(key, rows(spec))
        return replace(made, spec=_with(spec, made.spec))

    def apply(params: Params, state: State, x: Tree, mode: Mode) -> tuple[Tree, State]:
        y, state = layer.apply(params, state, rows(x), mode)
        return _with(x, y), state

    return Layer(init, apply, layer.name)


def rows(x: Tree) -> Any:
    """x, or the first of a tuple."""
    return x[0] if isinstance(x, tuple | list) and x else x


def _with(x: Tree, y: Any) -> Tree:
    return (y, *x[1:]) if isinstance(x, tuple | list) and x else y
