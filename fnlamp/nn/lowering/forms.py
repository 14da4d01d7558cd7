"""Forms of a convolution, of its gradient of the images and of that of the weight, with channels last throughout.

With `x` the images, `w` the weight, `d` an array like the output, and `<a, b>` the sum of the products of their numbers, the
three operations are bilinear, and `<d, outputs(x, w)> = <images(d, w), x> = <weight(x, d), w>`.

- *patches*: the pixels under each place of the window in a row, and one matrix product (im2col); the gradient of the images
  is the sum of the shifted patches (col2im).  Chellapilla, Puri & Simard 2006, section 3.
- *native*: XLA's convolution, with images `(batch, height, width, channels)` and a weight `(height, width, in, out)`.  Inside a
  compiled loop, where training happens, XLA:CPU has a fast kernel for this order of axes alone (jax-ml/jax#12868), so the
  gradients are written as convolutions of that order: of the images, with the weight turned around; of the weight, with the
  channels as the batch and the batch as the channels.
- *shifts*: a product of numbers for each pixel of the window, for depthwise convolution.
"""

from __future__ import annotations

from functools import reduce
from math import gcd, prod

import jax.numpy as jnp
from jax import lax

from fnlamp.arrays import Array
from fnlamp.nn.lowering.geometry import Four, Geometry
from fnlamp.nn.lowering.matmul import in_memory
from fnlamp.nn.lowering.window import Pair, Sides

FEW = 16
"""Channels, or images, with which XLA's own kernel is no faster than the one that it chooses."""
SMALL = 2**14
"""Numbers of a weight whose gradient, by patches, is computed for parts of the batch."""


def shifted(x: Array, g: Geometry) -> list[Array]:
    """For each pixel of the window, the pixels under it as the window slides, `(batch, places, places, in)`."""
    return _slid(_padded(x, g), g)


def _padded(x: Array, g: Geometry) -> Array:
    return in_memory(jnp.pad(x, ((0, 0), *g.sides, (0, 0)))) if any(map(any, g.sides)) else x


def _slid(x: Array, g: Geometry) -> list[Array]:
    (rows, columns), strides = g.reach, (1, *g.stride, 1)
    return [lax.slice(x, (0, i, j, 0), (x.shape[0], i + rows, j + columns, x.shape[3]), strides) for i, j in g.corners]


def gathered(parts: list[Array], g: Geometry) -> Array:
    """The transpose of `shifted`: parts `(batch, places, places, in)` added to the pixels that they belong to."""
    (high, wide), (rows, columns), ((above, _), (left, _)) = g.padded, g.reach, g.sides
    down, across = (stride - 1 for stride in g.stride)
    zero, total = jnp.zeros((), parts[0].dtype), None
    for part, (i, j) in zip(parts, g.corners, strict=True):
        put = ((0, 0, 0), (i, high - i - rows, down), (j, wide - j - columns, across), (0, 0, 0))
        whole = lax.pad(part, zero, put)
        total = whole if total is None else total + whole
    assert total is not None
    return total[:, above : above + g.images[1], left : left + g.images[2]]


# ------------------------------------------------------------------------------------------- patches, one product


def patches(x: Array, g: Geometry) -> Array:
    """`(batch places, window in)`: the pixels under each place of the window."""
    return jnp.concatenate(shifted(x, g), -1).reshape(prod(g.outputs[:3]), g.columns)


def outputs_by_patches(x: Array, w: Array, g: Geometry) -> Array:
    """The convolution."""
    return (patches(x, g) @ w.reshape(g.columns, -1)).reshape(g.outputs)


def images_by_patches(d: Array, w: Array, g: Geometry) -> Array:
    """The gradient of the images."""
    window, (batch, high, wide, out) = len(g.corners), g.outputs
    columns = d.reshape(batch * high * wide, out) @ in_memory(w.reshape(g.columns, out).T)
    columns = columns.reshape(batch, high, wide, window, g.images[3])
    return gathered([columns[:, :, :, i] for i in range(window)], g)


