"""Disks, processes and devices that get in the way of a save: what was finished before stays whole."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from outcomes import fault, value

from fnlamp.checkpoint import append, latest, read, save, saves, write, writer
from fnlamp.checkpoint import lock as locks
from fnlamp.effect import Effect, Runtime
from fnlamp.fault import FileMissing, FileUnwritable, FolderInUse

QUIET = Runtime(log=None)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def using(folder, body):
    return value(writer(folder).use(lambda each: Effect.suspend(lambda: body(each))), QUIET)


def run(code, *arguments, **options):
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True, **options)


# ------------------------------------------------------------------------------- disks


@contextlib.contextmanager
def files_of_at_most(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_fails_leaves_the_file_before(tmp_path):
    path, records = tmp_path / "a.npz", tmp_path / "r.jsonl"
    value(write(path, {"x": 1}))
    value(append(records, {"epoch": 1}))
    value(save(tmp_path / "saves", 1, {"x": 1}))
    large = {"x": np.random.default_rng(0).normal(size=100_000)}

    def body(each):
        each.submit(2, large)
        each.wait()
        return each.failures()

    with files_of_at_most(50_000):
        assert isinstance(fault(write(path, large), QUIET), FileUnwritable)
        assert isinstance(fault(append(records, {"epoch": 2, "x": "y" * 60_000}), QUIET), FileUnwritable)
        assert isinstance(fault(save(tmp_path / "saves", 1, large), QUIET), FileUnwritable)
        (failed,) = using(tmp_path / "saves", body)
    assert isinstance(failed, FileUnwritable) and failed.reason == os.strerror(errno.EFBIG)
    assert names(tmp_path) == ["a.npz", "r.jsonl", "saves"]
    assert names(tmp_path / "saves") == [".lock", "000000000001.npz"]
    assert value(read(path)).tree == value(latest(tmp_path / "saves")).tree == {"x": 1}
    assert value(append(records, {"epoch": 2}))
    assert records.read_text() == '{"epoch": 1}\n{"epoch": 2}\n'


@contextlib.contextmanager
def disk(folder, options):
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk(tmp_path):
    folder = tmp_path / "disk"
    with disk(folder, "size=4m"):

        def body(each):
            for step in range(1, 6):
                each.submit(step, {"x": np.full(150_000, step, float)})  # 1.2 MB
            each.wait()
            full = each.failures()
            os.remove(folder / "000000000001.npz")
            each.submit(6, {"x": np.zeros(150_000)})
            each.wait()
            return full, each.failures()

        full, after = using(folder, body)
        assert [each.reason for each in full] == [os.strerror(errno.ENOSPC)] * 2
        assert after == ()
        assert [saved.step for saved in value(saves(folder))] == [2, 3, 6]
        assert value(latest(folder)).step == 6
        assert not [name for name in names(folder) if name.endswith(".part")]


def test_a_read_only_disk(tmp_path):
    folder = tmp_path / "disk"
    with disk(folder, "size=4m"):
        value(save(folder, 1, {"x": 1}))
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        assert isinstance(fault(save(folder, 2, {}), QUIET), FileUnwritable)
        assert isinstance(fault(write(folder / "a.npz", {}), QUIET), FileUnwritable)
        assert isinstance(fault(append(folder / "r.jsonl", {"epoch": 1}), QUIET), FileUnwritable)
        assert isinstance(fault(writer(folder).use(lambda _: Effect.from_value(1)), QUIET), FileUnwritable)
        assert value(latest(folder)).tree == {"x": 1}


def test_a_folder_that_is_deleted_while_a_save_is_written(tmp_path, monkeypatch):
    from fnlamp.checkpoint import replace

    folder = tmp_path / "run"
    real = replace.os.fsync

    def slow(descriptor):
        shutil.rmtree(folder, ignore_errors=True)
        real(descriptor)

    def body(each):
        monkeypatch.setattr(replace.os, "fsync", slow)
        each.submit(1, {"x": 1})
        each.wait()
        return each.failures()

    (failed,) = using(folder, body)
    assert isinstance(failed, FileUnwritable) and failed.reason == os.strerror(errno.ENOENT)


def test_links_devices_and_pipes(tmp_path, monkeypatch):
    target, link = tmp_path / "target.npz", tmp_path / "link.npz"
    value(write(target, {"x": 1}))
    link.symlink_to("target.npz")
    value(write(link, {"x": 2}))
    assert link.is_symlink() and value(read(target)).tree == {"x": 2}
    link.unlink()
    link.symlink_to("new.npz")
    value(write(link, {"x": 3}))
    assert value(read(tmp_path / "new.npz")).tree == {"x": 3}
    link.unlink()
    link.symlink_to("link.npz")
    assert isinstance(fault(write(link, {}), QUIET), FileUnwritable)
    assert isinstance(fault(read(link), QUIET), FileMissing)
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "/dev/null"):
        assert isinstance(fault(write(path, {}), QUIET), FileUnwritable)
        assert isinstance(fault(read(path), QUIET), FileMissing)
    monkeypatch.chdir(tmp_path)
    value(write("relative.npz", {"x": 4}))
    assert value(read(tmp_path / "relative.npz")).tree == {"x": 4}
    name = "n" * 251 + ".npz"
    value(write(name, {"x": 5}))
    assert value(read(name)).tree == {"x": 5}


def test_a_saved_file_has_the_usual_permissions(tmp_path):
    before = os.umask(0o027)
    try:
        value(write(tmp_path / "a.npz", {}))
    finally:
        os.umask(before)
    assert (tmp_path / "a.npz").stat().st_mode & 0o777 == 0o640


def test_a_system_without_threads(tmp_path, monkeypatch):
    import threading

    from fnlamp.fault import ResourceExhausted

    def refuse(self):
        raise RuntimeError("can't start new thread")

    value(write(tmp_path / "a.npz", {"x": np.arange(100_000)}))
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert value(read(tmp_path / "a.npz")).tree["x"][-1] == 99_999
    assert isinstance(fault(writer(tmp_path).use(lambda _: Effect.from_value(1)), QUIET), ResourceExhausted)
    value(save(tmp_path, 1, {}))  # the lock was released


# ------------------------------------------------------------------------------- processes

HOLD = """
import sys, time
from fnlamp.checkpoint import writer
from fnlamp.effect import Effect
def body(each):
    each.submit(1, {"x": 1})
    each.wait()
    print("ready", flush=True)
    time.sleep(60)
