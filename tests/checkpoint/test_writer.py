"""The writer: a thread that saves while the program goes on."""

from __future__ import annotations

import math
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from outcomes import fault, value

from fnlamp.checkpoint import Saved, keep_any, keep_best, keep_every, keep_last, latest, saves, writer
from fnlamp.effect import Effect, Interrupted, Runtime
from fnlamp.fault import FaultError, FileTooNew, FileUnwritable, FolderInUse, NotStorable


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def using(folder, body, **options):
    return value(writer(folder, **options).use(lambda each: Effect.suspend(lambda: body(each))), Runtime(log=None))


def test_saves_are_finished_in_order(tmp_path):
    def body(each):
        assert each.newest is None and not each.busy
        for step in range(5):
            each.submit(step, {"x": np.full(3, step)}, {"step": step})
        assert each.wait()
        assert not each.busy and each.failures() == ()
        return each.newest

    newest = using(tmp_path, body)
    assert (newest.step, newest.note) == (4, {"step": 4})
    assert [saved.step for saved in value(saves(tmp_path))] == [0, 1, 2, 3, 4]
    assert value(latest(tmp_path)).tree["x"].tolist() == [4, 4, 4]
    assert using(tmp_path, lambda each: each.newest) == newest


def test_the_tree_is_copied_at_once(tmp_path):
    host, device = np.arange(1000), jnp.arange(1000.0)
    donating = jax.jit(lambda x: x * 0, donate_argnums=0)

    def body(each):
        each.submit(1, {"host": host, "device": device, "view": host[::2]})
        host[:] = 0
        donating(device).block_until_ready()
        each.wait()

    using(tmp_path, body)
    tree = value(latest(tmp_path)).tree
    np.testing.assert_array_equal(tree["host"], np.arange(1000))
    np.testing.assert_array_equal(tree["view"], np.arange(0, 1000, 2))
    np.testing.assert_array_equal(tree["device"], np.arange(1000.0))


def test_what_cannot_be_stored_is_raised_and_the_writer_goes_on(tmp_path):
    def body(each):
        with pytest.raises(FaultError) as raised:
            each.submit(1, {"a": print})
        assert isinstance(raised.value.fault, NotStorable)
        each.submit(2, {})
        each.wait()
        return each.newest.step

    assert using(tmp_path, body) == 2


def test_a_failed_save_is_reported_once_and_the_next_one_is_tried(tmp_path):
    def body(each):
        (tmp_path / "000000000002.npz").mkdir()
        for step in (1, 2, 3):
            each.submit(step, {"x": step})
        each.wait()
        failures = each.failures()
        assert each.failures() == ()
        return failures, each.newest.step

    (failure,), newest = using(tmp_path, body)
    assert isinstance(failure, FileUnwritable) and "000000000002" in failure.path
    assert newest == 3


def test_a_folder_that_is_removed_or_replaced(tmp_path):
    folder = tmp_path / "run"

    def body(each):
        folder.rename(tmp_path / "old")
        each.submit(1, {})
        each.wait()
        gone = each.failures()
        folder.mkdir()
        each.submit(2, {})
        each.wait()
        return gone, each.failures()

    for found in using(folder, body):
        assert isinstance(found[0], FileUnwritable)
    assert names(folder) == []


def test_the_working_directory_may_change(tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)

    def body(each):
        monkeypatch.chdir(tmp_path / "other")
        each.submit(1, {})
        each.wait()
        return each.failures()

    assert using("run", body) == ()
    assert value(latest(tmp_path / "run")).step == 1
    assert names(tmp_path / "other") == []


def test_a_folder_with_saves_of_a_newer_version(tmp_path):
    from fnlamp.checkpoint.archive import TRAILER, parsed_trailer, trailer

    using(tmp_path, lambda each: (each.submit(1, {}), each.wait()))
    path = tmp_path / "000000000001.npz"
    raw = path.read_bytes()
    path.write_bytes(raw[:-TRAILER] + trailer(parsed_trailer(raw[-TRAILER:])._replace(version=2)))
    for _ in range(2):  # the lock is released
        assert isinstance(fault(writer(tmp_path).use(lambda _: Effect.from_value(1)), Runtime(log=None)), FileTooNew)


