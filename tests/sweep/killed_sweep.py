"""A sweep of 12 lanes as a process that a test kills: `python killed_sweep.py FOLDER`, with a number of
trials after it, a study; and with another number, that many lanes side by side."""

from __future__ import annotations

import hashlib
import sys
from typing import Any

import jax
import numpy as np

from fnlamp import loss, nn, optim, stream, train
from fnlamp.config import group
from fnlamp.effect import Effect, Runtime
from fnlamp.experiment import Place
from fnlamp.sweep import grid, integers, log_uniform, optuna, sweep

RNG = np.random.default_rng(0)
X = RNG.standard_normal((256, 8)).astype(np.float32)
Y = (X @ RNG.standard_normal((8, 3))).argmax(1)


@group
class Settings:
    rate: float = 0.1
    seed: int = 0


def program_of(place: Place[Settings]) -> Effect[train.Trained, Any]:
    return train.resumable(
        place.checkpoints,
        lambda saved: train.epochs(
            model=train.supervised(nn.mlp(hidden=(16,), out=3, drop_rate=0.1), loss.cross_entropy()),
            optimizer=optim.adamw(place.config.rate),
            train_batches=lambda context: stream.minibatches(X, Y, batch_size=16, seed=context.seed),
            validation_batches=lambda context: stream.full_batch(X, Y),
            epochs=25,
            seed=place.config.seed,
            resume=saved,
            checkpoints=train.Checkpoints(place.checkpoints),
        ),
    )


def digest(trained: train.Trained) -> str:
    """What a lane trained, to the bit."""
    leaves = jax.tree.leaves((trained.params, trained.state.optimizer_state, trained.state.step))
    return hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in leaves)).hexdigest()


def main(folder: str, trials: str = "", together: str = "1") -> None:
    space = grid({"rate": (0.003, 0.01, 0.03), "seed": range(4)})
    study = optuna({"rate": log_uniform(1e-3, 1e-1), "seed": integers(0, 9)}, trials=int(trials)) if trials else None
    program = sweep("killed", program_of, Settings, study or space, folder=folder, together=int(together))
    print("ready", flush=True)
    found = program.run_or_raise(Runtime(log=None))
    for lane in () if study else found.lanes:  # a program holds its checkpoints
        place = Place(lane.id, "killed", lane.folder, Settings(**lane.point))  # type: ignore[arg-type]
        trained = program_of(place).run_or_raise(Runtime(log=None))
        print(lane.number, trained.curve[-1].validation_loss, digest(trained))
    print("best", found.best.lane.number, found.best.lane.value, digest(found.best.value), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
