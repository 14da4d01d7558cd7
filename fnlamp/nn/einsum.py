"""Linear maps between any axes."""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnlamp.arrays import Array, Key, Params, Spec, State, array_spec, wide
from fnlamp.given import arguments, text, whole
from fnlamp.layer import Init, Layer, tag_all
from fnlamp.mode import Mode
from fnlamp.nn.check import check_float, check_shape
from fnlamp.nn.initial import Initializer, bias_of, check_initializers, glorot_normal
from fnlamp.nn.shape import check_whole
from fnlamp.tag import Matrix, Role


class _Axes(NamedTuple):
    x: str
    weight: str
    y: str


@arguments('nn.einsum("btf,fhd->bthd", h=4, d=8) has a weight of shape (f, h, d); f is inferred')
def einsum(
    equation: str,
    *,
    bias: str = "",
    weight_init: Initializer = glorot_normal,
    bias_init: Initializer = jax.nn.initializers.zeros,
    **sizes: int,
) -> Layer:
    """The input times a weight, over axes that letters name, as in `jnp.einsum`; sizes of the output's new axes by letter.

    `bias` has the letters of the bias's axes, which are axes of the output.  The first axis is the batch, of the input and the
    output.  The weight is initialised as a matrix from its axes that are summed over to its new ones.
    Shapes: as the equation says.  Params: `weight`, and `bias` if it has axes.
    Fails: `ShapeMismatch` for another rank or other sizes; `DtypeMismatch` for integers.
    Raises: `ValueError` for an equation that does not say what each axis is.

    >>> layer = einsum("btf,fhd->bthd", bias="hd", h=2, d=3)
    >>> made = layer.init(key, jax.ShapeDtypeStruct((8, 5, 4), jnp.float32))
    >>> made.params["weight"].shape, made.params["bias"].shape, made.spec.shape
    ((4, 2, 3), (2, 3), (8, 5, 2, 3))
    """
    axes = _parsed(text("einsum: equation", equation, 'a text, as "btf,fhd->bthd"'), text("einsum: bias", bias), sizes)
    sizes = {letter: whole(f"einsum: {letter}", size) for letter, size in sizes.items()}
    check_initializers("einsum", weight_init=weight_init, bias_init=bias_init)
    inputs, outputs, each = _roles(axes)

    def lengths(x: Any) -> dict[str, int]:
        check_shape(x, lambda shape: len(shape) == len(axes.x), f"an array of shape ({', '.join(axes.x)})", "einsum")
        check_float(x, "einsum")
        return {**dict(zip(axes.x, x.shape, strict=True)), **sizes}

    def init(key: Key, spec: Spec) -> Init:
        size = lengths(spec)
        keys = jax.random.split(key)
        fan_in, fan_out = (math.prod(size[axis] for axis in part) for part in (inputs, outputs))
        copies = math.prod(size[axis] for axis in each)  # a matrix for each place of the axes that are in all three
        matrices = jnp.stack([weight_init(one, (fan_in, fan_out), spec.dtype) for one in jax.random.split(keys[0], copies)])
        order = [(each + inputs + outputs).index(axis) for axis in axes.weight]
        weight = matrices.reshape([size[axis] for axis in each + inputs + outputs]).transpose(order)
        params, roles = {"weight": weight}, {"weight": Role.WEIGHT}
        if bias:
            params["bias"] = bias_of(bias_init, fan_in)(keys[1], tuple(size[axis] for axis in bias), spec.dtype)
            roles["bias"] = Role.BIAS
        places = [tuple(map(axes.weight.index, part)) for part in (inputs, outputs)]
        tags = tag_all("einsum", Matrix(places[0], places[1]) if outputs and not each else None, **roles)
        return Init(params, {}, array_spec(tuple(size[axis] for axis in axes.y), spec.dtype), tags)

    def apply(params: Params, state: State, x: Array, mode: Mode) -> tuple[Array, State]:
        if axes.x[1:2] != axes.y[1:2] or axes.x[1] in axes.weight:
            check_whole(mode, "einsum", "it mixes time steps, the second axis")
        weight, size = params["weight"], lengths(x)
        fits = all(size[axis] == length for axis, length in zip(axes.weight, weight.shape, strict=True))
        check_shape(x, lambda _: fits, f"sizes of the weight ({', '.join(axes.weight)}) = {weight.shape}", "einsum")
        y = jnp.einsum(f"{axes.x},{axes.weight}->{axes.y}", x.astype(weight.dtype), weight, preferred_element_type=wide(weight))
        y = y.astype(weight.dtype)
        return (y + _placed(params["bias"], bias, axes.y) if bias else y), state

    return Layer(init, apply, f"einsum({equation!r})")


def _placed(bias: Array, letters: str, y: str) -> Array:
    """The bias with its axes in the order of the output's, and axes of length 1 for the others."""
    order = sorted(letters, key=y.index)
    length = dict(zip(letters, bias.shape, strict=True))
    return bias.transpose([letters.index(axis) for axis in order]).reshape([length.get(axis, 1) for axis in y])


def _roles(axes: _Axes) -> tuple[str, str, str]:
    """Axes of the weight that are summed over, those that are new in the output, and those that are in all three."""
    inputs = "".join(axis for axis in axes.weight if axis not in axes.y)
    outputs = "".join(axis for axis in axes.weight if axis not in axes.x)
    return inputs, outputs, "".join(axis for axis in axes.weight if axis in axes.x and axis in axes.y)


def _parsed(equation: str, bias: str, sizes: dict[str, int]) -> _Axes:
    found = re.fullmatch(r"([a-zA-Z]+),([a-zA-Z]+)->([a-zA-Z]+)", equation.replace(" ", ""))
    if not found:
        raise ValueError(f'einsum: equation is as "btf,fhd->bthd": input, weight, output, got {equation!r}')
    for name in sizes:
        if len(name) != 1:
            raise TypeError(f"einsum: {name} is not an argument; sizes are given by the letters of the new axes, as h=4")
    axes = _Axes(*found.groups())
    x, weight, y = map(set, axes)
    new = weight - x
    for wrong, why in (
        (any(len(set(part)) < len(part) for part in axes), "an axis is named twice"),
        (axes.x[0] != axes.y[0] or axes.x[0] in weight, "the batch, the input's first axis, is the output's first"),
        (y - x - weight, "each axis of the output is one of the input or the weight"),
        (x - y - weight, "each axis of the input is one of the weight or the output"),
        (new - y, "each new axis of the weight is one of the output"),
        (not x & weight - y, "input and weight have an axis that is summed over"),
        (new != set(sizes), f"sizes are those of the new axes {', '.join(sorted(new)) or '(none)'}, got {sorted(sizes)}"),
        (len(set(bias)) < len(bias), f"bias {bias!r} names an axis twice"),
        (set(bias) - y | set(bias) & {axes.x[0]}, "the axes of bias are axes of the output, and not the batch"),
        (set(bias) - weight, "the axes of bias are axes of the weight, whose sizes do not change"),
    ):
        if wrong:
            raise ValueError(f"einsum: equation {equation!r}: {why}")
    return axes