def test_one_writer_for_a_folder(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "run")

    def body(each):
        each.submit(1, {})
        each.wait()
        return [
            fault(writer(path).use(lambda _: Effect.from_value(1)), Runtime(log=None))
            for path in (tmp_path / "run", tmp_path / "link")
        ]

    for found in using(tmp_path / "run", body):
        assert isinstance(found, FolderInUse)
    assert using(tmp_path / "run", lambda each: each.newest.step) == 1


def test_a_release_abandons_the_save_in_flight(tmp_path, monkeypatch):
    from fnlamp.checkpoint import replace

    real = replace.os.fsync
    monkeypatch.setattr(replace.os, "fsync", lambda descriptor: (time.sleep(0.5), real(descriptor)))

    def body(each):
        each.submit(1, {"x": np.zeros(10)})
        assert not each.wait(0.05)
        assert not each.wait(give_up=lambda: True)

    start = time.monotonic()
    using(tmp_path, body)
    assert time.monotonic() - start < 0.4
    time.sleep(0.8)
    assert names(tmp_path) == [".lock"]


def test_an_interruption_ends_the_wait_for_the_save_before(tmp_path, monkeypatch):
    from fnlamp.checkpoint import replace

    real = replace.os.fsync
    monkeypatch.setattr(replace.os, "fsync", lambda descriptor: (time.sleep(0.6), real(descriptor)))
    runtime = Runtime(log=None)
    seen = []

    def body(each):
        each.submit(1, {})
        runtime.cancel.cancel()
        start = time.monotonic()
        try:
            each.submit(2, {})
        finally:
            seen.append(time.monotonic() - start)

    outcome = writer(tmp_path).use(lambda each: Effect.suspend(lambda: body(each))).run_exit(runtime)
    assert isinstance(outcome, Interrupted) and seen[0] < 0.3


def test_parts_of_killed_processes_are_removed(tmp_path):
    for name in (".save-0123456789abcdef.part", ".write-0123456789abcdef.part", "mine.part"):
        (tmp_path / name).write_bytes(b"part")
    using(tmp_path, lambda each: None)
    assert names(tmp_path) == [".lock", ".write-0123456789abcdef.part", "mine.part"]


def test_old_saves_are_deleted_after_their_successor(tmp_path):
    def body(each):
        for step in range(1, 8):
            each.submit(step, {}, {"loss": abs(step - 3)})
        each.wait()
        return each.failures()

    assert using(tmp_path, body, keep=keep_any(keep_last(2), keep_every(5), keep_best("loss"))) == ()
    assert [saved.step for saved in value(saves(tmp_path))] == [3, 5, 6, 7]


def test_the_newest_is_never_deleted(tmp_path):
    def body(each):
        for step in (1, 2):
            each.submit(step, {})
        each.wait()

    using(tmp_path, body, keep=lambda saves: saves)
    assert [saved.step for saved in value(saves(tmp_path))] == [2]


def test_a_bug_in_keep_is_raised(tmp_path):
    def body(each):
        each.submit(1, {})
        each.wait()
        with pytest.raises(ZeroDivisionError):
            each.failures()

    using(tmp_path, body, keep=lambda saves: 1 / 0)
    assert value(latest(tmp_path)).step == 1


def test_a_released_writer_says_so(tmp_path):
    kept = using(tmp_path, lambda each: each)
    with pytest.raises(RuntimeError, match="released"):
        kept.submit(1, {})
    assert kept.wait()


def test_a_writer_that_was_released_during_a_save_is_not_waited_for(tmp_path, monkeypatch):
    from fnlamp.checkpoint import replace

    real = replace.os.fsync
    monkeypatch.setattr(replace.os, "fsync", lambda descriptor: (time.sleep(0.3), real(descriptor)))

    def body(each):
        each.submit(1, {})
        return each

    assert using(tmp_path, body).wait(5.0)


SAVES = tuple(Saved(f"{n}", n, {"loss": loss}) for n, loss in enumerate([0.5, math.nan, 0.2, None, 0.2, 0.9, "x", True]))


def test_the_best_are_numbers():
    def kept(keep):
        return [saved.step for saved in SAVES if saved not in keep(SAVES)]

    assert kept(keep_best("loss")) == [2]
    assert kept(keep_best("loss", 2)) == [2, 4]
    assert kept(keep_best("loss", highest=True)) == [5]
    assert kept(keep_best("other")) == []
    assert kept(keep_best("loss", 99)) == [0, 2, 4, 5]
    assert kept(keep_last(3)) == [5, 6, 7]
    assert kept(keep_last(99)) == list(range(8))
    assert kept(keep_every(3)) == [0, 3, 6]
