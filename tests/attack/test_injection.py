"""A second signal at every line of a run: every acquired resource is released."""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fnlamp import data, stream
from fnlamp.effect import Effect, Resource, Runtime

SILENT = Runtime(log=None)


@pytest.fixture(autouse=True)
def _the_default_handler_is_there_before_and_after() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


def run_with_signals_at(moments: set[int], program: Effect[Any, Any], whole: bool = True) -> int:
    """Run it with Ctrl-C at these moments (there is one at each line, call and return); returns the number of moments."""
    count = 0

    def trace(frame: Any, event: str, arg: Any) -> Any:
        nonlocal count
        if not whole and not str(frame.f_globals.get("__name__", "")).startswith(("fnlamp", "returns", "multiprocessing")):
            return None
        count += 1
        if count in moments:
            handler: Any = signal.getsignal(signal.SIGINT)
            handler(signal.SIGINT, frame)
        return trace

    before = sys.gettrace()
    gc.disable()
    try:
        sys.settrace(trace)
        program.run_exit(SILENT)
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
        gc.enable()
    return count


class Ledger:
    """Records loads and releases."""

    def __init__(self) -> None:
        self.loaded: list[int] = []
        self.released: list[int] = []
        self.lock = threading.Lock()

    def load(self, numbers: np.ndarray[Any, Any]) -> Any:
        with self.lock:
            self.loaded.append(len(self.loaded))
        return numbers, self.loaded[-1]

    def release(self, bucket: Any) -> None:
        self.released.append(bucket[1])

    def check(self, where: Any) -> None:
        assert sorted(self.loaded) == sorted(self.released), where
        assert not [thread for thread in threading.enumerate() if thread.name == "fnlamp prefetch"], where
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, where


def staged(ledger: Ledger) -> Effect[Any, Any]:
    batches = stream.staged(
        12, batch_size=2, bucket=2, load=ledger.load, release=ledger.release, batch=lambda bucket, places: bucket[0][places]
    )
    return batches.use(stream.to_list)


def prefetched(ledger: Ledger) -> Effect[Any, Any]:
    return stream.from_function(6, lambda i: np.full(2, i), spec=np.zeros(2)).prefetch(2).use(stream.to_list)


def chained(ledger: Ledger) -> Effect[Any, Any]:
    def held(name: int) -> Resource[Any, Any]:
        acquire = Effect.suspend(lambda: ledger.load(np.zeros(name)))
        return Resource.make(acquire, lambda bucket, _: Effect.suspend(lambda: ledger.release(bucket)))

    return held(1).bind(lambda _: held(2)).bind(lambda _: held(3)).use(Effect.from_value)


PROGRAMS = {"staged": staged, "prefetch": prefetched, "resources": chained}


def attack(build: Any, seconds: Iterator[int], firsts: int) -> None:
    moments = run_with_signals_at(set(), build(Ledger()))
    assert moments > 200
    for second in seconds:
        if second > moments:
            return
        for k in range(1, firsts + 1):
            ledger = Ledger()
            first = max(1, second - k * 7) if k > 1 else second - 1
            run_with_signals_at({first, second}, build(ledger))
            ledger.check((first, second))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("build", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_a_second_signal_at_many_lines_leaves_nothing_behind(build: Any) -> None:
    attack(build, iter(range(2, 100_000, 23)), 1)


# Python prints and drops exceptions raised while it closes an unreferenced generator.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.slow
@pytest.mark.parametrize("build", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_a_second_signal_at_every_line_leaves_nothing_behind(build: Any) -> None:
    attack(build, iter(range(2, 100_000)), 3)


# ------------------------------------------------------------------------------- worker processes


class Rows:
    def __len__(self) -> int:
        return 6

    def __getitem__(self, row: int) -> Any:
        return np.float32(row)


def left() -> tuple[list[str], set[int]]:
    """The memory files that this process holds, and its workers."""
    links = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:  # the one that was listed with
            continue
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    kept = [link for link in links if "memfd" in link or "socket" in link]
    children = Path(f"/proc/{server}/task/{server}/children").read_text().split() if server else []
    return sorted(kept), set(map(int, children))


def attack_processes(points: int) -> None:
    program = data.loader(Rows(), batch_size=2, workers=1).use(stream.to_list)
    program.run_exit(SILENT)
    program.run_exit(SILENT)
    files, children = left()
    moments = run_with_signals_at(set(), program)
    assert moments > 1000
    chance = random.Random(0)
    for _ in range(points):
        second = chance.randrange(2, moments + 1)
        first = max(1, second - chance.choice((1, 2, 5, 30, 200, 2000)))
        run_with_signals_at({first, second}, program)
        gc.collect()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        for _ in range(100):
            now, running = left()
            if len(now) <= len(files) and running <= children:
                break
            time.sleep(0.02)
        assert len(now) <= len(files), (first, second, now, files)
        assert running <= children, (first, second)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_second_signal_leaves_no_worker_and_no_memory_file() -> None:
    attack_processes(40)
