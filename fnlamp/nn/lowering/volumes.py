"""Convolution and pooling over one, two or three axes, from those of images `(batch, height, width, channels)`.

One axis is an image of height 1.  Of three axes, the last two are images, and the batch takes the first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import jax.numpy as jnp
from jax import lax

from fnlamp.arrays import Array, along_last, platform
from fnlamp.nn.lowering import images
from fnlamp.nn.lowering.axes import Axis, image_window
from fnlamp.nn.lowering.window import Pair, Window


def convolve(x: Array, weight: Array, bias: Array | None, axes: Sequence[Axis], groups: int = 1) -> Array:
    """The convolution `(batch, *lengths, in) -> (batch, *places, out)` with a weight `(*sizes, in / groups, out)`."""
    if len(axes) == 1:
        return convolve(x[:, None], weight[None], bias, (Axis(1), *axes), groups)[:, 0]
    if len(axes) == 2:
        return images.convolve(x, weight, bias, image_window(axes, x.shape[1:3]), groups)
    form = native_convolve if platform() != "cpu" else _with_taps_as_channels
    y = form(x, weight, axes, groups)
    return y if bias is None else y + along_last(bias, y.ndim)


def native_convolve(x: Array, weight: Array, axes: Sequence[Axis], groups: int = 1) -> Array:
    """The convolution over three axes as one operation of XLA."""
    return lax.conv_general_dilated(
        x,
        weight,
        [axis.stride for axis in axes],
        [axis.sides(length) for axis, length in zip(axes, x.shape[1:], strict=False)],
        rhs_dilation=[axis.dilation for axis in axes],
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        feature_group_count=groups,
    )


def _with_taps_as_channels(x: Array, weight: Array, axes: Sequence[Axis], groups: int) -> Array:
    """Images with the channels of all images that a place sees.

    Measured on two AVX2 cores, 3 x 3 x 3 windows of 16 to 64 channels, forward and both gradients: 0.35 to 0.9 of the time of
    images whose convolution computes every tap as an output.
    """
    taps, high, wide, each, out = weight.shape
    axis, batch, places = axes[0], x.shape[0], axes[0].places(x.shape[1])
    x = _padded_depth(x, axis.sides(x.shape[1]))
    starts, reach = range(0, axis.span, axis.dilation), (places - 1) * axis.stride + 1
    seen = [lax.slice_in_dim(x, start, start + reach, axis.stride, 1) for start in starts]
    stacked = jnp.concatenate([s.reshape(*s.shape[:-1], groups, each) for s in seen], -1)
    by_channel = weight.transpose(1, 2, 0, 3, 4).reshape(high, wide, taps * each, out)
    y = convolve(stacked.reshape(batch * places, *x.shape[2:4], groups * taps * each), by_channel, None, axes[1:], groups)
    return y.reshape(batch, places, *y.shape[1:])


def _padded_depth(x: Array, sides: Pair) -> Array:
    return jnp.pad(x, ((0, 0), sides, *((0, 0),) * (x.ndim - 2)))


# ------------------------------------------------------------------------------- transposed convolution


def transposed_length(axis: Axis, length: int, extra: int) -> int:
    """The length of the output of a transposed convolution along an axis.

    >>> transposed_length(Axis(4, stride=2, padding=(1, 1)), 7, 0)
    14
    """
    return (length - 1) * axis.stride + axis.span - sum(axis.sides(length)) + extra


def convolve_transposed(x: Array, weight: Array, axes: Sequence[Axis], extra: Sequence[int], groups: int = 1) -> Array:
    """The transposed convolution with a weight `(*sizes, in / groups, out)`; `extra` lengthens the output's ends.

    The outputs whose positions have the same remainder by the stride see the same taps of the kernel: a convolution computes
    them all, as channels of the positions that are left, and `interleave` puts each in its place.  No product has a zero of a
    dilated image as its factor (Shi et al. 2016, "Is the deconvolution layer the same as a convolutional layer?").
    """
    strides, lengths = [axis.stride for axis in axes], x.shape[1:-1]
    taps = [-(-axis.span // axis.stride) for axis in axes]
    ends = [transposed_length(*each) for each in zip(axes, lengths, extra, strict=True)]
    starts = [axis.sides(n)[0] for axis, n in zip(axes, lengths, strict=True)]
    first = [start // stride for start, stride in zip(starts, strides, strict=True)]
    last = [(start + end - 1) // stride for start, end, stride in zip(starts, ends, strides, strict=True)]
    padding = [(t - 1 - f, e - (n - 1), 0) for t, f, e, n in zip(taps, first, last, lengths, strict=True)]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *padding, (0, 0, 0)])  # below 0 it crops
    y = interleave(convolve(x, _phases(weight, axes, taps), None, [Axis(t) for t in taps], groups), strides)
    for at, (start, end, stride) in enumerate(zip(starts, ends, strides, strict=True), start=1):
        y = lax.slice_in_dim(y, start % stride, start % stride + end, 1, at)
    return y


def _phases(weight: Array, axes: Sequence[Axis], taps: Sequence[int]) -> Array:
    """The taps that each phase of the stride sees, last one first: `(*taps, in / groups, out * strides)`."""
    n, strides, zero = len(axes), [axis.stride for axis in axes], jnp.zeros((), weight.dtype)
    grown = [(0, t * axis.stride - axis.span, axis.dilation - 1) for t, axis in zip(taps, axes, strict=True)]
    w = lax.pad(weight, zero, [*grown, (0, 0, 0), (0, 0, 0)])
    w = w.reshape(*(size for pair in zip(taps, strides, strict=True) for size in pair), *weight.shape[n:])
    w = w.transpose(*range(0, 2 * n, 2), 2 * n, 2 * n + 1, *range(1, 2 * n, 2))
    return jnp.flip(w, range(n)).reshape(*taps, weight.shape[n], weight.shape[n + 1] * prod(strides))


def interleave(x: Array, factors: Sequence[int]) -> Array:
    """Channels `(out, *factors)` as positions: `(batch, *lengths, out prod(factors)) -> (batch, *(lengths factors), out)`."""
    n, batch, lengths = len(factors), x.shape[0], x.shape[1:-1]
    out = x.shape[-1] // prod(factors)
    x = x.reshape(batch, *lengths, out, *factors)
    order = (axis for i in range(n) for axis in (1 + i, n + 2 + i))
    return x.transpose(0, *order, n + 1).reshape(batch, *(a * b for a, b in zip(lengths, factors, strict=True)), out)


def part(x: Array, factors: Sequence[int]) -> Array:
    """The inverse of `interleave`: neighbours as channels."""
    n, batch, channels = len(factors), x.shape[0], x.shape[-1]
    lengths = [a // b for a, b in zip(x.shape[1:-1], factors, strict=True)]
    x = x.reshape(batch, *(size for pair in zip(lengths, factors, strict=True) for size in pair), channels)
    x = x.transpose(0, *range(1, 2 * n, 2), 2 * n + 1, *range(2, 2 * n + 1, 2))
    return x.reshape(batch, *lengths, channels * prod(factors))


# ------------------------------------------------------------------------------- pooling


def pool(of_images: Callable[[Array, Window], Array], x: Array, axes: Sequence[Axis]) -> Array:
    """`images.max_pool` or `images.sum_pool` over one, two or three axes, the last ones first."""
    if len(axes) == 1:
        return pool(of_images, x[:, None], (Axis(1), *axes))[:, 0]
    if len(axes) == 2:
        return of_images(x, image_window(axes, x.shape[1:3]))
    batch, depth, channels = *x.shape[:2], x.shape[-1]
    y = pool(of_images, x.reshape(batch * depth, *x.shape[2:]), axes[1:])
    places = y.shape[1:3]
    y = pool(of_images, y.reshape(batch, depth, prod(places), channels), (axes[0], Axis(1)))
    return y.reshape(batch, y.shape[1], *places, channels)
