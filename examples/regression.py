"""Linear regression on 20 rows of 5 numbers, one full batch per epoch: each of the ten losses is about one percent lower."""

from __future__ import annotations

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from returns.io import IOFailure, IOSuccess
from returns.result import Failure, Success

import fnlamp
from fnlamp import Layer, loss, nn, optim, stream, train
from fnlamp.effect import Effect


def squeeze(prediction: jax.Array) -> jax.Array:
    """One number per row: otherwise (20, 1) against (20,) would broadcast to (20, 20), which fnlamp refuses."""
    return jnp.squeeze(prediction, -1)


def describe(seed: int = 0, *, squeezed: bool = True) -> Effect[train.Trained, train.TrainFault]:
    """The program, on data generated from the seed."""
    x = np.random.default_rng(seed).random((20, 5), dtype=np.float32)
    y = x @ np.array([0.3, 4.0, 0.2, 2.5, 18.0], np.float32) + 17.0
    line: Layer = nn.linear(1, weight_init=nn.torch_uniform, bias_init=nn.torch_uniform)
    return train.epochs(
        model=train.supervised(line >> nn.fun(squeeze) if squeezed else line, loss.mse()),
        optimizer=optim.sgdw(learning_rate=1e-3),
        train_batches=lambda context: stream.full_batch(x, y),
        epochs=10,
        seed=seed,
    )


def main() -> None:
    program = describe()
    print(program.explain(), end="\n\n")
    match program.run():
        case IOSuccess(Success(trained)):
            losses = [report.train_loss for report in trained.curve]
            print("ratios:", ", ".join(f"{after / before:.4f}" for before, after in pairwise(losses)))
        case IOFailure(Failure(fault)):
            print(f"{type(fault).__name__}: {fault}")
    print("\nWithout the squeeze:", describe(squeezed=False).explain().fault)


if __name__ == "__main__":
    fnlamp.keep_programs()  # the next run compiles nothing
    main()
