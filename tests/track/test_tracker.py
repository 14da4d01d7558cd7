"""The tracker: queues, threads, writers that stall or fail, and the end of a run."""

import contextlib
import errno
import gc
import os
import socket
import subprocess
import sys
import threading
import time
import weakref
from decimal import Decimal

import jax.numpy as jnp
import numpy as np
import pytest
from outcomes import value
from telling import tracked

from fnlamp import track
from fnlamp.effect import CancelToken, Effect, Runtime
from fnlamp.fault import WriterFailed
from fnlamp.track import lane


def collected():
    """A writer that keeps what it gets, and the list of that."""
    found = []

    @contextlib.contextmanager
    def keep():
        yield found.extend

    return found, keep


def telling(count, step=0):
    events = [track.Measured({"x": 1.0 * at}, at) for at in range(step, step + count)]
    return Effect.asks(lambda runtime: [runtime.tell(event) for event in events] and None)


def test_events_become_entries_in_order():
    found, keep = collected()
    events = [
        track.Started(3),
        track.Measured({"loss": np.float32(0.5), "n": 3, "ok": True, "jax": jnp.float32(2)}, np.int64(4), 1, 2),
        track.Timed("load", 1.5),
        track.Advanced("train", track.Progress(1, 2), 5),
        track.Alerted("flat", track.Alert("no progress")),
    ]
    program = Effect.asks(lambda runtime: [runtime.tell(event) for event in events])
    value(track.tracked(program, keep))
    assert [(each.values, each.step, each.epoch, each.lane) for each in found] == [
        ({"run": track.Resumed()}, 3, None, 0),
        ({"loss": 0.5, "n": 3.0, "ok": 1.0, "jax": 2.0}, 4, 1, 2),
        ({"time.load": 1.5}, 4, None, 0),
        ({"train": track.Progress(1, 2)}, 5, None, 0),
        ({"flat": track.Alert("no progress")}, 5, None, 0),
    ]
    assert {type(x) for x in found[1].values.values()} == {float}
    assert all(abs(each.time - time.time()) < 60 for each in found)


NO_NUMBERS = ["text", b"bytes", None, np.ones(2), np.ones((1, 1)), 1j, np.complex64(1), [1.0], {"a": 1.0}, object()]


@pytest.mark.parametrize("wrong", NO_NUMBERS, ids=repr)
def test_a_value_that_cannot_be_recorded_is_named(wrong):
    with pytest.raises(TypeError, match="train/loss"):
        track.measure({"train/loss": wrong})
    observer = Effect.asks(lambda runtime: runtime.tell(track.Measured({"train/loss": wrong}, 1)))
    with pytest.raises(TypeError, match="train/loss"):
        track.tracked(observer, collected()[1]).run()


def test_whole_numbers_beyond_2_to_the_53_are_rounded_and_larger_ones_refused():
    found, keep = collected()
    value(track.tracked(track.measure({"n": 2**53 + 1, "d": Decimal("0.5")}), keep))
    assert found[0].values == {"n": 2.0**53, "d": 0.5}
    with pytest.raises(ValueError, match=r"n .*digits"):
        track.measure({"n": 10**400})


@pytest.mark.parametrize("name", ["", "a\nb", "\ud800", "\x1b[31m", 3, None])
def test_a_name_is_printable_text(name):
    with pytest.raises((TypeError, ValueError), match="the name of a value"):
        track.measure({name: 1.0})


def test_values_are_those_of_the_time_of_the_call():
    found, keep = collected()
    values, counts = {"x": 1.0}, np.array([1, 2])
    histogram = track.Histogram(np.arange(3), counts)
    program = Effect.asks(lambda runtime: (runtime.tell(track.Measured({**values, "h": histogram}, 1)), values.clear()))
    counts[:] = 0
    value(track.tracked(program, keep))
    assert found[0].values["x"] == 1.0
    assert found[0].values["h"].counts.tolist() == [1, 2]


def test_a_writer_that_stalls_stalls_nothing():
    started = threading.Event()

    @contextlib.contextmanager
    def stalls():
        def write(entries):
            started.set()
            time.sleep(1.0)

        yield write

    found, keep = collected()
    times = []

    def program(runtime):
        runtime.tell(track.Measured({"x": 0.0}, 0))
        started.wait()
        for at in range(2_000):
            start = time.perf_counter()
            runtime.tell(track.Measured({"x": 1.0}, at))
            times.append(time.perf_counter() - start)

    assert not value(track.tracked(Effect.asks(program), stalls, keep)).warnings
    assert max(times) < 0.5
    assert len(found) == 2_001


