"""Saves in shards of a run on eight virtual devices, resumed on eight, two and one; the distances as JSON."""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import Any

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax
import numpy as np
from jax.sharding import Mesh

from fnlamp import checkpoint, loss, nn, optim, stream, train, tree
from fnlamp.effect import Runtime

RANDOM = np.random.default_rng(0)
DEVICES = np.array(jax.devices())
ROWS, LABELS = RANDOM.standard_normal((203, 16)).astype(np.float32), RANDOM.integers(0, 8, 203)
FULL = {"data": train.fully_sharded}
EXECUTORS = {
    "eight": train.Sharded(rules=FULL, chunk=5),
    "two": train.Sharded(Mesh(DEVICES[:2], ("data",)), FULL),
    "one": train.Fused(),
}


def describe(folder: str, **options: Any) -> Any:
    layer = nn.linear(32) >> nn.batch_norm() >> nn.relu >> nn.dropout(0.2) >> nn.linear(8)
    return train.epochs(
        model=train.supervised(layer, loss.cross_entropy()),
        optimizer=optim.sgdw(0.05, momentum=0.9),
        train_batches=lambda context: stream.minibatches(ROWS, LABELS, batch_size=32, seed=context.seed),
        checkpoints=train.Checkpoints(folder, steps=5, keep=checkpoint.keep_all, form="shards"),
        **{"epochs": 2, **options},
    )


def arrays(trained: Any) -> list[Any]:
    return tree.leaves((trained.params, trained.layer_state, trained.state.optimizer_state))


def apart(a: Any, b: Any) -> float:
    ours, theirs = (np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in arrays(each)]) for each in (a, b))
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def main(folder: str) -> dict[str, Any]:
    runtime = Runtime(log=None, executor=EXECUTORS["eight"])
    whole = describe(f"{folder}/whole").run_or_raise(runtime)
    saves = checkpoint.saves(f"{folder}/whole").run_or_raise(runtime)
    within = saves[0].path  # in the middle of an epoch
    found: dict[str, Any] = {"steps": [saved.step for saved in saves]}
    for name, executor in EXECUTORS.items():
        shutil.copytree(within, f"{folder}/{name}/{os.path.basename(within)}")
        program = train.resumable(f"{folder}/{name}", lambda saved, name=name: describe(f"{folder}/{name}", resume=saved))
        resumed = program.run_or_raise(Runtime(log=None, executor=executor))
        devices = {len(x.sharding.device_set) for x in arrays(resumed)}
        samples = [report.samples for report in resumed.curve]
        found[name] = [apart(resumed, whole), *devices, samples, os.path.basename(resumed.saved)]
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
