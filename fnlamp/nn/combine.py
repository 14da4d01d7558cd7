"""Combinators: layers from layers, all written on the same pair of functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from fnlamp import tree
from fnlamp.arrays import Array, Key, Params, State, Tree, describe, is_integer
from fnlamp.fault import FaultError, ShapeMismatch
from fnlamp.given import flag, whole
from fnlamp.graph import Graph
from fnlamp.layer import Init, Layer, apply_child, as_layer, chain, gather, init_child, named_children, without_empty
from fnlamp.mode import Decode, Mode
from fnlamp.nn.check import check_float, check_integer
from fnlamp.nn.scan import check_kept, scanned

SHORTCUT = "give residual a shortcut layer that maps the one shape to the other"


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
    """`x + layer(x)`, or `shortcut(x) + layer(x)` if shapes differ.  Of graphs the nodes are added; the lengths of a
    padded batch, integers, stay as they are.

    Params and state: under `layer` and `shortcut`.  Fails: `ShapeMismatch` if the two terms would broadcast.
    Reference: He et al. 2015, eq. 1 and 2.
    """
    children = {"layer": as_layer(layer, "residual")}
    if shortcut is not None:
        children["shortcut"] = as_layer(shortcut, "residual: shortcut")

    def init(key: Key, spec: Tree) -> Init:
        made = {name: init_child(name, child, key, spec) for name, child in children.items()}
        check_sum(made["layer"].spec, spec if shortcut is None else made["shortcut"].spec, "residual", SHORTCUT)
        return gather(children, made, made["layer"].spec)

    def apply(params: Params, state: State, x: Tree, mode: Mode) -> tuple[Tree, State]:
        new = {}
        y, new["layer"] = apply_child("layer", layer, params, state, x, mode)
        if shortcut is not None:
            x, new["shortcut"] = apply_child("shortcut", shortcut, params, state, x, mode)
        check_sum(y, x, "residual", SHORTCUT)
        if isinstance(x, Graph):
            return replace(y, nodes=tree.map(jnp.add, x.nodes, y.nodes)), without_empty(new)
        several = isinstance(x, tuple | list)
        return tree.map(lambda x, y: x if several and is_integer(x) else x + y, x, y), without_empty(new)

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


def switch(*layers: Layer, **named: Layer) -> Layer:
    """One of several layers, by a number in the input: `(x, index) -> y` of the layer with that number, in order from 0.

    A single index chooses for the whole batch, and only that layer runs; an index for each row chooses for the row: all run,
    and each row takes the output of its own.  An index out of range makes the output, or the row, NaN: training stops.
    Params and state: under the names of the layers.  The state of layers that are not chosen stays as it is.
    Shapes: index `()` or `(batch,)`, integers; all outputs have the same spec, of floating-point arrays.
    Fails: `ShapeMismatch`, also for an index for each row and layers with state, which all rows would change; `DtypeMismatch`.

    >>> layer = switch(nn.fun(jnp.negative), nn.fun(jnp.positive))
    >>> layer.apply({}, {}, (jnp.array([[1.0], [2.0], [3.0]]), jnp.array([0, 1, 2])), Eval())[0].ravel()
    Array([-1.,  2., nan], dtype=float32)
    """
    children = named_children((*((None, layer) for layer in layers), *named.items()))
    if not children:
        raise ValueError("switch needs at least one layer: nn.switch(nn.linear(3), nn.linear(3))")

    def init(key: Key, spec: Tree) -> Init:
        x, index = _chosen(spec)
        made = {name: init_child(name, layer, key, x) for name, layer in children.items()}
        first, *others = (one.spec for one in made.values())
        for other in others:
            if describe(other) != describe(first):
                raise FaultError(
                    ShapeMismatch(f"the same output of each layer, {describe(first)}", describe(other), where="switch")
                )
        tree.map(lambda y: check_float(y, "switch", "outputs of floating-point numbers", "only those can be NaN"), first)
        joined = gather(children, made, first)
        _check_state(index, joined.state)
        return joined

    def apply(params: Params, state: State, x: Tree, mode: Mode) -> tuple[Tree, State]:
        x, index = _chosen(x)
        _check_state(index, state)
        run = [partial(_run_one, name, layer, mode) for name, layer in children.items()]
        known = (index >= 0) & (index < len(run))
        if index.ndim == 0:
            y, state = jax.lax.switch(index, run, params, state, x)
            return tree.map(lambda y: jnp.where(known, y, jnp.nan), y), state
        outputs = [one(params, state, x)[0] for one in run]
        y = tree.map(lambda y: jnp.full_like(y, jnp.nan), outputs[0])
        for number, other in enumerate(outputs):
            y = tree.map(lambda own, y, n=number: jnp.where(_rows(index == n, own), own, y), other, y)
        return y, state

    return Layer(init, apply, f"switch({', '.join(map(str, children.values()))})")


def repeat(layer: Layer, times: int, *, shared: bool = False, scan: bool = False) -> Layer:
    """The layer `times` times in a row: each copy with its own weights, or all with the same (`shared`).

    With `scan`, one compiled body runs `times` times, so that deep models compile as fast as shallow ones.  Parameters and
    state are those of `layer`, of all copies along a new first axis; `jnp.stack` of the others' makes them.  The numbers, the
    initial ones too, are those without `scan`.
    Fails: `ShapeMismatch` if weights are shared or copies scanned, and the output's spec differs from the input's.

    >>> made = repeat(nn.linear(4), 3, scan=True).init(key, jax.ShapeDtypeStruct((2, 4), jnp.float32))
    >>> made.params["weight"].shape, made.params["bias"].shape
    ((3, 4, 4), (3, 4))
    """
    layer, times, shared = as_layer(layer, "repeat"), whole("repeat: times", times, None), flag("repeat: shared", shared)
    if times < 1:
        raise ValueError(f"repeat needs times >= 1, got {times}")
    if flag("repeat: scan", scan):
        if shared:
            raise ValueError("repeat: shared and scan are two ways to repeat, give one of them")
        return scanned(layer, times)
    if not shared:
        return sequence(*[layer] * times)

    def init(key: Key, spec: Tree) -> Init:
        made = layer.init(key, spec)
        check_kept(made.spec, spec)
        return Init(made.params, made.state, made.spec, made.tags, (("layer", layer, made),))

    def apply(params: Params, state: State, x: Tree, mode: Mode) -> tuple[Tree, State]:
        if isinstance(mode, Decode):  # each copy has seen other numbers
            copies = dict(state["copies"]) if "copies" in state else {str(i): state for i in range(times)}
            for i in copies:
                x, copies[i] = layer.apply(params, copies[i], x, mode)
            return x, {"copies": copies} if any(copies.values()) else state
        for i in range(times):
            x, state = layer.apply(params, state, x, mode.inside(str(i)))
        return x, state

    return Layer(init, apply, f"repeat({layer}, {times}, shared)")


# ------------------------------------------------------------------------------- shared by all


def _chosen(given: Tree) -> tuple[Tree, Any]:
    """The two parts of the input of `switch`.  Fails: `ShapeMismatch`, `DtypeMismatch`."""
    if not isinstance(given, tuple | list) or len(given) != 2 or not hasattr(given[1], "shape") or len(given[1].shape) > 1:
        raise FaultError(ShapeMismatch("(x, index), with one index, or one for each row", describe(given), where="switch"))
    x, index = given
    check_integer(index, "switch", "an index of integers")
    rows = {leaf.shape[:1] for leaf in tree.leaves(x)}
    if index.shape and rows != {index.shape}:
        raise FaultError(ShapeMismatch(f"an index for each row of {describe(x)}", describe(index), where="switch"))
    return x, index


def _check_state(index: Any, state: State) -> None:
    if index.shape and state:
        expected, hint = "one index for the whole batch", "a layer with state, such as batch norm, would be changed by all rows"
        raise FaultError(ShapeMismatch(expected, describe(index), hint, where="switch"))


def _run_one(name: str, layer: Layer, mode: Mode, params: Params, state: State, x: Tree) -> tuple[Tree, State]:
    y, new = apply_child(name, layer, params, state, x, mode)
    return y, {**state, name: new} if new else state


def _rows(rows: Array, x: Array) -> Array:
    return rows.reshape(rows.shape + (1,) * (x.ndim - 1))


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


def check_sum(a: Tree, b: Tree, where: str, hint: str) -> None:
    """Fails: `ShapeMismatch` unless the two trees have the same shapes."""
    if isinstance(a, Graph) and isinstance(b, Graph):
        a, b = a.nodes, b.nodes
    if tree.map(lambda x: x.shape, a) != tree.map(lambda x: x.shape, b):
        raise FaultError(ShapeMismatch(describe(b), describe(a), hint, where=where))
