"""MNIST to more than 99 % of the test images in two epochs, 215,194 parameters: ten seeds, their mean, and the seconds.

python examples/mnist_fast.py --data FOLDER              MNIST's IDX files, ten seeds
python examples/mnist_fast.py --data FOLDER --seeds 1

Two blocks of convolution and pooling, two linear layers, Adam with one cycle of the learning rate, and images moved by at most
one pixel. The data stays in memory as bytes. Rate, moments and batch are those of github.com/tuomaso/train_mnist_fast (one
epoch, 0.76 s on a laptop's GPU, 99.04 %). Figures of this program are in docs/explanation/performance.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from returns.io import IOFailure, IOSuccess
from returns.result import Failure, Success

import fnlamp
from fnlamp import Layer, augment, data, loss, nn, optim, stream, train
from fnlamp.effect import Effect, do

Arrays = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]
BATCH = 256


class Seed(NamedTuple):
    """What one seed reached: accuracy on the test images, seconds of training, and of the processor in them."""

    accuracy: float
    seconds: float
    processor: float


def network() -> Layer:
    """Bytes to logits."""
    return nn.sequence(
        moved=augment.in_training(augment.random_crop(1)),
        pixels=nn.rescale(1 / 78.6, -33.3 / 78.6),  # to mean 0 and deviation 1 over the training images
        block_0=nn.conv_pool(24, 5),
        block_1=nn.conv_pool(32, 3),
        flatten=nn.flatten,
        hidden=nn.linear(256),
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


def describe(rows: Arrays, epochs: int, seed: int) -> Effect[train.Trained, Any]:
    """The program that trains one seed; nothing has run."""
    steps = epochs * -(-len(rows[0]) // BATCH)
    return train.epochs(
        model=train.supervised(network(), loss.cross_entropy()),
        optimizer=optim.adamw(learning_rate=0.01, b1=0.7, b2=0.9),
        train_batches=lambda context: stream.minibatches(*rows, batch_size=BATCH, seed=context.seed),
        epochs=epochs,
        seed=seed,
        schedule=optim.one_cycle(steps, peak=max(1, steps // 5)),
    )


@do
def one(sets: tuple[Arrays, Arrays], epochs: int, seed: int) -> Generator[Effect[Any, Any], Any, Seed]:
    """Train and evaluate one seed, and say what it reached."""
    rows, test = sets
    now = Effect.suspend(lambda: (time.perf_counter(), time.process_time()))
    started, before = yield from now
    trained = yield from describe(rows, epochs, seed)
    ended, after = yield from now
    measure = train.evaluate(stream.minibatches(*test, batch_size=1000), {"accuracy": loss.accuracy})
    evaluation = yield from measure(trained)
    return Seed(evaluation.metrics["accuracy"], ended - started, after - before)


@do
def all_seeds(sets: tuple[Arrays, Arrays], epochs: int, seeds: int) -> Generator[Effect[Any, Any], Any, list[Seed]]:
    """One after the other, each with its line."""
    found = []
    for seed in range(seeds):
        reached = yield from one(sets, epochs, seed)
        found.append(reached)
        seconds = f"{reached.seconds:.1f} s ({reached.processor:.1f} s of the processor)"
        print(f"seed {seed}: {reached.accuracy:.2%} in {seconds}{', with compilation' if seed == 0 else ''}")
    return found


def summary(found: list[Seed]) -> str:
    """The mean over the seeds; the seconds are those after compilation, if there is more than one."""
    accuracies = np.array([seed.accuracy for seed in found])
    warm = found[1:] or found
    seconds, processor = (float(np.mean(of)) for of in zip(*((seed.seconds, seed.processor) for seed in warm), strict=True))
    return (
        f"mean of {len(found)} seeds: {accuracies.mean():.2%} (from {accuracies.min():.2%} to {accuracies.max():.2%}), "
        f"{seconds:.1f} s per seed, {processor:.1f} s of the processor"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="folder with MNIST's IDX files")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=2)
    chosen = parser.parse_args(arguments)
    program = mnist(chosen.data).bind(lambda sets: all_seeds(sets, chosen.epochs, chosen.seeds))
    match program.run():
        case IOSuccess(Success(found)):
            print(summary(found))
            return 0
        case IOFailure(Failure(fault)):
            print(f"{type(fault).__name__}: {fault}", file=sys.stderr)
            return 1
    raise AssertionError("a run either succeeds or fails")


if __name__ == "__main__":
    fnlamp.keep_programs()
    fnlamp.keep_memory()
    raise SystemExit(main())
