"""Transposed convolution over sequences, images and volumes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from fnlamp.arrays import Array, Key, Params, Spec, State, along_last, array_spec, describe
from fnlamp.fault import FaultError, ShapeMismatch
from fnlamp.given import arguments
from fnlamp.layer import Init, Layer
from fnlamp.mode import Mode
from fnlamp.nn.check import check_positions, per_axis, window_of
from fnlamp.nn.initial import Initializer, glorot_normal
from fnlamp.nn.kernel import check_channels, checked, kernels, label
from fnlamp.nn.lowering.axes import Axis, Sides3d, Size3d
from fnlamp.nn.lowering.volumes import convolve_transposed, transposed_length
from fnlamp.nn.lowering.window import Pair, Sides, Size
from fnlamp.nn.shape import whole_only


@arguments("input channels are inferred: nn.conv_transpose1d(64, 4, stride=2) has 64 output channels and a kernel of 4 steps")
def conv_transpose1d(
    channels: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int | Pair = 0,
    output_padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = True,
    weight_init: Initializer = glorot_normal,
    bias_init: Initializer = jax.nn.initializers.zeros,
) -> Layer:
    """`conv_transpose2d` along sequences; `padding` may be a pair, before and after.

    Shapes: `(batch, length, in) -> (batch, places, channels)`.  Params: `weight` of shape `(kernel, in / groups, channels)`.

    >>> layer = conv_transpose1d(16, 4, stride=2, padding=1)
    >>> layer.init(jax.random.key(0), jax.ShapeDtypeStruct((32, 50, 8), jnp.float32)).spec.shape
    (32, 100, 16)
    """
    return _transposed(
        "conv_transpose1d",
        channels,
        window_of(kernel, stride, dilation, padding, 1, "conv_transpose1d", "kernel"),
        output_padding,
        groups,
        bias,
        weight_init,
        bias_init,
    )


@arguments("input channels are inferred: nn.conv_transpose2d(64, 4, stride=2) has 64 output channels and a kernel of 4 x 4")
def conv_transpose2d(
    channels: int,
    kernel: Size,
    *,
    stride: Size = 1,
    padding: Size | Sides = 0,
    output_padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    bias: bool = True,
    weight_init: Initializer = glorot_normal,
    bias_init: Initializer = jax.nn.initializers.zeros,
) -> Layer:
    """The gradient of `conv2d`'s input as a layer: each pixel adds the kernel, times its number, to the places `stride` apart.

    `padding` is that of the convolution: so many rows and columns of the output are left out, on each side.
    `output_padding` adds rows below and columns on the right, which a convolution with that stride would not see; it is
    smaller than the stride or the dilation.  Sizes as in torch.
    Shapes: `(batch, height, width, in) -> (batch, places, places, channels)`, where
    `places = (size - 1) stride - padding + dilation (kernel - 1) + 1 + output_padding`, with the padding of both sides.
    Params: `weight` of shape `(kernel height, kernel width, in / groups, channels)`, and `bias` unless `bias=False`.
    torch's weight is `(in, channels / groups, kernel height, kernel width)`, and its default initialiser takes the number of
    outputs for that of inputs.  Initialisers, faults and gradients as `conv2d`.
    Fails: `ShapeMismatch` for padding that leaves nothing.
    Source: Dumoulin & Visin 2016, section 4; the form is in `fnlamp.nn.lowering.volumes`.

    >>> layer = conv_transpose2d(16, 3, stride=2, padding=1, output_padding=1)
    >>> made = layer.init(jax.random.key(0), jax.ShapeDtypeStruct((32, 14, 14, 8), jnp.float32))
    >>> made.params["weight"].shape, made.spec.shape
    ((3, 3, 8, 16), (32, 28, 28, 16))
    """
    return _transposed(
        "conv_transpose2d",
        channels,
        window_of(kernel, stride, dilation, padding, 2, "conv_transpose2d", "kernel"),
        output_padding,
        groups,
        bias,
        weight_init,
        bias_init,
    )


@arguments("input channels are inferred: nn.conv_transpose3d(64, 4, stride=2) has 64 output channels, a kernel of 4 x 4 x 4")
def conv_transpose3d(
    channels: int,
    kernel: Size3d,
    *,
    stride: Size3d = 1,
    padding: Sides3d = 0,
    output_padding: Size3d = 0,
    dilation: Size3d = 1,
    groups: int = 1,
    bias: bool = True,
    weight_init: Initializer = glorot_normal,
    bias_init: Initializer = jax.nn.initializers.zeros,
) -> Layer:
    """`conv_transpose2d` over volumes; sizes are integers or triples, padding three integers or pairs.

    Shapes: `(batch, depth, height, width, in) -> (batch, places, places, places, channels)`.

    >>> layer = conv_transpose3d(4, 2, stride=2)
    >>> layer.init(jax.random.key(0), jax.ShapeDtypeStruct((2, 5, 7, 7, 3), jnp.float32)).spec.shape
    (2, 10, 14, 14, 4)
    """
    return _transposed(
        "conv_transpose3d",
        channels,
        window_of(kernel, stride, dilation, padding, 3, "conv_transpose3d", "kernel"),
        output_padding,
        groups,
        bias,
        weight_init,
        bias_init,
    )


def _transposed(
    name: str,
    channels: int,
    window: Sequence[Axis],
    output_padding: Any,
    groups: int,
    bias: bool,
    weight_init: Initializer,
    bias_init: Initializer,
) -> Layer:
    channels, groups, bias = checked(name, channels, groups, bias, weight_init, bias_init)
    extra = _extra(name, window, output_padding)

    def lengths(x: Any, each: int | None) -> tuple[int, ...]:
        check_channels(x, len(window), each, groups, name)
        check_positions(x, name)
        places = tuple(transposed_length(*axis) for axis in zip(window, x.shape[1:-1], extra, strict=True))
        if min(places) < 1:
            raise FaultError(
                ShapeMismatch("an output of at least one position", f"{places} of {describe(x)}", "pad less", where=name)
            )
        return places

    def init(key: Key, spec: Spec) -> Init:
        places = lengths(spec, None)
        params, tags = kernels(name, key, window, spec, channels, groups, weight_init, bias_init if bias else None)
        return Init(params, {}, array_spec((spec.shape[0], *places, channels), spec.dtype), tags)

    def apply(params: Params, state: State, x: Array, mode: Mode) -> tuple[Array, State]:
        weight = params["weight"]
        lengths(x, weight.shape[-2])
        y = convolve_transposed(x.astype(weight.dtype), weight, window, extra, groups)
        return y + along_last(params["bias"], y.ndim) if bias else y, state

    return whole_only(Layer(init, apply, label(name, channels, window)))


def _extra(name: str, window: Sequence[Axis], output_padding: Any) -> tuple[int, ...]:
    """The output padding of each axis.  Raises: `ValueError` for "same" padding, or as much as the stride and dilation."""
    if any(axis.padding is None for axis in window):
        raise ValueError(f"{name}: padding is given in numbers, got 'same'; for outputs of size * stride see output_padding")
    extra = per_axis(output_padding, len(window), f"{name}: output_padding", least=0)
    if any(n >= max(axis.stride, axis.dilation) for n, axis in zip(extra, window, strict=True)):
        raise ValueError(f"{name}: output_padding must be smaller than stride or dilation, got {output_padding}")
    return extra
