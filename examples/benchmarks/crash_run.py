"""The run that `crash.py` kills: one of everything that has a state, saved every few steps, resumed from its folder."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import blake2b
from mmap import mmap
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from returns.io import IOFailure, IOSuccess
from returns.result import Failure, Success

import fnlamp
from fnlamp import Init, Layer, Train, checkpoint, data, loss, nn, optim, stream, train, tree
from fnlamp.effect import Effect, Resource, Runtime
from fnlamp.fault import Interrupted

ROWS, HELD, FEATURES, CLASSES = 88, 32, 8, 3
BATCH, PARTS, SAVE_EVERY, WORKERS = 4, 2, 2, 2
INTERRUPTED = 3
"""The exit status of a run that a signal stopped."""
PHASES = ("start", "program", "loader", "first epoch", "training", "validation", "hook", "ended")
"""What a process is doing; it writes the place in this tuple into one byte of memory that it shares with `crash.py`.

`first epoch` is that of each process, from the plan on, with compilation.
"""
AT, EXECUTOR = "FNLAMP_CRASH_PHASE", "FNLAMP_CRASH_EXECUTOR"
EXECUTORS = {"fused": train.Fused, "stepwise": train.Stepwise}


@dataclass(frozen=True)
class Rows:
    """Generated rows; the first feature is the row's number."""

    count: int
    seed: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> tuple[Any, Any]:
        chance = np.random.default_rng((self.seed, row))
        features = chance.normal(size=FEATURES).astype(np.float32)
        return np.append(np.float32(row), features), np.int32(features[:CLASSES].argmax())


def noisy(generator: np.random.Generator, item: tuple[Any, Any]) -> tuple[Any, Any]:
    """Noise on every feature but the row's number."""
    features, label = item
    return features + np.append(0, generator.normal(0, 0.3, FEATURES)).astype(np.float32), label


def counted() -> Layer:
    """Takes the row's number from the features. The state counts how often each row was seen, and hashes the order of all.

    The counts are part of what is saved and resumed: they count the steps that count, and no others.
    """

    def init(key: Any, spec: Any) -> Init:
        state = {"seen": jnp.zeros(ROWS, jnp.int32), "order": jnp.zeros(1, jnp.uint32)}
        return Init({}, state, jax.ShapeDtypeStruct((spec.shape[0], FEATURES), spec.dtype), {})

    def apply(params: Any, state: Any, x: Any, mode: Any) -> Any:
        if isinstance(mode, Train):
            rows = x[:, 0].astype(jnp.int32)
            order = jax.lax.fori_loop(0, len(rows), lambda at, h: h * 31 + rows[at].astype(jnp.uint32) + 1, state["order"])
            state = {"seen": state["seen"].at[rows].add(1), "order": order}
        return x[:, 1:], state

    return Layer(init, apply, "counted")


def program(folder: Path, epochs: int, phase: Any) -> Effect[train.Trained, Any]:
    """The training program; nothing runs here."""

    def batches(context: train.LoopContext) -> Any:
        loader = data.loader(Rows(ROWS, 1), batch_size=BATCH, shuffle=True, seed=context.seed, augment=noisy, workers=WORKERS)
        begun = Resource.make(Effect.suspend(lambda: phase("loader")), lambda *_: Effect.from_value(None))
        return begun.bind(lambda _: loader).map(lambda batches: entered(batches, "training", phase).chunk(PARTS))

    def held(context: train.LoopContext) -> Any:
        return data.loader(Rows(HELD, 2), batch_size=16).map(lambda batches: entered(batches, "validation", phase))

    def record(report: train.EpochReport, trained: train.Trained) -> Effect[bool, Any]:
        phase("hook")
        rows = trained.layer_state["rows"]
        seen = {"least": int(rows["seen"].min()), "most": int(rows["seen"].max()), "order": int(rows["order"][0])}
        return checkpoint.append(folder / "records.jsonl", {**lasting(report), **seen})

    def from_save(saved: Any) -> Effect[train.Trained, Any]:
        layers = nn.sequence(rows=counted(), mlp=nn.mlp(hidden=(16, 16), out=CLASSES, drop_rate=0.3))
        return train.epochs(
            model=train.supervised(layers, loss.cross_entropy()),
            optimizer=optim.ema(optim.adamw(0.03, weight_decay=1e-3), 0.9),
            train_batches=batches,
            validation_batches=held,
            epochs=epochs,
            seed=3,
            gradient=train.microbatches(PARTS),
            metrics={"accuracy": loss.accuracy},
            folds={
                "best": train.best(),
                "patience": train.patience(epochs, threshold=0.2),
                "plateau": train.reduce_on_plateau(0.5, 1, threshold=0.5),
            },
            on_epoch=record,
            resume=saved,
            checkpoints=train.Checkpoints(str(folder / "saves"), steps=SAVE_EVERY),
        )

    return train.resumable(folder / "saves", from_save)


def entered(batches: stream.BatchStream[Any], name: str, phase: Any) -> stream.BatchStream[Any]:
    """The same batches, once they are acquired."""
    phase(name)
    return batches


def lasting(report: train.EpochReport) -> dict[str, Any]:
    """The report without its time, which differs from run to run."""
    return {name: value for name, value in asdict(report).items() if name != "seconds"}


def outcome(trained: train.Trained) -> dict[str, str]:
    """Everything that a run ends with, a hash for each array and each plain value, by path."""
    state = {name: getattr(trained.state, name) for name in trained.state.__dataclass_fields__}
    curve = [lasting(report) for report in trained.curve]
    kept = {name: (each.epoch, each.params, each.layer_state) for name, each in trained.kept.items()}
    everything = {"state": state, "params": trained.params, "layer_state": trained.layer_state, "kept": kept}
    return {**{path: digest(leaf) for path, leaf in tree.paths(plain(everything)).items()}, "curve": json.dumps(curve)}


def plain(value: Any) -> Any:
    """The same with dictionaries and lists in place of named tuples and others, so that each value has a path."""
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [plain(each) for each in value]
    return value if hasattr(value, "dtype") else np.asarray(repr(value))


def digest(leaf: Any) -> str:
    array = np.asarray(leaf)
    return f"{array.dtype}{list(array.shape)} {blake2b(array.tobytes(), digest_size=8).hexdigest()}"


def main(folder: Path, epochs: int) -> int:
    with Path(os.environ[AT]).open("r+b") as file, mmap(file.fileno(), 1) as memory, (folder / "log").open("a", 1) as log:
        said: list[str] = []

        def phase(name: str) -> None:
            memory[0] = PHASES.index(name)

        def say(line: str) -> None:
            if not said:  # the plan
                phase("first epoch")
            said.append(line)
            log.write(f"{os.getpid()} {line}\n")

        begun = Effect.suspend(lambda: phase("program"))  # inside the run: from here on, signals are handled
        match begun.then(program(folder, epochs, phase)).run(Runtime(EXECUTORS[os.environ.get(EXECUTOR, "fused")](), log=say)):
            case IOSuccess(Success(trained)):
                phase("ended")
                (folder / "outcome.json").write_text(json.dumps(outcome(trained), indent=1))
                return 0
            case IOFailure(Failure(Interrupted(state=state))):
                saved = None if state is None else state.saved
                say(f"interrupted at step {None if state is None else state.state.step}, saved in {saved}")
                return INTERRUPTED
            case IOFailure(Failure(fault)):
                say(f"{type(fault).__name__}: {fault}")
                print(f"{type(fault).__name__}: {fault}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    fnlamp.keep_programs()
    raise SystemExit(main(Path(sys.argv[1]), int(sys.argv[2])))