writer(sys.argv[1]).use(lambda each: Effect.suspend(lambda: body(each))).run_or_raise()
"""


def test_two_processes_and_a_killed_one(tmp_path):
    process = run(HOLD, tmp_path)
    try:
        assert process.stdout.readline() == "ready\n"
        for program in (save(tmp_path, 2, {}), writer(tmp_path).use(lambda _: Effect.from_value(1))):
            found = fault(program, QUIET)
            assert isinstance(found, FolderInUse)
            assert found.owner == f"process {process.pid} on {socket.gethostname()}" and found.since.endswith("UTC")
        assert value(latest(tmp_path)).tree == {"x": 1}  # reading needs no lock
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == process.pid
        value(save(tmp_path, 2, {"x": 2}))
        assert using(tmp_path, lambda each: each.newest.step) == 2
    finally:
        process.kill()
        process.communicate()


SAVE = """
import sys
import numpy as np
from fnlamp.checkpoint import keep_last, saves, writer
from fnlamp.effect import Effect
def body(each):
    step = 0 if each.newest is None else each.newest.step
    print("ready", flush=True)
    while True:
        step += 1
        each.submit(step, {"x": np.full(300_000 + step, step), "step": step})
writer(sys.argv[1], keep=keep_last(3)).use(lambda each: Effect.suspend(lambda: body(each))).run_or_raise()
"""


def check_kills(folder, count, seed):
    chance, before = random.Random(seed), 0
    for _ in range(count):
        process = run(SAVE, folder)
        assert process.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0.0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        finished = value(saves(folder), Runtime(log=lambda line: pytest.fail(line)))
        if finished:
            found = value(latest(folder), Runtime(log=lambda line: pytest.fail(line)))
            assert found.step == found.tree["step"] == finished[-1].step >= before
            np.testing.assert_array_equal(found.tree["x"], np.full(300_000 + found.step, found.step))
            before = found.step
    using(folder, lambda each: None)
    assert not [name for name in names(folder) if name.endswith(".part")]
    assert before > 0


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_saves(tmp_path):
    check_kills(tmp_path, 2, seed=0)


@pytest.mark.slow
def test_a_process_that_is_killed_20_times(tmp_path):
    check_kills(tmp_path, 20, seed=1)


@pytest.mark.slow
def test_a_forked_child_neither_holds_nor_releases_the_lock(tmp_path):
    code = """
