"""lamp's guide, "build and train a classifier", in fnlamp: a table of numbers, an MLP, SGDW, one epoch, a prediction.

    python examples/lamp_guide.py [mnist.csv.gz]    a table with a column `label` and a column for each pixel

Without a file, it uses the digits of scikit-learn. As in the guide, the numbers are not normalised.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from returns.io import IOFailure, IOSuccess
from returns.result import Failure, Success

import fnlamp
from fnlamp import data, loss, nn, optim, stream, train
from fnlamp.effect import Effect

Table = tuple[Any, Any]


def as_pair(table: data.Table) -> Table:
    return table.features, table.label


def read(path: Path | None) -> Effect[Table, Any]:
    """Features as float32 and labels as integers."""
    if path is not None:
        return data.read_csv(path, label="label").map(as_pair)

    def digits() -> Table:
        from sklearn.datasets import load_digits

        features, target = load_digits(return_X_y=True)
        return features.astype(np.float32), target.astype(np.int32)

    return Effect.suspend(digits)


def describe(table: Table) -> Effect[train.Trained, train.TrainFault]:
    features, target = table
    model = train.supervised(
        nn.sequence(
            nn.mlp(hidden=(64, 32), out=10, drop_rate=0.2, norm_last=True),
            nn.fun(jax.nn.log_softmax),
        ),
        loss.nll(class_weights=np.ones(10)),
    )
    return train.epochs(
        model=model,
        # The guide's weight decay is not multiplied by the learning rate.
        optimizer=optim.sgdw(learning_rate=1e-4, weight_decay=1e-3, decay=optim.Decay.INDEPENDENT),
        train_batches=lambda context: stream.minibatches(features, target, batch_size=200, drop_last=True, seed=context.seed),
        epochs=1,
    )


def main(arguments: list[str]) -> None:
    path = Path(arguments[0]) if arguments else None
    program = read(path).bind(lambda table: describe(table).map(lambda trained: (table, trained)))
    match program.run():
        case IOSuccess(Success(((features, _), trained))):
            probabilities = jnp.exp(trained.predict(jnp.ones((1, features.shape[1]))))
            print(f"Class probabilities of a row of ones: {np.asarray(probabilities).round(3).tolist()}")
        case IOFailure(Failure(fault)):
            print(f"{type(fault).__name__}: {fault}")


if __name__ == "__main__":
    fnlamp.keep_programs()  # the next run compiles nothing
    main(sys.argv[1:])
