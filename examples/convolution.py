"""A convolutional network for digits, 431,080 parameters: two blocks of convolution, pooling and relu, two linear layers.

python examples/convolution.py --data FOLDER     MNIST's IDX files: about 99 % of the test images after 5 epochs
python examples/convolution.py                   the 8x8 digits that come with scikit-learn, with a smaller network
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from returns.io import IOFailure, IOSuccess
from returns.result import Failure, Success
from sklearn.datasets import load_digits

import fnlamp
from fnlamp import Layer, data, loss, nn, optim, stream, train
from fnlamp.effect import Effect

Arrays = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def network(side: int, top: int) -> Layer:
    """Bytes to logits. On the CPU, `conv_pool` is faster than its three layers in sequence."""
    kernels, hidden = ((5, 5), 500) if side == 28 else ((3, 2), 100)
    return nn.sequence(
        pixels=nn.rescale(1 / top),
        block_0=nn.conv_pool(20, kernels[0]),
        block_1=nn.conv_pool(50, kernels[1]),
        flatten=nn.flatten,
        hidden=nn.linear(hidden),
        relu=nn.relu,
        out=nn.linear(10),
    )


def mnist(folder: Path) -> Effect[tuple[Arrays, Arrays], Any]:
    """MNIST in its official split: 60,000 images for training, 10,000 for testing."""

    def part(name: str) -> Effect[Arrays, Any]:
        images = data.read_idx(folder / f"{name}-images-idx3-ubyte.gz")
        labels = data.read_idx(folder / f"{name}-labels-idx1-ubyte.gz")
        return images.bind(lambda x: labels.map(lambda y: (x[..., None], y)))

    return part("train").bind(lambda rows: part("t10k").map(lambda test: (rows, test)))


def digits() -> Effect[tuple[Arrays, Arrays], Any]:
    """1,797 small digits, every fifth for testing."""
    x, y = load_digits(return_X_y=True)
    x, test = x.astype(np.uint8).reshape(-1, 8, 8, 1), np.arange(len(x)) % 5 == 0
    return Effect.from_value(((x[~test], y[~test]), (x[test], y[test])))


def describe(rows: Arrays, test: Arrays, epochs: int = 5, seed: int = 0) -> Effect[train.Trained, Any]:
    """The program; nothing has run."""
    side = rows[0].shape[1]
    model = train.supervised(network(side, 255 if side == 28 else 16), loss.cross_entropy())
    return train.epochs(
        model=model,
        optimizer=optim.sgdw(learning_rate=0.02 if side == 28 else 0.05, momentum=0.9),
        train_batches=lambda context: stream.minibatches(*rows, batch_size=64, seed=context.seed),
        validation_batches=lambda context: stream.minibatches(*test, batch_size=1000),
        epochs=epochs,
        seed=seed,
        metrics={"accuracy": loss.accuracy},
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="folder with MNIST's IDX files")
    parser.add_argument("--epochs", type=int, help="default: 5, and 15 for the small digits")
    chosen = parser.parse_args(arguments)
    epochs = chosen.epochs if chosen.epochs is not None else 5 if chosen.data else 15
    source = mnist(chosen.data) if chosen.data else digits()

    def train_on(sets: tuple[Arrays, Arrays]) -> Effect[train.Trained, Any]:
        program = describe(*sets, epochs)
        print(program.explain(), end="\n\n")
        return program

    match source.bind(train_on).run():
        case IOSuccess(Success(_)):
            return 0
        case IOFailure(Failure(fault)):
            print(f"{type(fault).__name__}: {fault}", file=sys.stderr)
            return 1
    raise AssertionError("a run either succeeds or fails")


if __name__ == "__main__":
    fnlamp.keep_programs()
    fnlamp.keep_memory()
    raise SystemExit(main())
