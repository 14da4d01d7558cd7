"""Training behind loaders that wait, read and compute, and from a file that is larger than the memory it may take."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from generated import mapped_file, rows_in_memory
from paired import Finding, Rounds, interval, ratios
from reading import value
from terms import Given, Outcome

from fnlamp import data, loss, nn, optim, stream, train
from fnlamp.effect import Effect, Resource

BATCH = 128
AHEAD = 4
"""The number of batches made ahead."""
RATIOS = (0.5, 1.0, 2.0)
"""The time to load a batch, divided by the time to train on it."""
GIGABYTE = 1e9


# ------------------------------------------------------------------------------- loaders of a known speed


@dataclass(frozen=True)
class Working:
    """A data set that computes for each row on one core, as a stream of batches."""

    x: np.ndarray[Any, Any]
    y: np.ndarray[Any, Any]
    repeats: int

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: int) -> tuple[Any, Any]:
        values = self.x[row]
        for _ in range(self.repeats):
            values = np.sqrt(values * values)  # the same values: the rows are positive
        return values, self.y[row]


@dataclass(frozen=True)
class Supply:
    """The batches of rows in memory, each after `wait(position)`."""

    x: np.ndarray[Any, Any]
    y: np.ndarray[Any, Any]
    wait: Callable[[int], object] = lambda position: None

    def __call__(self, position: int) -> tuple[Any, Any]:
        self.wait(position)
        rows = slice(position * BATCH, (position + 1) * BATCH)
        return self.x[rows].copy(), self.y[rows].copy()

    def at_once(self) -> stream.BatchStream:
        return stream.from_function(len(self.x) // BATCH, self)

    def ahead(self) -> Resource[stream.BatchStream[Any], Any]:
        return self.at_once().prefetch(AHEAD)


def _model(width: int) -> Any:
    return train.supervised(nn.linear(width) >> nn.relu >> nn.linear(width) >> nn.relu >> nn.linear(10), loss.cross_entropy())


# ------------------------------------------------------------------------------- overlap


def overlap(given: Given) -> Outcome:
    """Throughput of training from a loader, compared with loading alone and training alone in the same rounds.

    With a loader that waits: as a share of the slower of both rates. With a loader that computes: as a share of
    1 / (1/L + 1/T), the rate of loading and training in sequence.
    """
    batches = max(16, int(200 * given.scale))
    x, y = rows_in_memory(batches * BATCH)
    alone = Supply(x, y)
    width = 1024 if given.scale >= 1 else 64
    pace = _pace(alone, batches, width)
    waiting = {f"sleeps {r:g}": Supply(x, y, lambda position, s=r * pace: time.sleep(s)) for r in RATIOS}  # type: ignore[misc]
    path = given.work / "rows.bin"
    path.write_bytes(x.tobytes())
    waiting["reads"] = Supply(x, y, lambda position: _read(path, position, x[:BATCH].nbytes))
    work = Working(x, y, _repeats(x, pace / BATCH))
    in_a_thread = Supply(x, y, lambda position: [work[position * BATCH + i] for i in range(BATCH)]).ahead()

    def measure(workers: Any) -> Rounds:
        in_a_process = data.loader(work, batch_size=BATCH, workers=workers, prefetch=AHEAD)
        computing = {"computes in a thread": in_a_thread, "computes in a process": in_a_process}
        return _trained_and_alone(
            {**{n: supply.ahead() for n, supply in waiting.items()}, **computing}, alone, given.rounds, width
        )

    # The process is started before the first epoch, as are the threads of JAX.
    seconds = value(data.processes(1).use(lambda workers: Effect.suspend(lambda: measure(workers))))
    findings = []
    for name in (name.removeprefix("behind ") for name in seconds if name.startswith("behind ")):
        behind, load, step = (seconds[key] for key in (f"behind {name}", f"loading alone, {name}", "training alone"))
        both = zip(load, step, strict=True)
        if name in waiting:
            shares, what, target = ratios([max(pair) for pair in both], behind), "the slower of both alone", 0.95
        else:
            shares, what, target = ratios([sum(pair) for pair in both], behind), "1 / (1/L + 1/T)", 0.9
        findings.append(Finding.of(f"training behind a loader that {name}", f"of {what}", shares, target))
    per_batch = {name: 1e3 * interval(values)["median"] / batches for name, values in seconds.items()}
    return Outcome(findings, {"milliseconds per batch": per_batch, "batches": batches, "seconds": seconds})


def _trained_and_alone(
    loaders: Mapping[str, Resource[stream.BatchStream[Any], Any]], alone: Supply, rounds: int, width: int
) -> Rounds:
    """One program whose epochs cycle: training alone, then from each loader; after each cycle, each loader runs alone.

    The epochs of the first cycle, which compile programs, are not counted.
    """
    names = list(loaders)
    seconds: Rounds = {"training alone": []}
    for name in names:
        seconds |= {f"behind {name}": [], f"loading alone, {name}": []}

    def turn(epoch: int) -> tuple[int, str]:
        number, place = divmod(epoch - 1, len(names) + 1)
        return number, ["training alone", *names][(place + number) % (len(names) + 1)]

    def batches(context: train.LoopContext) -> Any:
        _, name = turn(context.epoch)
        return loaders[name] if name in loaders else alone.at_once()

    def note(report: train.EpochReport) -> None:
        number, name = turn(report.epoch)
        if name in loaders:
            started = time.perf_counter()
            value(loaders[name].use(lambda batches: Effect.suspend(lambda: sum(1 for _ in stream.items(batches)))))
            took = time.perf_counter() - started
        if number:
            seconds[f"behind {name}" if name in loaders else name].append(report.seconds)
            if name in loaders:
                seconds[f"loading alone, {name}"].append(took)

    program = train.epochs(
        model=_model(width),
        optimizer=optim.adamw(1e-4),
        train_batches=batches,
        epochs=(rounds + 1) * (len(names) + 1),
        on_epoch=lambda report: Effect.suspend(lambda: note(report)),
    )
    value(program)
    return seconds


def _pace(alone: Supply, batches: int, width: int) -> float:
    """Seconds of a training step alone."""
    program = train.epochs(
        model=_model(width), optimizer=optim.adamw(1e-4), train_batches=lambda context: alone.at_once(), epochs=4
    )
    return float(np.median([report.seconds for report in value(program).curve[1:]])) / batches


def _repeats(x: np.ndarray[Any, Any], seconds: float) -> int:
    """The number of passes over a row that take this long."""
    trial = Working(x, x, 20)
    for tries in (100, 1000):  # the first to warm up
        started = time.perf_counter()
        for row in range(tries):
            trial[row % len(x)]
        taken = (time.perf_counter() - started) / tries
    return max(1, round(trial.repeats * seconds / taken))


def _read(path: Path, position: int, size: int) -> bytes:
    """One batch of a file, read from disk: the system drops its cached copy first."""
    with path.open("rb") as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), position * size, size, os.POSIX_FADV_DONTNEED)
        file.seek(position * size)
        return file.read(size)


# ------------------------------------------------------------------------------- memory


def mapped(given: Given) -> Outcome:
    """One shuffled epoch over a memory-mapped file: the peak anonymous memory of the process."""
    free = shutil.disk_usage(given.work).free
    if free < 1.1 * GIGABYTE * given.gigabytes:
        raise OSError(f"{given.work}: {given.gigabytes:g} GB are needed, {free / GIGABYTE:.1f} are free")
    features, labels = mapped_file(given.work, given.gigabytes)
    y = np.load(labels)
    kept: dict[str, Any] = {}

    def describe(x: Any) -> Effect[train.Trained, Any]:
        return train.epochs(
            model=_model(64),
            optimizer=optim.adamw(1e-3),
            train_batches=lambda context: stream.minibatches(x, y, batch_size=BATCH * 2, seed=context.seed),
            epochs=1,
        )

    with _watching("RssAnon") as seen:
        kept["before"] = seen.most
        trained = value(data.map_npy(features).bind(describe))
    report = trained.curve[-1]
    assert report.samples == len(y)
    figures = {
        "gigabytes": features.stat().st_size / GIGABYTE,
        "RssAnon before, gigabytes": kept["before"] / GIGABYTE,
        "rows per second": round(report.samples / report.seconds),
        "seconds": report.seconds,
        "loss": report.train_loss,
        "samples of the memory": seen.count,
    }
    what = f"anonymous memory at most, training from a mapped file of {figures['gigabytes']:.3g} GB"
    return Outcome([Finding(what, "GB", seen.most / GIGABYTE, 1.0, at_least=False)], figures)


class _Seen:
    most, count = 0, 0


@contextmanager
def _watching(what: str, every: float = 0.01) -> Iterator[_Seen]:
    """The largest value of a line of /proc/self/status, which a thread polls."""
    seen, stop = _Seen(), threading.Event()

    def look() -> None:
        lines = Path("/proc/self/status").read_text().splitlines()
        seen.most = max(seen.most, next(1024 * int(line.split()[1]) for line in lines if line.startswith(what)))
        seen.count += 1

    def watch() -> None:
        while not stop.wait(every):
            look()

    look()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        stop.set()
        watcher.join()
        look()
