"""Build the training of a digit classifier as a value, print its plan, run it, and show predictions.

Without arguments: the 8x8 digits that come with scikit-learn. With `--data DIR`: the IDX files of MNIST in that folder.
The models are those of four documents: `simple` (784-128-10), `lamp` (lamp's guide), `scratch` (784-50-10, plain gradient
descent, not shuffled), `logistic` (one layer, not shuffled).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from returns.io import IOFailure, IOSuccess
from returns.result import Failure, Success

import fnlamp
from fnlamp import Layer, data, loss, nn, optim, plots, stream, train
from fnlamp.effect import Effect


@dataclass(frozen=True, eq=False)
class Images:
    """Rows of pixels with labels, for training and for validation; `top` is the value of white."""

    x: np.ndarray[Any, Any]
    y: np.ndarray[Any, Any]
    x_validation: np.ndarray[Any, Any]
    y_validation: np.ndarray[Any, Any]
    top: int


@dataclass(frozen=True)
class Recipe:
    """A document's model and its training."""

    layer: Callable[[int], Layer]
    loss: loss.Loss
    batch_size: int
    epochs: int
    rate: dict[str, float]
    optimizer: str = "adamw"
    shuffled: bool = True
    drop_last: bool = False
    weight_decay: float = 0.0


torch_linear = partial(nn.linear, weight_init=nn.torch_uniform, bias_init=nn.torch_uniform)


def simple(top: int) -> Layer:
    return nn.sequence(pixels=nn.rescale(1 / top), hidden=torch_linear(128), act=nn.relu, out=torch_linear(10))


def lamp(top: int) -> Layer:
    # lamp's guide uses raw values; batch norm after the first linear layer makes their scale irrelevant.
    raw = nn.rescale(1.0)
    return raw >> nn.mlp(hidden=(64, 32), out=10, drop_rate=0.2, norm_last=True) >> nn.fun(jax.nn.log_softmax)


def scratch(top: int) -> Layer:
    return nn.sequence(pixels=nn.rescale(1 / top), hidden=torch_linear(50), act=nn.relu, out=torch_linear(10))


def logistic(top: int) -> Layer:
    weights = jax.nn.initializers.variance_scaling(1.0, "fan_in", "normal")  # normal / sqrt(features)
    return nn.rescale(1 / top) >> nn.linear(10, weight_init=weights) >> nn.log_softmax


MODELS = {
    "simple": Recipe(simple, loss.cross_entropy(), 32, 5, {"adamw": 1e-3, "sgdw": 0.1}),
    "lamp": Recipe(
        lamp,
        loss.nll(class_weights=np.ones(10)),
        200,
        5,
        {"adamw": 1e-3, "sgdw": 1e-1},
        "sgdw",
        drop_last=True,
        weight_decay=1e-3,
    ),
    "scratch": Recipe(scratch, loss.cross_entropy(), 64, 1, {"adamw": 1e-3, "sgdw": 0.5}, "sgdw", shuffled=False),
    "logistic": Recipe(logistic, loss.nll(), 64, 2, {"adamw": 1e-2, "sgdw": 0.5}, "sgdw", shuffled=False),
}


def digits(rows: int | None) -> Effect[Images, str]:
    """The 1,797 digits of scikit-learn, 8x8 pixels from 0 to 16; every fifth is for validation."""

    def load() -> Images:
        try:
            from sklearn.datasets import load_digits
        except ImportError:
            sys.exit("the digits come with scikit-learn: pip install 'fnlamp[examples]', or give --data DIR")
        x, y = load_digits(return_X_y=True)
        x, y, held = x.astype(np.uint8), y.astype(np.int32), np.arange(len(y)) % 5 == 4
        return Images(x[~held][:rows], y[~held][:rows], x[held], y[held], 16)

    return Effect.suspend(load).named("digits of scikit-learn")


