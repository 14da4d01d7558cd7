"""Attacks on worker processes: signals to the group, stuck items, no more files, a parent that is killed."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from returns.result import Success

from fnlamp import stream
from fnlamp.data import loader, processes
from fnlamp.effect import Defect, Effect, Runtime
from fnlamp.fault import ResourceExhausted

SILENT = Runtime(log=None)
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def until(condition: Any, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


# ------------------------------------------------------------------------------- signals to the whole group

GROUP = """
import os, signal, sys, threading, time
if __name__ != "__main__":
    time.sleep(1.0)  # what a large import takes, in each worker
import numpy as np
from fnlamp import data, stream
from fnlamp.effect import Effect, Interrupted, Runtime

class Rows:
    def __len__(self): return 400
    def __getitem__(self, row): time.sleep(0.01); return np.float32(row)

def epoch(n):
    return data.loader(Rows(), batch_size=4, workers=2).use(lambda s: stream.fold(s, 0, lambda so_far, batch: so_far + 1))

def attack():
    time.sleep(float(sys.argv[1]))
    os.killpg(os.getpgid(0), int(sys.argv[2]))

if __name__ == "__main__":
    reached = []
    def epochs(n):
        reached.append(n)
        return epoch(n).bind(lambda _: epochs(n + 1)) if n < 50 else Effect.from_value(n)
    training = Effect.suspend(lambda: 0).bind(epochs).salvaged(lambda: ("epoch", reached[-1]))
    threading.Thread(target=attack, daemon=True).start()
    exit = training.run_exit(Runtime(log=None, signals=(signal.SIGINT, signal.SIGTERM)))
    print(type(exit).__name__, getattr(exit, "state", exit), flush=True)
"""


def attacked(folder: Path, after: float, number: int) -> subprocess.CompletedProcess[str]:
    script = folder / "train.py"
    script.write_text(GROUP)
    there = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(script), str(after), str(number)]
    return subprocess.run(command, env=there, capture_output=True, text=True, timeout=60, start_new_session=True)


@pytest.mark.slow
@LINUX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after", [1.2, *(pytest.param(after, marks=pytest.mark.slow) for after in (0.3, 2.2, 3.5))])
def test_a_signal_to_the_group_while_workers_start_is_the_interruption(tmp_path: Path, after: float, number: int) -> None:
    done = attacked(tmp_path, after, number)
    # With the epoch so far, or with the batches of the fold so far.
    assert done.stdout.startswith("Interrupted "), (done.stdout, done.stderr[-2000:])
    assert "None" not in done.stdout
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


# ------------------------------------------------------------------------------- stuck items


class Sticky:
    """Row 0 never returns in the first loader that requests it."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __len__(self) -> int:
        return 6

    def __getitem__(self, row: int) -> Any:
        if row == 1 and not os.path.exists(self.marker):
            Path(self.marker).touch()
            time.sleep(3600)
        return np.float32(row)


class Rows:
    def __len__(self) -> int:
        return 6

    def __getitem__(self, row: int) -> Any:
        return np.float32(row)


def first_only(batches: Any) -> Effect[Any, Any]:
    return Effect.suspend(lambda: float(batches.step(0).item[0]))


def values(batches: list[Any]) -> list[float]:
    return [float(value) for batch in batches for value in batch]


@pytest.mark.parametrize("count", [1, 2])
def test_a_stuck_worker_does_not_hang_later_loaders(tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fnlamp.data.loading.processes.PATIENCE", 0.5)

    def use(team: Any) -> Effect[Any, Any]:
        stuck = loader(Sticky(str(tmp_path / "stuck")), batch_size=1, workers=team).use(first_only)
        later = loader(Rows(), batch_size=1, workers=team).use(stream.to_list)
        return stuck.bind(lambda first: later.map(lambda batches: (first, values(batches))))

    started = time.monotonic()
    assert processes(count).use(use).run_exit(SILENT) == Success((0.0, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]))
    assert time.monotonic() - started < 20


