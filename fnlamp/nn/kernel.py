"""The parts that layers with a kernel share: checks, parameters, names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fnlamp.arrays import Key, Params, Spec
from fnlamp.given import flag, whole
from fnlamp.nn.check import check_float, check_grid, check_shape, check_window
from fnlamp.nn.initial import Initializer, by_group, check_initializers, weight_and_bias
from fnlamp.nn.lowering.axes import Axis
from fnlamp.tag import Tag

POSITIONS = {1: "sequences", 2: "images", 3: "volumes"}


def checked(
    name: str, channels: int, groups: int, bias: bool, weight_init: Initializer, bias_init: Initializer
) -> tuple[int, int, bool]:
    """Channels, groups and bias.  Raises: `TypeError`, `ValueError`, which name the argument."""
    channels, groups = whole(f"{name}: channels", channels, None), whole(f"{name}: groups", groups, None)
    bias = flag(f"{name}: bias", bias)
    check_initializers(name, weight_init=weight_init, bias_init=bias_init)
    if channels < 1:
        raise ValueError(f"{name} needs at least one output channel, got channels={channels}")
    if groups < 1 or channels % groups:
        raise ValueError(f"{name} needs output channels that groups divides, got {channels} and groups={groups}")
    return channels, groups, bias


def kernels(
    name: str,
    key: Key,
    window: Sequence[Axis],
    spec: Spec,
    channels: int,
    groups: int,
    weight_init: Initializer,
    bias_init: Initializer | None,
) -> tuple[Params, dict[str, Tag]]:
    """Parameters and tags of a convolution: a weight `(*sizes, in / groups, channels)`, and a bias if it has an initialiser."""
    inputs = spec.shape[-1]
    shape = *(axis.size for axis in window), inputs // groups, channels
    # Each group is a matrix, unless it has one channel on either side, as in a depthwise convolution.
    blocks = 0 if groups > 1 and groups in (inputs, channels) else groups
    return weight_and_bias(name, key, shape, spec.dtype, by_group(weight_init, groups), bias_init, blocks)


def check_places(x: Any, window: Sequence[Axis], each: int | None, groups: int, where: str) -> tuple[int, ...]:
    """The lengths of the output of a convolution.  Fails: `ShapeMismatch`, `DtypeMismatch`."""
    places = check_window(x, window, where)
    check_channels(x, len(window), each, groups, where)
    return places


def check_channels(x: Any, count: int, each: int | None, groups: int, where: str) -> None:
    """Fails: `ShapeMismatch`, `DtypeMismatch` unless `x` has channels for the groups, `each` for one if it is given."""
    check_grid(x, count, where)
    kind = POSITIONS[count]
    check_shape(x, lambda shape: shape[-1] > 0, f"{kind} of at least one channel", where)
    check_float(x, where)
    if each is not None:
        channels = each * groups
        check_shape(x, lambda shape: shape[-1] == channels, f"{kind} of {channels} channels, the last axis", where)
    check_shape(x, lambda shape: shape[-1] % groups == 0, f"{kind} whose channels {groups} groups divide", where)


def label(name: str, channels: int | None, window: Sequence[Axis]) -> str:
    """The name of the layer, such as `conv2d(8, (3, 5), stride=2)`; of a depthwise one, without the channels."""
    strides = tuple(axis.stride for axis in window)
    stride = f", stride={short(strides)}" if set(strides) != {1} else ""
    first = "" if channels is None else f"{channels}, "
    return f"{name}({first}{short(tuple(axis.size for axis in window))}{stride})"


def short(sizes: tuple[int, ...]) -> str:
    """One number if all are equal."""
    return str(sizes[0] if len(set(sizes)) == 1 else sizes)
