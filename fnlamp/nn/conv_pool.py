"""Convolution of images with bias, relu and pooling in one."""

from __future__ import annotations

from typing import Any

import jax

from fnlamp.arrays import Array, Key, Params, Spec, State, array_spec
from fnlamp.given import arguments
from fnlamp.layer import Init, Layer
from fnlamp.mode import Mode
from fnlamp.nn.check import check_window, window_of
from fnlamp.nn.initial import Initializer, glorot_normal
from fnlamp.nn.kernel import check_places, checked, kernels, label, short
from fnlamp.nn.lowering.axes import image_window
from fnlamp.nn.lowering.images import convolve_pooled
from fnlamp.nn.lowering.window import Padding, Size
from fnlamp.nn.shape import whole_only


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
    window = window_of(kernel, 1, 1, padding, 2, "conv_pool", "kernel")
    pools = window_of(pool, pool, 1, 0, 2, "conv_pool", "pool")
    channels, _, bias = checked("conv_pool", channels, 1, bias, weight_init, bias_init)

    def places(x: Any, features: int | None) -> tuple[int, ...]:
        lengths = check_places(x, window, features, 1, "conv_pool")
        return check_window(array_spec((x.shape[0], *lengths, channels), x.dtype), pools, "conv_pool")

    def init(key: Key, spec: Spec) -> Init:
        out = (spec.shape[0], *places(spec, None), channels)
        params, tags = kernels("conv_pool", key, window, spec, channels, 1, weight_init, bias_init if bias else None)
        return Init(params, {}, array_spec(out, spec.dtype), tags)

    def apply(params: Params, state: State, x: Array, mode: Mode) -> tuple[Array, State]:
        weight, added = params["weight"], params["bias"] if bias else None
        places(x, weight.shape[2])
        views = image_window(window, x.shape[1:3]), image_window(pools, (0, 0))
        return convolve_pooled(x.astype(weight.dtype), weight, added, *views), state

    size = short(tuple(axis.size for axis in pools))
    name = f"{label('conv_pool', channels, window)[:-1]}{f', pool={size}' if size != '2' else ''})"
    return whole_only(Layer(init, apply, name))