def weight_by_patches(x: Array, d: Array, g: Geometry) -> Array:
    """The gradient of the weight: patches `(window in, batch places)` times an array like the output.

    XLA:CPU multiplies slowly by a matrix that it has to transpose, so the images are stored with the channels first.  A small
    product with many terms to a sum is one for each of some parts of the batch, or the cores would not share it.
    """
    (batch, *places, out), few = g.outputs, g.columns * g.weight[3] <= SMALL
    parts = gcd(batch, 16) if few else 1
    first = in_memory(jnp.moveaxis(jnp.pad(x, ((0, 0), *g.sides, (0, 0))).reshape(parts, -1, *g.padded, x.shape[3]), 4, 1))
    (rows, columns), strides = g.reach, (1, 1, 1, *g.stride)
    seen = [lax.slice(first, (0, 0, 0, i, j), (*first.shape[:3], i + rows, j + columns), strides) for i, j in g.corners]
    patches = in_memory(jnp.concatenate(seen, 1).reshape(parts, g.columns, batch // parts * prod(places)))
    made = lax.dot_general(patches, d.reshape(parts, -1, out), (((2,), (1,)), ((0,), (0,))))
    return made.sum(0).reshape(g.weight)


# ------------------------------------------------------------------------------------------------ native


def outputs_by_native(x: Array, w: Array, g: Geometry) -> Array:
    """The convolution."""
    return _native(x, w, g.stride, g.sides, g.dilation, min(g.images[3], g.weight[3]) > FEW)


def images_by_native(d: Array, w: Array, g: Geometry) -> Array:
    """The gradient of the images, for a stride of 1 and less padding than the window spans."""
    around = [(span - 1 - before, span - 1 - after) for span, (before, after) in zip(g.window.span, g.sides, strict=True)]
    turned = in_memory(jnp.swapaxes(lax.rev(w, (0, 1)), 2, 3))
    return _native(d, turned, (1, 1), (around[0], around[1]), g.dilation, min(g.images[3], g.weight[3]) > FEW)


def weight_by_native(x: Array, d: Array, g: Geometry) -> Array:
    """The gradient of the weight."""
    unused = [n - reach - span + 1 for n, reach, span in zip(g.padded, g.reach, g.window.span, strict=True)]
    (above, below), (left, right) = ((before, after - rest) for (before, after), rest in zip(g.sides, unused, strict=True))
    x = x[:, : g.images[1] + min(below, 0), : g.images[2] + min(right, 0)]  # no window reaches the last pixels
    sides = (above, max(below, 0)), (left, max(right, 0))
    x, d = _transposed(x, (3, 1, 2, 0)), _transposed(d, (1, 2, 0, 3))
    own = g.weight[3] > FEW and (g.images[0] > FEW or g.images[3] <= FEW)
    return jnp.transpose(_native(x, d, g.dilation, sides, g.stride, own), (1, 2, 0, 3))


def _transposed(x: Array, order: Four) -> Array:
    """`jnp.transpose`, in a loop over two halves.

    Otherwise XLA:CPU computes `x` again for the transpose, from the output of the layer before or from layers further back.
    """
    axis, half = order[0], x.shape[order[0]] // 2
    if 2 * half != x.shape[axis]:
        return in_memory(jnp.transpose(x, order))
    made: Array = lax.map(lambda at: jnp.transpose(lax.dynamic_slice_in_dim(x, at, half, axis), order), jnp.array([0, half]))
    return made.reshape([x.shape[i] for i in order])


def _native(x: Array, w: Array, stride: Pair, sides: Sides, dilation: Pair, own: bool) -> Array:
    """XLA's convolution in its canonical order; with `own` by XLA's kernel, else by the one that XLA chooses.

    For more than 16 channels jaxlib 0.10 chooses that of the library YNNPACK, which often takes twice as long.  It does not
    take images with holes.  So with `own` each row but the last has a hole below it, and the window skips the holes.
    """
    (above, below), (down, across), rows = sides[0], dilation, (1, 1)
    if own and x.shape[1] > 1:
        stride, dilation, rows = (2 * stride[0], stride[1]), (2 * down, across), (2, 1)
        sides = (2 * above, 2 * below), sides[1]
    return lax.conv_general_dilated(x, w, stride, sides, rows, dilation, ("NHWC", "HWIO", "NHWC"))


# ------------------------------------------------------------------------------------------------ shifts, depthwise


def outputs_by_shifts(x: Array, w: Array, g: Geometry) -> Array:
    """The convolution where each group has one input channel."""
    x = _repeated(x, g)
    total: Array = reduce(jnp.add, [s * k for s, k in zip(shifted(x, g), _pixels(w, g), strict=True)])
    return total


def images_by_shifts(d: Array, w: Array, g: Geometry) -> Array:
    """The gradient of the images."""
    times = g.weight[3] // g.groups
    if times == 1:
        return gathered([d * k for k in _pixels(w, g)], g)
    each = [(d * k).reshape(*g.outputs[:3], g.groups, times) for k in _pixels(w, g)]
    return gathered([part.sum(-1) for part in each], g)


def weight_by_shifts(x: Array, d: Array, g: Geometry) -> Array:
    """The gradient of the weight.

    XLA:CPU sums over leading axes slowly, and reads all images again for each pixel of the window.  So some images at a time,
    which the cache holds, are added as numbers to numbers, for each place; then the places are summed.
    """
    some = gcd(g.images[0], 8)

    def add(sums: list[Array], images: tuple[Array, Array]) -> tuple[list[Array], None]:
        x, d = images
        parts = [[s[i] * d[i] for i in range(some)] for s in _slid(x, g)]
        return [total + reduce(jnp.add, part) for total, part in zip(sums, parts, strict=True)], None

    x, nothing = _padded(_repeated(x, g), g), [jnp.zeros(g.outputs[1:], x.dtype) for _ in g.corners]
    sums, _ = lax.scan(add, nothing, (x.reshape(-1, some, *x.shape[1:]), d.reshape(-1, some, *d.shape[1:])))
    return jnp.stack([each.sum((0, 1)) for each in sums]).reshape(g.weight)


def _repeated(x: Array, g: Geometry) -> Array:
    """Each channel as often as it has outputs."""
    times = g.weight[3] // g.groups
    return x if times == 1 else jnp.repeat(x, times, 3)


def _pixels(w: Array, g: Geometry) -> list[Array]:
    """For each pixel of the window, a number for each channel, as stored: XLA would find each again for each number of it."""
    return [in_memory(k) for k in w.reshape(len(g.corners), 1, 1, 1, g.weight[3])]
