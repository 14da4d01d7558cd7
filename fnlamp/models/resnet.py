"""Residual networks of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp

from fnlamp.arrays import Array, Key, Spec
from fnlamp.given import arguments, flag, shown, whole
from fnlamp.layer import Init, Layer, as_layer
from fnlamp.nn.activation import relu
from fnlamp.nn.adaptive_pool import global_avg_pool
from fnlamp.nn.combine import residual, sequence
from fnlamp.nn.conv import conv2d
from fnlamp.nn.linear import linear
from fnlamp.nn.norm import batch_norm
from fnlamp.nn.pool import max_pool2d
from fnlamp.nn.shape import fun

_batch_norm = batch_norm()
_he_normal = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")


@arguments("models.resnet(1000, blocks=(3, 4, 6, 3), bottleneck=True) is ResNet-50")
def resnet(
    classes: int,
    *,
    blocks: Sequence[int],
    widths: Sequence[int] = (64, 128, 256, 512),
    bottleneck: bool = False,
    small: bool = False,
    project: bool = True,
    norm: Layer = _batch_norm,
    zero_last: bool = False,
) -> Layer:
    """A residual network of images: a stem, stages of blocks `relu(shortcut(x) + f(x))`, the mean of all places, and logits.

    A stage has so many `blocks`, its own width, and from the second on half the height and width of the one before.  f is
    two 3x3 convolutions, or with `bottleneck` 1x1, 3x3 (which has the stride) and 1x1 to four times the width.  Of images of
    ImageNet's size: `blocks` (2, 2, 2, 2) is ResNet-18 and (3, 4, 6, 3) 34, or with `bottleneck` 50; (3, 4, 23, 3) 101 and
    (3, 8, 36, 3) 152.  A network for `small` images, as CIFAR's, starts with a 3x3 convolution in place of 7x7 of stride 2 and
    a pool: `blocks=(n, n, n), widths=(16, 32, 64), small=True, project=False` has the paper's 6n + 2 layers.
    A shortcut is the identity, or if the shape changes a 1x1 convolution; without `project` every other pixel, and zeros for
    new channels.  With `zero_last` the last norm of f starts with a scale of 0, and so a block as its shortcut.
    Shapes: `(batch, height, width, channels) -> (batch, classes)`, of any size.  Convolutions have no bias; their weights are
    normal with variance 2 / (kernel area * output channels).
    Children: `stem`, `stage_0`, ... with `block_0`, ..., each `sum` (of `layer`, `shortcut`) and `act`, and then `mean`, `out`.
    Fails: as `conv2d` and the norm: `ShapeMismatch`; `DtypeMismatch` for bytes; `BatchTooSmall` for a batch of one tiny image.
    Reference: He et al. 2015, "Deep residual learning", table 1 and section 4.2; `zero_last`: Goyal et al. 2017, section 5.1;
    the weights: He et al. 2015, "Delving deep into rectifiers", section 2.2.

    >>> layer = resnet(1000, blocks=(3, 4, 6, 3), bottleneck=True)
    >>> print(table(layer, jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)).splitlines()[-1])
    total                                                               25,557,032  102,228,128
    """
    classes, counts, sizes = whole("resnet: classes", classes), _each("blocks", blocks), _each("widths", widths)
    if len(counts) != len(sizes):
        raise ValueError(f"resnet has a width for each stage, got blocks={counts} and widths={sizes}")
    bottleneck, small = flag("resnet: bottleneck", bottleneck), flag("resnet: small", small)
    norm, project = as_layer(norm, "resnet: norm"), flag("resnet: project", project)
    last = _zero_scale(norm) if flag("resnet: zero_last", zero_last) else norm
    stem = {"conv": _conv(sizes[0], 3 if small else 7, 1 if small else 2), "norm": norm, "act": relu}
    stem |= {} if small else {"pool": max_pool2d(3, stride=2, padding=1)}
    stages, before = {}, sizes[0]
    for s, (count, width) in enumerate(zip(counts, sizes, strict=True)):
        parts = {}
        for b in range(count):
            stride, after = (2 if s and not b else 1), (4 * width if bottleneck else width)
            shortcut = None if stride == 1 and before == after else _shortcut(after, stride, norm if project else None)
            kernels = ((width, 1, 1), (width, 3, stride), (after, 1, 1)) if bottleneck else ((width, 3, stride), (width, 3, 1))
            parts[f"block_{b}"] = sequence(sum=residual(_branch(kernels, norm, last), shortcut), act=relu)
            before = after
        stages[f"stage_{s}"] = sequence(**parts)
    made = sequence(stem=sequence(**stem), **stages, mean=global_avg_pool, out=linear(classes))
    return replace(made, name=f"resnet({classes}, blocks={counts}{', bottleneck' if bottleneck else ''})")


def _each(name: str, given: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(given, tuple | list) or not given:
        raise TypeError(f"resnet: {name} is a tuple with a whole number for each stage, got {shown(given)}")
    return tuple(whole(f"resnet: {name}", n) for n in given)


def _conv(channels: int, kernel: int, stride: int) -> Layer:
    return conv2d(channels, kernel, stride=stride, padding=kernel // 2, bias=False, weight_init=_he_normal)


def _branch(kernels: Sequence[tuple[int, int, int]], norm: Layer, last: Layer) -> Layer:
    """Convolutions of so many channels, a kernel and a stride, each with a norm, and relu between."""
    parts: dict[str, Layer] = {}
    for i, kernel in enumerate(kernels):
        end = i == len(kernels) - 1
        parts |= {f"conv_{i}": _conv(*kernel), f"norm_{i}": last if end else norm} | ({} if end else {f"act_{i}": relu})
    return sequence(**parts)


def _shortcut(channels: int, stride: int, norm: Layer | None) -> Layer:
    """A 1x1 convolution with a norm; without one, every `stride`-th pixel, and zeros for new channels."""
    if norm is not None:
        return sequence(conv=_conv(channels, 1, stride), norm=norm)

    def subsample(x: Array) -> Array:
        y: Array = jnp.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (0, channels - x.shape[-1])))
        return y

    return fun(subsample, f"subsample({stride}, {channels})")


def _zero_scale(norm: Layer) -> Layer:
    """The norm with an initial scale of 0.  Raises: `ValueError` for one without a scale."""

    def init(key: Key, spec: Spec) -> Init:
        made = norm.init(key, spec)
        if "scale" not in made.params:
            raise ValueError(f"resnet: zero_last needs a norm with a scale, got {norm}")
        return replace(made, params={**made.params, "scale": jnp.zeros_like(made.params["scale"])})

    return Layer(init, norm.apply, norm.name)
