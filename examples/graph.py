"""Classify the nodes of a graph from few labels: graph convolution and graph attention, the mean over seeds.

python examples/graph.py                                    a drawn graph of four communities
python examples/graph.py --data FOLDER --json FILE          cora.npz and citeseer.npz of that folder, ten seeds each

Graphs and splits are Yang et al.'s (2016); models, rates and stopping those of Kipf & Welling 2017 and Velickovic et al. 2018.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from returns.io import IOFailure, IOSuccess
from returns.result import Failure, Success

import fnlamp
from fnlamp import Layer, Role, data, loss, nn, optim, train
from fnlamp.effect import Effect, Runtime, collect, do
from fnlamp.graph import Graph, from_edges

PARTS = ("train", "validation", "test")


class Nodes(NamedTuple):
    """A graph, the labels of its nodes, and for each part of its split the same, -100 for nodes outside of it."""

    graph: Graph
    labels: Any
    targets: Mapping[str, Any]
    features: int
    classes: int


def labelled(graph: Graph, labels: Any, parts: Mapping[str, Any], features: int) -> Nodes:
    targets = {name: np.where(np.isin(np.arange(len(labels)), rows), labels, -100) for name, rows in parts.items()}
    return Nodes(graph, labels, targets, features, int(labels.max()) + 1)


def citations(arrays: Mapping[str, Any]) -> Nodes:
    """A citation graph: each paper has the words that occur in it, in rows that add up to 1."""
    count, row = int(arrays["num_nodes"]), arrays["feature_row"]
    shares = (1 / np.maximum(np.bincount(row, minlength=count), 1))[row].astype(np.float32)
    words = data.sparse_rows(row, arrays["feature_col"], shares, rows=count)
    graph = from_edges(words, arrays["edges"], undirected=True)
    parts = zip(PARTS, (arrays[f"{name}_index"] for name in ("train", "val", "test")), strict=True)
    return labelled(graph, arrays["label"].astype(np.int32), dict(parts), int(arrays["num_features"]))


def communities(seed: int = 0) -> Nodes:
    """400 nodes in four communities; a node has ten of 100 words at random, two more of ten that its community prefers."""
    chance, count, words = np.random.default_rng(seed), 400, 100
    labels = np.repeat(np.arange(4, dtype=np.int32), count // 4)
    near = np.where(labels[:, None] == labels, 0.05, 0.004)
    pairs = np.argwhere(np.triu(chance.random((count, count)) < near, 1))
    own = 10 * labels[:, None] + chance.integers(10, size=(count, 2))
    columns = np.concatenate([chance.integers(words, size=(count, 10)), own], 1).astype(np.int32)
    graph = from_edges((columns, np.full(columns.shape, 1 / 12, np.float32)), pairs, undirected=True)
    order = chance.permutation(count)
    return labelled(graph, labels, dict(zip(PARTS, np.split(order, (20, 120)), strict=True)), words)


def gcn(nodes: Nodes) -> tuple[Layer, optim.Optimizer]:
    """Two layers of graph convolution with 16 features between; the penalty is on the first weight."""
    model = nn.sequence(
        words=nn.on_nodes(nn.parallel(nn.sequence(), nn.dropout(0.5))),
        hidden=nn.graph_convolution(nn.sparse_linear(16, nodes.features, bias=False)),
        act=nn.on_nodes(nn.relu >> nn.dropout(0.5)),
        out=nn.graph_convolution(nn.linear(nodes.classes, bias=False)),
        logits=nn.node_features(),
    )
    return model, optim.l2(optim.adamw(0.01), lambda tag: 5e-4 if "hidden" in tag.path and tag.role is Role.WEIGHT else 0.0)


def gat(nodes: Nodes) -> tuple[Layer, optim.Optimizer]:
    """Eight heads of eight features, then one head; dropout of features and of attention."""
    model = nn.sequence(
        words=nn.on_nodes(nn.parallel(nn.sequence(), nn.dropout(0.6))),
        hidden=nn.graph_attention(nn.sparse_linear(64, nodes.features, bias=False), heads=8, drop_rate=0.6),
        act=nn.on_nodes(nn.elu >> nn.dropout(0.6)),
        out=nn.graph_attention(nn.linear(nodes.classes, bias=False), drop_rate=0.6),
        logits=nn.node_features(),
    )
    return model, optim.l2(optim.adamw(0.005), 5e-4)


MODELS = {"gcn": gcn, "gat": gat}


def training(nodes: Nodes, name: str, seed: int) -> Effect[train.Trained, Any]:
    """200 epochs on the whole graph; `gat` keeps the weights that were best in validation, and stops 100 epochs after them."""
    layer, optimizer = MODELS[name](nodes)
    batches = {part: data.whole_graph(nodes.graph, nodes.targets[part]) for part in PARTS[:2]}  # once, not each epoch
    return train.epochs(
        model=train.supervised(layer, loss.cross_entropy()),
        optimizer=optimizer,
        train_batches=lambda context: batches["train"],
        validation_batches=lambda context: batches["validation"],
        metrics={"accuracy": loss.accuracy},
        epochs=200,
        seed=seed,
        folds={"best": train.best(), "patience": train.patience(100)} if name == "gat" else {},
    )


def accuracy(nodes: Nodes, name: str, seed: int) -> Effect[float, Any]:
    """The share of the test nodes that are classified right, by the weights that were best in validation for `gat`."""
    measure = train.evaluate(data.whole_graph(nodes.graph, nodes.targets["test"]), {"accuracy": loss.accuracy})
    measured = training(nodes, name, seed).map(lambda trained: trained.kept.get("best", trained)).bind(measure)
    return measured.map(lambda evaluation: evaluation.metrics["accuracy"])


@do
def table(folder: Path | None, models: Sequence[str], seeds: int) -> Generator[Effect[Any, Any], Any, list[dict[str, Any]]]:
    """The accuracies of each model on each set."""
    found = []
    for name in ["communities"] if folder is None else ["cora", "citeseer"]:
        nodes = communities() if folder is None else (yield from data.read_npz(folder / f"{name}.npz").map(citations))
        for model in models:
            start = yield from Effect.suspend(time.perf_counter)
            shares = yield from collect([accuracy(nodes, model, seed) for seed in range(seeds)])
            seconds = (yield from Effect.suspend(time.perf_counter)) - start
            mean, bounds = float(np.mean(shares)), f"from {min(shares):.2%} to {max(shares):.2%}"
            print(f"{name}, {model}: {mean:.2%} of the test nodes ({bounds}), {seconds:.0f} s")
            found.append({"set": name, "model": model, "mean": mean, "all": shares, "seconds": seconds})
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder of cora.npz and citeseer.npz")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args(arguments)
    match table(chosen.data, chosen.models, chosen.seeds).run(Runtime(log=None)):
        case IOSuccess(Success(found)):
            if chosen.json is not None:
                chosen.json.write_text(json.dumps(found, indent=2))
            return 0
        case IOFailure(Failure(fault)):
            print(f"{type(fault).__name__}: {fault}", file=sys.stderr)
            return 1
    raise AssertionError("a run either succeeds or fails")


if __name__ == "__main__":
    fnlamp.keep_programs()
    raise SystemExit(main())
