"""Combinators: layers from layers, all written on the same pair of functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from fnlamp import tree
from fnlamp.arrays import Key, Params, State, Tree, describe
from fnlamp.fault import FaultError, ShapeMismatch, located
from fnlamp.given import flag, whole
from fnlamp.layer import Init, Layer, as_layer
from fnlamp.mode import Mode, name_key


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


def chain(*parts: tuple[str | None, Layer]) -> Layer:
    """`sequence` with optional names; what `>>` calls."""
    children = _named(parts)

    def init(key: Key, spec: Tree) -> Init:
        made: dict[str, Init] = {}
        for name, layer in children.items():
            made[name] = _init(name, layer, key, spec)
            spec = made[name].spec
        return _gather(children, made, spec)

    def apply(params: Params, state: State, x: Tree, mode: Mode) -> tuple[Tree, State]:
        new = {}
        for name, layer in children.items():
            x, new[name] = _apply(name, layer, params, state, x, mode)
        return x, _drop_empty(new)

    return Layer(init, apply, " >> ".join(map(str, children.values())) or "identity", chain=parts)


def residual(layer: Layer, shortcut: Layer | None = None) -> Layer:
    """`x + layer(x)`, or `shortcut(x) + layer(x)` where shapes differ.

    Params and state: under `layer` and `shortcut`.  Fails: `ShapeMismatch` where the two terms would broadcast.
    Reference: He et al. 2015, eq. 1 and 2.
    """
    children = {"layer": as_layer(layer, "residual")}
    if shortcut is not None:
        children["shortcut"] = as_layer(shortcut, "residual: shortcut")

    def init(key: Key, spec: Tree) -> Init:
        made = {name: _init(name, child, key, spec) for name, child in children.items()}
        _check_sum(made["layer"].spec, spec if shortcut is None else made["shortcut"].spec)
        return _gather(children, made, made["layer"].spec)

    def apply(params: Params, state: State, x: Tree, mode: Mode) -> tuple[Tree, State]:
        new = {}
        y, new["layer"] = _apply("layer", layer, params, state, x, mode)
        if shortcut is not None:
            x, new["shortcut"] = _apply("shortcut", shortcut, params, state, x, mode)
        _check_sum(y, x)
        return jax.tree.map(jax.numpy.add, x, y), _drop_empty(new)

    return Layer(init, apply, f"residual({', '.join(map(str, children.values()))})")


def branch(*layers: Layer, **named: Layer) -> Layer:
    """Every layer on the same input; the outputs as a tuple, in order. A `fun` after it merges them.

    >>> both = nn.branch(nn.linear(4), nn.linear(4)) >> nn.fun(lambda ys: jnp.concatenate(ys, axis=-1))
    """
    children = _named((*((None, layer) for layer in layers), *named.items()))
    return _side_by_side("branch", children, lambda x: (x,) * len(children))


def parallel(*layers: Layer, **named: Layer) -> Layer:
    """The first layer on the first component of a tuple, the second on the second, ...; the outputs as a tuple.

    Fails: `ShapeMismatch` for an input that is no tuple of as many components as there are layers.
    """
    children = _named((*((None, layer) for layer in layers), *named.items()))

    def split(x: Tree) -> Sequence[Tree]:
        if not isinstance(x, tuple | list) or len(x) != len(children):
            raise FaultError(ShapeMismatch(f"a tuple of {len(children)} arrays", describe(x), where="parallel"))
        return x

    return _side_by_side("parallel", children, split)


def repeat(layer: Layer, times: int, *, shared: bool = False) -> Layer:
    """The layer `times` times in a row: with weights of its own each time, or with the same weights (`shared`).

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


# ------------------------------------------------------------------------------- what all of them share


def _side_by_side(kind: str, children: dict[str, Layer], split: Any) -> Layer:
    def init(key: Key, spec: Tree) -> Init:
        made = {name: _init(name, layer, key, part) for (name, layer), part in zip(children.items(), split(spec), strict=True)}
        return _gather(children, made, tuple(one.spec for one in made.values()))

    def apply(params: Params, state: State, x: Tree, mode: Mode) -> tuple[Tree, State]:
        ys, new = [], {}
        for (name, layer), part in zip(children.items(), split(x), strict=True):
            y, new[name] = _apply(name, layer, params, state, part, mode)
            ys.append(y)
        return tuple(ys), _drop_empty(new)

    return Layer(init, apply, f"{kind}({', '.join(map(str, children.values()))})")


def _named(parts: Sequence[tuple[str | None, Layer]]) -> dict[str, Layer]:
    children: dict[str, Layer] = {}
    for position, (name, layer) in enumerate(parts):
        layer = as_layer(layer, str(position) if name is None else name)
        key = str(position) if name is None else name
        if key in children:
            raise ValueError(f"two layers are called {key!r}; give one of them another name")
        children[key] = layer
    return children


def _init(name: str, layer: Layer, key: Key, spec: Tree) -> Init:
    with located(name):
        return layer.init(name_key(key, name), spec)


def _apply(name: str, layer: Layer, params: Params, state: State, x: Tree, mode: Mode) -> tuple[Tree, State]:
    with located(name):
        return layer.apply(params.get(name, {}), state.get(name, {}), x, mode.inside(name))


def _gather(children: dict[str, Layer], made: dict[str, Init], spec: Tree) -> Init:
    return Init(
        params=_drop_empty({name: one.params for name, one in made.items()}),
        state=_drop_empty({name: one.state for name, one in made.items()}),
        spec=spec,
        tags=_drop_empty({name: tree.map(lambda tag, n=name: tag.inside(n), one.tags) for name, one in made.items()}),
        parts=tuple((name, children[name], one) for name, one in made.items()),
    )


def _drop_empty(parts: Mapping[str, Tree]) -> dict[str, Tree]:
    return {name: part for name, part in parts.items() if part}


def _check_sum(a: Tree, b: Tree) -> None:
    if tree.map(lambda x: x.shape, a) != tree.map(lambda x: x.shape, b):
        hint = "give residual a shortcut layer that maps the one shape to the other"
        raise FaultError(ShapeMismatch(describe(b), describe(a), hint, where="residual"))
