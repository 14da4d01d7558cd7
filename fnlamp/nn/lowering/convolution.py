"""The convolution of images on the CPU, and its gradients, as three operations of JAX that are each other's transposes.

JAX would derive the gradients of a convolution from its form, and XLA:CPU would be slow: inside a compiled loop its own
gradients of a convolution are a naive loop.  So the convolution, its gradient of the images and its gradient of the weight
are each a bilinear operation, whose transposes are the other two.  Gradients of any order, forward and in reverse, are made
of the three, and each is computed in the form that was the fastest for its sizes (`fnlamp.nn.lowering.chosen`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from fnlamp.arrays import Array
from fnlamp.nn.lowering import chosen
from fnlamp.nn.lowering.geometry import Geometry

Form = Callable[[Array, Array, Geometry], Array]


def outputs(x: Array, w: Array, g: Geometry) -> Array:
    """The convolution of images with a weight."""
    y: Array = _OUTPUTS.bind(x, w, geometry=g)
    return y


def images(d: Array, w: Array, g: Geometry) -> Array:
    """The gradient of `<d, outputs(x, w)>` in `x`."""
    x: Array = _IMAGES.bind(d, w, geometry=g)
    return x


def weight(x: Array, d: Array, g: Geometry) -> Array:
    """The gradient of `<d, outputs(x, w)>` in `w`."""
    w: Array = _WEIGHT.bind(x, d, geometry=g)
    return w


def _primitive(name: str, form: Form, made: Callable[[Geometry], tuple[int, ...]]) -> Any:
    """An operation of that form, whose result has the shape that `made` gives."""
    operation = Primitive(name)

    def abstract(a: Any, b: Any, *, geometry: Geometry) -> Any:
        return jax.core.ShapedArray(made(geometry), jnp.promote_types(a.dtype, b.dtype))

    def lowered(a: Array, b: Array, *, geometry: Geometry) -> Array:
        return form(a, b, geometry)

    operation.def_impl(jax.jit(lowered, static_argnames="geometry"))  # type: ignore[no-untyped-call]
    operation.def_abstract_eval(abstract)  # type: ignore[no-untyped-call]
    mlir.register_lowering(operation, mlir.lower_fun(lowered, multiple_results=False))
    batching.primitive_batchers[operation] = partial(_mapped, operation)
    return operation


def _mapped(operation: Any, arrays: tuple[Any, Any], axes: tuple[Any, Any], *, geometry: Geometry) -> tuple[Array, int]:
    """`vmap`: images of an axis more are more images; with a weight of an axis more, one after the other.

    A loop is as fast as one operation on a CPU, whose cores one convolution of usual size already uses.
    """
    a, b = (x if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in zip(arrays, axes, strict=True))
    if axes[1] is None and operation is not _WEIGHT:
        many, batch = a.shape[:2]
        y = operation.bind(a.reshape(many * batch, *a.shape[2:]), b, geometry=geometry.of_batch(many * batch))
        return y.reshape(many, batch, *y.shape[1:]), 0
    if axes[0] is None:
        return jax.lax.map(lambda b: operation.bind(a, b, geometry=geometry), b), 0
    if axes[1] is None:
        return jax.lax.map(lambda a: operation.bind(a, b, geometry=geometry), a), 0
    return jax.lax.map(lambda pair: operation.bind(*pair, geometry=geometry), (a, b)), 0


_OUTPUTS: Final = _primitive("conv2d", chosen.outputs, lambda g: g.outputs)
_IMAGES: Final = _primitive("conv2d_images", chosen.images, lambda g: g.images)
_WEIGHT: Final = _primitive("conv2d_weight", chosen.weight, lambda g: g.weight)

# <d, outputs(x, w)> = <images(d, w), x> = <weight(x, d), w>: the derivative in each of the three is the operation of that name.
ad.defbilinear(  # type: ignore[no-untyped-call]
    _OUTPUTS,
    lambda cotangent, _, w, *, geometry: images(cotangent, w, geometry),
    lambda cotangent, x, _, *, geometry: weight(x, cotangent, geometry),
)
ad.defbilinear(  # type: ignore[no-untyped-call]
    _IMAGES,
    lambda cotangent, _, w, *, geometry: outputs(cotangent, w, geometry),
    lambda cotangent, d, _, *, geometry: weight(cotangent, d, geometry),
)
ad.defbilinear(  # type: ignore[no-untyped-call]
    _WEIGHT,
    lambda cotangent, _, d, *, geometry: images(d, cotangent, geometry),
    lambda cotangent, x, _, *, geometry: outputs(x, cotangent, geometry),
)
