"""Training on loaders in several processes, each of which counts the items that it loads; prints its outcomes as JSON."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from returns.result import Failure

from fnlamp import checkpoint, data, fault, loss, nn, optim, train
from fnlamp.effect import CancelToken, Effect, Resource, Runtime
from fnlamp.scale import Cluster, cluster, gathered
from fnlamp.stream import from_arrays

ROWS = np.random.default_rng(0).standard_normal((193, 16)).astype(np.float32)
"""In batches of 32, with a last one of a single row: of three processes, two have none of it."""
LABELS = np.arange(193) % 8


class Counted:
    """Rows that count how often each is loaded; the token is cancelled when `stop` rows were.

    A slow one makes its process send batches one by one, while the others send several together.
    """

    def __init__(self, stop: int = 0, slow: bool = False) -> None:
        self.loads, self.token, self.stop, self.slow = np.zeros(193, int), CancelToken(), stop, slow

    def __len__(self) -> int:
        return 193

    def __getitem__(self, row: int) -> tuple[Any, int]:
        self.loads[row] += 1
        time.sleep(0.001 * self.slow)
        if self.loads.sum() == self.stop:
            self.token.cancel()
        return ROWS[row], int(LABELS[row])


def noisy(generator: np.random.Generator, item: Any) -> Any:
    return item[0] + generator.normal(0, 0.1, 16).astype(np.float32), item[1]


def together(items: list[Any]) -> Any:
    """A batch of which each row depends on all items."""
    x = np.stack([row for row, _ in items])
    return x - x.mean(0), np.array([label for _, label in items])


def stacked(rows: Counted, context: train.LoopContext, **options: Any) -> Resource[Any, Any]:
    return data.loader(rows, batch_size=32, shuffle=True, seed=context.seed, augment=noisy, **options)


def mapped(folder: str, context: train.LoopContext) -> Any:
    arrays = tuple(np.load(Path(folder, f"{name}.npy"), mmap_mode="r") for name in ("x", "y"))
    return from_arrays(arrays, batch_size=32, seed=context.seed)


def streams(folder: str) -> dict[str, Any]:
    """By name, a factory of a counted data set and a context."""
    return {
        "on request": lambda rows, context: stacked(rows, context),
        "by threads": lambda rows, context: data.threads(2).bind(
            lambda team: stacked(rows, context, workers=team).map(lambda s: s.map(lambda batch: (2 * batch[0], batch[1])))
        ),
        "ahead": lambda rows, context: stacked(rows, context).bind(lambda s: s.take(9).shuffle_buffer(3, 1).prefetch(2)),
        "collated": lambda rows, context: stacked(rows, context, collate=together),
        "mapped": lambda rows, context: mapped(folder, context),
    }


def describe(batches: Any, rows: Counted, epochs: int = 2, **options: Any) -> Effect[Any, Any]:
    return train.epochs(
        model=train.supervised(
            nn.linear(24) >> nn.layer_norm() >> nn.relu >> nn.dropout(0.2) >> nn.linear(8), loss.cross_entropy()
        ),
        optimizer=optim.sgdw(0.05, momentum=0.9),
        train_batches=lambda context: batches(rows, context),
        epochs=epochs,
        **options,
    )


def figures(trained: Any, rows: Counted, here: Cluster) -> dict[str, Any]:
    weights = jax.tree.leaves(gathered((trained.params, trained.layer_state), here))
    curve = [[report.train_loss, report.samples] for report in trained.curve]
    return {"curve": curve, "weights": [float(x) for leaf in weights for x in np.ravel(leaf)], "loads": rows.loads.tolist()}


def main(settings: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    folder, lines, saves = settings["folder"], [], settings["saves"]
    rows, last = Counted(), Counted(settings["stop"])
    on_request = streams(folder)["on request"]

    def each(here: Cluster) -> Effect[Any, Any]:
        executor = None if settings["alone"] else train.Sharded(cluster=here)
        policy = train.Checkpoints(saves) if saves else None

        def measured(name: str, batches: Any) -> Effect[Any, Any]:
            rows = Counted(slow=here.process == 1)
            described = describe(batches, rows)
            lines.append(
                f"{name}: " + described.explain(Runtime(executor=executor)).partition("executor: ")[2].partition("\n")[0]
            )
            kept = described.map(lambda trained: (found.update({name: figures(trained, rows, here)}), trained)[1])
            asked = Counted()
            predicted = kept.bind(train.predict_batches(lambda context: batches(asked, context)))
            return predicted.map(
                lambda made: found[name].update(
                    predicted=np.ravel(made).tolist(), asked=asked.loads.tolist(), shape=np.shape(made)
                )
            )

        def interrupted() -> Effect[Any, Any]:
            return describe(on_request, last, epochs=4, checkpoints=policy)

        def resumed() -> Effect[Any, Any]:
            return checkpoint.latest(saves).bind(lambda saved: describe(on_request, rows, epochs=4, resume=saved))

        program: Effect[Any, Any] = Effect.from_value(None)
        if settings["resume"]:
            program = resumed().map(lambda trained: found.update(resumed=figures(trained, rows, here)))
        for name, batches in streams(folder).items() if settings["each"] else ():
            program = program.then(measured(name, batches))
        if settings["stop"]:
            program = program.then(interrupted())
        return program.local(lambda runtime: replace(runtime, executor=executor))

    def alone() -> Effect[Any, Any]:
        here = Cluster(0, 1, 1.0)
        whole = Counted()
        four = describe(on_request, whole, epochs=4).map(lambda trained: found.update(resumed=figures(trained, whole, here)))
        return each(here).then(four)

    runtime = Runtime(log=lines.append, cancel=last.token)
    exit = (alone() if settings["alone"] else cluster(deadline=20.0).use(each)).run_exit(runtime)
    if isinstance(exit, fault.Interrupted):
        found["steps"] = int(exit.state.state.step)
    elif isinstance(exit, Failure):
        raise RuntimeError(str(exit.failure()))
    else:
        exit.unwrap()
    return {"found": found, "lines": lines}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))), flush=True)
