"""A training in several processes, one of which may be harmed at a given moment; each prints its outcome as JSON."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from itertools import count
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from returns.result import Failure

from fnlamp import checkpoint, fault, loss, models, nn, optim, stream, train
from fnlamp.effect import Defect, Effect, Runtime
from fnlamp.scale import Cluster, cluster, gathered

RANDOM = np.random.default_rng(0)
ROWS, LABELS = RANDOM.standard_normal((203, 16)).astype(np.float32), RANDOM.integers(0, 8, 203)
TEXT = RANDOM.integers(0, 32, (203, 16)).astype(np.int32)
MODELS: dict[str, Any] = {
    "mlp": lambda: (nn.linear(32) >> nn.batch_norm() >> nn.relu >> nn.dropout(0.2) >> nn.linear(8), ROWS, LABELS),
    "gpt": lambda: (models.gpt(vocabulary=32, context=16, width=32, heads=4, layers=1), TEXT, np.roll(TEXT, -1, axis=1)),
}


def executor(settings: dict[str, Any], here: Cluster) -> train.Sharded:
    """The layout that the settings name, over the devices of all processes."""
    if settings["layout"] == "tensor":
        mesh = Mesh(np.array(jax.devices()).reshape(1, -1), ("data", "model"))
        return train.Sharded(mesh, {"model": train.tensor_parallel}, cluster=here)
    rules = {"data": train.fully_sharded} if settings["layout"] == "full" else {}
    return train.Sharded(rules=rules, cluster=here)


def describe(settings: dict[str, Any], here: Cluster | None, resume: Any = None) -> Effect[Any, Any]:
    layer, x, y = MODELS[settings["model"]]()
    made = count()

    def batches(context: train.LoopContext) -> Any:
        found = stream.minibatches(x, y, batch_size=32, seed=context.seed)
        return found if not settings["how"] else replace(found, view=None, source=paced(found.source))

    def paced(step: Any) -> Any:
        def slow(state: Any) -> Any:
            time.sleep(0.01)
            if here is not None and settings["victim"] == here.process and next(made) == settings["after"]:
                harm(settings)
            return step(state)

        return slow

    folder = settings["folder"]
    return train.epochs(
        model=train.supervised(layer, loss.cross_entropy()),
        optimizer=optim.sgdw(0.02, momentum=0.9),
        train_batches=batches,
        validation_batches=lambda context: stream.minibatches(x, y, batch_size=50),
        epochs=settings["epochs"],
        train_metrics={"accuracy": loss.accuracy},
        folds={"best": train.best()},
        checkpoints=train.Checkpoints(folder, steps=5) if folder else None,
        resume=resume,
    )


def training(settings: dict[str, Any], here: Cluster) -> Effect[Any, Any]:
    def begin(saved: Any = None) -> Effect[Any, Any]:
        return describe(settings, here, saved).local(lambda runtime: replace(runtime, executor=executor(settings, here)))

    program = checkpoint.latest(settings["folder"]).bind(begin) if settings["resume"] else begin()
    return program.bind(lambda trained: Effect.checked(lambda: figures(trained, here)))


def figures(trained: Any, here: Cluster) -> dict[str, Any]:
    weights = gathered((trained.params, trained.layer_state, trained.kept["best"].params), here)
    curve = [[r.train_loss, r.validation_loss, r.samples, float(r.train_metrics["accuracy"])] for r in trained.curve]
    return {"curve": curve, "weights": [float(x) for leaf in jax.tree.leaves(weights) for x in np.ravel(leaf)]}


def harm(settings: dict[str, Any]) -> None:
    """Harm this process: its loader at once, or any moment of the next tenth of a second."""

    def note() -> None:
        with open(settings["moment"], "w") as file:
            file.write(str(time.time()))

    def hit() -> None:
        note()
        os.kill(os.getpid(), {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[settings["how"]])

    if settings["how"] == "slow":
        note()
        time.sleep(60.0)
    else:
        timer = threading.Timer(settings["wait"], hit)
        timer.daemon = True
        timer.start()


def main(settings: dict[str, Any]) -> dict[str, Any]:
    quiet = Runtime(log=None)
    if settings["alone"]:
        one = describe(settings, None).run_or_raise(quiet)
        return {"kind": "Success", **figures(one, Cluster(0, 1, 1.0))}
    number: list[int] = []

    def inside(here: Cluster) -> Effect[Any, Any]:
        number.append(here.process)
        return training(settings, here)

    exit = cluster(deadline=settings["deadline"]).use(inside).run_exit(quiet)
    failure: Any = None
    match exit:
        case Defect(cause):
            raise cause
        case Failure(failure) | (fault.Interrupted() as failure):
            pass
    state = getattr(failure, "state", None)
    return {
        "process": number[0] if number else None,
        "kind": type(exit).__name__ if failure is None else type(failure).__name__,
        "text": str(failure),
        "named": [*getattr(failure, "processes", [getattr(failure, "process", None)])],
        "steps": None if state is None else int(state.state.step),
        "at": time.time(),
        **(exit.unwrap() if failure is None else {}),
    }


if __name__ == "__main__":
    outcome = main(json.loads(sys.argv[1]))
    print(json.dumps(outcome), flush=True)
    sys.exit(0 if outcome["kind"] == "Success" else 3)
