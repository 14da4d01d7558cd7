"""The models of the benchmark as fnlamp values, their data, and the arithmetic of a training step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnlamp import loss, models, nn, optim
from fnlamp.layer import Layer
from fnlamp.loss import Loss
from fnlamp.optim import Optimizer

RATE, MOMENTUM = 1e-3, 0.9


@dataclass(frozen=True)
class Case:
    """One model: its parts, the length of a round, and its multiply-adds per row in the forward pass.

    `flops` counts 2 for each multiply-add of the matrix products and convolutions, 3 times: forward, gradient of the
    parameters, gradient of the input; the input's is not needed in the first layer, whose part is `first`.
    """

    name: str
    layer: Layer
    optimizer: Optimizer
    batch: int
    steps: int
    pixels: bool
    forward: int
    first: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    objective: Callable[[], Loss] = loss.cross_entropy

    @property
    def flops(self) -> int:
        """Floating-point operations of one training step."""
        return 2 * self.batch * (3 * self.forward - self.first)


def dense(*widths: int) -> int:
    """Multiply-adds per row of a chain of linear layers."""
    return sum(a * b for a, b in pairwise(widths))


def perceptron(*widths: int) -> Layer:
    """Linear layers with relu between."""
    parts: dict[str, Layer] = {}
    for i, width in enumerate(widths):
        parts[f"linear_{i}"] = nn.linear(width)
        if i < len(widths) - 1:
            parts[f"relu_{i}"] = nn.relu
    return nn.sequence(scale=PIXELS, **parts)


PIXELS = nn.rescale(1 / 255)
IMAGE = nn.fun(lambda x: x.reshape(x.shape[0], 28, 28, 1), "image")
TOKENS, TIME, HIDDEN = 64, 64, 128
GPT: dict[str, Any] = {"vocabulary": 256, "layers": 4, "width": 128, "heads": 4, "context": 128}


def lstm_forward() -> int:
    return TIME * (dense(HIDDEN, 4 * HIDDEN) * 2 + dense(HIDDEN, TOKENS))


def gpt_forward() -> int:
    width, context = GPT["width"], GPT["context"]
    block = 12 * width * width + 2 * context * width
    return context * (GPT["layers"] * block + width * GPT["vocabulary"])


ADAMW = optim.adamw(RATE)
CASES = {
    case.name: case
    for case in (
        Case("logistic", perceptron(10), ADAMW, 64, 3000, True, dense(784, 10), dense(784, 10)),
        Case("simple", perceptron(128, 10), ADAMW, 32, 1500, True, dense(784, 128, 10), dense(784, 128)),
        Case(
            "lamp",
            nn.sequence(scale=PIXELS, mlp=nn.mlp(hidden=(64, 32), out=10, drop_rate=0.2)),
            optim.sgdw(1e-2, 1e-3),
            200,
            600,
            True,
            dense(784, 64, 32, 10),
            dense(784, 64),
        ),
        Case("wide", perceptron(1024, 1024, 10), ADAMW, 128, 36, True, dense(784, 1024, 1024, 10), dense(784, 1024)),
        Case(
            "cnn",
            nn.sequence(
                scale=PIXELS,
                image=IMAGE,
                conv_0=nn.conv_pool(20, 5),
                conv_1=nn.conv_pool(50, 5),
                flatten=nn.flatten,
                linear_0=nn.linear(500),
                relu=nn.relu,
                linear_1=nn.linear(10),
            ),
            optim.sgdw(1e-2, momentum=MOMENTUM),
            64,
            40,
            True,
            24 * 24 * 20 * 25 + 8 * 8 * 50 * 20 * 25 + dense(800, 500, 10),
            24 * 24 * 20 * 25,
        ),
        Case(
            "lstm",
            nn.sequence(tokens=nn.embedding(TOKENS, HIDDEN), lstm=nn.lstm(HIDDEN), out=nn.linear(TOKENS)),
            ADAMW,
            32,
            20,
            False,
            lstm_forward(),
            options={"vocabulary": TOKENS, "time": TIME},
        ),
        Case(
            "gpt",
            models.gpt(**GPT),
            ADAMW,
            32,
            2,
            False,
            gpt_forward(),
            options={"vocabulary": GPT["vocabulary"], "time": GPT["context"]},
        ),
    )
}


def data_for(case: Case, steps: int, folder: Path | None, dtype: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Features and targets for exactly that many steps; real digits from a folder of MNIST's files, or generated ones."""
    rows = steps * case.batch
    if not case.pixels:
        text = pseudo_text(rows + case.options["time"] + 1, case.options["vocabulary"])
        windows = np.lib.stride_tricks.sliding_window_view(text, case.options["time"] + 1)[:rows]
        return np.ascontiguousarray(windows[:, :-1]), np.ascontiguousarray(windows[:, 1:])
    x, y = digits(folder)
    times = -(-rows // len(x))
    x, y = np.tile(x, (times, 1))[:rows], np.tile(y, times)[:rows]
    return (x if dtype == "uint8" else x.astype(np.float32)), y


def digits(folder: Path | None) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """MNIST's training set, or noisy prototypes of the same shape and dtype."""
    if folder is not None:
        from returns.unsafe import unsafe_perform_io

        from fnlamp.data import read_idx

        names = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")
        images, labels = (unsafe_perform_io(read_idx(folder / name).run().unwrap()) for name in names)
        return images.reshape(len(images), -1), labels.astype(np.int32)
    rng = np.random.default_rng(0)
    prototypes = rng.integers(0, 256, (10, 784))
    labels = rng.integers(0, 10, 60_000).astype(np.int32)
    noise = rng.integers(-200, 200, (60_000, 784), dtype=np.int16)
    return np.clip(prototypes[labels] + noise, 0, 255).astype(np.uint8), labels


def pseudo_text(length: int, vocabulary: int) -> np.ndarray[Any, Any]:
    """Tokens of a fixed Markov chain: each is followed by one of four others."""
    rng = np.random.default_rng(0)
    follows, choices = rng.integers(0, vocabulary, (vocabulary, 4)), rng.integers(0, 4, length)
    tokens = np.zeros(length, np.int32)
    for i in range(1, length):
        tokens[i] = follows[tokens[i - 1], choices[i]]
    return tokens


def spec_of(case: Case, dtype: str) -> Any:
    """The spec of a batch of features."""
    if case.pixels:
        return jax.ShapeDtypeStruct((case.batch, 784), jnp.dtype(dtype))
    return jax.ShapeDtypeStruct((case.batch, case.options["time"]), jnp.int32)
