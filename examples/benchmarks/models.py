"""Training steps a second of four models, compared with PyTorch's modules, eager and compiled.

    python examples/benchmarks/models.py --json FILE

GPT and an LSTM language model (the sizes of `cases.py`), ResNet-18 in its form for CIFAR, and a graph convolutional network on
a random graph of Cora's size, whose peers are a product with a sparse matrix of torch and, where it is installed
(`pip install torch_geometric`), PyTorch Geometric. All start from the same parameters and train on one batch; torch has its
fused optimizers, and for images channels last. Contestants alternate in one process; a figure is the median over rounds, a
ratio that over paired rounds. `torch.compile` is left out if no compiler works.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import resnet
import torch
import torch_peers
from cases import CASES, Case, data_for
from paired import Rounds, interval, ratios, take_turns
from training import machine

import fnlamp
from fnlamp import Layer, graph, nn, optim
from fnlamp.arrays import spec_of

MODES = "torch", "torch compile"


@dataclass(frozen=True)
class Contest:
    """A model, its batch, how many steps a round has, and the peer: a module with these parameters, its input, its rule."""

    layer: Layer
    rule: optim.Optimizer
    x: Any
    y: np.ndarray[Any, Any]
    steps: int
    peer: Callable[[Any], tuple[Any, Any]]
    torch_rule: Callable[..., Any]
    others: Mapping[str, Callable[[Any], tuple[Any, Any]]] = field(default_factory=dict)
    """Further peers by name, eager; one that raises `ImportError` is left out, with a line that says so."""


def adamw(rate: float) -> Callable[..., Any]:
    return partial(torch.optim.AdamW, lr=rate, weight_decay=0.0, fused=True)


def of_text(case: Case, steps: int) -> Contest:
    """GPT or the LSTM."""
    x, y = data_for(case, 1, None, "int32")
    peer = lambda params: (torch_peers.load(case, torch_peers.build(case), params), torch.from_numpy(x))  # noqa: E731
    return Contest(case.layer, case.optimizer, x, y, steps, peer, adamw(1e-3))


def of_images(batch: int, widths: tuple[int, ...] = resnet.WIDTHS) -> Contest:
    """ResNet-18 for images of 32 x 32 pixels."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((batch, 32, 32, 3), np.float32), rng.integers(0, 10, batch)

    def peer(params: Any) -> tuple[Any, Any]:
        model = resnet.torch_resnet18(widths)
        parts = [params["stem"]]
        for _, stage in sorted(item for item in params.items() if item[0].startswith("stage")):
            for _, block in sorted(stage.items()):
                inner = block["sum"]["layer"]
                parts += [{"conv": inner[f"conv_{i}"], "norm": inner[f"norm_{i}"]} for i in range(2)]
                parts += [block["sum"]["shortcut"]] if "shortcut" in block["sum"] else []
        modules = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.BatchNorm2d | torch.nn.Linear)]
        given = [part[name] for part in parts for name in ("conv", "norm")] + [params["out"]]
        with torch.no_grad():
            for module, own in zip(modules, given, strict=True):
                if isinstance(module, torch.nn.BatchNorm2d):
                    continue  # 1 and 0 in both
                weight = np.asarray(own["weight"])
                torch_peers.copy(module.weight, weight.T if weight.ndim == 2 else weight.transpose(3, 2, 0, 1))
                if "bias" in own:
                    torch_peers.copy(module.bias, own["bias"])
        return model.to(memory_format=torch.channels_last), resnet.channels_last(x)

    rule = partial(torch.optim.SGD, lr=resnet.RATE, momentum=resnet.MOMENTUM, fused=True)
    layer = resnet.resnet18(widths)
    return Contest(layer, optim.sgdw(resnet.RATE, momentum=resnet.MOMENTUM), x, y, 1, peer, rule)


class Convolution(torch.nn.Module):  # type: ignore[misc]
    """Kipf and Welling's layer: the normalised matrix of the graph, as a sparse matrix, times features times weights."""

    def __init__(self, matrix: Any, features: int, out: int) -> None:
        super().__init__()
        self.matrix, self.linear = matrix, torch.nn.Linear(features, out, bias=False)
        self.bias = torch.nn.Parameter(torch.zeros(out))

    def forward(self, x: Any) -> Any:
        return torch.sparse.mm(self.matrix, self.linear(x)) + self.bias


