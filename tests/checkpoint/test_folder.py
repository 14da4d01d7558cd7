"""Folders of saves: which one is the latest, whatever happened to the others."""

from __future__ import annotations

import os

import numpy as np
import pytest
from outcomes import fault, value

from fnlamp.checkpoint import append, latest, read, save, saves, write, writer
from fnlamp.effect import Effect, Runtime
from fnlamp.fault import (
    FaultError,
    FileCorrupt,
    FileMissing,
    FileTooNew,
    FileUnwritable,
    FolderInUse,
    NoCheckpoint,
    NotStorable,
)


def put(folder, *steps, **tree):
    for step in steps:
        value(save(folder, step, {"step": np.array(step), **tree}, note={"loss": 1 / (step + 1)}))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_latest_is_the_last_one_written(tmp_path):
    put(tmp_path, 10, 200, 3)
    assert value(latest(tmp_path)).step == 3
    assert [saved.step for saved in value(saves(tmp_path))] == [10, 200, 3]
    assert value(saves(tmp_path))[0].note == {"loss": 1 / 11}
    put(tmp_path, 10)
    assert [saved.step for saved in value(saves(tmp_path))] == [200, 3, 10]


def test_the_clock_does_not_matter(tmp_path):
    put(tmp_path, 1, 2)
    os.utime(tmp_path / "000000000002.npz", (0, 0))
    assert value(latest(tmp_path)).step == 2


def test_steps_of_any_size(tmp_path):
    put(tmp_path, 0, 10**12, 10**15)
    assert [saved.step for saved in value(saves(tmp_path))] == [0, 10**12, 10**15]


def test_other_files_are_not_saves(tmp_path):
    put(tmp_path, 1)
    for name in ("best.npz", "1.npz", "000000000001.npz.part", ".save-0123456789abcdef.part", "x000000000001.npz"):
        (tmp_path / name).write_bytes(b"other")
    assert [saved.step for saved in value(saves(tmp_path))] == [1]


@pytest.mark.parametrize("damage", [lambda raw: raw[:-1], lambda raw: b"", lambda raw: raw[:200] + b"?" + raw[201:]])
def test_a_damaged_save_is_passed_over_with_a_line(tmp_path, damage):
    put(tmp_path, 1, 2)
    newest = tmp_path / "000000000002.npz"
    newest.write_bytes(damage(newest.read_bytes()))
    lines: list[str] = []
    assert value(latest(tmp_path), Runtime(log=lines.append)).step == 1
    assert len(lines) == 1 and "000000000002.npz" in lines[0]
    other = tmp_path / "000000000001.npz"
    other.write_bytes(damage(other.read_bytes()))
    found = fault(latest(tmp_path), Runtime(log=None))
    assert isinstance(found, FileCorrupt) and "000000000002.npz" in found.path


def test_a_later_format_is_not_passed_over(tmp_path):
    from fnlamp.checkpoint.archive import TRAILER, parsed_trailer, trailer

    put(tmp_path, 1, 2)
    newest = tmp_path / "000000000002.npz"
    raw = newest.read_bytes()
    place = parsed_trailer(raw[-TRAILER:])
    assert place is not None
    newest.write_bytes(raw[:-TRAILER] + trailer(place._replace(version=2)))
    assert isinstance(fault(latest(tmp_path)), FileTooNew)


def test_folders_without_saves(tmp_path):
    assert fault(latest(tmp_path / "none")) == NoCheckpoint(str(tmp_path / "none"))
    assert fault(latest(tmp_path)) == NoCheckpoint(str(tmp_path))
    assert value(saves(tmp_path / "none")) == ()
    (tmp_path / "file").write_text("")
    assert isinstance(fault(latest(tmp_path / "file")), FileMissing)
    assert isinstance(fault(saves(tmp_path / "file")), FileMissing)
    assert isinstance(fault(save(tmp_path / "file", 1, {})), FileUnwritable)
    assert isinstance(fault(save(tmp_path / "file" / "below", 1, {})), FileUnwritable)
    assert isinstance(fault(save("\0", 1, {})), FileUnwritable)
    assert isinstance(fault(latest("\ud800")), FileMissing)


def test_the_folder_is_created_and_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    put("~/runs/1", 5)
    assert names(tmp_path / "runs" / "1") == [".lock", "000000000005.npz"]
    assert value(latest("~/runs/1")).step == 5


def test_a_folder_in_use(tmp_path):
    def inside(_):
        return save(tmp_path, 1, {}).attempted()

    found = value(writer(tmp_path).use(inside)).failure()
    assert isinstance(found, FolderInUse) and "this process" in str(found)
    put(tmp_path, 1)


def test_what_cannot_be_stored_writes_nothing(tmp_path):
    assert isinstance(fault(save(tmp_path / "new", 1, {"a": print})), NotStorable)
    assert names(tmp_path) == []


def test_a_stop_before_the_rename_leaves_the_save_before(tmp_path):
    put(tmp_path, 1, x=1)
    runtime = Runtime(log=None)
    runtime.cancel.cancel()
    before = names(tmp_path)
    (Effect.from_value(None).bind(lambda _: save(tmp_path, 1, {"x": 2}))).run(runtime)
    assert names(tmp_path) == before
    assert value(latest(tmp_path)).tree["x"] == 1


@pytest.mark.parametrize("where", ["trailer_of", "loaded"])
def test_a_save_that_another_run_deletes_meanwhile(tmp_path, monkeypatch, where):
    """As with `keep_last(1)`: between the listing and the reading, a newer save replaces the listed one."""
    from fnlamp.checkpoint import folder

    put(tmp_path, 1)
    later = tmp_path.parent / "later"
    put(later, 1, 2)
    real = getattr(folder, where)

    def and_replaced(*arguments):
        if (tmp_path / "000000000001.npz").exists():
            (later / "000000000002.npz").replace(tmp_path / "000000000002.npz")
            (tmp_path / "000000000001.npz").unlink()
            raise FaultError(FileMissing(str(tmp_path / "000000000001.npz"), "No such file or directory"))
        return real(*arguments)

    monkeypatch.setattr(folder, where, and_replaced)
    assert value(latest(tmp_path)).step == 2


def test_a_save_that_may_not_be_read_is_not_passed_over(tmp_path):
    put(tmp_path, 1, 2)
    (tmp_path / "000000000002.npz").unlink()
    (tmp_path / "000000000002.npz").symlink_to("nowhere")
    assert isinstance(fault(latest(tmp_path), Runtime(log=None)), FileMissing)
    lines: list[str] = []
    assert [saved.step for saved in value(saves(tmp_path), Runtime(log=lines.append))] == [1]
    assert "000000000002" in lines[0]


def test_what_programs_would_do_is_shown(tmp_path):
    folder = str(tmp_path / "run")
    shown = {
        save(folder, 100, {}): f"save step 100 in {folder}",
        saves(folder): f"list the saves in {folder}",
        latest(folder): f"load the latest save in {folder}",
        read(folder): f"read {folder}",
        write(folder, {}): f"write {folder}",
        append(folder, {"epoch": 1}): f"append a record to {folder}",
    }
    for program, line in shown.items():
        assert str(program.explain()) == line
    assert f"lock {folder} and start a thread" in writer(folder).use(lambda _: saves(folder)).explain()
    assert names(tmp_path) == []
