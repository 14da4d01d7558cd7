"""Layers one after the other, some of which take a mask or positions beside the vectors."""

from __future__ import annotations

from typing import Any

from fnlamp.arrays import Params, State, Tree
from fnlamp.layer import Layer, apply_child, without_empty
from fnlamp.mode import Mode


def through(
    layers: dict[str, Layer], params: Params, state: State, x: Tree, mode: Mode, beside: dict[str, Any]
) -> tuple[Any, State]:
    """What `sequence(**layers)` computes; the layers named in `beside` take `(x, beside[name])`."""
    new = {}
    for name, layer in layers.items():
        given = (x, beside[name]) if name in beside else x
        x, new[name] = apply_child(name, layer, params, state, given, mode)
        x = x[0] if isinstance(x, tuple) else x
    return x, without_empty(new)
