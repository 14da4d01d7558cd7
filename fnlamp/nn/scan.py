"""Copies of a layer in a row, as one compiled body."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from fnlamp import tree
from fnlamp.arrays import Array, Key, Params, State, Tree, array_spec, describe, spec_of
from fnlamp.fault import FaultError, ShapeMismatch
from fnlamp.layer import Init, Layer, abstract_init
from fnlamp.mode import Mode, Train, name_hash


def scanned(layer: Layer, times: int) -> Layer:
    """`times` copies of the layer, whose parameters and state are stacked along a new first axis."""

    def init(key: Key, spec: Tree) -> Init:
        one = abstract_init(layer, spec)
        check_kept(one.spec, spec)

        def arrays(key: Key) -> tuple[Params, State]:
            made = layer.init(key, spec)
            return made.params, made.state

        made = _stacked(one, times)
        params, state = jax.lax.map(arrays, jax.vmap(jax.random.fold_in, (None, 0))(key, _names(times)))
        return replace(made, params=params, state=state, parts=(("layer", layer, made),))

    def apply(params: Params, state: State, x: Tree, mode: Mode) -> tuple[Tree, State]:
        for leaf in tree.leaves((params, state)):
            if leaf.shape[:1] != (times,):
                raise FaultError(ShapeMismatch(f"parameters of {times} layers", describe(leaf), where="repeat"))

        def body(x: Tree, at: tuple[Params, State, Array]) -> tuple[Tree, State]:
            params, state, name = at
            y, state = layer.apply(params, state, x, mode.at(name) if isinstance(mode, Train) else mode)
            check_kept(spec_of(y), spec_of(x))
            return y, state

        y, state = jax.lax.scan(body, x, (params, state, _names(times)), length=times)
        return y, state

    return Layer(init, apply, f"repeat({layer}, {times}, scan)")


def _names(times: int) -> Array:
    """The hashes of the names "0", "1", ..., which the children of `sequence` have."""
    return jnp.array([name_hash(str(i)) for i in range(times)], jnp.uint32)


def _stacked(made: Init, times: int) -> Init:
    """Specs and tags of `times` layers, of those of one."""

    def several(spec: Any) -> Any:
        return array_spec((times, *spec.shape), spec.dtype)

    tags = tree.map(lambda tag: tag if tag.matrix is None else replace(tag, matrix=tag.matrix.stacked()), made.tags)
    parts = tuple((name, layer, _stacked(part, times)) for name, layer, part in made.parts)
    return Init(tree.map(several, made.params), tree.map(several, made.state), made.spec, tags, parts)


def check_kept(made: Tree, spec: Tree) -> None:
    """Fails: `ShapeMismatch` unless a repeated layer keeps the spec of its input."""
    if describe(made) != describe(spec):
        raise FaultError(ShapeMismatch(describe(spec), describe(made), "a repeated layer keeps its shape", where="repeat"))
