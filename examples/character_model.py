"""A character-level language model: it learns one text, and then writes a similar one.

python examples/character_model.py --text FILE             any text in UTF-8
python examples/character_model.py                         the language reference that comes with Python
python examples/character_model.py --text FILE --model gpt --epochs 10
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from returns.io import IOFailure, IOSuccess
from returns.result import Failure, Success

import fnlamp
from fnlamp import Layer, data, loss, models, nn, optim, train
from fnlamp.effect import Effect

BLOCK, BATCH = 64, 32


def network(kind: str, vocabulary: int) -> Layer:
    """Characters to the logits of the next one, at every time step."""
    if kind == "gpt":
        return models.gpt(vocabulary, layers=2, width=96, heads=4, context=BLOCK, drop_rate=0.1)
    return nn.sequence(tokens=nn.embedding(vocabulary, 32), memory=nn.lstm(128), out=nn.linear(vocabulary))


def text_of(path: Path | None) -> Effect[str, Any]:
    """The text of a file, or a text that comes with Python."""
    if path is not None:
        return data.read_text(path)

    def reference() -> str:
        from pydoc_data.topics import topics

        return "\n".join(topics[name] for name in sorted(topics))

    return Effect.suspend(reference)


def parts(text: str) -> tuple[data.CharacterCodec, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The codec, nine tenths of the ids for training, and the last tenth; 16 bits are enough for the id of a character."""
    codec = data.character_codec(text)
    ids = codec.encode(text).astype(np.uint16)
    at = len(ids) * 9 // 10
    return codec, ids[:at], ids[at:]


def describe(text: str, kind: str = "lstm", epochs: int = 3, seed: int = 0) -> Effect[train.Trained, Any]:
    """The training program; nothing has run. Each epoch splits the text at different places."""
    codec, rows, held_out = parts(text)
    return train.epochs(
        model=train.supervised(network(kind, codec.size), loss.cross_entropy()),
        optimizer=optim.adamw(learning_rate=3e-3 if kind == "lstm" else 1e-3, weight_decay=0.01, clip=1.0),
        train_batches=lambda context: data.language_model_batches(rows, BLOCK, BATCH, seed=context.seed, drop_last=True),
        validation_batches=lambda context: data.language_model_batches(held_out, BLOCK, BATCH),
        epochs=epochs,
        seed=seed,
        metrics={"accuracy": loss.accuracy},
    )


def write(trained: train.Trained, codec: data.Codec, start: str, length: int, seed: int = 0) -> str:
    """`start` and `length` more characters, each sampled from the model's prediction after the last `BLOCK` characters."""
    generator, ids = np.random.default_rng(seed), codec.encode(start).tolist()
    for _ in range(length):
        seen = ids[-BLOCK:]
        padded = np.zeros((1, BLOCK), np.int32)  # one shape, so one program; the padding has no effect
        padded[0, : len(seen)] = seen
        logits = np.asarray(trained.predict(padded)[0, len(seen) - 1], np.float64)
        likely = np.exp((logits - logits.max()) / 0.8)  # temperature 0.8
        ids.append(int(generator.choice(codec.size, p=likely / likely.sum())))
    return codec.decode(ids)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--text", type=Path, metavar="FILE", help="a text to learn, in UTF-8")
    parser.add_argument("--model", choices=["lstm", "gpt"], default="lstm")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--characters", type=int, metavar="N", help="use only the first N characters of the text")
    parser.add_argument("--length", type=int, default=300, help="number of characters to write at the end")
    chosen = parser.parse_args(arguments)

    def learn(text: str) -> Effect[tuple[train.Trained, str], Any]:
        text = text[: chosen.characters]
        program = describe(text, chosen.model, chosen.epochs)
        print(program.explain(), end="\n\n")
        return program.map(lambda trained: (trained, text))

    match text_of(chosen.text).bind(learn).run():
        case IOSuccess(Success((trained, text))):
            codec = parts(text)[0]
            uniform = f"ln {codec.size} = {np.log(codec.size):.2f}"
            print(f"\nA uniform guess has a loss of {uniform} nats per character. The model writes:\n")
            print(write(trained, codec, text[: BLOCK // 2], chosen.length))
            return 0
        case IOFailure(Failure(fault)):
            print(f"{type(fault).__name__}: {fault}", file=sys.stderr)
            return 1
    raise AssertionError("a run either succeeds or fails")


if __name__ == "__main__":
    fnlamp.keep_programs()
    fnlamp.keep_memory()
    raise SystemExit(main())
