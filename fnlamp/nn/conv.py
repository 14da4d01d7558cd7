"""Convolution over sequences, images and volumes."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from fnlamp.arrays import Array, Key, Params, Spec, State, array_spec
from fnlamp.given import arguments, whole
from fnlamp.layer import Init, Layer
from fnlamp.mode import Mode
from fnlamp.nn.check import window_of
from fnlamp.nn.combine import sequence
from fnlamp.nn.initial import Initializer, glorot_normal
from fnlamp.nn.kernel import check_places, checked, kernels, label
from fnlamp.nn.lowering.axes import Axis, Padding1d, Padding3d, Size3d
from fnlamp.nn.lowering.volumes import convolve
from fnlamp.nn.lowering.window import Padding, Size
from fnlamp.nn.shape import whole_only


@arguments("input channels are inferred: nn.conv1d(64, 3) has 64 output channels and a kernel of 3 steps")
def conv1d(
    channels: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: Padding1d = 0,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = True,
    weight_init: Initializer = glorot_normal,
    bias_init: Initializer = jax.nn.initializers.zeros,
) -> Layer:
    """`conv2d` along sequences; `padding` may be a pair, before and after.

    With `padding=(dilation (kernel - 1), 0)` a place sees no later step: a causal convolution.
    Shapes: `(batch, length, in) -> (batch, places, channels)`.  Params: `weight` of shape `(kernel, in / groups, channels)`.

    >>> layer = conv1d(16, 3, padding=(4, 0), dilation=2)
    >>> made = layer.init(jax.random.key(0), jax.ShapeDtypeStruct((32, 100, 8), jnp.float32))
    >>> made.params["weight"].shape, made.spec.shape
    ((3, 8, 16), (32, 100, 16))
    """
    window = window_of(kernel, stride, dilation, padding, 1, "conv1d", "kernel")
    return _conv("conv1d", channels, window, groups, bias, weight_init, bias_init)


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
    Default initialisers as in `linear`; the weight of each group is drawn by itself, and the number of inputs and of outputs
    that scale it count the kernel's area.  Other padding than zeros is `pad` before.  The gradients are of any order, forward
    and in reverse.
    Source: Goodfellow, Bengio & Courville 2016, eq. 9.6; the forms on the CPU are in `fnlamp.nn.lowering.forms`.

    >>> layer = conv2d(16, 3, padding="same", stride=2)
    >>> made = layer.init(jax.random.key(0), jax.ShapeDtypeStruct((32, 28, 28, 1), jnp.float32))
    >>> made.params["weight"].shape, made.spec.shape
    ((3, 3, 1, 16), (32, 14, 14, 16))
    """
    window = window_of(kernel, stride, dilation, padding, 2, "conv2d", "kernel")
    return _conv("conv2d", channels, window, groups, bias, weight_init, bias_init)


@arguments("input channels are inferred: nn.conv3d(64, 3) has 64 output channels and a kernel of 3 x 3 x 3")
def conv3d(
    channels: int,
    kernel: Size3d,
    *,
    stride: Size3d = 1,
    padding: Padding3d = 0,
    dilation: Size3d = 1,
    groups: int = 1,
    bias: bool = True,
    weight_init: Initializer = glorot_normal,
    bias_init: Initializer = jax.nn.initializers.zeros,
) -> Layer:
    """`conv2d` over volumes; sizes are integers or triples `(depth, height, width)`, padding three integers or pairs.

    Shapes: `(batch, depth, height, width, in) -> (batch, places, places, places, channels)`.
    Params: `weight` of shape `(kernel depth, kernel height, kernel width, in / groups, channels)`.
    The form on the CPU is in `fnlamp.nn.lowering.volumes`.

    >>> layer = conv3d(16, (1, 3, 3), padding="same", stride=2)
    >>> made = layer.init(jax.random.key(0), jax.ShapeDtypeStruct((2, 10, 28, 28, 1), jnp.float32))
    >>> made.params["weight"].shape, made.spec.shape
    ((1, 3, 3, 1, 16), (2, 5, 14, 14, 16))
    """
    window = window_of(kernel, stride, dilation, padding, 3, "conv3d", "kernel")
    return _conv("conv3d", channels, window, groups, bias, weight_init, bias_init)


