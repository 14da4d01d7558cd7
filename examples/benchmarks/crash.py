"""A run that is killed at random moments, again and again, ends as if it had never been killed.

    python examples/benchmarks/crash.py --kills 300                 SIGKILL at 300 moments
    python examples/benchmarks/crash.py --kills 300 --sigterm       SIGTERM at 300 moments: it must stop within the grace
    python examples/benchmarks/crash.py --kills 20 --seed 7 --work FOLDER      other moments; the folders of failures are kept

The run is that of `crash_run.py`: shuffled and augmented rows from two worker processes, dropout, batch norm, accumulation, an
average of the parameters, a plateau schedule, patience, the best weights, validation, a record per epoch, and saves every few
steps. Each process of it is stopped after a random time, at the start of a random phase, or while a file is being written; then
another resumes, until one ends. What must hold:

- every array and value at the end has the same bytes as without a kill: parameters, layer state, moments, folds, curve;
- each row was seen once per epoch, in the same order: counted by a layer, whose counts are a part of the saved state;
- every epoch has one record, the same as without a kill;
- no worker outlives its run by more than a minute, which only a busy machine needs, and no unfinished file is left.

Exits with 1 and says what failed otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from mmap import mmap
from pathlib import Path
from typing import Any

from crash_run import AT, EXECUTOR, EXECUTORS, INTERRUPTED, PHASES
from loading import _of_session

SCRIPT = Path(__file__).parent / "crash_run.py"
GRACE, DEADLINE = 30.0, 240.0
"""Seconds: the default grace of `train.Checkpoints`, and the time after which a process hangs."""
COLD, GROUP = 0.15, 0.3
"""The share of processes that compile, under SIGTERM, where the others find their programs in a folder; and the share of
signals that go to the workers too, as a system that stops a whole group of processes sends them."""


@dataclass
class Process:
    """One process of a run, in its own session, with the memory in which it notes its phase."""

    folder: Path
    epochs: int
    environment: dict[str, str]
    outlived: float = 0.0

    def __post_init__(self) -> None:
        shared = self.folder / "phase"
        shared.write_bytes(bytes(1))
        with shared.open("r+b") as file:
            self.memory = mmap(file.fileno(), 1)
        command = [sys.executable, str(SCRIPT), str(self.folder), str(self.epochs)]
        with (self.folder / "output").open("ab") as output:
            environment = {**os.environ, "JAX_PLATFORMS": "cpu", AT: str(shared), **self.environment}
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )

    @property
    def phase(self) -> str:
        return PHASES[self.memory[0]]

    def lives(self) -> bool:
        return self.process.poll() is None

    def until(self, holds: Callable[[], bool], seconds: float = DEADLINE) -> bool:
        """Wait until this holds or the process ends; whether it holds."""
        end = time.monotonic() + seconds
        while self.lives() and time.monotonic() < end:
            if holds():
                return True
            time.sleep(0.0005)
        return False

    def writes(self) -> bool:
        """Whether a save is being written."""
        with contextlib.suppress(FileNotFoundError):
            return any(name.endswith(".part") for name in os.listdir(self.folder / "saves"))
        return False

    def left(self, seconds: float = 60.0) -> list[str]:
        """The command lines of processes of the session that outlive it by so many seconds; they are killed."""
        begun, found = time.monotonic(), []
        while (pids := list(_of_session(self.process.pid))) and time.monotonic() < begun + seconds:
            time.sleep(0.01)
        self.outlived = time.monotonic() - begun
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                found.append(Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "))
                os.kill(pid, signal.SIGKILL)
        return found


@dataclass(frozen=True)
class Stop:
    """When a process was stopped, what it was doing, and how long it took to end."""

    phase: str
    writing: bool
    seconds: float
    status: int


def stop(process: Process, chance: random.Random, sent: signal.Signals, lasts: float) -> Stop | None:
    """Stop the process at a random moment; `None` if it ended before. `lasts` is the time that a run trains."""
    wait(process, chance, lasts)
    phase, writing = process.phase, process.writes()
    if not process.lives():
        return None
    at = time.monotonic()
    if chance.random() < GROUP:
        os.killpg(process.process.pid, sent)
    else:
        process.process.send_signal(sent)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.process.wait(DEADLINE)
    if process.process.returncode == 0 and phase == "ended":
        return None
    return Stop(phase, writing, time.monotonic() - at, process.process.returncode)


def wait(process: Process, chance: random.Random, lasts: float) -> None:
    """Wait for a random moment: while Python starts, while the program runs, or as a phase or the writing of a file begins."""
    kind, delay = chance.random(), chance.uniform(0, lasts)
    if kind < 0.05:
        time.sleep(chance.uniform(0, 2))
        return
    process.until(lambda: process.phase != "start")
    end = time.monotonic() + delay
    if kind < 0.15:
        what = chance.choice(PHASES[1:4])
    elif kind < 0.45:
        process.until(lambda: time.monotonic() > end)
        return
    else:
        process.until(lambda: time.monotonic() > end)
        what = chance.choice([*PHASES[4:-1], "loader", "save", "save"])
    process.until(process.writes if what == "save" else lambda: process.phase == what)
    time.sleep(chance.choice([0, 0.001, 0.003, 0.01, 0.05]) * chance.random())


@dataclass
class Trials:
    """Runs in one folder after the other, killed until the number of kills is reached."""

    work: Path
    reference: Path
    lasts: float
    sent: signal.Signals
    epochs: int
    seed: int
    stops: list[Stop] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    processes: list[int] = field(default_factory=list)
    outlived: list[float] = field(default_factory=list)

    def run(self, wanted: Callable[[], bool], job: int) -> None:
        """Start runs while more stops are wanted."""
        chance, number = random.Random(f"{self.seed} {job}"), 0
        while wanted():
            folder = self.work / f"run-{job}-{number}"
            self.one(folder, chance, wanted)
            number += 1

    def one(self, folder: Path, chance: random.Random, wanted: Callable[[], bool]) -> None:
        """One run, from its first process to the one that ends."""
        folder.mkdir(parents=True)
        found: list[str] = []
        stops: list[Stop] = []
        for count in range(1, 1000):
            cold = self.sent is signal.SIGTERM and chance.random() < COLD
            cache = folder / f"programs-{count}" if cold else self.work / "programs"
            process = Process(folder, self.epochs, {EXECUTOR: chance.choice(list(EXECUTORS)), "FNLAMP_CACHE": str(cache)})
            stopped = stop(process, chance, self.sent, self.lasts) if wanted() else None
            if stopped is None:
                found += self.ended(process)
                break
            stops.append(stopped)
            self.stops.append(stopped)
            found += self.judged(stopped, process)
            if stopped.status == 0:  # the signal came too late to stop it
                break
        found += differences(self.reference, folder)
        self.processes.append(len(stops) + 1)
        if found:
            told = [f"{s.phase}{', writing' if s.writing else ''}, status {s.status}, {s.seconds:.2f} s" for s in stops]
            problem = f"{folder} (seed {self.seed}): {'; '.join(found)}\n    stopped in {' | '.join(told)}"
            self.problems.append(problem)
            print(f"FAIL  {problem}", flush=True)
        else:
            shutil.rmtree(folder)

    def ended(self, process: Process) -> list[str]:
        """What is wrong with a process that nobody stopped."""
        try:
            status = process.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            process.process.kill()
            return [f"it hangs in {process.phase}"]
        return [f"status {status}"] * (status != 0) + [f"{each} outlives it" for each in process.left()]

    def judged(self, stopped: Stop, process: Process) -> list[str]:
        """What is wrong with the way in which a process stopped."""
        found = [f"{each} outlives it" for each in process.left()]
        self.outlived.append(process.outlived)
        if self.sent is signal.SIGKILL:
            return found
        outside = stopped.phase in ("start", "ended") and stopped.status == -signal.SIGTERM  # Python starts or ends
        if not outside and stopped.status not in (0, INTERRUPTED):
            found.append(f"status {stopped.status} after SIGTERM in {stopped.phase}")
        return found + [f"{stopped.seconds:.1f} s from SIGTERM to the end"] * (stopped.seconds > GRACE)


def differences(reference: Path, folder: Path) -> list[str]:
    """In what a run differs from the one that was never stopped."""
    found = []
    try:
        whole, ours = (json.loads((each / "outcome.json").read_text()) for each in (reference, folder))
        if paths := [path for path in sorted(whole.keys() | ours.keys()) if whole.get(path) != ours.get(path)]:
            found.append(f"other bytes in {len(paths)}: {', '.join(paths[:5])}")
        texts = [(each / "records.jsonl").read_text().splitlines() for each in (reference, folder)]
        if texts[0] != texts[1]:
            found.append(f"records of epochs {[json.loads(line)['epoch'] for line in texts[1]]} differ")
        if any(
            (record := json.loads(line))["least"] != record["epoch"] or record["most"] != record["epoch"] for line in texts[1]
        ):
            found.append("a row was not seen once per epoch")
        parts = [name for name in os.listdir(folder / "saves") if name.endswith(".part")]
        found += [f"unfinished files {parts}"] * bool(parts)
    except (OSError, ValueError) as error:
        found.append(f"{type(error).__name__}: {error}")
    return found


def whole(work: Path, epochs: int, names: Sequence[str]) -> tuple[Path, float]:
    """The folder of a run that nobody stops, and about the seconds that it takes. There is one of each name; all are equal."""
    for name in names:
        (work / name).mkdir(parents=True)
        process = Process(work / name, epochs, {"FNLAMP_CACHE": str(work / "programs")})
        process.until(lambda process=process: process.phase == "validation")  # type: ignore[misc]
        begun = time.monotonic()
        if process.process.wait(DEADLINE) != 0:
            raise RuntimeError(f"a run without kills failed: {(work / name / 'output').read_text()[-2000:]}")
        if found := differences(work / names[0], work / name):
            raise RuntimeError(f"two runs without kills differ: {found}")
    return work / names[0], (time.monotonic() - begun) * epochs / max(epochs - 1, 1)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300, help="number of moments: 300")
    parser.add_argument("--sigterm", action="store_true", help="stop with SIGTERM instead of SIGKILL")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of a run: 5")
    parser.add_argument("--seed", type=int, default=0, help="chooses the moments")
    parser.add_argument("--jobs", type=int, default=2, help="number of runs side by side: 2")
    parser.add_argument("--work", type=Path, help="folder of the runs; those that failed are kept")
    parser.add_argument("--json", type=Path, help="write the figures here")
    chosen = parser.parse_args(arguments)
    with contextlib.ExitStack() as stack:
        work = chosen.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fnlamp-crash-")))
        begun = time.monotonic()
        sent = signal.SIGTERM if chosen.sigterm else signal.SIGKILL
        names = ("whole", "again") if chosen.kills > 10 else ("whole",)
        trials = Trials(work, *whole(work, chosen.epochs, names), sent, chosen.epochs, chosen.seed)
        jobs = [
            threading.Thread(target=trials.run, args=(lambda: len(trials.stops) < chosen.kills, job))
            for job in range(chosen.jobs)
        ]
        for job in jobs:
            job.start()
        for line in progress(trials, jobs):
            print(line, flush=True)
        figures = summary(trials, time.monotonic() - begun)
    print("\n".join(f"{name}: {figure}" for name, figure in figures.items()))
    if chosen.json is not None:
        chosen.json.write_text(json.dumps({**figures, "problems": trials.problems}, indent=1))
    return 1 if trials.problems or len(trials.stops) < chosen.kills else 0


def progress(trials: Trials, jobs: list[threading.Thread]) -> Iterator[str]:
    """A line every half minute."""
    begun = time.monotonic()
    while any(job.is_alive() for job in jobs):
        for job in jobs:
            job.join(30 / len(jobs))
        seconds = time.monotonic() - begun
        yield f"{seconds:5.0f} s: {len(trials.stops)} stops, {len(trials.processes)} runs, {len(trials.problems)} failures"


def summary(trials: Trials, seconds: float) -> dict[str, Any]:
    """The figures."""
    stops = trials.stops
    found: dict[str, Any] = {
        "signal": trials.sent.name,
        "stops": len(stops),
        "in each phase": dict(Counter(each.phase for each in stops).most_common()),
        "during a write": sum(each.writing for each in stops),
        "runs": len(trials.processes),
        "most processes of a run": max(trials.processes, default=0),
        "seconds until its workers have ended": spread(trials.outlived),
        "failures": len(trials.problems),
        "seconds": round(seconds),
    }
    if trials.sent is signal.SIGTERM and stops:
        found["seconds from the signal to the end"] = spread([each.seconds for each in stops])
        found["statuses"] = dict(Counter(each.status for each in stops))
    return found


def spread(seconds: list[float]) -> str:
    return f"median {statistics.median(seconds):.2f}, most {max(seconds):.2f}" if seconds else "none"


if __name__ == "__main__":
    raise SystemExit(main())
