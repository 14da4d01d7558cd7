"""One program on one device, on all devices of a process, or on several processes: the same numbers.

python examples/many_devices.py                                          as many devices as there are
XLA_FLAGS=--xla_force_host_platform_device_count=4 python examples/many_devices.py --layout full
fnlamp launch -n 2 examples/many_devices.py --layout full --json FILE    two processes, each with its own devices
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from returns.io import IOFailure, IOSuccess
from returns.result import Failure, Success
from sklearn.datasets import load_digits

from fnlamp import loss, nn, optim, stream, train, tree
from fnlamp.effect import Effect, Runtime, do
from fnlamp.scale import Cluster, cluster, gathered

LAYOUTS: dict[str, dict[str, Any]] = {
    "copies": {},  # data parallel: each device has all parameters
    "full": {"data": train.fully_sharded},  # each device has a part of the parameters and of the optimizer's state
    "tensor": {"model": train.tensor_parallel},  # each device computes a part of each layer
}


def executor(layout: str, here: Cluster) -> train.Sharded:
    """The executor over all devices of all processes; for tensor parallelism, they are one axis and each batch is whole."""
    if layout != "tensor":
        return train.Sharded(rules=LAYOUTS[layout], cluster=here)
    return train.Sharded(jax.make_mesh((1, jax.device_count()), ("data", "model")), LAYOUTS[layout], cluster=here)


def described(epochs: int) -> Effect[train.Trained, Any]:
    """The training program, which knows nothing of devices."""
    digits = load_digits()
    x, y = (digits.data / 16).astype(np.float32), digits.target.astype(np.int32)
    return train.epochs(
        model=train.supervised(nn.mlp(hidden=(256, 256), out=10, drop_rate=0.1), loss.cross_entropy()),
        optimizer=optim.adamw(1e-3),
        train_batches=lambda context: stream.minibatches(x[:1400], y[:1400], batch_size=128, seed=context.seed),
        validation_batches=lambda context: stream.minibatches(x[1400:], y[1400:], batch_size=128),
        metrics={"accuracy": loss.accuracy},
        epochs=epochs,
    )


@do
def program(layout: str, epochs: int, here: Cluster) -> Generator[Effect[Any, Any], Any, dict[str, Any]]:
    """Train, and say where the parameters are."""
    spread = executor(layout, here)
    training = described(epochs)
    if here.process == 0:
        explained = str(training.explain(Runtime(executor=spread))).splitlines()
        print(next(line for line in explained if "executor:" in line))
        print(next(line for line in explained if "memory:" in line))
    trained = yield from training.local(lambda runtime: replace(runtime, executor=spread))
    report = trained.curve[-1]
    held = sum(shard.data.nbytes for x in tree.leaves(trained.params) for shard in x.addressable_shards)
    weights = yield from Effect.checked(lambda: gathered(trained.params, here))
    return {
        "layout": layout,
        "devices": jax.device_count(),
        "processes": here.processes,
        "bytes of the parameters": tree.nbytes(weights),
        "bytes of them in this process": held,
        "validation loss": report.validation_loss,
        "accuracy": round(float(report.validation_metrics["accuracy"]), 4),
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layout", choices=LAYOUTS, default="copies")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    number: list[int] = []

    def inside(here: Cluster) -> Effect[dict[str, Any], Any]:
        number.append(here.process)
        return program(given.layout, given.epochs, here)

    match cluster().use(inside).run():
        case IOSuccess(Success(figures)):
            if number == [0]:
                print(*(f"{name} {value}" for name, value in figures.items()), sep=", ")
                if given.json is not None:
                    given.json.write_text(json.dumps(figures))
            return 0
        case IOFailure(Failure(_)):
            return 1
    return 1


if __name__ == "__main__":
    sys.exit(main())
