"""Kinds of layers: the names of their arrays in torch and in fnlamp, and the layout of each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fnlamp.models.weights.layout import Layout, channels_last, gru_biases, outputs_last, same, transposed, two_biases


@dataclass(frozen=True)
class Part:
    """Arrays of a layer that are changed together: fnlamp's names, torch's names, and the layout."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    layout: Layout = same


@dataclass(frozen=True)
class Kind:
    """The arrays of one kind of layer. `extra` are torch's that fnlamp lacks, written with a number and ignored when read."""

    parts: tuple[Part, ...]
    extra: tuple[tuple[str, Any], ...] = ()

    def then(self, layout: Layout, *names: str) -> Kind:
        """The same, with a further layout for fnlamp's arrays of these names."""
        return replace(
            self,
            parts=tuple(replace(p, layout=p.layout >> layout) if set(names) & {*p.ours} else p for p in self.parts),
        )


def weight_and_bias(weight: Layout) -> Kind:
    """A weight with that layout, and a bias if the layer has one."""
    return Kind((Part(("weight",), ("weight",), weight), Part(("bias",), ("bias",))))


linear = weight_and_bias(outputs_last)
as_is = weight_and_bias(same)
"""A linear layer whose weight is `(in, out)` in both, as `Conv1D` of transformers' GPT-2; an embedding."""
norm = Kind((Part(("scale",), ("weight",)), Part(("shift",), ("bias",))))
batch_norm = Kind(
    (*norm.parts, Part(("mean",), ("running_mean",)), Part(("variance",), ("running_var",))),
    extra=(("num_batches_tracked", np.int64(0)),),
)
_WEIGHTS = (
    Part(("input_weight",), ("weight_ih",), outputs_last),
    Part(("recurrent_weight",), ("weight_hh",), outputs_last),
)
lstm = Kind((*_WEIGHTS, Part(("bias",), ("bias_ih", "bias_hh"), two_biases)))
gru = Kind((*_WEIGHTS, Part(("bias", "recurrent_bias"), ("bias_ih", "bias_hh"), gru_biases)))
prelu = Kind((Part(("slope",), ("weight",)),))


def conv_transpose(groups: int) -> Kind:
    """A transposed convolution with so many groups."""
    return weight_and_bias(transposed(groups))


def bare(name: str, theirs: str, layout: Layout = same) -> Kind:
    """One array."""
    return Kind((Part((name,), (theirs,), layout),))


def flattened(kind: Kind, shape: tuple[int, ...]) -> Kind:
    """A layer after `flatten` of images, or sequences, of that shape without the batch: torch flattens channels first."""
    return kind.then(channels_last(shape), *(name for part in kind.parts for name in part.ours if name != "bias"))
