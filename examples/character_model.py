"""A character-level language model: it learns one text, and then writes a similar one.

python examples/character_model.py --text FILE             any text in UTF-8
python examples/character_model.py                         the language reference that comes with Python
python examples/character_model.py --text timemachine.txt --model lamp --epochs 15 --json FILE

`lamp` is the network of lamp's own test of text generation: an LSTM of 256 features, trained on windows of five characters.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from returns.io import IOFailure, IOSuccess
from returns.result import Failure, Success

import fnlamp
from fnlamp import Layer, data, loss, models, optim, train
from fnlamp.effect import Effect
from fnlamp.generate import generate, sampled, temperature

START = 32
"""How many characters of the text a model continues."""


class Setting(NamedTuple):
    """A network from characters to the logits of the next one, at every time step, and how it is trained."""

    network: Callable[[int], Layer]
    learning_rate: float
    block: int = 64
    batch: int = 32


SETTINGS = {
    "lstm": Setting(lambda size: models.lstm_lm(size, layers=1, width=32, hidden=128), 3e-3),
    "lamp": Setting(lambda size: models.lstm_lm(size, layers=1, width=10, hidden=256), 3e-3, block=5, batch=64),
}


def text_of(path: Path | None) -> Effect[str, Any]:
    """The text of a file, or the language reference that comes with Python."""
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
    (codec, rows, held_out), chosen = parts(text), SETTINGS[kind]
    sizes = chosen.block, chosen.batch
    return train.epochs(
        model=train.supervised(chosen.network(codec.size), loss.cross_entropy()),
        optimizer=optim.adamw(chosen.learning_rate, weight_decay=0.01, clip=1.0),
        train_batches=lambda context: data.language_model_batches(rows, *sizes, seed=context.seed, drop_last=True),
        validation_batches=lambda context: data.language_model_batches(held_out, *sizes),
        epochs=epochs,
        seed=seed,
        metrics={"accuracy": loss.accuracy},
    )


def write(trained: train.Trained, codec: data.Codec, start: str, length: int) -> Effect[str, Any]:
    """`start` and `length` more characters, each drawn from the model's prediction with temperature 0.8."""
    drawn = sampled(temperature(0.8))
    written = generate(trained.model, trained.params, [start], codec=codec, tokens=length, sampling=drawn)
    return written.map(lambda made: start + made.texts[0])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--text", type=Path, metavar="FILE", help="a text to learn, in UTF-8")
    parser.add_argument("--model", choices=SETTINGS, default="lstm")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--characters", type=int, metavar="N", help="use only the first N characters of the text")
    parser.add_argument("--length", type=int, default=300, help="number of characters to write at the end")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the losses of each epoch")
    chosen = parser.parse_args(arguments)

    def learn(text: str) -> Effect[tuple[train.Trained, str], Any]:
        text = text[: chosen.characters]
        program = describe(text, chosen.model, chosen.epochs)
        print(program.explain(), end="\n\n")
        return program.map(lambda trained: (trained, text))

    match text_of(chosen.text).bind(learn).run():
        case IOSuccess(Success((trained, text))):
            codec = parts(text)[0]
            if chosen.json is not None:
                losses = [{"train": report.train_loss, "validation": report.validation_loss} for report in trained.curve]
                chosen.json.write_text(json.dumps({"model": chosen.model, "losses": losses}, indent=2))
            uniform = f"ln {codec.size} = {np.log(codec.size):.2f}"
            print(f"\nA uniform guess has a loss of {uniform} nats per character. The model writes:\n")
            print(write(trained, codec, text[:START], chosen.length).run_or_raise())
            return 0
        case IOFailure(Failure(fault)):
            print(f"{type(fault).__name__}: {fault}", file=sys.stderr)
            return 1
    raise AssertionError("a run either succeeds or fails")


if __name__ == "__main__":
    fnlamp.keep_programs()
    fnlamp.keep_memory()
    raise SystemExit(main())