def test_a_writer_that_fails_is_a_warning_and_loses_no_other_writers_records(tmp_path):
    @contextlib.contextmanager
    def broken():
        def write(entries):
            if entries[-1].step >= 150:
                raise KeyError("mine")

        yield write

    @contextlib.contextmanager
    def unopened():
        raise ValueError("no such server")
        yield

    said = []
    program = telling(100).then(Effect.suspend(lambda: time.sleep(0.3))).then(telling(100, step=100))
    outcome = value(track.tracked(program, broken, track.lines(tmp_path), unopened), Runtime(log=said.append))
    assert outcome.warnings == (
        WriterFailed("broken", "KeyError: 'mine'", 100),
        WriterFailed("unopened", "ValueError: no such server", 200),
    )
    assert len(value(track.history(tmp_path)).scalars("x")) == 200
    assert len(said) == 2
    assert all("lost here" in line for line in said)


def test_a_full_disk_is_tried_again(monkeypatch, tmp_path):
    from fnlamp.track.writers import lines

    monkeypatch.setattr(lane, "PAUSES", (0.01,))
    real, left = lines._written, [3]

    def written(file, raw):
        if left[0] and b"values" in raw:
            left[0] -= 1
            real(file, raw[: len(raw) // 2])  # the part that fits
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, raw)

    monkeypatch.setattr(lines, "_written", written)
    program = telling(50).then(Effect.suspend(lambda: time.sleep(0.5))).then(telling(50, step=50))
    outcome = value(track.tracked(program, track.lines(tmp_path)), Runtime(log=None))
    assert outcome.warnings == (WriterFailed(f"lines({tmp_path})", "No space left on device", 0),)
    assert value(track.history(tmp_path)).scalars("x").values.tolist() == [*range(100)]


def test_a_disk_that_stays_full_loses_entries_and_says_how_many(monkeypatch, tmp_path):
    from fnlamp.track.writers import lines

    def full(file, raw):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lines, "_written", full)
    (warning,) = value(track.tracked(telling(30), track.lines(tmp_path)), Runtime(log=None)).warnings
    assert warning.lost == 30


def test_a_full_queue_refuses_but_never_what_says_that_the_run_resumes(monkeypatch):
    monkeypatch.setattr(lane, "MOST", 10)
    go, found = threading.Event(), []

    @contextlib.contextmanager
    def slow():
        go.wait()
        yield found.extend

    def release(runtime):
        runtime.tell(track.Started(0))
        go.set()

    (warning,) = value(track.tracked(telling(50).then(Effect.asks(release)), slow), Runtime(log=None)).warnings
    assert warning.lost == 40
    assert "fell behind" in warning.reason
    assert [each.step for each in found] == [*range(10), 0]


def test_large_values_fill_a_queue_too(monkeypatch):
    monkeypatch.setattr(lane, "MOST_BYTES", 1000)
    go, found = threading.Event(), []

    @contextlib.contextmanager
    def slow():
        go.wait()
        yield found.extend

    image = track.Image(np.zeros((20, 20), np.uint8))
    program = Effect.asks(lambda runtime: [runtime.tell(track.Measured({"i": image}, at)) for at in range(9)] and go.set())
    (warning,) = value(track.tracked(program, slow), Runtime(log=None)).warnings
    assert (len(found), warning.lost) == (2, 7)


def test_of_progress_the_newest_is_enough():
    go, found = threading.Event(), []

    @contextlib.contextmanager
    def slow():
        go.wait()
        yield found.extend

    advance = [track.Advanced("train", track.Progress(at, 100), at) for at in range(100)]
    program = Effect.asks(lambda runtime: [runtime.tell(event) for event in advance] and go.set())
    value(track.tracked(program, slow))
    assert len(found) < 5
    assert found[-1].step == 99


def test_the_end_waits_for_a_writer_at_most_so_long(monkeypatch):
    monkeypatch.setattr(sys.modules["fnlamp.track.tracker"], "PATIENCE", 0.3)
    gate = threading.Event()

    @contextlib.contextmanager
    def stuck():
        yield lambda entries: gate.wait()

    start = time.perf_counter()
    (warning,) = value(track.tracked(telling(5), stuck), Runtime(log=None)).warnings
    assert time.perf_counter() - start < 2
    assert (warning.lost, "in time" in warning.reason) == (5, True)
    gate.set()


