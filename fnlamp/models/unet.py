"""The U-Net."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fnlamp.arrays import Array, Key, Params, Spec, State
from fnlamp.given import arguments, flag, shown, whole
from fnlamp.layer import Init, Layer, as_layer
from fnlamp.mode import Mode
from fnlamp.nn.activation import relu
from fnlamp.nn.check import check_grid, check_shape
from fnlamp.nn.combine import branch, sequence
from fnlamp.nn.conv import conv2d
from fnlamp.nn.conv_transpose import conv_transpose2d
from fnlamp.nn.norm import batch_norm
from fnlamp.nn.pool import max_pool2d
from fnlamp.nn.resize import resize
from fnlamp.nn.shape import fun

_batch_norm = batch_norm()
_he_normal = jax.nn.initializers.he_normal()
_beside = fun(lambda both: jnp.concatenate(both, axis=-1), "beside")


@arguments("models.unet(2) has 2 logits for each pixel")
def unet(
    classes: int,
    *,
    widths: Sequence[int] = (64, 128, 256, 512, 1024),
    norm: Layer | None = _batch_norm,
    resized: bool = False,
) -> Layer:
    """The U-Net: from an image to logits for each pixel, in the form with padding, whose output has the image's size.

    At each width two 3x3 convolutions, each with `norm` (if not `None`) and relu; a 2x2 pool to the next width, of half the
    height and width; back from there by a transposed convolution, beside what was there before the pool, and two convolutions
    again; at the end a 1x1 convolution.  With `resized`, a resize and a 1x1 convolution in place of the transposed one.
    Shapes: `(batch, height, width, channels) -> (batch, height, width, classes)`.
    Children: `net`, with `down`, `both` (`skip` and `below`, with `pool`, the next `net`, and `up`) and `again`; and `out`.
    Fails: `ShapeMismatch` for a height or width that `2^(widths - 1)` does not divide; `DtypeMismatch` for bytes.
    Reference: Ronneberger, Fischer & Brox 2015, figure 1, whose convolutions have neither padding nor a norm.

    >>> layer = unet(2, widths=(8, 16, 32))
    >>> layer.init(key, jax.ShapeDtypeStruct((1, 60, 40, 3), jnp.float32)).spec.shape
    (1, 60, 40, 2)
    """
    classes, resized = whole("unet: classes", classes), flag("unet: resized", resized)
    if not isinstance(widths, tuple | list) or not widths:
        raise TypeError(f"unet: widths is a tuple with a whole number for each level, got {shown(widths)}")
    sizes = tuple(whole("unet: widths", n) for n in widths)
    made = _level(sizes, None if norm is None else as_layer(norm, "unet: norm"), resized)
    return sequence(net=_of_multiples(2 ** (len(sizes) - 1), made), out=conv2d(classes, 1))


def _level(widths: tuple[int, ...], norm: Layer | None, resized: bool) -> Layer:
    """The network from the first of the widths down: what goes in and comes out is of one size."""
    if len(widths) == 1:
        return _twice(widths[0], norm)
    up = conv_transpose2d(widths[0], 2, stride=2)
    if resized:
        up = sequence(resize=resize(scale=2, method="linear"), conv=conv2d(widths[0], 1))
    below = sequence(pool=max_pool2d(2), net=_level(widths[1:], norm, resized), up=up)
    both = branch(skip=sequence(), below=below)
    return sequence(down=_twice(widths[0], norm), both=both, beside=_beside, again=_twice(widths[0], norm))


def _twice(width: int, norm: Layer | None) -> Layer:
    conv = conv2d(width, 3, padding=1, bias=norm is None, weight_init=_he_normal)
    parts: dict[str, Layer] = {}
    for i in range(2):
        parts |= {f"conv_{i}": conv} | ({} if norm is None else {f"norm_{i}": norm}) | {f"act_{i}": relu}
    return sequence(**parts)


def _of_multiples(factor: int, layer: Layer) -> Layer:
    """The layer, for images whose height and width `factor` divides."""

    def check(x: Any) -> None:
        check_grid(x, 2, "unet")
        height, width = (-(-n // factor) * factor for n in x.shape[1:3])
        hint = f"pad them to {height} x {width}, as nn.pad does, and cut the output"
        expected = f"images whose height and width {factor} divides"
        check_shape(x, lambda shape: shape[1] % factor == shape[2] % factor == 0, expected, "unet", hint)

    def init(key: Key, spec: Spec) -> Init:
        check(spec)
        return layer.init(key, spec)

    def apply(params: Params, state: State, x: Array, mode: Mode) -> tuple[Array, State]:
        check(x)
        y, state = layer.apply(params, state, x, mode)
        return y, state

    return Layer(init, apply, layer.name)
