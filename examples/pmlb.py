"""One small network on every set of a folder, five seeds each, beside the same network in PyTorch.

python examples/pmlb.py                                    three sets that come with scikit-learn
python examples/pmlb.py --data FOLDER --json FILE          each NAME.tsv.gz of that folder

Network, split and training are those of lamp's test on sets of the Penn Machine Learning Benchmarks: two hidden layers of 4,
each with batch norm, AdamW for 50 epochs in batches of 1024, the first third of the rows for testing; evaluation uses running
statistics. The other network has the same start and batches. The program fails if fnlamp's mean is over half a point below.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from returns.io import IOFailure, IOSuccess
from returns.result import Failure, Success

import fnlamp
from fnlamp import Init, Layer, data, loss, nn, optim, stream, train
from fnlamp.effect import Effect, Runtime, collect, do
from fnlamp.extra import need

HIDDEN, EPOCHS, BATCH, RATE, DECAY, MOMENTS = (4, 4), 50, 1024, 1e-3, 1e-4, (0.9, 0.95)


class Rows(NamedTuple):
    """A set: features, and classes from 0."""

    name: str
    x: Any
    y: Any

    def parts(self) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
        """For training, and for testing."""
        cut = len(self.x) // 3
        return (self.x[cut:], self.y[cut:]), (self.x[:cut], self.y[:cut])

    def batches(self, seed: int, epoch: int) -> stream.BatchStream[Any]:
        """Those of an epoch, for both networks."""
        return stream.minibatches(*self.parts()[0], batch_size=BATCH, seed=seed * EPOCHS + epoch)


def of_files(folder: Path) -> Effect[Sequence[Rows], Any]:
    """The sets of a folder: tab-separated numbers, the class in the last column (one set has a second column `target`)."""

    def one(path: Path) -> Effect[Rows, Any]:
        table = data.read_csv(path, separator="\t").map(lambda table: table.features)
        return table.map(lambda x: Rows(path.name.partition(".")[0], x[:, :-1], x[:, -1].astype(np.int32)))

    return Effect.suspend(lambda: sorted(folder.glob("*.tsv.gz"))).bind(lambda paths: collect([one(path) for path in paths]))


def bundled() -> Effect[Sequence[Rows], Any]:
    """Sets of scikit-learn, in a drawn order: their rows are sorted by class."""

    def one(name: str) -> Rows:
        x, y = getattr(need("sklearn.datasets", "examples"), f"load_{name}")(return_X_y=True)
        drawn = np.random.default_rng(0).permutation(len(x))
        return Rows(name, x[drawn].astype(np.float32), y[drawn].astype(np.int32))

    return Effect.checked(lambda: [one(name) for name in ("iris", "wine", "breast_cancer")])


def started(rows: Rows, seed: int) -> tuple[Layer, Init]:
    """The network and its first parameters, for both."""
    network = nn.mlp(HIDDEN, int(rows.y.max()) + 1, norm_last=True)
    return network, network.init(jax.random.key(seed), rows.batches(seed, 1).spec[0])


def fnlamp_accuracy(rows: Rows, seed: int) -> Effect[float, Any]:
    network, initial = started(rows, seed)
    program = train.epochs(
        model=train.supervised(network, loss.cross_entropy()),
        optimizer=optim.adamw(RATE, DECAY, *MOMENTS),
        train_batches=lambda context: rows.batches(seed, context.epoch),
        epochs=EPOCHS,
        seed=seed,
        initial=initial,
    )
    measure = train.evaluate(stream.full_batch(*rows.parts()[1]), {"accuracy": loss.accuracy})
    return program.bind(measure).map(lambda evaluation: evaluation.metrics["accuracy"])


def torch_accuracy(rows: Rows, seed: int) -> Effect[float, Any]:
    def work() -> float:
        torch = need("torch", "parity")
        torch.set_num_threads(1)  # the network is too small for two
        params, (x, y) = started(rows, seed)[1].params, rows.parts()[1]
        layers: list[Any] = []
        for i in range(len(HIDDEN) + 1):
            weight = torch.tensor(np.asarray(params[f"linear_{i}"]["weight"]).T)
            layers += [torch.nn.Linear(*weight.T.shape, bias=False), torch.nn.BatchNorm1d(len(weight)), torch.nn.ReLU()]
            layers[-3].weight.data = weight
        network = torch.nn.Sequential(*layers[:-1])
        rule = torch.optim.AdamW(network.parameters(), RATE, MOMENTS, weight_decay=DECAY)
        for epoch in range(1, EPOCHS + 1):
            for batch in stream.items(rows.batches(seed, epoch)):
                inputs, target = (torch.from_numpy(np.asarray(part)) for part in batch)
                rule.zero_grad()
                torch.nn.functional.cross_entropy(network(inputs), target.long()).backward()
                rule.step()
        return float((network.eval()(torch.tensor(x)).argmax(1).numpy() == y).mean())

    return Effect.checked(work)


@do
def table(folder: Path | None, seeds: int, torch: bool) -> Generator[Effect[Any, Any], Any, list[dict[str, Any]]]:
    """The accuracies of both on each set, the mean over the seeds."""
    found = []
    for rows in (yield from bundled() if folder is None else of_files(folder)):
        ours = yield from collect([fnlamp_accuracy(rows, seed) for seed in range(seeds)])
        theirs = (yield from collect([torch_accuracy(rows, seed) for seed in range(seeds)])) if torch else []
        said = f"  torch {np.mean(theirs):7.2%}" if torch else ""
        print(f"{rows.name:28} {len(rows.x):6,} rows  fnlamp {np.mean(ours):7.2%}{said}", flush=True)
        found.append({"set": rows.name, "fnlamp": ours, "torch": theirs})
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of NAME.tsv.gz")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--without-torch", action="store_true")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args(arguments)
    match table(chosen.data, chosen.seeds, not chosen.without_torch).run(Runtime(log=None)):
        case IOSuccess(Success(found)):
            ours, theirs = (np.mean([row[by] for row in found]) if found[0][by] else np.nan for by in ("fnlamp", "torch"))
            print(f"mean of {len(found)} sets: fnlamp {ours:.2%}, torch {theirs:.2%}")
            if chosen.json is not None:
                chosen.json.write_text(json.dumps(found, indent=2))
            return int(theirs - ours > 0.005)
        case IOFailure(Failure(fault)):
            print(f"{type(fault).__name__}: {fault}", file=sys.stderr)
            return 2
    raise AssertionError("a run either succeeds or fails")


if __name__ == "__main__":
    fnlamp.keep_programs()
    raise SystemExit(main())
