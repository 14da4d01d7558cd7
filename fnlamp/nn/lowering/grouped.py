"""Convolution in groups as convolutions without: of each group, or of some with zeros between them.

XLA:CPU's products and convolutions of few channels are slow, and those in groups are products of few channels.  So groups of
few channels are taken together as one convolution, whose weight is zero from the channels of one group to those of another.
Its arithmetic is more, by the number of groups taken together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax.numpy as jnp

from fnlamp.arrays import Array
from fnlamp.nn.lowering.geometry import Geometry

CHANNELS = 16
"""Groups are taken together until they have as many channels, in or out."""

Form = Callable[[Array, Array, Geometry], Array]


def together(g: Geometry) -> int:
    """How many groups one convolution takes: the smallest divisor of their number with enough channels."""
    each = max(g.weight[2], g.weight[3] // g.groups)
    return next(n for n in range(1, g.groups + 1) if g.groups % n == 0 and (n * each >= CHANNELS or n == g.groups))


def part(g: Geometry) -> Geometry:
    """The sizes of one of the convolutions."""
    n, each = together(g), g.weight[2]
    weight = (*g.weight[:2], n * each, n * g.weight[3] // g.groups)
    return replace(g, images=(*g.images[:3], n * each), weight=weight, groups=1)


def outputs(x: Array, w: Array, g: Geometry, form: Form) -> Array:
    """The convolution."""
    one = part(g)
    return jnp.concatenate([form(x, w, one) for x, w in zip(_split(x, g), _dense(w, g), strict=True)], -1)


def images(d: Array, w: Array, g: Geometry, form: Form) -> Array:
    """The gradient of the images."""
    one = part(g)
    return jnp.concatenate([form(d, w, one) for d, w in zip(_split(d, g), _dense(w, g), strict=True)], -1)


def weight(x: Array, d: Array, g: Geometry, form: Form) -> Array:
    """The gradient of the weight."""
    one, n, each = part(g), together(g), g.weight[2]
    made = []
    for images, like_outputs in zip(_split(x, g), _split(d, g), strict=True):
        dense = form(images, like_outputs, one).reshape(*g.weight[:2], n, each, n, -1)
        made += [dense[:, :, i, :, i] for i in range(n)]
    return jnp.concatenate(made, -1)


def _split(x: Array, g: Geometry) -> list[Array]:
    return jnp.split(x, g.groups // together(g), -1)


def _dense(w: Array, g: Geometry) -> list[Array]:
    """Weights whose blocks off the diagonal are zero."""
    n, each, one = together(g), g.weight[2], part(g)
    blocks = w.reshape(*g.weight[:2], each, g.groups // n, n, -1)
    own = jnp.eye(n, dtype=w.dtype).reshape(1, 1, n, 1, n, 1)
    return [(blocks[:, :, None, :, i] * own).reshape(one.weight) for i in range(g.groups // n)]
