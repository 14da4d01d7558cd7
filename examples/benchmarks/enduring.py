"""What a loader makes of killed workers, and of being continued somewhere: cases that must never fail, tried many times."""

from __future__ import annotations

import faulthandler
import hashlib
import multiprocessing
import os
import pickle
import random
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from made_up import Array
from paired import Finding
from reading import QUIET, value
from returns.unsafe import unsafe_perform_io
from terms import Given, Outcome

from fnlamp import data, stream, tree
from fnlamp.effect import Effect, Resource
from fnlamp.fault import FaultError, WorkerLost
from fnlamp.stream.sink import steps

WORKERS = 2
DEADLINE = 60.0
"""Seconds after which one try has hung; the case then ends with a traceback of every thread."""


# ------------------------------------------------------------------------------- killed workers


@dataclass(frozen=True)
class Noted:
    """More rows than any try reads; each process that loads one of them leaves its number in a folder."""

    folder: str

    def __len__(self) -> int:
        return 10**7

    def __getitem__(self, row: int) -> Array:
        Path(self.folder, str(os.getpid())).touch()
        time.sleep(0.0005)
        return np.full(64, row, np.float32)


def kills(given: Given) -> Outcome:
    """A worker process is killed at a random moment: while they start, or while they load."""
    chance = random.Random(0)
    came: list[str] = []
    seconds: list[float] = []
    seen: set[int] = set()
    for number in range(given.times):
        folder = given.work / "killed" / f"{os.getpid()}-{number}"
        folder.mkdir(parents=True)
        faulthandler.dump_traceback_later(DEADLINE, exit=True)
        lost, took = _killed(data.loader(Noted(str(folder)), batch_size=32, workers=WORKERS), folder, chance.uniform(0, 1))
        faulthandler.cancel_dump_traceback_later()
        came.append(lost)
        seconds.append(took)
        seen |= _numbers(folder)
    end = time.monotonic() + DEADLINE / 10
    while (left := [pid for pid in seen if _alive(pid)]) and time.monotonic() < end:
        time.sleep(0.05)
    typed = came.count(WorkerLost.__name__)
    findings = [
        Finding("killed workers that were typed faults", f"of {given.times}", typed, given.times),
        Finding("orphans of killed runs", "", len(left), 0, at_least=False),
        Finding("from the kill to the fault at most", "seconds", max(seconds), DEADLINE, at_least=False),
    ]
    return Outcome(findings, {"outcomes": sorted({(name, came.count(name)) for name in came}), "seconds": seconds})


def _killed(loader: Resource[stream.BatchStream, Any], folder: Path, delay: float) -> tuple[str, float]:
    """The name of the fault that a run ends with when one of its workers is killed, and the seconds between."""
    at: list[float] = []

    def kill() -> None:
        time.sleep(delay)
        while not (workers := _numbers(folder) | {child.pid for child in multiprocessing.active_children() if child.pid}):
            time.sleep(0.01)
        at.append(time.perf_counter())
        os.kill(random.Random(delay).choice(sorted(workers)), signal.SIGKILL)

    def read(batches: stream.BatchStream) -> Effect[int, Any]:
        return Effect.attempt(lambda: sum(1 for _ in stream.items(batches)), FaultError, lambda error: error.fault)

    killer = threading.Thread(target=kill)
    killer.start()
    outcome = loader.use(read).run(QUIET)
    ended = time.perf_counter()
    killer.join()
    return type(unsafe_perform_io(outcome.failure())).__name__, ended - at[0]


def _numbers(folder: Path) -> set[int]:
    return {int(path.name) for path in folder.iterdir()} - {os.getpid()}


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ------------------------------------------------------------------------------- runs that go on


def resume(given: Given) -> Outcome:
    """A shuffled, augmented pipeline with two workers, begun at random batches: are the rest the same, byte for byte?"""
    chance = random.Random(1)
    rows = max(256, int(8192 * given.scale))
    images = data.from_arrays(*_images(rows))

    def read(state: Any) -> list[tuple[bytes, bytes]]:
        """What identifies each batch, and the state after it as one would save it."""
        loader = data.loader(
            images, batch_size=16, shuffle=True, seed=7, transform=data.at(0, data.to_float), augment=flipped, workers=WORKERS
        )
        return value(loader.use(lambda s: Effect.suspend(lambda: _read(s, state))))

    faulthandler.dump_traceback_later(10 * DEADLINE, exit=True)
    whole = read(None)
    same = 0
    for _ in range(given.times):
        after = chance.randrange(len(whole))
        rest = read(pickle.loads(whole[after][1]))
        same += rest == whole[after + 1 :]
    faulthandler.cancel_dump_traceback_later()
    distinct = len({batch for batch, _ in whole})
    findings = [
        Finding("resumed runs with the same bytes", f"of {given.times}", same, given.times),
        Finding("different batches", f"of {len(whole)}", distinct, len(whole)),
    ]
    return Outcome(findings, {"batches": len(whole), "rows": rows})


def _read(batches: stream.BatchStream, state: Any) -> list[tuple[bytes, bytes]]:
    found = []
    for batch, after in steps(batches, batches.init if state is None else state):
        digest = hashlib.sha256()
        for path, leaf in tree.paths(batch).items():
            digest.update(f"{path} {leaf.dtype} {leaf.shape}".encode() + np.ascontiguousarray(leaf).tobytes())
        found.append((digest.digest(), pickle.dumps(after)))
    return found


def flipped(generator: np.random.Generator, item: tuple[Array, Any]) -> tuple[Array, Any]:
    """Another way round, or not, and with a little noise: what a random crop and the like amount to."""
    image, label = item
    noise = generator.integers(0, 8, image.shape, np.uint8)
    return np.ascontiguousarray(image[:, :: 1 if generator.random() < 0.5 else -1]) ^ noise, label


def _images(rows: int) -> tuple[Array, Array]:
    chance = np.random.default_rng(0)
    return chance.integers(0, 256, (rows, 28, 28, 1), np.uint8), chance.integers(0, 10, rows, np.int32)
