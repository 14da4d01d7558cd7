"""Weights as functions of parameters: a length and a direction, or a weight divided by its largest singular value."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from fnlamp import tree
from fnlamp.arrays import Array, Key, Params, Spec, State, Tree, wide
from fnlamp.given import arguments, whole
from fnlamp.layer import Init, Layer, as_layer
from fnlamp.mode import Mode, Train, name_key
from fnlamp.tag import Role, Tag


@arguments("it goes around a layer: nn.weight_norm(nn.linear(10))")
def weight_norm(layer: Layer) -> Layer:
    """The layer with each weight written as a length for each output unit and a direction: `W = g v / |v|`.

    `|v|` is over the inputs of a unit; `g` starts as it, so that `W` starts as the layer's own weight.  Which of the layer's
    parameters are weights, and where their outputs are, their tags say; of a lookup table or a bias nothing changes.
    Params: the layer's under `layer`, with v for W, and g under `gain` by the same names, of role `SCALE`: weight decay that
    skips scales leaves it alone.  State: the layer's.  A unit without a direction, all of whose v are 0, is NaN: training
    stops with `NonFinite`.  Raises: `ValueError` for a layer without weights.
    Reference: Salimans & Kingma 2016, eq. 2 and 3; `torch.nn.utils.parametrizations.weight_norm` with its `dim=0`.

    >>> made = weight_norm(nn.linear(3)).init(key, jax.ShapeDtypeStruct((8, 4), jnp.float32))
    >>> {path: leaf.shape for path, leaf in tree.paths(made.params).items()}
    {'gain/weight': (3,), 'layer/bias': (3,), 'layer/weight': (4, 3)}
    """
    layer = as_layer(layer, "weight_norm")

    def init(key: Key, spec: Spec) -> Init:
        made = layer.init(key, spec)
        weights = _weights(made, f"weight_norm: {layer}")
        params: Params = {"layer": made.params}
        tags: Tree = {"layer": tree.map(lambda tag: tag.inside("layer"), made.tags)}
        for path, (weight, units) in weights.items():
            params = tree.put(params, ("gain", *path), _lengths(weight.reshape(-1, units)).astype(weight.dtype))
            tags = tree.put(tags, ("gain", *path), Tag("weight_norm", Role.SCALE, ("gain", *path[:-1])))
        return Init(params, made.state, made.spec, tags, (("layer", layer, made),))

    def apply(params: Params, state: State, x: Tree, mode: Mode) -> tuple[Tree, State]:
        weights = params["layer"]
        for path, gain in tree.named(params["gain"]).items():
            v = tree.at(weights, path)
            matrix = v.reshape(-1, gain.size).astype(wide(v))
            matrix = matrix * (gain.astype(matrix.dtype) / _lengths(matrix))[None]
            weights = tree.put(weights, path, matrix.astype(v.dtype).reshape(v.shape))
        return layer.apply(weights, state, x, mode)

    return Layer(init, apply, f"weight_norm({layer})")


@arguments("it goes around a layer: nn.spectral_norm(nn.linear(10))")
def spectral_norm(layer: Layer, *, steps: int = 1) -> Layer:
    """The layer with each weight divided by an estimate of its largest singular value, so that its Lipschitz constant is 1.

    With W as a matrix `(inputs, outputs)`: `steps` power iterations `v = W u / |W u|`, `u = W^T v / |W^T v|` in `Train`, and
    none in `Eval`, which leaves u and v unchanged; then `W / (v^T W u)`.  The gradient takes u and v as constants.
    Params: the layer's own.  State: the layer's under `layer`; `u` and `v` by the names of their weights, 15 iterations from
    random ones, as in torch.  A weight of zeros becomes NaN: training stops with `NonFinite`.
    Raises: `ValueError` for a layer without weights.
    Reference: Miyato et al. 2018, Algorithm 1; `torch.nn.utils.spectral_norm`.

    >>> layer = spectral_norm(nn.linear(3, bias=False))
    >>> made = layer.init(key, jax.ShapeDtypeStruct((8, 4), jnp.float32))
    >>> sorted(made.params), sorted(made.state), made.state["u"]["weight"].shape
    (['weight'], ['u', 'v'], (3,))
    """
    layer, steps = as_layer(layer, "spectral_norm"), whole("spectral_norm: steps", steps)

    def init(key: Key, spec: Spec) -> Init:
        made = layer.init(key, spec)
        state: State = {"layer": made.state} if made.state else {}
        for path, (weight, units) in _weights(made, f"spectral_norm: {layer}").items():
            matrix = weight.reshape(-1, units).astype(wide(weight))
            start = jax.random.normal(name_key(key, "/".join(path)), (units,), matrix.dtype)
            u, v = _iterated(matrix, _unit(start), start, 15)
            state = tree.put(tree.put(state, ("u", *path), u), ("v", *path), v)
        return Init(made.params, state, made.spec, made.tags, (("layer", layer, made),))

    def apply(params: Params, state: State, x: Tree, mode: Mode) -> tuple[Tree, State]:
        new = state
        for path, u in tree.named(state["u"]).items():
            weight, v = tree.at(params, path), tree.at(state["v"], path)
            matrix = weight.reshape(-1, u.size).astype(u.dtype)
            if isinstance(mode, Train):
                u, v = _iterated(stop_gradient(matrix), u, v, steps)
                new = tree.put(tree.put(new, ("u", *path), u), ("v", *path), v)
            largest = jnp.sum(v[:, None] * matrix * u[None])
            params = tree.put(params, path, (matrix / largest).astype(weight.dtype).reshape(weight.shape))
        y, inner = layer.apply(params, state.get("layer", {}), x, mode)
        return y, new | {"layer": inner} if inner else new

    return Layer(init, apply, f"spectral_norm({layer})")


def _weights(made: Init, where: str) -> dict[tuple[str, ...], tuple[Array, int]]:
    """The weights of a layer by path, and how many outputs each has.

    Raises: `ValueError` if there is none, if the outputs of one are not its last axes, or if it is of several layers.
    """
    tags, found = tree.named(made.tags), {}
    for path, weight in tree.named(made.params).items():
        tag = tags[path]
        if tag.role is not Role.WEIGHT:
            continue
        outputs = tag.matrix.outputs if tag.matrix else (weight.ndim - 1,)  # without a matrix, that of a depthwise convolution
        if (tag.layer == "einsum" and tag.matrix is None) or outputs != tuple(range(weight.ndim))[-len(outputs) :]:
            raise ValueError(f"{where}: the outputs of the weight {'/'.join(path)} are not its last axes")
        if tag.matrix and tag.matrix.each:
            raise ValueError(f"{where} goes around the layer inside nn.repeat(..., scan=True), whose weights are stacked")
        found[path] = weight, math.prod(weight.shape[axis] for axis in outputs)
    if not found:
        raise ValueError(f"{where} has no weight to normalise; it goes around a layer such as nn.linear(10)")
    return found


def _lengths(matrix: Array) -> Array:
    """The norm of each column, in at least float32."""
    return jnp.sqrt(jnp.sum(jnp.square(matrix.astype(wide(matrix))), 0))


def _iterated(matrix: Array, u: Array, v: Array, steps: int) -> tuple[Array, Array]:
    """Unit vectors nearer to the singular vectors of the largest singular value: u of the outputs, v of the inputs."""
    for _ in range(steps):
        v = _unit(matrix @ u)
        u = _unit(matrix.T @ v)
    return u, v


def _unit(x: Array) -> Array:
    return x / jnp.maximum(jnp.linalg.norm(x), 1e-12)