def mnist(folder: Path, rows: int | None) -> Effect[Images, Any]:
    """MNIST's 60,000 training images, 28x28 pixels from 0 to 255; the last 10,000 are for validation."""

    def read(name: str) -> Effect[Any, Any]:
        packed = folder / f"{name}.gz"
        return data.read_idx(packed if packed.exists() else folder / name)

    def split(pair: tuple[Any, Any]) -> Images:
        x, y = pair[0].reshape(len(pair[0]), -1), pair[1].astype(np.int32)
        return Images(x[:50_000][:rows], y[:50_000][:rows], x[50_000:], y[50_000:], 255)

    return read("train-images-idx3-ubyte").zip(read("train-labels-idx1-ubyte")).map(split)


def describe(recipe: Recipe, images: Images, optimizer: str, epochs: int, seed: int) -> Effect[train.Trained, train.TrainFault]:
    """The training program; nothing runs here."""
    make = optim.adamw if optimizer == "adamw" else optim.sgdw
    return train.epochs(
        model=train.supervised(recipe.layer(images.top), recipe.loss),
        optimizer=make(learning_rate=recipe.rate[optimizer], weight_decay=recipe.weight_decay),
        train_batches=lambda context: stream.minibatches(
            images.x,
            images.y,
            batch_size=recipe.batch_size,
            drop_last=recipe.drop_last,
            seed=context.seed if recipe.shuffled else None,
        ),
        validation_batches=lambda context: stream.minibatches(images.x_validation, images.y_validation, batch_size=1000),
        epochs=epochs,
        seed=seed,
        metrics={"accuracy": loss.accuracy},
    )


def as_json(model: str, seed: int, trained: train.Trained) -> str:
    epochs = [
        {
            "epoch": report.epoch,
            "train_loss": report.train_loss,
            "validation_loss": report.validation_loss,
            "validation_accuracy": report.validation_metrics["accuracy"],
            "seconds": report.seconds,
        }
        for report in trained.curve
    ]
    parameters = sum(leaf.size for leaf in jax.tree.leaves(trained.params))
    return json.dumps({"model": model, "seed": seed, "parameters": parameters, "epochs": epochs}, indent=2)


def plot(path: Path, images: Images, trained: train.Trained) -> Effect[Path | None, Any]:
    """Draw 25 validation images under the predicted label, followed by the true one if they differ."""
    side = round(images.x_validation.shape[1] ** 0.5)
    pictures = (images.x_validation[:25].astype(np.int32) * 255 // images.top).reshape(-1, side, side)
    predicted = np.asarray(trained.predict(images.x_validation[:25])).argmax(axis=-1).tolist()
    truth = images.y_validation[:25].tolist()
    titles = [str(a) if a == b else f"{a}, is {b}" for a, b in zip(predicted, truth, strict=True)]
    return plots.show_images(pictures, titles, path=path)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with MNIST's IDX files, packed or not")
    parser.add_argument("--model", choices=MODELS, default="simple")
    parser.add_argument("--optimizer", choices=("adamw", "sgdw"), help="default: the document's")
    parser.add_argument("--epochs", type=int, help="default: the document's; 20 for the digits")
    parser.add_argument("--rows", type=int, metavar="N", help="train on the first N rows only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw 25 predictions")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the learning curve")
    chosen = parser.parse_args(arguments)
    recipe = MODELS[chosen.model]
    epochs = chosen.epochs if chosen.epochs is not None else recipe.epochs if chosen.data else 20

    def train_on(images: Images) -> Effect[train.Trained, Any]:
        program = describe(recipe, images, chosen.optimizer or recipe.optimizer, epochs, chosen.seed)
        print(program.explain(), end="\n\n")
        return program if chosen.plot is None else program.tap(lambda trained: plot(chosen.plot, images, trained))

    source: Effect[Images, Any] = mnist(chosen.data, chosen.rows) if chosen.data else digits(chosen.rows)
    match source.bind(train_on).run():
        case IOSuccess(Success(trained)):
            if chosen.json:
                chosen.json.write_text(as_json(chosen.model, chosen.seed, trained) + "\n")
            return 0
        case IOFailure(Failure(fault)):
            print(f"{type(fault).__name__}: {fault}", file=sys.stderr)
            return 1
    raise AssertionError("a run either succeeds or fails")


if __name__ == "__main__":
    fnlamp.keep_programs()  # the next run compiles nothing
    raise SystemExit(main())
