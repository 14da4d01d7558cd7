"""A small GPT learns a text character by character, and writes some more of it.

python examples/gpt.py                                       a text that comes with Python
python examples/gpt.py --data FILE --json FILE               any text in UTF-8

The sizes are nanoGPT's for a CPU (Karpathy 2022, README: a validation loss of 1.88 on the collected plays of Shakespeare after
2,000 steps), and so are the rule and the schedule but for its highest rate, which is twice as high.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
from character_model import text_of
from returns.io import IOFailure, IOSuccess
from returns.result import Failure, Success

import fnlamp
from fnlamp import Layer, Role, Tag, data, loss, models, nn, optim, train
from fnlamp.effect import Effect, do
from fnlamp.generate import generate, sampled, temperature

BLOCK, BATCH, EVERY = 64, 12, 500


def network(vocabulary: int) -> Layer:
    """GPT-2 in small, without biases."""
    norm = nn.layer_norm(shift=False)
    return models.gpt(vocabulary, layers=4, width=128, heads=4, context=BLOCK, norm=norm, bias=False)


def decay(tag: Tag) -> float:
    """Weights and embeddings decay, norms do not."""
    return 0.1 if tag.role in (Role.WEIGHT, Role.EMBEDDING) else 0.0


def describe(codec: data.Codec, text: str, steps: int, seed: int = 0) -> Effect[train.Trained, Any]:
    """The training program: nine tenths of the text to learn, the last tenth to measure the loss.

    An epoch is 500 steps, or once through a short text.
    """
    ids = codec.encode(text).astype(np.uint16)
    at = len(ids) * 9 // 10
    every = max(min(EVERY, steps, (at // BLOCK - 1) // BATCH), 1)
    return train.epochs(
        model=train.supervised(network(codec.size), loss.cross_entropy()),
        optimizer=optim.adamw(2e-3, decay, b2=0.99, clip=1.0),
        schedule=optim.warmup(100, optim.cosine(max(steps - 100, 1), end=0.05)),
        train_batches=lambda context: data.language_model_batches(
            ids[:at], BLOCK, BATCH, seed=context.seed, drop_last=True
        ).take(every),
        validation_batches=lambda context: data.language_model_batches(ids[at:], BLOCK, 100),
        epochs=-(-steps // every),
        seed=seed,
    )


@do
def learned(path: Path | None, steps: int, seed: int) -> Generator[Effect[Any, Any], Any, dict[str, Any]]:
    """The losses of a training, and three texts that the model writes, each as long as it can see."""
    text = yield from text_of(path)
    codec = data.character_codec(text)
    start = yield from Effect.suspend(time.perf_counter)
    trained = yield from describe(codec, text, steps, seed)
    seconds = (yield from Effect.suspend(time.perf_counter)) - start
    losses = [report.validation_loss for report in trained.curve]
    count = sum(report.steps for report in trained.curve)
    print(f"{count:,} steps in {seconds:.0f} s; validation loss {losses[-1]:.4f}, a guess has {np.log(codec.size):.2f}")
    begin = text[:8]
    made = yield from generate(
        trained.model, trained.params, [begin] * 3, codec=codec, tokens=BLOCK - len(begin), sampling=sampled(temperature(0.8))
    )
    texts = [begin + rest for rest in made.texts]
    print(*texts, sep="\n---\n")
    return {"validation_loss": losses[-1], "steps": count, "seconds": seconds, "all": losses, "texts": texts}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="FILE", help="a text to learn, in UTF-8")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    chosen = parser.parse_args(arguments)
    match learned(chosen.data, chosen.steps, chosen.seed).run():
        case IOSuccess(Success(figures)):
            if chosen.json is not None:
                chosen.json.write_text(json.dumps(figures, indent=2))
            return 0
        case IOFailure(Failure(fault)):
            print(f"{type(fault).__name__}: {fault}", file=sys.stderr)
            return 1
    raise AssertionError("a run either succeeds or fails")


if __name__ == "__main__":
    fnlamp.keep_programs()
    fnlamp.keep_memory()
    raise SystemExit(main())
