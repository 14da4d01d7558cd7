"""Convolution with pooling on the CPU, for few channels: shifted slices and one matrix product.  And pooling.

Arrays are batch-minor here, `(channels, height, width, batch)`: every slice is then made of long runs of memory, however few
the channels.  Everything is made of plain operations, so it can be differentiated any number of times, forward and in reverse;
the gradient of the slices is the sum of the shifted patches, known as col2im.  Pooling takes channels last as well.

Source: Chellapilla, Puri & Simard 2006, "High performance convolutional neural networks for document processing", section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnlamp.arrays import Array
from fnlamp.nn.lowering.matmul import in_memory
from fnlamp.nn.lowering.window import Pair, Sides, Window

KEPT = 2**26
"""Patches of at most this many bytes are kept for the gradient of the weight; larger ones are computed again from the image."""


def batch_last(x: Array) -> Array:
    """Images `(batch, height, width, channels)` as `(channels, height, width, batch)`."""
    return in_memory(jnp.swapaxes(x, 0, 3))


def batch_first(x: Array) -> Array:
    """`(channels, height, width, batch)` as `(batch, height, width, channels)`; between two layers both transposes cancel."""
    return jnp.swapaxes(in_memory(x), 0, 3)


def pad(x: Array, sides: Sides, value: Any = 0) -> Array:
    """The images with rows and columns of `value` around them."""
    (above, below), (left, right) = sides
    return jnp.pad(x, ((0, 0), (above, below), (left, right), (0, 0)), constant_values=np.asarray(value, x.dtype))


def shifts(x: Array, window: Window, axis: int) -> list[Array]:
    """The pixels under each row (axis 0) or column (axis 1) of the window, as the window slides along that axis."""
    stride, dilation, at = window.stride[axis], window.dilation[axis], axis + 1
    reach = (window.places((x.shape[1], x.shape[2]))[axis] - 1) * stride + 1
    starts = range(0, window.size[axis] * dilation, dilation)
    return [lax.slice_in_dim(x, start, start + reach, stride, at) for start in starts]


def convolve(x: Array, weight: Array, window: Window, groups: int = 1) -> Array:
    """The convolution of padded images with a weight `(height, width, channels / groups, out)`.

    Shapes: `(channels, height, width, batch) -> (out, places, places, batch)`.
    """
    places = window.places((x.shape[1], x.shape[2]))
    size = prod(window.size) * x.shape[0] * prod(places) * x.shape[3] * x.dtype.itemsize
    # Computing them again costs about a tenth of a step and saves several times the activations.
    matmul = _convolve if size <= KEPT else jax.checkpoint(_convolve, static_argnums=(2, 3))
    y: Array = matmul(x, weight, window, groups)
    return y


def _convolve(x: Array, weight: Array, window: Window, groups: int) -> Array:
    seen = [column for row in shifts(x, window, 0) for column in shifts(row, window, 1)]
    channels, *places = seen[0].shape
    each = channels // groups
    if groups == 1:  # the same as below, but XLA:CPU multiplies plain matrices faster than batches of one
        patches = jnp.concatenate(seen, 0).reshape(len(seen) * channels, prod(places))
        y = in_memory(weight.reshape(len(patches), weight.shape[3]).T) @ patches  # transposed in memory: up to a third faster
    else:
        patches = jnp.concatenate([s.reshape(groups, each, prod(places)) for s in seen], 1)
        by_group = weight.reshape(len(seen) * each, groups, weight.shape[3] // groups)
        y = lax.dot_general(by_group, patches, (((0,), (1,)), ((1,), (0,))))
    return y.reshape(weight.shape[3], *places)


def max_pool(x: Array, window: Window, sides: Sides = ((0, 0), (0, 0))) -> Array:
    """The largest number in each window of padded images; the first of equal ones in row-major order gets the gradient.

    Padding gets none, even if all numbers of the window equal it.  The maximum is taken along rows, then over rows, which
    takes fewer comparisons.
    """
    for axis in (1, 0):
        x = first_largest(shifts(x, window, axis), _inside(x.shape[axis + 1], sides[axis], window, axis))
    return x


def _inside(length: int, side: Pair, window: Window, axis: int) -> list[np.ndarray[Any, Any]] | None:
    """For each shift along that axis, a mask of the pixels that are not padding; `None` without padding."""
    if side == (0, 0):
        return None
    inside = np.zeros(length, bool)
    inside[side[0] : length - side[1]] = True
    places = (length - window.span[axis]) // window.stride[axis] + 1
    along = np.arange(places) * window.stride[axis]
    shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
    return [inside[along + start * window.dilation[axis]].reshape(1, *shape) for start in range(window.size[axis])]


def sum_pool(x: Array, window: Window) -> Array:
    """The sum of each window of the padded images."""
    for axis in (1, 0):
        first, *others = shifts(x, window, axis)
        x = sum(others, first)
    return x


def first_largest(xs: Sequence[Array], inside: Sequence[np.ndarray[Any, Any]] | None = None) -> Array:
    """The largest number at each position; the gradient goes to the first of equal ones, and NaN is larger than any.

    Where `inside` is false, a number is chosen only if none is inside.
    """
    largest = xs[0]
    seen = inside[0] if inside is not None else None
    for position, x in enumerate(xs[1:], start=1):
        more = _exceeds(x, largest)
        if inside is not None and seen is not None:
            first = inside[position] & ~seen
            more, seen = (more | first) if first.any() else more, seen | inside[position]
        largest = jnp.where(more, x, largest)
    return largest


def _exceeds(x: Array, largest: Array) -> Array:
    return (x > largest) | jnp.isnan(x) if jnp.issubdtype(x.dtype, jnp.floating) else x > largest


# ------------------------------------------------------------------------------- convolution and pooling in one


def phases_pay(weight: tuple[int, ...], pool: Pair) -> bool:
    """Whether `convolve_pooled` applies to a weight of that shape, and is faster than convolution, then pooling.

    Its larger kernel takes up to twice the work within this bound. It was faster at all shapes measured up to 20 channels, and
    slower from 32 on.
    """
    (high, wide), (kernel_high, kernel_wide, channels, _) = pool, weight
    fits = (kernel_high - 1) % high == 0 and (kernel_wide - 1) % wide == 0
    work = (kernel_high + high - 1) * (kernel_wide + wide - 1) / (kernel_high * kernel_wide)
    return fits and 1 < high * wide <= 16 and work <= 2 and channels < 32


def convolve_pooled(x: Array, weight: Array, pool: Pair) -> Array:
    """`max_pool(convolve(x))` for pools side by side, when `pool` divides the kernel's size less one.

    The convolution's outputs in one pool, its phases, are computed together as the outputs of one convolution whose stride is
    the pool: from the image with the pixels of a pool as channels, and a weight with a shifted copy of the kernel per phase.
    The matrix product has more rows, and the patches are far smaller.
    """
    (high, wide), (kernel_high, kernel_wide, channels, out) = pool, weight.shape
    rows, columns = ((n - k + 1) // p + (k - 1) // p for n, k, p in zip(x.shape[1:3], weight.shape, pool, strict=False))
    x = x[:, : rows * high, : columns * wide].reshape(channels, rows, high, columns, wide, x.shape[3])
    x = x.transpose(2, 4, 0, 1, 3, 5).reshape(high * wide * channels, rows, columns, x.shape[5])
    shifted = [
        jnp.pad(weight, ((i, high - 1 - i), (j, wide - 1 - j), (0, 0), (0, 0))) for i in range(high) for j in range(wide)
    ]
    size = (kernel_high + high - 1) // high, (kernel_wide + wide - 1) // wide
    phases = jnp.stack(shifted, -2).reshape(size[0], high, size[1], wide, channels, high * wide * out)
    phases = phases.transpose(0, 2, 1, 3, 4, 5).reshape(*size, high * wide * channels, high * wide * out)
    y = convolve(x, phases, Window(size))
    return _largest_phase(y.reshape(high * wide, out, *y.shape[1:]))


@jax.custom_jvp
def _largest_phase(x: Array) -> Array:
    return first_largest(list(x))


@_largest_phase.defjvp
def _largest_phase_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # Without this rule the gradient is assembled phase by phase, at a tenth of the step of a small network.
    (x,), (dx,) = primals, tangents
    largest, which = x[0], jnp.zeros(x.shape[1:], jnp.uint8)
    for phase in range(1, len(x)):
        more = _exceeds(x[phase], largest)
        largest, which = jnp.where(more, x[phase], largest), jnp.where(more, jnp.uint8(phase), which)
    phases = jnp.arange(len(x), dtype=jnp.uint8).reshape(-1, 1, 1, 1, 1)
    return largest, jnp.sum(jnp.where(which[None] == phases, dx, jnp.zeros((), dx.dtype)), 0)
