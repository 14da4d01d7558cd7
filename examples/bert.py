"""A small BERT learns the hidden characters of a text; then its encoder learns to find typing errors, from few examples.

python examples/bert.py                                      a text that comes with Python
python examples/bert.py --data FILE --json FILE              any text in UTF-8

Hidden characters are compared with a predictor that knows how often each occurs. The classifier says whether some characters of
a window were exchanged with their neighbours. It is trained from the encoder, and from random weights; a guess has 56 %.
All figures are of the last tenth of the text; the settings were chosen on the tenth before it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from character_model import text_of
from returns.io import IOFailure, IOSuccess
from returns.result import Failure, Success

import fnlamp
from fnlamp import data, loss, models, optim, stream, train
from fnlamp.effect import Effect, do

BLOCK, BATCH, EVERY, SWAPS = 24, 64, 250, 2
ACCURACY = {"accuracy": loss.accuracy}
Array = np.ndarray[Any, Any]
encoder = partial(models.bert, layers=2, width=64, heads=4, context=BLOCK + 1)


class Text(NamedTuple):
    codec: data.CharacterCodec
    learned: Array
    validation: Array
    test: Array


def parts(text: str) -> Text:
    """Eight tenths, one, and one, of the text without repeated paragraphs, which would be learned and then tested."""
    text = "\n\n".join(dict.fromkeys(text.split("\n\n")))
    codec = data.character_codec(text, special=["[CLS]", "[MASK]"])
    ids = codec.encode(text)
    return Text(codec, *np.split(ids, [len(ids) * 8 // 10, len(ids) * 9 // 10]))


def masked_batches(codec: data.CharacterCodec, ids: Array, seed: int | None = None) -> stream.BatchStream[Any]:
    """Windows after [CLS], with 15 % of their characters hidden: with a seed from anywhere, else in order without overlap."""
    starts = np.arange(0, len(ids) - BLOCK + 1, BLOCK if seed is None else 1, dtype=np.int32)
    first, mask = codec.id_of("[CLS]"), codec.id_of("[MASK]")

    def hide(begin: Any, key: Any, text: Any) -> Any:
        windows = jnp.pad(text[begin[:, None] + jnp.arange(BLOCK)], ((0, 0), (1, 0)), constant_values=first)
        key = jax.random.fold_in(key, begin[:1].sum())
        return models.mask_tokens(key, windows, vocabulary=codec.size, mask=mask, special=[first])

    batches = stream.from_arrays(starts, batch_size=BATCH, seed=seed, drop_last=seed is not None)
    return batches.map(hide, jax.random.key(seed or 0), ids)


def pretraining(text: Text, steps: int, seed: int) -> Effect[train.Trained, Any]:
    return train.epochs(
        model=train.supervised(models.masked_language_model(encoder(text.codec.size), text.codec.size), loss.cross_entropy()),
        optimizer=optim.adamw(3e-3, 0.01, clip=1.0),
        schedule=optim.warmup(100, optim.cosine(max(steps - 100, 1), end=0.05)),
        train_batches=lambda context: masked_batches(text.codec, text.learned, context.seed).take(EVERY),
        validation_batches=lambda context: masked_batches(text.codec, text.validation),
        epochs=-(-steps // EVERY),
        seed=seed,
        metrics=ACCURACY,
    )


def unigram(text: Text) -> float:
    """The loss of the characters' frequencies on the hidden characters of the test; one is added to each count."""
    counts = np.bincount(text.learned, minlength=text.codec.size) + 1
    hidden = np.concatenate([np.ravel(y) for _, y in stream.items(masked_batches(text.codec, text.test))])
    return float(-np.log(counts[hidden[hidden >= 0]] / counts.sum()).mean())


def typed(codec: data.CharacterCodec, ids: Array, rows: int, seed: int) -> tuple[Array, Array]:
    """Windows, and whether each has characters that were exchanged with their neighbours: nearly half of them."""
    chance = np.random.default_rng(seed)
    windows = ids[chance.permutation(len(ids) - BLOCK + 1)[:rows, None] + np.arange(BLOCK)]
    x, row = windows.copy(), np.flatnonzero(chance.random(len(windows)) < 0.5)
    for at in chance.integers(BLOCK - 1, size=(SWAPS, len(row))):
        x[row, at], x[row, at + 1] = x[row, at + 1], x[row, at]
    return np.pad(x, ((0, 0), (1, 0)), constant_values=codec.id_of("[CLS]")), (x != windows).any(1).astype(np.int32)


def classifying(text: Text, rows: int, start: Any, seed: int) -> Effect[train.Trained, Any]:
    """The program that learns to find typing errors, from the parameters of an encoder, or without them from random ones."""
    layer, known = models.sentence_classifier(encoder(text.codec.size), 2), typed(text.codec, text.learned, rows, seed=1)
    return train.epochs(
        model=train.supervised(layer, loss.cross_entropy()),
        optimizer=optim.adamw(1e-3, 0.01, clip=1.0),
        schedule=optim.warmup(30, optim.cosine(5 * -(-rows // BATCH))),
        train_batches=lambda context: stream.minibatches(*known, batch_size=BATCH, seed=context.seed),
        validation_batches=lambda context: stream.minibatches(*typed(text.codec, text.validation, 1000, 2), batch_size=BATCH),
        epochs=5,
        seed=seed,
        initial={**layer.init(jax.random.key(seed), known[0][:1]).params, **start},
        metrics=ACCURACY,
    )


@do
def figures(path: Path | None, steps: int, rows: int, seed: int) -> Generator[Effect[Any, Any], Any, dict[str, float]]:
    text = parts((yield from text_of(path)))
    trained = yield from pretraining(text, steps, seed)
    hidden = yield from train.evaluate(masked_batches(text.codec, text.test), ACCURACY)(trained)
    found = {"loss": hidden.loss, "accuracy": hidden.metrics["accuracy"], "unigram": unigram(text)}
    print("hidden characters: loss {loss:.3f}, {accuracy:.1%} right; frequencies alone: loss {unigram:.3f}".format(**found))
    test = stream.minibatches(*typed(text.codec, text.test, 2000, 3), batch_size=BATCH)
    for name, start in {"from_encoder": {"encoder": trained.params["encoder"]}, "from_random": {}}.items():
        measured = yield from classifying(text, rows, start, seed).bind(train.evaluate(test, ACCURACY))
        found[name] = measured.metrics["accuracy"]
        print(f"typing errors, {name.replace('_', ' ')}: {found[name]:.1%} of {measured.samples:,} windows right")
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="FILE", help="a text to learn, in UTF-8")
    parser.add_argument("--steps", type=int, default=2000, help="with hidden characters")
    parser.add_argument("--rows", type=int, default=16_000, help="windows from which the classifier learns")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    chosen = parser.parse_args(arguments)
    match figures(chosen.data, chosen.steps, chosen.rows, chosen.seed).run():
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
