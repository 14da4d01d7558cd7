"""A small U-Net finds and names handwritten digits in noisy scenes: the class of each pixel.

python examples/segmentation.py --json FILE --plot FILE

A scene of 24x24 pixels has up to four digits of scikit-learn, so its mask is known. The figure is intersection over union: of
the pixels that are of a class or predicted so, the share that are both. It is of test scenes, whose digits the network has not
seen, and compared with a limit of brightness, which can tell digits from background but not name them. That limit was chosen
on validation scenes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from returns.io import IOFailure, IOSuccess
from returns.result import Failure, Success

import fnlamp
from fnlamp import loss, models, optim, plots, stream, train
from fnlamp.effect import Effect, do

CELL, CLASSES, BATCH, NOISE = 12, 11, 16, 0.3
Array = np.ndarray[Any, Any]


class Scenes(NamedTuple):
    """Images `(rows, 24, 24, 1)`, and the class of each pixel: 0 is background, 1 the digit 0, and so on."""

    x: Array
    y: Array


def digits() -> dict[str, tuple[Array, Array]]:
    """Digits of 8x8 pixels from 0 to 1, and their labels, for training, validation and test."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        sys.exit("the digits come with scikit-learn: pip install 'fnlamp[examples]'")
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32).reshape(-1, 8, 8)
    return {"train": (x[:1200], y[:1200]), "validation": (x[1200:1500], y[1200:1500]), "test": (x[1500:], y[1500:])}


def scenes(known: tuple[Array, Array], rows: int, seed: int) -> Scenes:
    """Scenes of four cells, of which each has a digit somewhere, or with a chance of 1 in 4 none."""
    chance, side = np.random.default_rng(seed), 2 * CELL
    x, y = np.zeros((rows, side, side), np.float32), np.zeros((rows, side, side), np.int32)
    for row, top, left in np.ndindex(rows, 2, 2):
        which, at = chance.integers(len(known[0])), chance.integers(CELL - 8 + 1, size=2)
        if chance.random() < 0.75:
            place = row, slice(top * CELL + at[0], top * CELL + at[0] + 8), slice(left * CELL + at[1], left * CELL + at[1] + 8)
            x[place] = known[0][which]
            y[place] = np.where(known[0][which] > 0.25, known[1][which] + 1, 0)
    return Scenes((x + NOISE * chance.standard_normal(x.shape)).astype(np.float32)[..., None], y)


def training(known: tuple[Array, Array], validation: Scenes, rows: int, epochs: int, seed: int) -> Effect[train.Trained, Any]:
    """The program that trains the network, on other scenes in each epoch."""
    return train.epochs(
        model=train.supervised(models.unet(CLASSES, widths=(16, 32, 64)), loss.cross_entropy()),
        optimizer=optim.adamw(3e-3, 0.01),
        schedule=optim.warmup(50, optim.cosine(epochs * -(-rows // BATCH))),
        train_batches=lambda context: stream.minibatches(*scenes(known, rows, context.seed), batch_size=BATCH),
        validation_batches=lambda context: stream.minibatches(*validation, batch_size=64),
        metrics={"accuracy": loss.accuracy},
        epochs=epochs,
        seed=seed,
    )


def overlaps(table: Array) -> Array:
    """Intersection over union of each class of a confusion matrix."""
    shares: Array = np.diag(table) / (table.sum(0) + table.sum(1) - np.diag(table))
    return shares


def by_brightness(x: Array, y: Array, limit: float) -> float:
    """Intersection over union of the digits, whichever they are, with the pixels above a limit."""
    return float(((x[..., 0] > limit) & (y > 0)).sum() / ((x[..., 0] > limit) | (y > 0)).sum())


def drawn(path: Path, trained: train.Trained, test: Scenes) -> Effect[Any, Any]:
    """Six scenes, above their masks, above the predicted ones, with a colour for each digit."""
    angle = np.arange(10)[:, None] / 10 * 2 * np.pi + np.array([0, 2, 4]) * np.pi / 3
    colours = np.concatenate([np.zeros((1, 3)), 0.5 + 0.5 * np.cos(angle)])
    predicted = np.asarray(trained.predict(test.x[:6])).argmax(-1)
    grey = np.repeat(np.clip(test.x[:6], 0, 1), 3, -1)
    names = [", ".join(str(k - 1) for k in np.unique(y) if k) for y in test.y[:6]]
    images = np.concatenate([grey, colours[test.y[:6]], colours[predicted]]).astype(np.float32)
    return plots.show_images(images, [*names, *["mask"] * 6, *["predicted"] * 6], rows=3, columns=6, path=path)


@do
def figures(chosen: argparse.Namespace) -> Generator[Effect[Any, Any], Any, dict[str, Any]]:
    known = digits()
    validation, test = scenes(known["validation"], 128, seed=1), scenes(known["test"], 256, seed=2)
    trained = yield from training(known["train"], validation, chosen.rows, chosen.epochs, chosen.seed)
    measure = train.evaluate(stream.minibatches(*test, batch_size=64), {"table": loss.confusion_matrix()})
    table = np.asarray((yield from measure(trained)).metrics["table"])
    each = overlaps(table)
    any_digit = overlaps(np.array([[table[0, 0], table[0, 1:].sum()], [table[1:, 0].sum(), table[1:, 1:].sum()]]))[1]
    limit = max(np.linspace(0, 1, 41), key=lambda limit: by_brightness(*validation, limit))
    found = {"mean": float(each.mean()), "any_digit": float(any_digit), "by_brightness": by_brightness(*test, limit)}
    print("intersection over union: {mean:.1%}, the mean of eleven classes".format(**found))
    print("of digits, whichever they are: {any_digit:.1%}; by a limit of brightness {by_brightness:.1%}".format(**found))
    if chosen.plot is not None:
        yield from drawn(chosen.plot, trained, test)
    return found | {"classes": each.tolist()}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=512, help="scenes per epoch")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw six scenes of the test")
    parser.add_argument("--json", type=Path, metavar="FILE")
    chosen = parser.parse_args(arguments)
    match figures(chosen).run():
        case IOSuccess(Success(found)):
            if chosen.json is not None:
                chosen.json.write_text(json.dumps(found, indent=2))
            return 0
        case IOFailure(Failure(fault)):
            print(f"{type(fault).__name__}: {fault}", file=sys.stderr)
            return 1
    raise AssertionError("a run either succeeds or fails")


if __name__ == "__main__":
    fnlamp.keep_programs()
    raise SystemExit(main())