def test_hundreds_of_loaders_beside_a_stuck_worker_do_not_block_the_parent(tmp_path: Path) -> None:
    def use(team: Any) -> Effect[Any, Any]:
        def many() -> float:
            job = team.start(load_of(Sticky(str(tmp_path / "stuck"))))
            job.request([0])
            job.request([1])
            until(lambda: os.path.exists(tmp_path / "stuck"), 10)
            began = time.monotonic()
            for _ in range(300):
                team.start(load_of(Rows())).close()
            job.close()
            return time.monotonic() - began

        return Effect.suspend(many)

    exit = processes(1).use(use).run_exit(SILENT)
    assert isinstance(exit, Success), exit
    assert exit.unwrap() < 10


def load_of(dataset: Any) -> Any:
    from fnlamp.data.loading.collate import stack
    from fnlamp.data.loading.load import Load

    return Load(dataset, None, None, stack, None)


# ------------------------------------------------------------------------------- no more files


@pytest.fixture
def few_files() -> Iterator[Any]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def allow(more: int) -> None:
        used = max(int(fd) for fd in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + more, hard))

    yield allow
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@LINUX
def test_too_many_open_files_is_a_fault_and_kills_no_worker(few_files: Any) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def use(team: Any) -> Effect[Any, Any]:
        def attack() -> Any:
            pids = [worker.process.pid for worker in team.workers]
            held = []
            try:
                while True:
                    held.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                pass
            refused = loader(Rows(), batch_size=1, workers=team).use(stream.to_list).run_exit(SILENT)
            for fd in held:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            again = loader(Rows(), batch_size=1, workers=team).use(stream.to_list).run_exit(SILENT)
            return refused, again, pids == [worker.process.pid for worker in team.workers]

        def limit() -> None:
            few_files(8)

        return Effect.suspend(limit).then(Effect.suspend(attack))

    exit = processes(2).use(use).run_exit(SILENT)
    assert isinstance(exit, Success), exit.cause if isinstance(exit, Defect) else exit
    refused, again, alive = exit.unwrap()
    assert isinstance(refused.failure(), ResourceExhausted)
    assert "open files" in str(refused.failure())
    assert values(again.unwrap()) == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert alive


@LINUX
@pytest.mark.parametrize("more", [0, 1, 2, 3, 5, 8])
def test_starting_workers_without_files_is_a_fault_and_leaves_none(few_files: Any, more: int) -> None:
    processes(1).use(Effect.from_value).run(SILENT)  # the fork server runs
    before = len(os.listdir("/proc/self/fd"))

    def limited() -> None:
        few_files(1)

    held: list[int] = []

    def use_up() -> None:
        limited()
        while True:
            try:
                held.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                break
        for _ in range(more):
            if held:
                os.close(held.pop())

    program = loader(Rows(), batch_size=1, workers=3).use(stream.to_list)
    exit = Effect.suspend(use_up).then(program).run_exit(SILENT)
    for fd in held:
        os.close(fd)
    if not isinstance(exit, Success):
        assert not isinstance(exit, Defect), exit.cause
        assert isinstance(exit.failure(), ResourceExhausted)  # type: ignore[union-attr]
    assert len(os.listdir("/proc/self/fd")) <= before


# ------------------------------------------------------------------------------- a parent that is killed

KILLED = """
import ctypes, os, sys, time
import numpy as np
from multiprocessing import forkserver
from fnlamp import data, stream
from fnlamp.effect import Effect

class Holds:
    def __len__(self): return 50
    def __getitem__(self, row):
        if row:
            ctypes.PyDLL(None).sleep(60)  # with the interpreter's lock held
        return np.float32(row)

def read(s, team):
    s.step(0)
    print(*(worker.process.pid for worker in team.workers), forkserver._forkserver._forkserver_pid, flush=True)
    s.step(1)

if __name__ == "__main__":
    data.processes(2).use(lambda team: data.loader(Holds(), batch_size=1, workers=team).use(
        lambda s: Effect.suspend(lambda: read(s, team)))).run()
"""


@pytest.mark.slow
@LINUX
def test_workers_and_the_fork_server_end_with_a_killed_parent_also_while_an_item_holds_the_gil(tmp_path: Path) -> None:
    assert hasattr(ctypes, "PyDLL")
    script = tmp_path / "train.py"
    script.write_text(KILLED)
    there = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, script], env=there, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 3
        time.sleep(0.3)
        process.kill()
    assert until(lambda: not any(map(running, pids)), 5), [pid for pid in pids if running(pid)]
