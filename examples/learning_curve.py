"""Train on handwritten digits, and draw the learning curve beside predictions for digits that the model has not seen.

python examples/learning_curve.py --picture docs/learning-curve.png     the picture in README.md
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from returns.io import IOFailure, IOSuccess
from returns.result import Failure, Success
from sklearn.datasets import load_digits

import fnlamp
from fnlamp import loss, nn, optim, stream, train
from fnlamp.effect import Effect

Array = np.ndarray[Any, Any]
SPLIT = 1400
"""The first 1,400 of the 1,797 digits are for training, the other 397 for validation."""


def describe(x: Array, y: Array, epochs: int = 20) -> Effect[train.Trained, train.TrainFault]:
    """The program of README.md; nothing has run."""
    return train.epochs(
        model=train.supervised(
            nn.sequence(scale=nn.rescale(1 / 16), hidden=nn.linear(64), act=nn.relu, out=nn.linear(10)),
            loss.cross_entropy(),
        ),
        optimizer=optim.adamw(learning_rate=3e-3),
        train_batches=lambda context: stream.minibatches(x[:SPLIT], y[:SPLIT], batch_size=32, seed=context.seed),
        validation_batches=lambda context: stream.full_batch(x[SPLIT:], y[SPLIT:]),
        epochs=epochs,
        metrics={"accuracy": loss.accuracy},
    )


def draw_curve(axes: Axes, curve: tuple[train.EpochReport, ...]) -> None:
    """Both losses of every epoch, each named at the end of its line."""
    numbers = [report.epoch for report in curve]
    lines: dict[str, Any] = {
        "training": [report.train_loss for report in curve],
        "validation": [report.validation_loss for report in curve],
    }
    for (name, losses), colour in zip(lines.items(), ("#1f77b4", "#d95f02"), strict=True):
        axes.plot(numbers, losses, color=colour, linewidth=2)
        axes.annotate(name, (numbers[-1], losses[-1]), (4, 0), textcoords="offset points", color=colour, va="center")
    accuracy = curve[-1].validation_metrics["accuracy"]
    axes.set_title(f"cross-entropy; validation accuracy at the end: {accuracy:.1%}", fontsize=10, loc="left")
    axes.set_xlabel("epoch")
    axes.set_yscale("log")
    axes.set_xlim(1, numbers[-1] * 1.25)
    axes.set_xticks(numbers[:: max(1, len(numbers) // 5)])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.spines[["top", "right"]].set_visible(False)


def draw_digits(grid: Any, x: Array, y: Array, predicted: Array) -> None:
    """Each digit under its prediction; a wrong prediction is red, with the label beside it."""
    for axes, pixels, truth, guess in zip(grid.flat, x, y.tolist(), predicted.tolist(), strict=False):
        axes.imshow(pixels.reshape(8, 8), cmap="gray_r", vmin=0, vmax=16)
        right = truth == guess
        axes.set_title(f"{guess}" if right else f"{guess}, is {truth}", fontsize=9, color="black" if right else "#c00000")
        axes.set_xticks([])
        axes.set_yticks([])


def picture(trained: train.Trained, x: Array, y: Array, path: Path) -> Effect[Path, str]:
    """The program that draws both parts into the file; the digits are every twelfth of those for validation."""

    def draw() -> Path:
        figure = Figure(figsize=(9, 3), dpi=100, layout="constrained")
        parts: Any = figure.subfigures(1, 2, width_ratios=(5, 4))
        left, right = parts
        draw_curve(left.subplots(), trained.curve)
        some = slice(SPLIT, None, 12)
        draw_digits(right.subplots(4, 8), x[some], y[some], np.asarray(trained.predict(x[some])).argmax(axis=-1))
        figure.savefig(path, metadata={"Software": None} if path.suffix == ".png" else {})
        return path

    return Effect.attempt(draw, OSError, lambda error: f"{path}: cannot be written ({error.strerror})")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--picture", type=Path, metavar="FILE", default=Path("learning-curve.png"))
    chosen = parser.parse_args(arguments)
    pixels, labels = load_digits(return_X_y=True)
    x, y = pixels.astype(np.uint8), labels.astype(np.int32)
    match describe(x, y, chosen.epochs).bind(lambda trained: picture(trained, x, y, chosen.picture)).run():
        case IOSuccess(Success(path)):
            print(f"drawn: {path}")
            return 0
        case IOFailure(Failure(fault)):
            print(fault, file=sys.stderr)
            return 1
    raise AssertionError("a run either succeeds or fails")


if __name__ == "__main__":
    fnlamp.keep_programs()  # the next process compiles nothing
    raise SystemExit(main())
