"""What comes back when a training is killed in the middle of an epoch and resumed: fnlamp, Lightning, Keras on JAX, HF Trainer.

    python examples/benchmarks/gauntlet.py                             every contestant that is installed
    python examples/benchmarks/gauntlet.py --only trainer --at 33      one of them, killed in step 33
    python examples/benchmarks/gauntlet.py --json out.json             with the figures as a file

Each contestant trains the same kind of model on the same rows: an MLP with dropout, shuffled batches, Adam, a learning rate
that decays by step, and early stopping that counts. It saves as its own documentation recommends for runs that may be stopped.
It runs three times, each in its own process: to the end; to a step in which it kills itself with SIGKILL; and again, to resume.
A probe notes the rows, the dropout mask, the learning rate and hashes of the state of each step. A contestant is compared with
itself only: the steps of the killed run up to the resumed one's first, then those, with the steps of the whole run.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from gauntlet_probe import EPOCHS, ROWS, SAVE_EVERY, STEPS, Fact, Probe, facts, read


@dataclass(frozen=True)
class Contestant:
    """The module whose `run(variant, folder, probe)` runs it, its variant, the packages it needs, and how it saves."""

    module: str
    variant: str
    packages: tuple[str, ...]
    saves: str


CONTESTANTS = {
    "fnlamp": Contestant("gauntlet_fnlamp", "", ("fnlamp", "jax"), f"train.Checkpoints(folder, steps={SAVE_EVERY})"),
    "lightning": Contestant(
        "gauntlet_lightning", "plain", ("lightning", "torch"), f"ModelCheckpoint(every_n_train_steps={SAVE_EVERY})"
    ),
    "lightning-stateful": Contestant(
        "gauntlet_lightning", "stateful", ("lightning", "torchdata", "torch"), "the same, with torchdata's StatefulDataLoader"
    ),
    "keras-epoch": Contestant("gauntlet_keras", "epoch", ("keras", "jax"), 'BackupAndRestore(save_freq="epoch")'),
    "keras-steps": Contestant("gauntlet_keras", "steps", ("keras", "jax"), f"BackupAndRestore(save_freq={SAVE_EVERY})"),
    "trainer": Contestant(
        "gauntlet_trainer", "", ("transformers", "accelerate", "torch"), f"TrainingArguments(save_steps={SAVE_EVERY})"
    ),
}
KILL_AT = 53
"""In epoch 3, three steps after a save."""
DEADLINE = 300.0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(CONTESTANTS), default=list(CONTESTANTS), metavar="NAME")
    parser.add_argument("--at", nargs="+", type=int, default=[KILL_AT], help=f"steps, from 0, that are killed: {KILL_AT}")
    parser.add_argument("--work", type=Path, help="folder for the saves and the notes, which is kept")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.child:
        train(*chosen.child)
        return 0
    if not all(SAVE_EVERY < step < STEPS for step in chosen.at):
        parser.error(f"--at is between {SAVE_EVERY}, the first save, and {STEPS}")
    found: dict[str, list[Fact]] = {}
    with tempfile.TemporaryDirectory(prefix="fnlamp-gauntlet-") as temporary:
        for name in chosen.only:
            contestant = CONTESTANTS[name]
            if missing := [package for package in contestant.packages if importlib.util.find_spec(package) is None]:
                print(f"{name} is left out: {', '.join(missing)} not installed; pip install 'fnlamp[parity]'", flush=True)
                continue
            found[name] = run(name, (chosen.work or Path(temporary)) / name, chosen.at)
            print(f"{name} has run", file=sys.stderr, flush=True)
    print(as_text(found, chosen.at))
    if chosen.json is not None:
        figures = {name: {"versions": versions(name), "facts": [asdict(fact) for fact in of]} for name, of in found.items()}
        chosen.json.write_text(json.dumps({"killed_in": chosen.at, "contestants": figures}, indent=1))
    ours = found.get("fnlamp", [])
    return 0 if all(fact.same for fact in ours) else 1


def train(name: str, folder: str, notes: str, kill_at: str) -> None:
    """One run of a contestant in this process."""
    contestant, probe = CONTESTANTS[name], Probe(Path(notes), int(kill_at) if kill_at else None)
    importlib.import_module(contestant.module).run(contestant.variant, Path(folder), probe)


def run(name: str, work: Path, kills: list[int]) -> list[Fact]:
    """The whole run of a contestant, the killed and the resumed ones, each in its own process, and what they show."""
    shutil.rmtree(work, ignore_errors=True)
    runs = [("whole", "whole", "", 0)]
    runs += [("saves", f"killed in {step}", str(step), -signal.SIGKILL) for step in kills]
    runs += [("saves", "resumed", "", 0)]
    for folder, what, kill_at, status in runs:
        (work / folder).mkdir(parents=True, exist_ok=True)
        command = [sys.executable, __file__, "--child", name, str(work / folder), str(work / f"{what}.jsonl"), kill_at]
        ended = subprocess.run(command, env={**os.environ, **QUIET}, capture_output=True, text=True, timeout=DEADLINE)
        if ended.returncode != status:
            raise RuntimeError(f"{name}, {what}: status {ended.returncode}\n{ended.stdout[-4000:]}{ended.stderr[-4000:]}")
    whole, *others = [read(work / f"{what}.jsonl") for _, what, *_ in runs]
    return facts(whole, others)


QUIET = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
"""On the CPU; a network of this size needs one thread."""


def versions(name: str) -> str:
    """The contestant's packages, with their versions."""
    return ", ".join(f"{package} {importlib.metadata.version(package)}" for package in CONTESTANTS[name].packages)


def as_text(found: dict[str, list[Fact]], kills: list[int]) -> str:
    """The facts as a table in Markdown, one column for each contestant, with a line about each below it."""
    at = " and ".join(map(str, kills))
    lines = [f"{ROWS} rows, {EPOCHS} epochs, {STEPS} steps, killed in step {at}; Python {platform.python_version()}", ""]
    lines += ["| came back | " + " | ".join(found) + " |", "| --- |" + " --- |" * len(found)]
    for row in zip(*found.values(), strict=True):
        lines.append(f"| {row[0].what} | " + " | ".join(map(str, row)) + " |")
    lines += ["", *(f"- {name}: {CONTESTANTS[name].saves}; {versions(name)}" for name in found)]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
