"""Copy a sequence of 20 random symbols, with a recurrent encoder and decoder and with a transformer.

python examples/seq2seq.py                                      both models
python examples/seq2seq.py --models gru --reverse               the symbols from the last to the first
python examples/seq2seq.py --models transformer --json FILE     figures as JSON

The models are tested on sequences that they have not seen, by greedy decoding: each token follows from the model's own tokens
before it. The program fails if less than 99 % of the tokens are right.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from returns.io import IOFailure, IOSuccess
from returns.result import Failure, Success

import fnlamp
from fnlamp import Layer, loss, models, nn, optim, stream, train
from fnlamp.effect import Effect, Runtime, do
from fnlamp.generate import generate

START, SYMBOLS, BATCH = 0, 10, 64
TOKENS = SYMBOLS + 1


class Setting(NamedTuple):
    """A model, and how it is trained."""

    model: Layer
    learning_rate: float
    epochs: int


SETTINGS = {
    "gru": Setting(models.recurrent_seq2seq(TOKENS, cell=nn.gru_cell(128), layers=1, width=32), 3e-3, epochs=5),
    "transformer": Setting(models.transformer(TOKENS, layers=2, width=64, heads=4), 1e-3, epochs=3),
}


class Pairs(NamedTuple):
    """Sources, and what is to be made of them."""

    source: Any
    target: Any


def pairs(rows: int, length: int, reverse: bool, seed: int) -> Pairs:
    """Random symbols from 1, and the same, or the same from the last to the first."""
    source = np.random.default_rng(seed).integers(1, TOKENS, (rows, length)).astype(np.int32)
    return Pairs(source, source[:, ::-1] if reverse else source)


def training(chosen: Setting, known: Pairs, seed: int = 0) -> Effect[train.Trained, Any]:
    """The training program: the decoder reads the true tokens before each that it predicts."""
    inputs, targets = map(np.asarray, models.teacher_forcing(known.target, start=START))
    steps = chosen.epochs * (len(targets) // BATCH)
    return train.epochs(
        model=train.supervised(chosen.model, loss.cross_entropy()),
        optimizer=optim.adamw(chosen.learning_rate, clip=1.0),
        schedule=optim.warmup(1 + steps // 10, optim.cosine(1 + steps)),
        train_batches=lambda context: stream.minibatches(
            (known.source, inputs), targets, batch_size=BATCH, seed=context.seed, drop_last=True
        ),
        epochs=chosen.epochs,
        seed=seed,
    )


def decoded(chosen: Setting, trained: train.Trained, unseen: Pairs) -> Effect[Any, Any]:
    """What the model writes from the start token, given the sources."""
    prompts = [[START]] * len(unseen.source)
    return generate(chosen.model, trained.params, prompts, source=unseen.source, tokens=unseen.target.shape[1])


@do
def figures(name: str, rows: int, length: int, reverse: bool) -> Generator[Effect[Any, Any], Any, dict[str, Any]]:
    """The share of right tokens, and of right sequences, of one model."""
    chosen = SETTINGS[name]
    unseen = pairs(512, length, reverse, seed=1)
    start = yield from Effect.suspend(time.perf_counter)
    trained = yield from training(chosen, pairs(rows, length, reverse, seed=0))
    between = yield from Effect.suspend(time.perf_counter)
    written = yield from decoded(chosen, trained, unseen)
    end = yield from Effect.suspend(time.perf_counter)
    right = written.tokens == unseen.target
    print(f"{name}: {right.mean():.2%} of the tokens, {right.all(1).mean():.2%} of the sequences")
    shares = {"tokens": float(right.mean()), "sequences": float(right.all(1).mean())}
    return {"model": name, "reverse": reverse, **shares, "training_s": between - start, "decoding_s": end - between}


@do
def both(names: Sequence[str], rows: int, length: int, reverse: bool) -> Generator[Effect[Any, Any], Any, list[Any]]:
    found = []
    for name in names:
        found.append((yield from figures(name, rows, length, reverse)))
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--length", type=int, default=20, help="the number of symbols of a sequence")
    parser.add_argument("--rows", type=int, default=8192, help="the number of sequences to learn from")
    parser.add_argument("--reverse", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    chosen = parser.parse_args(arguments)
    match both(chosen.models, chosen.rows, chosen.length, chosen.reverse).run(Runtime()):
        case IOSuccess(Success(found)):
            if chosen.json is not None:
                chosen.json.write_text(json.dumps(found, indent=2))
            return int(min(row["tokens"] for row in found) < 0.99)
        case IOFailure(Failure(fault)):
            print(f"{type(fault).__name__}: {fault}", file=sys.stderr)
            return 2
    raise AssertionError("a run either succeeds or fails")


if __name__ == "__main__":
    fnlamp.keep_programs()
    fnlamp.keep_memory()
    raise SystemExit(main())