def test_a_second_signal_ends_the_wait():
    gate, token = threading.Event(), CancelToken()

    @contextlib.contextmanager
    def stuck():
        yield lambda entries: gate.wait()

    token._again = True  # as after a second Ctrl-C
    start = time.perf_counter()
    value(track.tracked(telling(5), stuck), Runtime(log=None, cancel=token))
    assert time.perf_counter() - start < 2
    gate.set()


def test_the_end_is_reached_whatever_ends_the_program(tmp_path):
    def fails():
        raise ZeroDivisionError

    ends = [Effect.from_failure("no"), Effect.suspend(fails)]
    for at, end in enumerate(ends):
        program = track.tracked(telling(500).then(end), track.lines(tmp_path / str(at)))
        with contextlib.suppress(ZeroDivisionError):
            program.run(Runtime(log=None))
        assert len(value(track.history(tmp_path / str(at))).scalars("x")) == 500


@pytest.mark.slow
def test_an_unreleased_tracker_is_written_at_the_interpreters_exit(tmp_path):
    code = f"""
from fnlamp import track
from fnlamp.track.tracker import Tracker
tracker = Tracker((track.lines({str(tmp_path)!r}),), print)
for step in range(1000):
    tracker(track.Measured({{"x": 1.0}}, step))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert len(value(track.history(tmp_path)).scalars("x")) == 1000


def test_a_forked_child_records_nothing_and_holds_nothing(tmp_path):
    def fork(runtime):
        runtime.tell(track.Measured({"x": 1.0}, 1))
        time.sleep(0.3)  # the file is open and locked
        with pytest.warns():  # Python's and JAX's warnings of forks of a process with threads
            child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                runtime.tell(track.Measured({"x": 2.0}, 2))
                time.sleep(1.0)
            os._exit(0)
        return child

    child = value(track.tracked(Effect.asks(fork), track.lines(tmp_path))).value
    assert not value(tracked(tmp_path, track.Measured({"x": 3.0}, 3))).warnings, "the child holds the lock"
    os.waitpid(child, 0)
    assert value(track.history(tmp_path)).scalars("x").steps.tolist() == [1, 3]


def test_a_system_without_threads_is_a_warning(monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    outcome = value(track.tracked(telling(3), collected()[1]), Runtime(log=None))
    assert outcome.warnings == (WriterFailed("keep", "can't start new thread", 3),)


@pytest.mark.slow
def test_a_child_that_exits_leaves_the_files_of_its_parent_whole(tmp_path):
    code = f"""
import multiprocessing, sqlite3, time, warnings
warnings.simplefilter("ignore")
from fnlamp import track
from fnlamp.effect import Effect

def run(runtime):
    for step in range(5):
        runtime.tell(track.Measured({{"x": 1.0}}, step))
        time.sleep(0.3)
        child = multiprocessing.get_context("fork").Process(target=print)
        child.start()
        child.join()
        assert child.exitcode == 0

writers = track.lines({str(tmp_path)!r}), track.sqlite({str(tmp_path)!r}), track.csv_file({str(tmp_path)!r})
assert not track.tracked(Effect.asks(run), *writers).run_or_raise().warnings
base = sqlite3.connect({str(tmp_path / "metrics.db")!r})
assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
assert base.execute("SELECT count(*) FROM scalars").fetchone() == (5,)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert len(value(track.history(tmp_path)).scalars("x")) == 5


def test_no_thread_and_no_memory_is_left(tmp_path):
    before, kept = threading.active_count(), []
    for at in range(3):
        program = Effect.asks(lambda runtime: kept.append(weakref.ref(runtime.observers[0])))
        value(track.tracked(program, track.lines(tmp_path / str(at)), track.sqlite(tmp_path / str(at))))
    gc.collect()
    assert threading.active_count() == before
    assert [ref() for ref in kept] == [None] * 3


def test_no_socket_is_opened(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise AssertionError("a socket")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr("webbrowser.open", refuse)
    writers = (track.sqlite(tmp_path),)
    assert not value(tracked(tmp_path, track.Measured({"x": 1.0}, 1), writers=writers)).warnings


def test_nothing_is_opened_before_the_program_runs(tmp_path):
    track.tracked(telling(1), track.lines(tmp_path / "a"), track.sqlite(tmp_path / "a"))
    assert not (tmp_path / "a").exists()


def test_a_program_runs_twice(tmp_path):
    program = track.tracked(telling(3), track.lines(tmp_path))
    assert value(program) == value(program)
    assert len(value(track.history(tmp_path)).scalars("x")) == 3