def geometric(params: Any, words: Any, ends: Any) -> tuple[Any, Any]:
    """PyTorch Geometric's layer with these weights, and its input; it normalises the graph once."""
    from torch_geometric.nn import GCNConv

    class Network(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.edges, names = torch.tensor(ends.T), ("hidden", "out")
            weights = [params[name]["transform"]["weight"] for name in names]
            self.hidden, self.out = (GCNConv(*weight.shape, cached=True) for weight in weights)
            with torch.no_grad():
                for layer, weight in zip((self.hidden, self.out), weights, strict=True):  # the biases are 0 in both
                    torch_peers.copy(layer.lin.weight, np.asarray(weight).T)

        def forward(self, x: Any) -> Any:
            return self.out(self.hidden(x, self.edges).relu(), self.edges)

    return Network(), torch.from_numpy(words)


def of_graph(nodes: int = 2708, edges: int = 5278, features: int = 1433, classes: int = 7, steps: int = 50) -> Contest:
    """A random graph of Cora's size; 20 nodes of each class have labels."""
    rng = np.random.default_rng(0)
    pairs = np.unique(np.sort(rng.integers(0, nodes, (2 * edges, 2)), 1), axis=0)
    pairs = rng.permutation(pairs[pairs[:, 0] != pairs[:, 1]])[:edges]
    words = (rng.random((nodes, features)) < 18 / features).astype(np.float32)
    labels = np.where(np.arange(nodes) < 20 * classes, rng.integers(0, classes, nodes), -100)
    model = nn.sequence(
        hidden=nn.graph_convolution(nn.linear(16, bias=False)),
        act=nn.on_nodes(nn.relu),
        out=nn.graph_convolution(nn.linear(classes, bias=False)),
        logits=nn.node_features(),
    )

    def peer(params: Any) -> tuple[Any, Any]:
        both = np.concatenate([pairs, pairs[:, ::-1], np.arange(nodes)[:, None].repeat(2, 1)])
        degree = np.bincount(both[:, 0], minlength=nodes) ** -0.5
        values = torch.tensor(degree[both[:, 0]] * degree[both[:, 1]], dtype=torch.float32)
        with warnings.catch_warnings():  # torch calls its faster format of sparse matrices a beta
            warnings.simplefilter("ignore", UserWarning)
            matrix = torch.sparse_coo_tensor(torch.tensor(both.T), values, (nodes, nodes)).coalesce().to_sparse_csr()
        sizes = {"hidden": (features, 16), "out": (16, classes)}
        layers = {name: Convolution(matrix, *size) for name, size in sizes.items()}
        with torch.no_grad():
            for name, layer in layers.items():  # the biases are 0 in both
                (weight,) = (leaf for leaf in jax.tree.leaves(params[name]) if leaf.ndim == 2)
                torch_peers.copy(layer.linear.weight, np.asarray(weight).T)
        module = torch.nn.Sequential(layers["hidden"], torch.nn.ReLU(), layers["out"])
        return module, torch.from_numpy(words)

    x = graph.from_edges(words, pairs, undirected=True)
    ends = np.concatenate([pairs, pairs[:, ::-1]])  # the layer adds an edge of each node to itself
    others = {"PyTorch Geometric": lambda params: geometric(params, words, ends)}
    return Contest(model, optim.adamw(0.01), x, labels, steps, peer, adamw(0.01), others)


CONTESTS: dict[str, Callable[[], Contest]] = {
    "GPT": lambda: of_text(CASES["gpt"], 2),
    "LSTM language model": lambda: of_text(CASES["lstm"], 15),
    "ResNet-18": lambda: of_images(32),
    "GCN": of_graph,
}


def figures(contest: Contest, rounds: int) -> dict[str, Any]:
    """Steps a second of each contestant, fnlamp's speed by each other's, and the losses of the first step."""
    x, y = jax.tree.map(jnp.asarray, (contest.x, contest.y))
    made = contest.layer.init(jax.random.key(0), spec_of(x))
    runs = {"fnlamp": resnet.loop(contest.layer, contest.rule, made, x, y)}
    failed: dict[str, str] = {}
    for mode, peer in {**dict.fromkeys(MODES, contest.peer), **contest.others}.items():
        try:
            module, given = peer(made.params)
        except ImportError as error:
            failed[mode] = f"{mode} is left out: {error}"
            continue
        rule = contest.torch_rule([p for p in module.parameters() if p.requires_grad])
        target = torch.from_numpy(contest.y.astype(np.int64)).flatten()
        module = torch.compile(module.train()) if mode == "torch compile" else module.train()
        runs[mode] = resnet.torch_loop(module, rule, given, target)
    losses: dict[str, float] = {}
    for name, run in list(runs.items()):
        try:
            losses[name] = run(1)
        except Exception as error:  # torch.compile needs a C++ compiler, and raises what that raises
            if name != "torch compile":
                raise
            failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            del runs[name]
    rivals = {name: lambda _, run=run: run(contest.steps) for name, run in runs.items()}
    seconds: Rounds = take_turns(rivals, rounds)
    speeds = {name: contest.steps / float(np.median(each)) for name, each in seconds.items()}
    by = {name: interval(ratios(each, seconds["fnlamp"])) for name, each in seconds.items() if name != "fnlamp"}
    return {"steps a second": speeds, "fnlamp's speed by": by, "loss of the first step": losses, "failed": failed}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(CONTESTS), default=list(CONTESTS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the figures here")
    chosen = parser.parse_args(arguments)
    fnlamp.keep_memory()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    found: dict[str, Any] = {"machine": machine(), "models": {}}
    print("machine:", ", ".join(f"{key} {value}" for key, value in found["machine"].items()), flush=True)
    for name in chosen.models:
        found["models"][name] = one = figures(CONTESTS[name](), chosen.rounds)
        speeds = ", ".join(f"{who} {speed:.4g}" for who, speed in one["steps a second"].items())
        times = ", ".join(
            f"{r['median']:.2f} ({r['low']:.2f} to {r['high']:.2f}) of {w}" for w, r in one["fnlamp's speed by"].items()
        )
        print(f"{name}: steps a second {speeds}; fnlamp is {times}", *one["failed"].values(), flush=True)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