import os, sys, warnings
warnings.simplefilter("ignore")
from fnlamp.checkpoint import lock
held = lock.Lock(sys.argv[1])
child = os.fork()
if child == 0:
    held.release()
    try:
        lock.Lock(sys.argv[1])
    except Exception as error:
        os._exit(type(error).__name__ == "FaultError")
    os._exit(2)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
input()
"""
    process = run(code, tmp_path, stdin=subprocess.PIPE)
    assert process.stdout.readline() == "1\n"
    assert isinstance(fault(save(tmp_path, 1, {}), QUIET), FolderInUse)
    process.communicate("\n")
    value(save(tmp_path, 1, {}))


# ------------------------------------------------------------------------------- a file system without locks


@pytest.fixture
def without_locks(monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", refuse)


def owned(folder, **owner):
    (folder / ".lock").write_text(json.dumps({"since": "then", "token": "x", **owner}))


def test_an_owner_on_another_machine_is_waited_for_and_then_replaced(tmp_path, without_locks):
    owned(tmp_path, pid=1, host="elsewhere")
    found = fault(save(tmp_path, 1, {}), QUIET)
    assert found == FolderInUse(str(tmp_path), "process 1 on elsewhere", "then")
    old = time.time() - 2 * locks.STALE
    os.utime(tmp_path / ".lock", (old, old))
    value(save(tmp_path, 1, {}))
    assert names(tmp_path) == [".lock", "000000000001.npz"]
    value(save(tmp_path, 2, {}))  # released


def test_an_owner_that_has_ended_on_this_machine_is_replaced(tmp_path, without_locks):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    owned(tmp_path, pid=os.getpid(), host=socket.gethostname())
    assert isinstance(fault(save(tmp_path, 1, {}), QUIET), FolderInUse)
    owned(tmp_path, pid=process.pid, host=socket.gethostname())
    value(save(tmp_path, 1, {}))


def test_an_owner_gives_signs_of_life(tmp_path, without_locks, monkeypatch):
    lock = locks.Lock(str(tmp_path))
    os.utime(tmp_path / ".lock", (0, 0))
    lock.beat()
    assert (tmp_path / ".lock").stat().st_mtime == 0
    monkeypatch.setattr(locks, "BEAT", 0.0)
    lock.beat()
    assert (tmp_path / ".lock").stat().st_mtime > 0
    lock.verify()
    owned(tmp_path, pid=2, host="elsewhere")
    with pytest.raises(OSError, match="took the folder over"):
        lock.verify()
    lock.release()
    lock.release()
    assert json.loads((tmp_path / ".lock").read_text())["pid"] == 2  # the other's claim stays


def test_a_full_disk_has_room_for_a_lock(tmp_path):
    folder = tmp_path / "disk"
    with disk(folder, "size=1m"):
        with contextlib.suppress(OSError), open(folder / "filling", "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        assert isinstance(fault(save(folder, 1, {"x": np.zeros(10_000)}), QUIET), FileUnwritable)
        value(writer(folder).use(lambda _: Effect.from_value(1)))


def test_of_two_that_take_over_at_once_the_last_wins(tmp_path, without_locks, monkeypatch):
    monkeypatch.setattr(locks.time, "sleep", lambda seconds: owned(tmp_path, pid=2, host="elsewhere"))
    assert fault(save(tmp_path, 1, {}), QUIET).owner == "process 2 on elsewhere"


@pytest.mark.parametrize("content", [b"", b"text", b"[]", b"\xff" * 9000, b'{"pid": "x", "host": 3}'])
def test_a_damaged_lock_file_is_no_obstacle(tmp_path, content):
    (tmp_path / ".lock").write_bytes(content)
    value(save(tmp_path, 1, {}))


def test_a_lock_file_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("text")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "precious")
    assert isinstance(fault(save(tmp_path / "run", 1, {}), QUIET), FileUnwritable)
    assert (tmp_path / "precious").read_text() == "text"


# ------------------------------------------------------------------------------- devices, sizes


@pytest.mark.slow
def test_arrays_on_other_devices_and_over_several(tmp_path):
    code = """