@arguments("every channel is convolved by itself: nn.depthwise_conv2d(3) has a kernel of 3 x 3 for each")
def depthwise_conv2d(
    kernel: Size,
    *,
    multiplier: int = 1,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    bias: bool = True,
    weight_init: Initializer = glorot_normal,
    bias_init: Initializer = jax.nn.initializers.zeros,
) -> Layer:
    """`conv2d` of each channel by itself, with `multiplier` outputs for each: as many groups as input channels.

    Shapes: `(batch, height, width, in) -> (batch, places, places, in multiplier)`, the outputs of a channel side by side.
    Params: `weight` of shape `(kernel height, kernel width, 1, in multiplier)`.  Arguments and faults as `conv2d`.

    >>> layer = depthwise_conv2d(3, multiplier=2)
    >>> layer.init(jax.random.key(0), jax.ShapeDtypeStruct((32, 28, 28, 5), jnp.float32)).spec.shape
    (32, 26, 26, 10)
    """
    window = window_of(kernel, stride, dilation, padding, 2, "depthwise_conv2d", "kernel")
    multiplier = whole("depthwise_conv2d: multiplier", multiplier)

    def of(channels: int) -> Layer:
        return _conv("depthwise_conv2d", channels * multiplier, window, channels, bias, weight_init, bias_init)

    def init(key: Key, spec: Spec) -> Init:
        check_places(spec, window, None, 1, "depthwise_conv2d")
        return of(spec.shape[-1]).init(key, spec)

    def apply(params: Params, state: State, x: Array, mode: Mode) -> tuple[Array, State]:
        return of(params["weight"].shape[-1] // multiplier).apply(params, state, x, mode)

    of(1)  # checks the other arguments
    return whole_only(Layer(init, apply, label("depthwise_conv2d", None, window)))


@arguments("nn.separable_conv2d(64, 3) has 64 output channels and a kernel of 3 x 3 for each input channel")
def separable_conv2d(
    channels: int,
    kernel: Size,
    *,
    multiplier: int = 1,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    bias: bool = True,
    weight_init: Initializer = glorot_normal,
    bias_init: Initializer = jax.nn.initializers.zeros,
) -> Layer:
    """A sequence: `depthwise`, a `depthwise_conv2d` without bias, and `pointwise`, a `conv2d` of 1 x 1 pixel with one.

    It has about `1 / channels + 1 / kernel area` of the work of `conv2d`.  MobileNet's block has a norm and relu after each.
    Shapes, arguments and faults as `conv2d`.  Reference: Chollet 2016, section 3; Howard et al. 2017, section 3.1.

    >>> layer = separable_conv2d(16, 3, padding="same")
    >>> made = layer.init(jax.random.key(0), jax.ShapeDtypeStruct((32, 28, 28, 8), jnp.float32))
    >>> tree.count(made.params), made.spec.shape
    (216, (32, 28, 28, 16))
    """
    first = {"multiplier": multiplier, "stride": stride, "padding": padding, "dilation": dilation, "bias": False}
    return sequence(
        depthwise=depthwise_conv2d(kernel, **first, weight_init=weight_init),  # type: ignore[arg-type]
        pointwise=conv2d(channels, 1, bias=bias, weight_init=weight_init, bias_init=bias_init),
    )


def _conv(
    name: str,
    channels: int,
    window: Sequence[Axis],
    groups: int,
    bias: bool,
    weight_init: Initializer,
    bias_init: Initializer,
) -> Layer:
    """The convolution over as many axes as the window has."""
    channels, groups, bias = checked(name, channels, groups, bias, weight_init, bias_init)

    def init(key: Key, spec: Spec) -> Init:
        places = check_places(spec, window, None, groups, name)
        params, tags = kernels(name, key, window, spec, channels, groups, weight_init, bias_init if bias else None)
        return Init(params, {}, array_spec((spec.shape[0], *places, channels), spec.dtype), tags)

    def apply(params: Params, state: State, x: Array, mode: Mode) -> tuple[Array, State]:
        weight = params["weight"]
        check_places(x, window, weight.shape[-2], groups, name)
        return convolve(x.astype(weight.dtype), weight, params["bias"] if bias else None, window, groups), state

    return whole_only(Layer(init, apply, label(name, channels, window)))
