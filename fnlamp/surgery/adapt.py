"""Layers with frozen parameters, and with adapters beside them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from fnlamp import tree
from fnlamp.arrays import Array, Key, Params, State, Tree, wide
from fnlamp.given import flag, function, number, whole
from fnlamp.layer import Init, Layer, as_layer
from fnlamp.mode import Eval, Mode, name_key
from fnlamp.nn.initial import torch_uniform
from fnlamp.surgery.named import Path, called, leaves_of
from fnlamp.surgery.tagged import join, split
from fnlamp.tag import Matrix, Role, Tag


def freeze(layer: Layer, choose: Callable[[Tag], bool] | None = None) -> Layer:
    """The layer with the parameters whose tag is chosen as state: no gradient, no weight decay, no optimizer reaches them.

    Without `choose` all are frozen, and the layer is applied as in `Eval`: without dropout, its batch norm as it is.
    Params: the others.  State: the frozen ones under `frozen`, and the layer's own under `layer`.  Start from trained ones by
    `epochs(initial=(params, state))` with `params, frozen = split(...)`, or `put(state, "0/frozen", trained.params)`.

    >>> body = freeze(nn.linear(8) >> nn.relu)
    >>> made = (body >> nn.linear(2)).init(jax.random.key(0), jax.ShapeDtypeStruct((1, 3), jnp.float32))
    >>> list(tree.paths(made.params)), list(tree.paths(made.state))
    (['1/bias', '1/weight'], ['0/frozen/0/bias', '0/frozen/0/weight'])
    """
    layer = as_layer(layer, "freeze")
    if choose is not None:
        function("freeze: choose", choose, "a function from a Tag to True or False")

    def init(key: Key, spec: Tree) -> Init:
        made = layer.init(key, spec)
        frozen, params = split(made.params, made.tags, choose or (lambda tag: True))
        tags: Tree = {}
        for path in leaves_of("freeze", params):
            tags = tree.put(tags, path, tree.at(made.tags, path))
        state = _state(made.state, frozen=frozen)
        return Init(params, state, made.spec, tags, (("layer", layer, made),))

    def apply(params: Params, state: State, x: Tree, mode: Mode) -> tuple[Tree, State]:
        every = join(state.get("frozen", {}), params)
        y, new = layer.apply(every, state.get("layer", {}), x, Eval() if choose is None else mode)
        return y, {**state, **({"layer": new} if new else {})}

    return Layer(init, apply, f"freeze({layer})")


def lora(layer: Layer, rank: int, *, alpha: float | None = None, choose: Callable[[Tag], bool] | None = None) -> Layer:
    """The layer with its parameters frozen, and to each chosen weight W of inputs by outputs `alpha / rank A B` added.

    A `(inputs, rank)` starts as torch's default, B `(rank, outputs)` as 0, so that the layer starts as it was; only they learn.
    Chosen are all weights that are matrices, unless `choose` is given; `alpha` is the rank unless given.
    Params: A under `down`, B under `up`, by the names of the weights.  State: the layer's parameters under `frozen`, its state
    under `layer`, and alpha / rank under `scale`, so that `merge_lora` needs no more.
    Raises: `ValueError` if nothing is chosen, or a parameter that is not a matrix.  Reference: Hu et al. 2021, eq. 3.

    >>> made = lora(nn.linear(8), 2).init(jax.random.key(0), jax.ShapeDtypeStruct((1, 3), jnp.float32))
    >>> made.params["down"]["weight"].shape, made.params["up"]["weight"].shape, list(made.state["frozen"])
    ((3, 2), (2, 8), ['weight', 'bias'])
    """
    layer, rank = as_layer(layer, "lora"), whole("lora: rank", rank)
    alpha = float(rank) if alpha is None else number("lora: alpha", alpha)
    if choose is not None:
        function("lora: choose", choose, "a function from a Tag to True or False")

    def init(key: Key, spec: Tree) -> Init:
        made = layer.init(key, spec)
        params: Params = {}
        tags: Tree = {}
        for path, weight, (inputs, outputs) in _adapted(made, choose or _is_weight):
            down = torch_uniform(name_key(key, f"lora/{'/'.join(path)}"), (inputs, rank), weight.dtype)
            for name, value in (("down", down), ("up", jnp.zeros((rank, outputs), weight.dtype))):
                params = tree.put(params, (name, *path), value)
                tags = tree.put(tags, (name, *path), Tag("lora", Role.WEIGHT, (name, *path[:-1]), Matrix()))
        state = _state(made.state, frozen=made.params, scale=jnp.float32(alpha / rank))
        return Init(params, state, made.spec, tags, (("layer", layer, made),))

    def apply(params: Params, state: State, x: Tree, mode: Mode) -> tuple[Tree, State]:
        merged, inner = merge_lora(params, state)
        y, new = layer.apply(merged, inner, x, mode)
        return y, {**state, **({"layer": new} if new else {})}

    return Layer(init, apply, f"lora({layer}, {rank})")


def merge_lora(params: Params, state: State) -> tuple[Params, State]:
    """Parameters and state of the layer inside `lora`, each adapted weight with its sum: `W + alpha / rank A B`.

    >>> made = lora(nn.linear(8), 2).init(jax.random.key(0), jax.ShapeDtypeStruct((1, 3), jnp.float32))
    >>> params, state = merge_lora(made.params, made.state)
    >>> sorted(params), state
    (['bias', 'weight'], {})
    """
    leaves_of("merge_lora: params", params)
    leaves_of("merge_lora: state", state)
    if set(params) != {"down", "up"} or not {"frozen", "scale"} <= set(state):
        raise ValueError(f"merge_lora: params and state are those of lora(...), got {sorted(params)} and {sorted(state)}")
    merged = state["frozen"]
    for path, down in tree.named(params["down"]).items():
        weight, up = tree.at(merged, path), tree.at(params["up"], path)
        long = wide(weight)
        change = state["scale"].astype(long) * (down.astype(long) @ up.astype(long))
        merged = tree.put(merged, path, (weight.astype(long) + change.reshape(weight.shape)).astype(weight.dtype))
    return merged, state.get("layer", {})


def _is_weight(tag: Tag) -> bool:
    return tag.role is Role.WEIGHT and tag.matrix is not None


def _adapted(made: Init, choose: Callable[[Tag], bool]) -> list[tuple[Path, Array, tuple[int, int]]]:
    """The chosen weights, and how many inputs and outputs each has.  Raises: `ValueError`."""
    tags, found = tree.named(made.tags) if made.tags else {}, []
    for path, weight in (tree.named(made.params) if made.params else {}).items():
        matrix = tags[path].matrix
        if not flag("the result of lora: choose", called("choose", choose, tags[path])):
            continue
        if matrix is None or matrix.inputs + matrix.outputs != tuple(range(weight.ndim)):
            raise ValueError(f"lora: choose gives {'/'.join(path)}, which is not a matrix of inputs by outputs, in this order")
        sizes = [math.prod(weight.shape[axis] for axis in axes) for axes in (matrix.inputs, matrix.outputs)]
        found.append((path, weight, (sizes[0], sizes[1])))
    if not found:
        raise ValueError("lora: choose gives no parameter of the layer")
    return found


def _state(inner: State, **own: Any) -> State:
    return {name: part for name, part in {**own, "layer": inner}.items() if not isinstance(part, dict) or part}
