"""Runs that are killed, and many at once: nothing older than a second is lost, nothing is there twice."""

import contextlib
import csv
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
from outcomes import value

from fnlamp import track

pytestmark = pytest.mark.slow

RUN = """
import sys, time
from fnlamp import track
from fnlamp.effect import Effect, Runtime

folder, start, end = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def steps(runtime):
    runtime.tell(track.Started(start))
    for step in range(start + 1, end + 1):
        runtime.tell(track.Measured({"x": float(step), "epoch.x": 1.0}, step))
        if step % 20 == 0:
            print(step, time.time(), flush=True)
            time.sleep(0.005)

writers = track.lines(folder), track.sqlite(folder), track.csv_file(folder)
assert not track.tracked(Effect.asks(steps), *writers).run_or_raise().warnings
"""


def run(folder, start, end, seconds=None):
    """Run from a step; killed after so many seconds. The steps that it said, with their times, and the time of the kill."""
    command = [sys.executable, "-c", RUN, str(folder), str(start), str(end)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        said = [process.stdout.readline()]
        if seconds is None:
            said += process.stdout
            assert process.wait() == 0
        else:
            time.sleep(seconds)
            process.send_signal(signal.SIGKILL)
            at = time.time()
            said += process.stdout
            return [(int(step), float(when)) for step, when in map(str.split, said)], at
    return [], 0.0


def test_a_killed_run_loses_nothing_older_than_a_second_and_repeats_nothing(tmp_path):
    draw, start = random.Random(0), 0
    for _ in range(8):
        said, killed = run(tmp_path, start, 10**9, draw.uniform(0.3, 1.5))
        history = value(track.history(tmp_path))
        found = history.scalars("x")
        assert found.steps.tolist() == [*range(1, len(found) + 1)]
        assert found.values.tolist() == [*map(float, found.steps)]
        assert found.steps[-1] >= max([step for step, when in said if when < killed - 1.0], default=0)
        start = draw.randrange(len(found) + 1)  # as from a save
    run(tmp_path, start, start + 500)
    steps = [*range(1, start + 501)]
    assert value(track.history(tmp_path)).scalars("x").steps.tolist() == steps
    with contextlib.closing(sqlite3.connect(tmp_path / "metrics.db")) as base:
        rows = base.execute("SELECT step, value FROM scalars WHERE name = 'x' ORDER BY step").fetchall()
    assert rows == [(step, float(step)) for step in steps]
    with open(tmp_path / "metrics.csv", newline="") as file:
        assert sorted(int(row["step"]) for row in csv.DictReader(file) if row["name"] == "x") == steps


MANY = """
import os, sys
from fnlamp import track
from fnlamp.effect import Effect

def one(folder):
    events = [track.Measured({"x": float(step)}, step) for step in range(2000)]
    told = Effect.asks(lambda runtime: [runtime.tell(event) for event in events] and None)
    writers = track.lines(folder), track.sqlite(folder), track.csv_file(folder), track.tensorboard(folder)
    return len(track.tracked(told, *writers).run_or_raise().warnings)

children = []
for at in range(32):
    child = os.fork()
    if not child:
        code = 9
        try:
            code = one(os.path.join(sys.argv[1], str(at)))
        finally:
            os._exit(code)
    children.append(child)
assert not any(os.waitpid(child, 0)[1] for child in children)
"""


def test_32_processes_write_runs_in_one_folder(tmp_path):
    subprocess.run([sys.executable, "-c", MANY, str(tmp_path)], check=True)
    for at in range(32):
        history = value(track.history(tmp_path / str(at)))
        assert history.scalars("x").steps.tolist() == [*range(2000)]
        with contextlib.closing(sqlite3.connect(tmp_path / str(at) / "metrics.db")) as base:
            assert base.execute("SELECT count(*), sum(value) FROM scalars").fetchone() == (2000, sum(range(2000)))


END = """
import sys, time
from fnlamp import track
from fnlamp.effect import Effect

def told(runtime):
    for step in range(100_000):
        runtime.tell(track.Measured({"x": float(step)}, step))
    print(time.process_time(), flush=True)

assert not track.tracked(Effect.asks(told), track.lines(sys.argv[1])).run_or_raise().warnings
"""


def test_a_process_with_a_full_queue_ends_within_a_second_of_work(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", END, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with process.stdout:
        last = float(process.stdout.readline())
    _, process.returncode, usage = os.wait4(process.pid, 0)
    assert process.returncode == 0
    assert usage.ru_utime + usage.ru_stime - last < 1.0  # of processor time, whatever else this machine does
    assert len(value(track.history(tmp_path)).scalars("x")) == 100_000
