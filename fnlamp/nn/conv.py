"""Convolution over images, alone and with pooling."""

from __future__ import annotations

from typing import Any

import jax

from fnlamp.arrays import Array, Key, Params, Spec, State, array_spec
from fnlamp.given import arguments, flag, whole
from fnlamp.layer import Init, Layer
from fnlamp.mode import Mode
from fnlamp.nn.check import check_float, check_padding, check_shape, check_window, pair
from fnlamp.nn.initial import Initializer, check_initializers, glorot_normal, weight_and_bias
from fnlamp.nn.lowering.images import convolve, convolve_pooled
from fnlamp.nn.lowering.window import Padding, Pair, Size, Window


@arguments("input channels are inferred: nn.conv2d(64, 3) has 64 output channels and a kernel of 3 x 3")
def conv2d(
    channels: int,
    kernel: Size,
    *,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    bias: bool = True,
    weight_init: Initializer = glorot_normal,
    bias_init: Initializer = jax.nn.initializers.zeros,
) -> Layer:
    """Correlate images with a kernel for each output channel, in the dtype of the weight.

    `kernel`, `stride` and `dilation` are integers or pairs `(height, width)`; `padding` is the same, or
    `((above, below), (left, right))`, "valid" (none), or "same": an output as large as the input divided by the stride,
    rounded up.  With `groups` the channels fall into as many parts, in order, and each output part sees only its input part;
    as many groups as input channels are a depthwise convolution.
    Shapes: `(batch, height, width, in) -> (batch, places, places, channels)`, where
    `places = (size + padding - dilation (kernel - 1) - 1) // stride + 1`.
    Params: `weight` of shape `(kernel height, kernel width, in / groups, channels)`, and `bias` unless `bias=False`.
    Fails: `DtypeMismatch` for integer input (cast it: `rescale`); `ShapeMismatch` for another rank or number of channels, for
    channels that `groups` does not divide, and for a kernel larger than the padded image.
    Default initialisers as in `linear`.  The gradients are of any order, forward and in reverse.
    Source: Goodfellow, Bengio & Courville 2016, eq. 9.6; the form on the CPU is in `fnlamp.nn.lowering.im2col`.

    >>> layer = conv2d(16, 3, padding="same", stride=2)
    >>> made = layer.init(jax.random.key(0), jax.ShapeDtypeStruct((32, 28, 28, 1), jnp.float32))
    >>> made.params["weight"].shape, made.spec.shape
    ((3, 3, 1, 16), (32, 14, 14, 16))
    """
    window = Window(
        pair(kernel, "conv2d: kernel"),
        pair(stride, "conv2d: stride"),
        pair(dilation, "conv2d: dilation"),
        check_padding(padding, "conv2d"),
    )
    channels, groups = whole("conv2d: channels", channels, None), whole("conv2d: groups", groups, None)
    bias = flag("conv2d: bias", bias)
    check_initializers("conv2d", weight_init=weight_init, bias_init=bias_init)
    if groups < 1 or channels < 1 or channels % groups:
        raise ValueError(f"conv2d needs output channels that groups divides, got {channels} and groups={groups}")

    def init(key: Key, spec: Spec) -> Init:
        places = _check(spec, window, None, groups, "conv2d")
        shape = *window.size, spec.shape[-1] // groups, channels
        # Each group is a matrix, unless it has one channel on either side, as in a depthwise convolution.
        blocks = 0 if groups > 1 and groups in (spec.shape[-1], channels) else groups
        params, tags = weight_and_bias("conv2d", key, shape, spec.dtype, weight_init, bias_init if bias else None, blocks)
        return Init(params, {}, array_spec((spec.shape[0], *places, channels), spec.dtype), tags)

    def apply(params: Params, state: State, x: Array, mode: Mode) -> tuple[Array, State]:
        weight = params["weight"]
        _check(x, window, weight.shape[2], groups, "conv2d")
        return convolve(x.astype(weight.dtype), weight, params["bias"] if bias else None, window, groups), state

    return Layer(init, apply, f"conv2d({channels}, {kernel}{f', stride={stride}' if window.stride != (1, 1) else ''})")


@arguments("input channels are inferred: nn.conv_pool(20, 5, pool=2)")
def conv_pool(
    channels: int,
    kernel: Size,
    *,
    pool: Size = 2,
    padding: Padding = 0,
    bias: bool = True,
    weight_init: Initializer = glorot_normal,
    bias_init: Initializer = jax.nn.initializers.zeros,
) -> Layer:
    """`relu(max_pool2d(conv2d(x)) + bias)`: convolution, bias, relu and pooling in the order with the least work.

    It equals pooling after bias and relu, since both preserve the order of numbers.  Pools do not overlap; rows and columns
    that do not fill a pool are left out; `padding` is the convolution's.  On the CPU, images of few channels are
    convolved for all places in a pool at once (`fnlamp.nn.lowering.im2col.convolve_pooled`).
    Shapes: `(batch, height, width, in) -> (batch, pools, pools, channels)`.  Params, faults and gradients as `conv2d`.

    >>> layer = conv_pool(20, 5)
    >>> made = layer.init(jax.random.key(0), jax.ShapeDtypeStruct((32, 28, 28, 1), jnp.float32))
    >>> made.params["weight"].shape, made.spec.shape
    ((5, 5, 1, 20), (32, 12, 12, 20))
    """
    window = Window(pair(kernel, "conv_pool: kernel"), padding=check_padding(padding, "conv_pool"))
    size = pair(pool, "conv_pool: pool")
    pools = Window(size, size)
    channels, bias = whole("conv_pool: channels", channels, None), flag("conv_pool: bias", bias)
    if channels < 1:
        raise ValueError(f"conv_pool needs at least one output channel, got channels={channels}")
    check_initializers("conv_pool", weight_init=weight_init, bias_init=bias_init)

    def places(x: Any, features: int | None) -> Pair:
        high, wide = _check(x, window, features, 1, "conv_pool")
        return check_window(array_spec((x.shape[0], high, wide, channels), x.dtype), pools, "conv_pool")

    def init(key: Key, spec: Spec) -> Init:
        out, shape = (spec.shape[0], *places(spec, None), channels), (*window.size, spec.shape[-1], channels)
        params, tags = weight_and_bias("conv_pool", key, shape, spec.dtype, weight_init, bias_init if bias else None)
        return Init(params, {}, array_spec(out, spec.dtype), tags)

    def apply(params: Params, state: State, x: Array, mode: Mode) -> tuple[Array, State]:
        weight = params["weight"]
        places(x, weight.shape[2])
        return convolve_pooled(x.astype(weight.dtype), weight, params["bias"] if bias else None, window, pools), state

    return Layer(init, apply, f"conv_pool({channels}, {kernel}{f', pool={pool}' if size != (2, 2) else ''})")


def _check(x: Any, window: Window, each: int | None, groups: int, where: str) -> Pair:
    places = check_window(x, window, where)
    check_shape(x, lambda shape: shape[-1] > 0, "images of at least one channel", where)
    check_float(x, where)
    if each is not None:
        channels = each * groups
        check_shape(x, lambda shape: shape[-1] == channels, f"images of {channels} channels, the last axis", where)
    check_shape(x, lambda shape: shape[-1] % groups == 0, f"images whose channels {groups} groups divide", where)
    return places
