"""Residual networks, as transformers and torchvision name them."""

from __future__ import annotations

from fnlamp.models.weights.kind import batch_norm, linear
from fnlamp.models.weights.names import Table, row
from fnlamp.models.weights.state_dict import Weights

CONVOLUTIONS, STAGES = 3, 4
"""The most that a block has, and the stages of a network of torchvision."""


def resnet() -> Weights:
    """The weights of transformers' `ResNetForImageClassification`, for `models.resnet`.

    >>> layer = models.resnet(5, blocks=(1, 2), widths=(4, 8))
    >>> made = layer.init(key, jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))
    >>> resnet().write(made.params, made.state)["resnet.embedder.embedder.convolution.weight"].shape
    (4, 3, 7, 7)
    """
    block, theirs = "stage_#/block_#/sum", "resnet.encoder.stages.#.layers.#"
    rows = (
        row("stem/conv", "resnet.embedder.embedder.convolution", linear),
        row("stem/norm", "resnet.embedder.embedder.normalization", batch_norm),
        row(f"{block}/layer/conv_#", f"{theirs}.layer.#.convolution", linear),
        row(f"{block}/layer/norm_#", f"{theirs}.layer.#.normalization", batch_norm),
        row(f"{block}/shortcut/conv", f"{theirs}.shortcut.convolution", linear),
        row(f"{block}/shortcut/norm", f"{theirs}.shortcut.normalization", batch_norm),
        row("out", "classifier.1", linear),
    )
    return Weights(Table(rows, base="resnet."), "resnet")


def torchvision_resnet() -> Weights:
    """The weights of torchvision's `resnet18` to `resnet152`, for `models.resnet`.

    >>> layer = models.resnet(5, blocks=(1, 2), widths=(4, 8))
    >>> made = layer.init(key, jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))
    >>> torchvision_resnet().write(made.params, made.state)["layer2.0.downsample.0.weight"].shape
    (8, 4, 1, 1)
    """
    rows = [row("stem/conv", "conv1", linear), row("stem/norm", "bn1", batch_norm), row("out", "fc", linear)]
    for s in range(STAGES):
        block, theirs = f"stage_{s}/block_#/sum", f"layer{s + 1}.#"
        rows += [row(f"{block}/layer/conv_{i}", f"{theirs}.conv{i + 1}", linear) for i in range(CONVOLUTIONS)]
        rows += [row(f"{block}/layer/norm_{i}", f"{theirs}.bn{i + 1}", batch_norm) for i in range(CONVOLUTIONS)]
        rows += [row(f"{block}/shortcut/conv", f"{theirs}.downsample.0", linear)]
        rows += [row(f"{block}/shortcut/norm", f"{theirs}.downsample.1", batch_norm)]
    return Weights(Table(tuple(rows)), "torchvision_resnet")
