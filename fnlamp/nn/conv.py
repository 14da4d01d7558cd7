"""Convolution over images, alone and with pooling."""

from __future__ import annotations

from typing import Any

import jax
from jax import lax

from fnlamp.arrays import Array, Key, Params, Spec, State, along_last, array_spec, describe, is_float, platform
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch
from fnlamp.given import arguments, flag, whole
from fnlamp.layer import Init, Layer, tag_all
from fnlamp.mode import Mode
from fnlamp.nn import im2col
from fnlamp.nn.im2col import batch_first, batch_last
from fnlamp.nn.initial import Initializer, bias_of, by_fan_in, check_initializers, glorot_normal
from fnlamp.nn.pool import native_max_pool
from fnlamp.nn.window import Padding, Pair, Size, Window, check_padding, pair
from fnlamp.tag import Role


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
    bias_init: Initializer | by_fan_in = jax.nn.initializers.zeros,
) -> Layer:
    """Correlate images with a kernel for each output channel, in the dtype of the weight.

    `kernel`, `stride` and `dilation` are integers or pairs `(height, width)`; `padding` is that, or
    `((above, below), (left, right))`, "valid" (none), or "same": an output as large as the input divided by the stride,
    rounded up.  With `groups` the channels fall into as many parts, in order, and each output part sees only its input part;
    as many groups as input channels are a depthwise convolution.
    Shapes: `(batch, height, width, in) -> (batch, places, places, channels)`, where
    `places = (size + padding - dilation (kernel - 1) - 1) // stride + 1`.
    Params: `weight` of shape `(kernel height, kernel width, in / groups, channels)`, and `bias` unless `bias=False`.
    Fails: `DtypeMismatch` for integer input (cast it: `rescale`); `ShapeMismatch` for another rank or number of channels, for
    channels that `groups` does not divide, and for a kernel larger than the padded image.
    Default initialisers as in `linear`.  The gradients are of any order, forward and in reverse.
    Source: Goodfellow, Bengio & Courville 2016, eq. 9.6; the form on the CPU is in `fnlamp.nn.im2col`.

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
        made = _params(key, spec, window.size, groups, channels, bias, weight_init, bias_init)
        return Init(made, {}, array_spec((spec.shape[0], *places, channels), spec.dtype), tag_all("conv2d", **_roles(bias)))

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
    bias_init: Initializer | by_fan_in = jax.nn.initializers.zeros,
) -> Layer:
    """`relu(max_pool2d(conv2d(x)) + bias)`: convolution, bias, relu and pooling in the order that is the least work.

    The same numbers as pooling after bias and relu, since neither changes which is larger.  The pools lie side by side, rows
    and columns that fill no pool are left out; `padding` is the convolution's.  On the CPU, images of few channels are
    convolved for all places in a pool at once (`fnlamp.nn.im2col.convolve_pooled`).
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
        return pools.over(array_spec((x.shape[0], high, wide, channels), x.dtype), "conv_pool")

    def init(key: Key, spec: Spec) -> Init:
        shape = (spec.shape[0], *places(spec, None), channels)
        made = _params(key, spec, window.size, 1, channels, bias, weight_init, bias_init)
        return Init(made, {}, array_spec(shape, spec.dtype), tag_all("conv_pool", **_roles(bias)))

    def apply(params: Params, state: State, x: Array, mode: Mode) -> tuple[Array, State]:
        weight = params["weight"]
        places(x, weight.shape[2])
        return convolve_pooled(x.astype(weight.dtype), weight, params["bias"] if bias else None, window, pools), state

    return Layer(init, apply, f"conv_pool({channels}, {kernel}{f', pool={pool}' if size != (2, 2) else ''})")


def convolve(x: Array, weight: Array, bias: Array | None, window: Window, groups: int = 1) -> Array:
    """The convolution of images `(batch, height, width, channels)`, in the form for the platform."""
    if platform() != "cpu":
        return native(x, weight, bias, window, groups)
    return batch_first(_plus(im2col.convolve(_padded(x, window), weight, window, groups), bias))


def native(x: Array, weight: Array, bias: Array | None, window: Window, groups: int = 1) -> Array:
    """`convolve` as one operation of XLA."""
    y = lax.conv_general_dilated(
        x,
        weight,
        window.stride,
        window.sides(*x.shape[1:3]),
        rhs_dilation=window.dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    return y if bias is None else y + along_last(bias, y.ndim)


def convolve_pooled(x: Array, weight: Array, bias: Array | None, window: Window, pools: Window) -> Array:
    """`relu(pool(convolve(x)) + bias)`, in the form for the platform."""
    if platform() != "cpu":
        return native_pooled(x, weight, bias, window, pools)
    if im2col.phases_pay(weight.shape, pools.size):
        y = im2col.convolve_pooled(_padded(x, window), weight, pools.size)
    else:
        y = im2col.max_pool(im2col.convolve(_padded(x, window), weight, window), pools)
    return batch_first(jax.nn.relu(_plus(y, bias)))


def native_pooled(x: Array, weight: Array, bias: Array | None, window: Window, pools: Window) -> Array:
    """`convolve_pooled` as operations of XLA."""
    y = native_max_pool(native(x, weight, None, window), pools)
    return jax.nn.relu(y if bias is None else y + along_last(bias, y.ndim))


def _padded(x: Array, window: Window) -> Array:
    return im2col.pad(batch_last(x), window.sides(*x.shape[1:3]))


def _plus(y: Array, bias: Array | None) -> Array:
    return y if bias is None else y + bias[:, None, None, None]


def _params(
    key: Key,
    spec: Spec,
    kernel: Pair,
    groups: int,
    channels: int,
    bias: bool,
    weight_init: Initializer,
    bias_init: Initializer | by_fan_in,
) -> Params:
    weight_key, bias_key = jax.random.split(key)
    shape = (*kernel, spec.shape[-1] // groups, channels)
    params = {"weight": weight_init(weight_key, shape, spec.dtype)}
    if bias:
        fan_in = shape[0] * shape[1] * shape[2]
        params["bias"] = bias_of(bias_init, fan_in)(bias_key, (channels,), spec.dtype)
    return params


def _roles(bias: bool) -> dict[str, Role]:
    return {"weight": Role.WEIGHT, "bias": Role.BIAS} if bias else {"weight": Role.WEIGHT}


def _check(x: Any, window: Window, each: int | None, groups: int, where: str) -> Pair:
    places = window.over(x, where)
    if x.shape[-1] == 0:
        raise FaultError(ShapeMismatch("images of at least one channel", describe(x), where=where))
    if not is_float(x):
        hint = "cast first, as nn.rescale(1 / 255) does for pixels"
        raise FaultError(DtypeMismatch("floating-point input", describe(x), hint, where=where))
    if each is not None and x.shape[-1] != each * groups:
        raise FaultError(ShapeMismatch(f"images of {each * groups} channels, the last axis", describe(x), where=where))
    if x.shape[-1] % groups:
        raise FaultError(ShapeMismatch(f"images whose channels {groups} groups divide", describe(x), where=where))
    return places
