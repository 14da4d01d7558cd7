"""A convolutional network on MNIST as an experiment: a config with computed fields, a tracked run, its indicators.

python examples/lab_mnist.py                       the 8x8 digits that come with scikit-learn, drawn at 28x28
python examples/lab_mnist.py --data FOLDER         MNIST's IDX files
python examples/lab_mnist.py --epochs 2 --model.first-kernel 3 --optimizer.rule adam
python examples/lab_mnist.py --show                all settings, and where each value is from
python examples/lab_mnist.py --sweep kernels       both kernels of 3 and of 5: four runs
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from returns.io import IOFailure, IOSuccess
from returns.result import Failure, Success

import fnlamp
from fnlamp import Layer, data, loss, nn, optim, stream, track, train, tree
from fnlamp.config import Resolved, cli, computed, group, options
from fnlamp.effect import Effect
from fnlamp.experiment import Place, experiment
from fnlamp.sweep import Sweep, grid, sweep

Arrays = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def digits() -> Effect[tuple[Arrays, Arrays], Any]:
    """scikit-learn's digits, each pixel as three by three, in a frame of two: 1,400 for training, 397 for testing."""

    def load() -> tuple[Arrays, Arrays]:
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        small = (pixels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
        images = np.pad(np.kron(small, np.ones((3, 3), np.uint8)), ((0, 0), (2, 2), (2, 2)))[..., None]
        labels = labels.astype(np.int32)
        return (images[:1400], labels[:1400]), (images[1400:], labels[1400:])

    return Effect.suspend(load)


def mnist(folder: Path) -> Effect[tuple[Arrays, Arrays], Any]:
    """MNIST in its official split."""
    rows = data.mnist(folder, "train", download=False)
    test = data.mnist(folder, "test", download=False)
    return rows.zip(test).map(lambda pair: (pair[0].arrays, pair[1].arrays))


def network(first: int, second: int, hidden: int) -> Layer:
    """Two convolutions with pooling, two linear layers: 431,080 parameters with kernels of 5 and 500 hidden units."""
    return nn.sequence(
        pixels=nn.rescale(1 / (255 * 0.3081), -0.1307 / 0.3081),
        conv_1=nn.conv2d(20, first),
        relu_1=nn.relu,
        pool_1=nn.max_pool2d(2),
        conv_2=nn.conv2d(50, second),
        relu_2=nn.relu,
        pool_2=nn.max_pool2d(2),
        flatten=nn.flatten,
        hidden=nn.linear(hidden),
        relu_3=nn.relu,
        out=nn.linear(10),
    )


@group
class Model:
    first_kernel: int = 5
    second_kernel: int = 5
    hidden: int = 500
    layer: Layer = computed(network, "first_kernel", "second_kernel", "hidden")


@group
class Optimizer:
    learning_rate: float = 0.01
    momentum: float = 0.9
    rule: optim.Optimizer = options(
        {
            "sgd": computed(lambda learning_rate, momentum: optim.sgdw(learning_rate, momentum=momentum)),
            "adam": computed(lambda learning_rate: optim.adamw(learning_rate)),
        },
        default="sgd",
    )


@group
class Device:
    use_gpu: bool = True
    index: int = 0
    device: jax.Device = computed(lambda use_gpu, index: jax.devices()[index] if use_gpu else jax.devices("cpu")[index])


@group
class Loaders:
    data: Path | None = None
    """The folder of MNIST's IDX files; without one, scikit-learn's digits."""
    batch_size: int = 64
    test_batch_size: int = 1000
    rows: int = computed(lambda data: 1_400 if data is None else 60_000)
    loop_step: int = computed(lambda rows, batch_size: -(-rows // batch_size))


@group
class Configs(Loaders):
    epochs: int = 10
    seed: int = 0
    loop_count: int = computed(lambda epochs, loop_step: epochs * loop_step)
    log_interval: int = 50
    """Steps from one measurement of the indicators to the next."""
    log_parameters: bool = True
    """Also record statistics of parameters, gradients and updates."""
    model: Model
    optimizer: Optimizer
    device: Device


def indicators(config: Configs) -> dict[str, train.Indicator]:
    """What is recorded of single steps."""
    found = {
        "step.loss": train.step_loss(),
        "step.losses": train.queue(train.step_loss(), 20),
        "step.gradients": train.histogram("gradients", 30, (-0.1, 0.1)),
        "learning_rate": train.learning_rate(),
        "gradient_norm": train.gradient_norm(),
    }
    if config.log_parameters:
        found |= {name: train.statistics(name) for name in ("parameters", "gradients", "updates")}
    return found


def training(place: Place[Configs]) -> Effect[train.Trained, Any]:
    """The data and the training of one run, which resumes from its checkpoints if it has some."""
    config = place.config

    def described(sets: tuple[Arrays, Arrays]) -> Effect[train.Trained, Any]:
        rows, test = sets
        return train.resumable(
            place.checkpoints,
            lambda saved: train.epochs(
                model=train.supervised(config.model.layer, loss.cross_entropy()),
                optimizer=config.optimizer.rule,
                train_batches=lambda context: stream.minibatches(*rows, batch_size=config.batch_size, seed=context.seed),
                validation_batches=lambda context: stream.minibatches(*test, batch_size=config.test_batch_size),
                metrics={"accuracy": loss.accuracy},
                epochs=config.epochs,
                seed=config.seed,
                indicators=indicators(config),
                measure_every=config.log_interval,
                checkpoints=train.Checkpoints(place.checkpoints),
                resume=saved,
            ),
        )

    sets = digits() if config.data is None else mnist(config.data)
    program = track.section("load", sets).bind(described)
    return program.local(lambda runtime: replace(runtime, device=config.device.device))


def writers(place: Place[Configs]) -> list[track.Output]:
    """SQLite and lines are there without asking; TensorBoard's files and a live bar beside them."""
    return [track.tensorboard(place.folder / "tensorboard"), track.bar()]


SWEEPS = {"kernels": grid({"model.first_kernel": (3, 5), "model.second_kernel": (3, 5)})}


def one(resolved: Resolved[Configs], folder: Path) -> Effect[str, Any]:
    """The recorded run of a config; an unfinished run of the same config is resumed."""
    program = experiment("lab_mnist", training, resolved, writers=writers, folder=folder, resume="latest")
    return program.map(lambda run: f"{reached(run.value)}; fnlamp runs show {run.id[-6:]}")


def several(name: str, resolved: Resolved[Configs], folder: Path) -> Effect[str, Any]:
    """A sweep around the config, and a table of its lanes; the same command again runs what is not finished."""
    fixed = {path: (value,) for path, value in resolved.hyperparameters.items()}
    space = grid({**fixed, **SWEEPS[name].axes})
    program = sweep(name, training, Configs, space, metric="validation.accuracy", lowest=False, writers=writers, folder=folder)

    def said(found: Sweep[train.Trained, Configs]) -> str:
        table = found.table()
        shown = [*SWEEPS[name].axes, "status", found.metric, "id"]
        rows = zip(*(table[column] for column in shown), strict=True)
        lines = ["  ".join(shown), *("  ".join(map(str, row)) for row in rows)]
        return "\n".join([*lines, f"best: {reached(found.best.value)}; fnlamp runs compare {name}"])

    return program.map(said)


def reached(trained: train.Trained) -> str:
    accuracy = trained.curve[-1].validation_metrics["accuracy"]
    return f"{tree.count(trained.params):,} parameters, {accuracy:.2%} of the test images"


def main(arguments: list[str] | None = None, folder: Path = Path("runs")) -> int:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--sweep", choices=[*SWEEPS])
    chosen, settings = parser.parse_known_args(arguments)
    run = one if chosen.sweep is None else partial(several, chosen.sweep)
    program = cli(Configs, arguments=settings).bind(lambda resolved: run(resolved, folder))
    match program.run():
        case IOSuccess(Success(text)):
            print(text)
            return 0
        case IOFailure(Failure(fault)):
            print(f"{type(fault).__name__}: {fault}", file=sys.stderr)
            return 1
    raise AssertionError("a run either succeeds or fails")


if __name__ == "__main__":
    fnlamp.keep_programs()
    raise SystemExit(main())