import sys, jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from fnlamp.checkpoint import read, write
one, two = jax.devices()
mesh = Mesh(np.array([one, two]), ("data",))
tree = {
    "other": jax.device_put(jnp.arange(3), two),
    "sharded": jax.device_put(jnp.arange(8.0), NamedSharding(mesh, PartitionSpec("data"))),
    "replicated": jax.device_put(jnp.arange(4), NamedSharding(mesh, PartitionSpec())),
    "key": jax.device_put(jax.random.key(1), two),
}
with jax.transfer_guard("disallow"):
    back = write(sys.argv[1], tree).then(read(sys.argv[1])).run_or_raise().tree
for name in ("other", "sharded", "replicated"):
    np.testing.assert_array_equal(back[name], tree[name])
assert jax.random.key_data(back["key"]).tolist() == jax.random.key_data(tree["key"]).tolist()
print("same")
"""
    options = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    assert run(code, tmp_path / "a.npz", env=options).communicate()[0] == "same\n"


@pytest.mark.slow
def test_10_000_leaves(tmp_path):
    tree = {f"layer{n}": {"weight": np.full((4, 2), n), "bias": np.float32(n)} for n in range(5000)}
    start = time.monotonic()
    back = value(write(tmp_path / "a.npz", tree).then(read(tmp_path / "a.npz"))).tree
    assert time.monotonic() - start < 20  # 1 on a quiet machine
    assert list(back) == list(tree)
    assert back["layer4999"]["weight"][0, 0] == back["layer4999"]["bias"] == 4999


def test_arrays_that_share_memory_are_apart_afterwards(tmp_path):
    base = np.arange(10)
    back = value(write(tmp_path / "a.npz", [base, base, base[2:5]]).then(read(tmp_path / "a.npz"))).tree
    back[0][:] = 0
    assert back[1].tolist() == list(range(10)) and back[2].tolist() == [2, 3, 4]


def test_arrays_larger_than_a_piece(tmp_path, monkeypatch):
    from fnlamp.checkpoint import manifest

    monkeypatch.setattr(manifest, "PIECE", 1000)
    tree = {f"{n}": np.random.default_rng(n).integers(0, 255, n, np.uint8) for n in (0, 1, 999, 1000, 1001, 5000)}
    back = value(write(tmp_path / "a.npz", tree).then(read(tmp_path / "a.npz"))).tree
    for name in tree:
        np.testing.assert_array_equal(tree[name], back[name])


def test_plain_values_beyond_the_limit_are_refused_before_a_file_is_written(tmp_path, monkeypatch):
    from fnlamp.checkpoint import manifest

    monkeypatch.setattr(manifest, "LIMIT", 1000)
    found = fault(write(tmp_path / "a.npz", {"text": "x" * 1000}), QUIET)
    assert "arrays" in str(found)
    assert not Path(tmp_path, "a.npz").exists() and names(tmp_path) == []


def test_memory_is_one_copy_at_most(tmp_path):
    import tracemalloc

    tree = {f"{n}": np.ones(500_000) for n in range(10)}  # 40 MB
    tree["turned"] = np.asfortranarray(np.ones((500, 1000)))
    size = sum(each.nbytes for each in tree.values())

    def peak_of(action):
        tracemalloc.start()
        kept = action()
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return kept, found / size

    def body(each):
        for step in range(3):
            each.submit(step, tree)
        each.wait()

    assert peak_of(lambda: value(write(tmp_path / "a.npz", tree)))[1] < 0.05
    assert peak_of(lambda: using(tmp_path / "run", body))[1] < 1.05
    assert peak_of(lambda: value(read(tmp_path / "a.npz")))[1] < 1.05
