"""Draw the pictures of the pages on graphs, on images, and on sequence to sequence.

python examples/pictures.py --only mixing                  digits mixed by mixup and by cutmix; nothing is trained
python examples/pictures.py --only nodes --data FOLDER     the nodes of cora.npz in that folder, or without it of a drawn graph
python examples/pictures.py --only attention-map           what a decoder that reverses sequences attends to
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import graph
import jax
import jax.numpy as jnp
import numpy as np
import seq2seq
from matplotlib.figure import Figure
from returns.io import IOFailure, IOSuccess
from returns.result import Failure, Success
from sklearn.datasets import load_digits

import fnlamp
from fnlamp import Eval, Layer, augment, data, models, nn, train
from fnlamp.effect import Effect, Runtime, collect
from fnlamp.layer import chain

Array = np.ndarray[Any, Any]


def mixing(chosen: argparse.Namespace) -> Effect[Figure, Any]:
    """One row of digits as they are, one by `mixup`, one by `cutmix`, each under its target."""

    def draw() -> Figure:
        pixels, labels = load_digits(return_X_y=True)
        x, y = pixels[:8].reshape(8, 8, 8, 1).astype(np.float32), labels[:8].astype(np.int32)
        ways = augment.mixup(1.0, classes=10), augment.cutmix(classes=10)
        rows = {"digits": (x, np.eye(10)[y])} | {mix.__name__: mix(jax.random.key(3), (x, y)) for mix in ways}
        figure = Figure(figsize=(8, 3.9), layout="constrained", dpi=90)
        for grid, (name, batch) in zip(figure.subplots(3, 8), rows.items(), strict=True):
            grid[0].set_ylabel(name)
            for axes, image, target in zip(grid, *map(np.asarray, batch), strict=True):
                shares = [f"{target[k]:.2f} of {k}" for k in np.flatnonzero(target > 0.005)]
                axes.imshow(image[..., 0], cmap="gray_r", vmin=0, vmax=16)
                axes.set_title("\n".join(shares).removeprefix("1.00 of "), fontsize=8)
                axes.set(xticks=[], yticks=[])
        return figure

    return Effect.suspend(draw)


def components(x: Array) -> tuple[Array, float]:
    """The first two principal components of the rows, each divided by its length, and their share of the variance."""
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    left, scales, _ = np.linalg.svd(unit - unit.mean(0), full_matrices=False)
    return left[:, :2] * scales[:2], float((scales[:2] ** 2).sum() / (scales**2).sum())


def nodes(chosen: argparse.Namespace) -> Effect[Figure, Any]:
    """The nodes by their own features, and by those of the first layer of a graph convolution network; colours are classes."""
    drawn: Effect[graph.Nodes, Any] = Effect.suspend(graph.communities)
    found = data.read_npz(chosen.data / "cora.npz").map(graph.citations) if chosen.data else drawn
    return found.bind(lambda known: graph.training(known, "gcn", 0).map(partial(draw_nodes, known)))


def draw_nodes(known: graph.Nodes, trained: train.Trained) -> Figure:
    columns, values = map(np.asarray, known.graph.nodes)
    words = np.zeros((len(known.labels), known.features), np.float32)
    np.add.at(words, (np.arange(len(known.labels))[:, None], columns), values)
    hidden, _ = chain(*(graph.gcn(known)[0].chain or ())[:3]).apply(trained.params, {}, known.graph, Eval())
    figure = Figure(figsize=(8, 3.6), layout="constrained", dpi=90)
    for axes, (name, x) in zip(figure.subplots(1, 2), {"words": words, "hidden features": hidden.nodes}.items(), strict=True):
        places, share = components(np.asarray(x))
        axes.scatter(*places.T, c=known.labels, cmap="tab10", vmax=9, s=4, linewidths=0, antialiased=False)
        axes.set_title(f"{x.shape[1]:,} {name}; {share:.0%} of the variance", fontsize=10)
        axes.set(xticks=[], yticks=[])
    return figure


def weights(layer: Layer, params: Any, source: Array, inputs: Array) -> Array:
    """The attention of `models.recurrent_seq2seq`, `(batch, outputs, source steps)`; `attend` makes it of the identity."""
    parts = {name: part for name, part, _ in layer.init(jax.random.key(0), (source, inputs)).parts}
    memory, _ = parts["encoder"].apply(params["encoder"], {}, source, Eval())
    (own, keys), _ = chain(*(parts["decoder"].chain or ())[:2]).apply(params["decoder"], {}, (inputs, memory), Eval())
    made = params["decoder"]["attention"]["seen"]
    query = own @ made["query"]["weight"] + made["query"]["bias"]
    key = (keys @ made["memory"]["weight"] + made["memory"]["bias"])[..., : query.shape[-1]]  # the values follow the keys
    identity = jnp.broadcast_to(jnp.eye(key.shape[1]), (len(key), key.shape[1], key.shape[1]))[:, :, None]
    return np.asarray(nn.attend(query[:, :, None], key[:, :, None], identity)[:, :, 0])


def attention(chosen: argparse.Namespace) -> Effect[Figure, Any]:
    """A small recurrent model learns to reverse eight symbols; its attention for one sequence, and the mean of 512."""
    layer = models.recurrent_seq2seq(seq2seq.TOKENS, cell=nn.gru_cell(64), layers=1, width=32)
    setting = seq2seq.Setting(layer, 3e-3, epochs=8)
    unseen = seq2seq.pairs(512, 8, True, seed=1)
    inputs = np.asarray(models.teacher_forcing(unseen.target, start=seq2seq.START)[0])

    def draw(trained: train.Trained) -> Figure:
        found = weights(layer, trained.params, unseen.source, inputs)
        right = (np.asarray(trained.predict((unseen.source, inputs))).argmax(-1) == unseen.target).mean()
        figure, numbers = Figure(figsize=(7, 3.6), layout="constrained", dpi=90), range(1, 9)
        one = found[0], unseen.source[0], unseen.target[0], "one sequence"
        mean = found.mean(0), numbers, numbers, f"mean of 512; {right:.1%} of symbols right"
        for axes, (seen, columns, rows, title) in zip(figure.subplots(1, 2), (one, mean), strict=True):
            axes.imshow(seen, cmap="Blues", vmin=0, vmax=1)
            axes.set_title(title, fontsize=10)
            axes.set_xticks(range(8), columns)
            axes.set_yticks(range(8), rows)
            axes.set(xlabel="source", ylabel="output")
        figure.colorbar(figure.axes[0].images[0], ax=figure.axes, shrink=0.8)
        return figure

    return seq2seq.training(setting, seq2seq.pairs(chosen.rows, 8, True, seed=0)).map(draw)


PICTURES = {"mixing": mixing, "nodes": nodes, "attention-map": attention}


def saved(path: Path, figure: Figure) -> Effect[Path, str]:
    write = partial(figure.savefig, path, metadata={"Software": None})
    return Effect.attempt(write, OSError, lambda error: f"{path}: cannot be written ({error.strerror})").map(lambda _: path)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PICTURES, help="one picture, in place of all")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="the folder of cora.npz")
    parser.add_argument("--rows", type=int, default=4096, help="the number of sequences to learn to reverse from")
    parser.add_argument("--out", type=Path, metavar="FOLDER", default=Path("docs"))
    chosen = parser.parse_args(arguments)
    names = [chosen.only] if chosen.only else list(PICTURES)
    drawn = [PICTURES[name](chosen).bind(partial(saved, chosen.out / f"{name}.png")) for name in names]
    match collect(drawn).run(Runtime(log=None)):
        case IOSuccess(Success(paths)):
            print(f"drawn: {', '.join(map(str, paths))}")
            return 0
        case IOFailure(Failure(fault)):
            print(fault, file=sys.stderr)
            return 1
    raise AssertionError("a run either succeeds or fails")


if __name__ == "__main__":
    fnlamp.keep_programs()
    raise SystemExit(main())
