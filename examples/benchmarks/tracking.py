"""What tracking costs: a call, the end of a run, a writer that stalls, and how much each writer writes a second.

python examples/benchmarks/tracking.py [--entries 100000] [--rounds 5] [--json figures.json]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fnlamp import track
from fnlamp.effect import Effect, Runtime
from fnlamp.track.event import entry_of

MAKERS: dict[str, Callable[[str], track.Output]] = {
    "lines": track.lines,
    "sqlite": track.sqlite,
    "csv_file": track.csv_file,
    "tensorboard": track.tensorboard,
}


def event(step: int) -> track.Measured:
    return track.Measured({"train.loss": 1 / (step + 1)}, step, 1)


def timed_calls(entries: int, pause: float, *writers: track.Output) -> list[float]:
    """The seconds of each call of the observers, with a pause between two, as steps of a training have."""
    seconds = []

    def tell(runtime: Runtime) -> None:
        for step in range(entries):
            start = time.perf_counter()
            runtime.tell(event(step))
            seconds.append(time.perf_counter() - start)
            if pause:
                time.sleep(pause)

    track.tracked(Effect.asks(tell), *writers).run_or_raise()
    return seconds


def calls(entries: int) -> dict[str, float]:
    """Microseconds of a call: with steps of a tenth of a millisecond, and one after another."""
    with folder() as at:
        paused = timed_calls(entries // 10, 1e-4, track.lines(at), track.sqlite(at))
    with folder() as at:
        dense = timed_calls(entries, 0.0, track.lines(at), track.sqlite(at))
    return {"median_us": 1e6 * statistics.median(paused), "dense_median_us": 1e6 * statistics.median(dense)}


END = """
import sys, time
from fnlamp import track
from fnlamp.effect import Effect

def told(runtime):
    for step in range(int(sys.argv[2])):
        runtime.tell(track.Measured({"train.loss": 1 / (step + 1)}, step, 1))
    print(time.time(), time.process_time(), flush=True)

writers = [getattr(track, name)(sys.argv[1]) for name in sys.argv[3:]]
assert not track.tracked(Effect.asks(told), *writers).run_or_raise().warnings
"""


def end(entries: int, *writers: str) -> dict[str, float]:
    """Seconds from the last step to the end of the process, with the entries in the queue; of the clock, and of processors."""
    with folder() as at:
        command = [sys.executable, "-c", END, at, str(entries), *writers]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        with process.stdout as said:
            last, before = map(float, said.readline().split())
        _, process.returncode, usage = os.wait4(process.pid, 0)
        assert process.returncode == 0
        name = ", ".join(writers)
        return {name: time.time() - last, f"{name}, processors": usage.ru_utime + usage.ru_stime - before}


def stalled(entries: int, seconds: float) -> dict[str, float]:
    """The longest call while a writer stalls so long, and how much of it another writer has by then."""
    asleep = threading.Event()

    @contextlib.contextmanager
    def stalls() -> Iterator[Callable[[Sequence[track.Entry]], Any]]:
        def write(entries: Sequence[track.Entry]) -> None:
            asleep.set()
            time.sleep(seconds)

        yield write

    with folder() as at:
        taken, found = [], 0

        def tell(runtime: Runtime) -> int:
            runtime.tell(event(0))
            asleep.wait()
            for step in range(1, entries):
                start = time.perf_counter()
                runtime.tell(event(step))
                taken.append(time.perf_counter() - start)
            time.sleep(min(1.0, seconds / 2))
            return len(track.history(at).run_or_raise().scalars("train.loss"))

        found = track.tracked(Effect.asks(tell), stalls, track.lines(at)).run_or_raise().value
    return {"total_ms": 1e3 * sum(taken), "longest_ms": 1e3 * max(taken), "share_written_meanwhile": found / entries}


def rates(entries: int) -> dict[str, float]:
    """Entries that each writer takes a second, in the pieces that its thread gives it."""
    told = [entry_of(event(step), time.time()) for step in range(entries)]
    found = {}
    for name, make in MAKERS.items():
        with folder() as at, make(at)() as write:
            start = time.perf_counter()
            for first in range(0, entries, 2_000):
                write(told[first : first + 2_000])
            found[name] = entries / (time.perf_counter() - start)
    with folder() as at:
        with track.lines(at)() as write:
            write(told)
        start = time.perf_counter()
        track.history(at).run_or_raise()
        found["history, read"] = entries / (time.perf_counter() - start)
    return found


@contextlib.contextmanager
def folder() -> Iterator[str]:
    at = tempfile.mkdtemp()
    try:
        yield at
    finally:
        shutil.rmtree(at)


def measure(entries: int, rounds: int, stall: float) -> dict[str, Any]:
    """All figures: medians over rounds."""
    ends = ("lines",), ("lines", "sqlite"), tuple(MAKERS)
    return {
        "call": _medians([calls(entries) for _ in range(rounds)]),
        "end_s": _medians([dict(pair for each in ends for pair in end(entries, *each).items()) for _ in range(rounds)]),
        "stalled": stalled(min(entries, 20_000), stall),
        "entries_a_second": _medians([rates(entries) for _ in range(rounds)]),
    }


def _medians(found: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(each[name] for each in found) for name in found[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--stall", type=float, default=10.0, help="seconds that a writer stalls")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    figures = measure(given.entries, given.rounds, given.stall)
    for group, values in figures.items():
        print(group)
        for name, value in values.items():
            print(f"  {name:48} {value:12,.2f}")
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
