"""A training in several processes that saves in shards; one may be killed during a save. Each prints its outcome as JSON."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from returns.result import Failure

from fnlamp import checkpoint, fault, loss, nn, optim, stream, train
from fnlamp.checkpoint.shards import Shards
from fnlamp.effect import Effect, Runtime
from fnlamp.scale import Cluster, cluster, gathered

RANDOM = np.random.default_rng(0)
ROWS, LABELS = RANDOM.standard_normal((203, 16)).astype(np.float32), RANDOM.integers(0, 8, 203)


def describe(settings: dict[str, Any], resume: Any = None) -> Effect[Any, Any]:
    def slowly(report: train.EpochReport) -> None:
        time.sleep(settings["pause"])

    folder = settings["folder"]
    return train.epochs(
        model=train.supervised(
            nn.linear(48) >> nn.batch_norm() >> nn.relu >> nn.dropout(0.2) >> nn.linear(8), loss.cross_entropy()
        ),
        optimizer=optim.sgdw(0.02, momentum=0.9),
        train_batches=lambda context: stream.minibatches(ROWS, LABELS, batch_size=32, seed=context.seed),
        validation_batches=lambda context: stream.minibatches(ROWS, LABELS, batch_size=50),
        epochs=settings["epochs"],
        folds={"best": train.best()},
        on_epoch=slowly,
        checkpoints=train.Checkpoints(folder, form="shards") if folder else None,
        resume=resume,
    )


def program(settings: dict[str, Any], here: Cluster | None) -> Effect[Any, Any]:
    rules = {"data": train.fully_sharded} if settings["layout"] == "full" else {}
    executor = None if here is None else train.Sharded(rules=rules, cluster=here)

    def begin(saved: Any = None) -> Effect[Any, Any]:
        return describe(settings, saved).local(lambda runtime: replace(runtime, executor=executor))

    made = checkpoint.latest(settings["folder"]).bind(begin) if settings["resume"] else begin()
    return made.bind(lambda trained: Effect.checked(lambda: figures(trained, here or Cluster(0, 1, 1.0))))


def figures(trained: Any, here: Cluster) -> dict[str, Any]:
    weights = gathered((trained.params, trained.layer_state, trained.state.optimizer_state), here)
    parts = [x for x in jax.tree.leaves(trained.params) if not getattr(x, "is_fully_addressable", True)]
    return {
        "curve": [[each.train_loss, each.validation_loss, each.samples] for each in trained.curve],
        "weights": [float(x) for leaf in jax.tree.leaves(weights) for x in np.ravel(leaf)],
        "cut": sum(not x.is_fully_replicated for x in parts),
        "saved": trained.saved,
    }


def harmful(settings: dict[str, Any], process: int) -> None:
    """From the second save on, the victim is killed before its part of the save is whole."""
    whole, seen = Shards._written, []

    def written(self: Shards, *args: Any) -> None:
        seen.append(1)
        if settings["victim"] == process and len(seen) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        whole(self, *args)

    Shards._written = written  # type: ignore[method-assign]


def main(settings: dict[str, Any]) -> dict[str, Any]:
    quiet = Runtime(log=None)
    if settings["alone"]:
        return {"kind": "Success", **program(settings, None).run_or_raise(quiet)}

    def inside(here: Cluster) -> Effect[Any, Any]:
        harmful(settings, here.process)
        return program(settings, here)

    exit = cluster(deadline=5.0).use(inside).run_exit(quiet)
    match exit:
        case Failure(failure) | (fault.Interrupted() as failure):
            return {"kind": type(failure).__name__, "text": str(failure)}
    return {"kind": "Success", **exit.unwrap()}


if __name__ == "__main__":
    outcome = main(json.loads(sys.argv[1]))
    print(json.dumps(outcome), flush=True)
    sys.exit(0 if outcome["kind"] == "Success" else 3)
