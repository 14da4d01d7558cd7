"""The problem of the gauntlet, the probe that notes what each step did, and the comparison of two runs' notes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROWS, HELD, FEATURES, HIDDEN, CLASSES = 160, 64, 16, 32, 4
BATCH, EPOCHS, SAVE_EVERY = 8, 4, 5
RATE, DROP, SEED = 0.01, 0.3, 0
STEPS = EPOCHS * ROWS // BATCH
PATIENCE, LEAST = 10, 1e9
"""Early stopping counts every epoch after the first one, since none is better by so much; it never stops the run."""

Array = np.ndarray[Any, Any]


def problem() -> tuple[Array, Array, Array, Array]:
    """Features, whose column 0 is the row's number, and labels: for training, and for validation."""
    chance = np.random.default_rng(SEED)
    x = chance.normal(size=(ROWS + HELD, FEATURES)).astype(np.float32)
    y = (x @ chance.normal(size=(FEATURES, CLASSES))).argmax(axis=1)
    x = np.concatenate([np.arange(len(x), dtype=np.float32)[:, None], x], axis=1)
    return x[:ROWS], y[:ROWS], x[ROWS:], y[ROWS:]


def decay(step: Any) -> Any:
    """The factor of the learning rate at this step: linear, to a tenth at the last one."""
    return 1 - 0.9 * step / STEPS


def digest(arrays: Iterable[Any]) -> str:
    """A short hash of the arrays' bytes."""
    found = hashlib.blake2b(digest_size=8)
    for array in map(np.asarray, arrays):
        found.update(f"{array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


@dataclass
class Probe:
    """Notes one JSON line per step, per epoch and at the end of a run, and kills its own process in the step `kill_at`.

    The parts of a step, `state`, `forward` and `dropped`, may come in any order.
    """

    path: Path
    kill_at: int | None = None
    parts: dict[str, Any] = field(default_factory=dict)

    def state(self, *, step: int, epoch: int, rate: float, params: Iterable[Any], moments: Iterable[Any]) -> None:
        """The state before a step, the first of which is 0, of an epoch, from 1."""
        if step == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        hashes = {"params": digest(params), "moments": digest(moments)}
        self._part({"step": int(step), "epoch": epoch, "rate": float(rate), **hashes})

    def forward(self, rows: Any) -> None:
        """In the forward pass of a training step: the numbers of its rows."""
        self._part({"rows": np.asarray(rows).ravel().astype(int).tolist()})

    def dropped(self, activations: Any) -> None:
        """In the forward pass of a training step: the activations after dropout, which are zero only where it dropped them."""
        self._part({"mask": digest([np.asarray(activations) != 0])})

    def epoch(self, epoch: int, waited: int) -> None:
        """After an epoch, from 1, and its validation: how many epochs early stopping has waited."""
        self._write({"waited": int(waited), "epoch": epoch})

    def end(self, params: Iterable[Any]) -> None:
        """After the run."""
        self._write({"end": digest(params)})

    def _part(self, part: dict[str, Any]) -> None:
        self.parts |= part
        if {"step", "rows", "mask"} <= self.parts.keys():
            self._write(self.parts)
            self.parts = {}

    def _write(self, record: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")


Notes = list[dict[str, Any]]


def read(path: Path) -> Notes:
    """The complete lines of a probe."""
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


@dataclass(frozen=True)
class Fact:
    """What was measured, whether it came back, and the figures."""

    what: str
    same: bool
    detail: str = ""

    def __str__(self) -> str:
        return ("yes" if self.same else "**no**") + (f" ({self.detail})" if self.detail else "")


def facts(whole: Notes, runs: Sequence[Notes]) -> list[Fact]:
    """The notes of a killed run and of those that resumed it, the last of which ended, compared with those of a whole run."""
    reference, (first, *later) = {note["step"]: note for note in _steps(whole)}, list(map(_steps, runs))
    starts = [notes[0] for notes in later]
    # A step counts if no resumed run took it back.
    counted = [
        [note for note in notes if all(note["step"] < start["step"] for start in starts[at:])]
        for at, notes in enumerate((first, *later))
    ]
    after = [note for notes in counted[1:] for note in notes]

    def resumed(what: str, key: str) -> Fact:
        """The state with which a resumed run starts is that of the same step in the run before it."""
        saved = [{note["step"]: note[key] for note in notes} for notes in (first, *later)]
        return Fact(what, all(steps.get(start["step"]) == start[key] for steps, start in zip(saved, starts, strict=False)))

    def each(what: str, key: str) -> Fact:
        both = [note for note in after if note["step"] in reference]
        same = sum(note[key] == reference[note["step"]][key] for note in both)
        return Fact(what, same == len(both), f"{same} of {len(both)} steps" if same < len(both) else "")

    number = sum(map(len, counted))
    return [
        Fact("two runs are the same until the kill", all(note == reference[note["step"]] for note in first)),
        Fact(
            "number of steps", number == len(reference), f"{number}, not {len(reference)}" if number != len(reference) else ""
        ),
        resumed("parameters at the resume", "params"),
        resumed("moments at the resume", "moments"),
        each("order of the rows", "rows"),
        _once([note for notes in counted for note in notes]),
        each("dropout masks", "mask"),
        each("learning rate of each step", "rate"),
        _waited(whole, runs[-1]),
        Fact("parameters at the end", runs[-1][-1]["end"] == whole[-1]["end"]),
    ]


def _steps(notes: Notes) -> Notes:
    return [note for note in notes if "step" in note]


def _waited(whole: Notes, last: Notes) -> Fact:
    """Whether early stopping has waited as long after each epoch of the last run."""
    expected, found = ({note["epoch"]: note["waited"] for note in notes if "waited" in note} for notes in (whole, last))
    wanted = [expected[epoch] for epoch in found]
    given = [*found.values()]
    return Fact("early-stopping counter", given == wanted, f"{given}, not {wanted}" if given != wanted else "")


def _once(counted: Notes) -> Fact:
    """Whether each epoch has each row once, in the steps that count."""
    problems = []
    for epoch in sorted({note["epoch"] for note in counted}):
        seen = Counter(row for note in counted if note["epoch"] == epoch for row in note["rows"])
        never, more = ROWS - len(seen), sum(times > 1 for times in seen.values())
        if never or more:
            problems.append(f"epoch {epoch}: {more} more than once, {never} never")
    return Fact("each row once per epoch", not problems, "; ".join(problems))
