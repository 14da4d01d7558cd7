"""Combinators: layers from layers, all written on the same pair of functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from fnlamp import tree
from fnlamp.arrays import Key, Params, State, Tree, describe
from fnlamp.fault import FaultError, ShapeMismatch
from fnlamp.given import flag, whole
from fnlamp.layer import Init, Layer, apply_child, as_layer, chain, gather, init_child, named_children, without_empty
from fnlamp.mode import Mode


def sequence(*layers: Layer, **named: Layer) -> Layer:
    """Layers one after the other; each sees the output of the one before. `a >> b` is the same.

    Positional layers are named by their position ("0", "1", ...), the others by their keyword. A child's key derives from its
    name, so inserting among named children does not reshuffle the others. Sequences inside are kept as children.

    >>> nn.sequence(nn.linear(128), nn.relu, nn.linear(10))
    linear(128) >> relu >> linear(10)
    >>> made = nn.sequence(hidden=nn.linear(128), act=nn.relu, out=nn.linear(10)).init(key, spec)
    >>> sorted(made.params)
    ['hidden', 'out']
    """
    return chain(*((None, layer) for layer in layers), *named.items())


def residual(layer: Layer, shortcut: Layer | None = None) -> Layer:
    """`x + layer(x)`, or `shortcut(x) + layer(x)` if shapes differ.

    Params and state: under `layer` and `shortcut`.  Fails: `ShapeMismatch` if the two terms would broadcast.
    Reference: He et al. 2015, eq. 1 and 2.
    """
    children = {"layer": as_layer(layer, "residual")}
    if shortcut is not None:
        children["shortcut"] = as_layer(shortcut, "residual: shortcut")

    def init(key: Key, spec: Tree) -> Init:
        made = {name: init_child(name, child, key, spec) for name, child in children.items()}
        _check_sum(made["layer"].spec, spec if shortcut is None else made["shortcut"].spec)
        return gather(children, made, made["layer"].spec)

    def apply(params: Params, state: State, x: Tree, mode: Mode) -> tuple[Tree, State]:
        new = {}
        y, new["layer"] = apply_child("layer", layer, params, state, x, mode)
        if shortcut is not None:
            x, new["shortcut"] = apply_child("shortcut", shortcut, params, state, x, mode)
        _check_sum(y, x)
        return jax.tree.map(jax.numpy.add, x, y), without_empty(new)

    return Layer(init, apply, f"residual({', '.join(map(str, children.values()))})")


def branch(*layers: Layer, **named: Layer) -> Layer:
    """Every layer on the same input; the outputs as a tuple, in order. A `fun` after it merges them.

    >>> both = nn.branch(nn.linear(4), nn.linear(4)) >> nn.fun(lambda ys: jnp.concatenate(ys, axis=-1))
    """
    children = named_children((*((None, layer) for layer in layers), *named.items()))
    return _side_by_side("branch", children, lambda x: (x,) * len(children))


def parallel(*layers: Layer, **named: Layer) -> Layer:
    """The first layer on the first component of a tuple, the second on the second, ...; the outputs as a tuple.

    Fails: `ShapeMismatch` for anything but a tuple with one component per layer.
    """
    children = named_children((*((None, layer) for layer in layers), *named.items()))

    def split(x: Tree) -> Sequence[Tree]:
        if not isinstance(x, tuple | list) or len(x) != len(children):
            raise FaultError(ShapeMismatch(f"a tuple of {len(children)} arrays", describe(x), where="parallel"))
        return x

    return _side_by_side("parallel", children, split)


def repeat(layer: Layer, times: int, *, shared: bool = False) -> Layer:
    """The layer `times` times in a row: each copy with its own weights, or all with the same (`shared`).

    Fails: `ShapeMismatch` if weights are shared and the output's spec differs from the input's.
    """
    layer, times, shared = as_layer(layer, "repeat"), whole("repeat: times", times, None), flag("repeat: shared", shared)
    if times < 1:
        raise ValueError(f"repeat needs times >= 1, got {times}")
    if not shared:
        return sequence(*[layer] * times)

    def init(key: Key, spec: Tree) -> Init:
        made = layer.init(key, spec)
        if describe(made.spec) != describe(spec):
            raise FaultError(
                ShapeMismatch(describe(spec), describe(made.spec), "a repeated layer keeps its shape", where="repeat")
            )
        return Init(made.params, made.state, made.spec, made.tags, (("layer", layer, made),))

    def apply(params: Params, state: State, x: Tree, mode: Mode) -> tuple[Tree, State]:
        for i in range(times):
            x, state = layer.apply(params, state, x, mode.inside(str(i)))
        return x, state

    return Layer(init, apply, f"repeat({layer}, {times}, shared)")


# ------------------------------------------------------------------------------- shared by all


def _side_by_side(kind: str, children: dict[str, Layer], split: Any) -> Layer:
    def init(key: Key, spec: Tree) -> Init:
        parts = zip(children.items(), split(spec), strict=True)
        made = {name: init_child(name, layer, key, part) for (name, layer), part in parts}
        return gather(children, made, tuple(one.spec for one in made.values()))

    def apply(params: Params, state: State, x: Tree, mode: Mode) -> tuple[Tree, State]:
        ys, new = [], {}
        for (name, layer), part in zip(children.items(), split(x), strict=True):
            y, new[name] = apply_child(name, layer, params, state, part, mode)
            ys.append(y)
        return tuple(ys), without_empty(new)

    return Layer(init, apply, f"{kind}({', '.join(map(str, children.values()))})")


def _check_sum(a: Tree, b: Tree) -> None:
    if tree.map(lambda x: x.shape, a) != tree.map(lambda x: x.shape, b):
        hint = "give residual a shortcut layer that maps the one shape to the other"
        raise FaultError(ShapeMismatch(describe(b), describe(a), hint, where="residual"))
