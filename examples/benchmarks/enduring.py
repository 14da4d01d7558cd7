"""Killed workers and resumed loaders: cases that must never fail, repeated many times."""

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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from generated import Array
from paired import Finding
from reading import QUIET, value
from returns.io import IOFailure, IOSuccess
from returns.result import Failure, Success
from terms import Given, Outcome

from fnlamp import data, stream, tree
from fnlamp.effect import Effect
from fnlamp.fault import FaultError, WorkerLost
from fnlamp.stream.sink import steps

WORKERS = 2
DEADLINE = 60.0
"""Seconds after which a trial counts as hung; the case then ends with a traceback of every thread."""


# ------------------------------------------------------------------------------- killed workers


@dataclass(frozen=True)
class Noted:
    """Slow rows; each process that loads one leaves its process number in a folder."""

    folder: Path
    rows: int = 10**7
    """More than any trial reads."""

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, row: int) -> Array:
        (self.folder / str(os.getpid())).touch()
        time.sleep(0.0005)
        return np.full(64, row, np.float32)


def kills(given: Given) -> Outcome:
    """Kills a worker process at a random moment: while it loads this is a fault; while it starts it may be replaced."""
    chance = random.Random(0)
    folders = [given.work / "killed" / f"{os.getpid()}-{number}" for number in range(given.times + -(-given.times // 5))]
    loading, starting = [], []
    for number, folder in enumerate(folders):
        folder.mkdir(parents=True)
        faulthandler.dump_traceback_later(DEADLINE, exit=True)
        if number < given.times:
            loading.append(_killed(Noted(folder), lambda folder=folder: _numbers(folder), chance.uniform(0, 0.5)))  # type: ignore[misc]
        else:
            starting.append(_killed(Noted(folder, 1000), _children, chance.uniform(0, 0.05)))
        faulthandler.cancel_dump_traceback_later()
    end, seen = time.monotonic() + DEADLINE / 10, set().union(*map(_numbers, folders))
    while (left := [pid for pid in seen if _alive(pid)]) and time.monotonic() < end:
        time.sleep(0.05)
    typed = [seconds for what, seconds in loading if what == WorkerLost.__name__]
    right = [what for what, _ in starting if what in (WorkerLost.__name__, "all 1000 rows")]
    findings = [
        Finding("workers killed while they load, a typed fault", f"of {given.times}", len(typed), given.times),
        Finding("workers killed while they start, a fault or no loss", f"of {len(starting)}", len(right), len(starting)),
        Finding("orphans of killed runs", "", len(left), 0, at_least=False),
        Finding("longest time from the kill to the fault", "seconds", max(typed, default=DEADLINE), 5.0, at_least=False),
    ]
    outcomes = [what for what, _ in (*loading, *starting)]
    return Outcome(findings, {"outcomes": {what: outcomes.count(what) for what in sorted(set(outcomes))}, "seconds": typed})


def _killed(rows: Noted, workers: Callable[[], set[int]], delay: float) -> tuple[str, float]:
    """The outcome of a run with a worker killed `delay` seconds after workers exist, and the seconds from the kill to it."""
    at: list[float] = []

    def kill() -> None:
        while not workers():
            time.sleep(0.001)
        time.sleep(delay)
        at.append(time.perf_counter())
        os.kill(random.Random(delay).choice(sorted(workers())), signal.SIGKILL)

    def read(batches: stream.BatchStream[Any]) -> Effect[int, Any]:
        def count() -> int:
            return len(np.unique(np.concatenate([batch[:, 0] for batch in stream.items(batches)])))

        return Effect.attempt(count, FaultError, lambda error: error.fault)

    killer = threading.Thread(target=kill)
    killer.start()
    outcome = data.loader(rows, batch_size=32, workers=WORKERS).use(read).run(QUIET)
    ended = time.perf_counter()
    killer.join()
    match outcome:
        case IOSuccess(Success(count)):
            return f"all {count} rows", ended - at[0]
        case IOFailure(Failure(fault)):
            return type(fault).__name__, ended - at[0]
    raise AssertionError("a run either succeeds or fails")


def _children() -> set[int]:
    return {child.pid for child in multiprocessing.active_children() if child.pid}


def _numbers(folder: Path) -> set[int]:
    return {int(path.name) for path in folder.iterdir()} - {os.getpid()}


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ------------------------------------------------------------------------------- runs that are resumed


def resume(given: Given) -> Outcome:
    """A shuffled, augmented pipeline with two workers, resumed at random batches: the others must be equal byte for byte."""
    chance = random.Random(1)
    rows = max(256, int(8192 * given.scale))
    images = data.array_dataset(*_images(rows))

    def read(state: Any) -> list[tuple[bytes, bytes]]:
        """A digest of each batch, and the state after it as it would be saved."""
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


def _read(batches: stream.BatchStream[Any], state: Any) -> list[tuple[bytes, bytes]]:
    found = []
    for batch, after in steps(batches, batches.init if state is None else state):
        digest = hashlib.sha256()
        for path, leaf in tree.paths(batch).items():
            digest.update(f"{path} {leaf.dtype} {leaf.shape}".encode() + np.ascontiguousarray(leaf).tobytes())
        found.append((digest.digest(), pickle.dumps(after)))
    return found


def flipped(generator: np.random.Generator, item: tuple[Array, Any]) -> tuple[Array, Any]:
    """A random flip, and noise from the same generator."""
    image, label = item
    noise = generator.integers(0, 8, image.shape, np.uint8)
    return np.ascontiguousarray(image[:, :: 1 if generator.random() < 0.5 else -1]) ^ noise, label


def _images(rows: int) -> tuple[Array, Array]:
    chance = np.random.default_rng(0)
    return chance.integers(0, 256, (rows, 28, 28, 1), np.uint8), chance.integers(0, 10, rows, np.int32)
