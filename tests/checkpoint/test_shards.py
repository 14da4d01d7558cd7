"""Saves in shards: the contents come back, what is damaged or not whole is found, and nothing is unpickled."""

from __future__ import annotations

import os
import pickle
import shutil
import sys
from functools import partial as given
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from outcomes import fault, needs, same_bytes, value

from fnlamp import checkpoint, loss, nn, optim, stream, train, tree
from fnlamp.checkpoint import keep_any, keep_best, keep_last, latest, partial, read, saves, write, writer
from fnlamp.checkpoint.shards import DTYPES, Shards
from fnlamp.effect import Effect, Runtime
from fnlamp.fault import (
    ExtraMissing,
    FaultError,
    FileCorrupt,
    FileMissing,
    FileUnwritable,
    ProgramDiffers,
    RunExists,
    StateMismatch,
)
from fnlamp.scale import Cluster
from fnlamp.scale.peers import Life
from fnlamp.scale.ready import unsaved

pytestmark = needs("orbax")
QUIET = Runtime(log=None)
TOKENS = iter(f"{number:016x}" for number in range(10**6))


def using(folder, body, **options):
    return value(writer(folder, **options).use(lambda each: Effect.suspend(lambda: body(each))), QUIET)


def put(folder, step, content, note=None, **options):
    """One save; the faults of the writer."""

    def body(each):
        form = Shards(next(TOKENS), **options)
        form.prepare(each.folder)
        each.submit(step, content, note or {}, form=form)
        assert each.wait(60)
        return each.failures()

    return using(folder, body)


def weights(*shape):
    return jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape)


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def whole(loaded):
    return jax.tree.map(lambda x: np.asarray(x) if isinstance(x, checkpoint.Unread) else x, loaded.tree)


def test_a_tree_comes_back_bit_for_bit_and_is_read_on_request(tmp_path):
    random = np.random.default_rng(0)
    arrays = {}
    with jax.enable_x64(True):
        for dtype in sorted(DTYPES, key=str):
            bits = random.integers(0, 2 if dtype == np.bool_ else 120, 24, np.uint8)
            arrays[str(dtype)] = jnp.asarray(bits.astype(dtype).reshape(4, 6))
        content = {
            "arrays": arrays,
            "plain": ("text", None, 2.5, [1, {"b": 2, "a": 1}]),
            "small": (jnp.float32(0.5), jnp.zeros((0, 3)), np.arange(3)),
            "key": jax.random.key(3),
            "a.b": {"c/d": weights(2, 3)},
            "a": {"b.c": {"d": weights(3, 2)}},
            "by other means": jnp.asarray([1, 2], jnp.int4),
        }
        assert put(tmp_path, 7, content, {"loss": 0.5}) == ()
        assert names(tmp_path) == ["000000000007-1.orbax"]
        loaded = value(latest(tmp_path))
        assert (loaded.step, loaded.note) == (7, {"loss": 0.5})
        assert str(loaded.tree["arrays"]["float32"]) == "float32[4, 6]"
        found = whole(loaded)
    assert found.pop("plain") == content.pop("plain")
    assert list(loaded.tree["plain"][3][1]) == ["b", "a"]
    assert jax.random.key_data(found.pop("key")).tolist() == jax.random.key_data(content.pop("key")).tolist()
    same_bytes(found, jax.tree.map(np.asarray, content))


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("pickle was called")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    put(tmp_path, 1, {"weight": weights(4, 4)})
    assert whole(value(latest(tmp_path)))["weight"].tolist() == weights(4, 4).tolist()


def test_partial_and_one_file_take_what_was_read(tmp_path):
    put(tmp_path, 1, {"weight": weights(4, 4)})
    loaded = value(latest(tmp_path))
    found = partial({"weight": jnp.zeros((4, 4))}, loaded)
    assert found.loaded == ("weight",)
    assert type(found.tree["weight"]) is np.ndarray
    one = str(tmp_path / "one.npz")
    assert value(write(one, whole(loaded)).then(read(one))).tree["weight"].tolist() == weights(4, 4).tolist()


# ------------------------------------------------------------------------------- damage


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")


@pytest.fixture
def two(tmp_path):
    """A folder with two saves, and the files of the newer one."""
    for step in (1, 2):
        put(tmp_path, step, {"weight": weights(64, 64) + step, "step": np.array(step)})
    return tmp_path, files(tmp_path / "000000000002-2.orbax")


def test_a_save_that_lacks_a_file_or_a_byte_is_passed_over(two):
    folder, inside = two
    assert len(inside) > 4
    for path in inside:
        before = path.read_bytes()
        for harmed in (None, before[:-1]):
            path.unlink() if harmed is None else path.write_bytes(harmed)
            log = []
            assert value(latest(folder), Runtime(log=log.append)).step == 1
            assert any("passed over a damaged save" in line and "000000000002-2.orbax" in line for line in log), log
            path.write_bytes(before)
    assert value(latest(folder)).step == 2


def test_a_flipped_bit_in_any_file_is_a_fault_when_the_arrays_are_read(two):
    folder, inside = two
    for path in inside:
        before = path.read_bytes()
        harmed = bytearray(before)
        harmed[len(before) // 2] ^= 1
        path.write_bytes(harmed)
        with pytest.raises(FaultError) as caught:
            whole(read(folder / "000000000002-2.orbax").run_or_raise(QUIET))
        assert isinstance(caught.value.fault, FileCorrupt)
        assert ("manifest.json" if path.name == "state.npz" else path.name) in str(caught.value.fault)
        path.write_bytes(before)


def test_a_folder_that_is_not_a_save(tmp_path):
    assert isinstance(fault(read(tmp_path / "000000000002-2.orbax")), FileMissing)
    (tmp_path / "000000000002-2.orbax").mkdir()
    found = fault(latest(tmp_path))
    assert isinstance(found, FileCorrupt)
    assert "state.npz" in str(found)
    put(tmp_path, 1, {"weight": weights(2, 2)})
    assert value(latest(tmp_path)).step == 1


# ------------------------------------------------------------------------------- whole or not there


@pytest.mark.parametrize(
    ("life", "reason"),
    [
        (Life("5.0|left||", 20.0), "process 1 ended before its part was written"),
        (Life(f"5.0||{'f' * 16}|computing"), "process 1 could not write its part"),
    ],
)
def test_a_save_without_the_part_of_a_process_does_not_exist(tmp_path, life, reason):
    put(tmp_path, 1, {"weight": weights(2, 2)})
    cluster = Cluster(0, 2, 10.0, SimpleNamespace(lives={1: life}))

    def body(each):
        form = Shards("f" * 16, 0, 2, given(unsaved, cluster, "f" * 16))
        form.prepare(each.folder)
        each.submit(2, {"weight": weights(2, 2)}, form=form)
        assert each.wait(60)
        return each.failures(), each.newest.step

    (found,), newest = using(tmp_path, body)
    assert isinstance(found, FileUnwritable)
    assert reason in str(found)
    assert newest == 1
    assert names(tmp_path) == ["000000000001-1.orbax"]


def test_a_killed_run_leaves_no_save_and_the_next_one_removes_its_part(tmp_path):
    part = tmp_path / f".save-{'a' * 16}.part" / "arrays"
    part.mkdir(parents=True)
    (part / "manifest.ocdbt").write_bytes(b"half")
    assert value(saves(tmp_path)) == ()
    put(tmp_path, 1, {"weight": weights(2, 2)})
    assert names(tmp_path) == ["000000000001-1.orbax"]


def test_a_process_that_does_not_see_the_folder_says_so(tmp_path):
    with pytest.raises(FaultError, match="process 1 does not see what process 0 made there"):
        Shards("b" * 16, 1, 2).packed(str(tmp_path), {}, {})


def test_a_process_that_cannot_write_its_part_says_so_to_process_0(tmp_path):
    told = []
    form = Shards("b" * 16, 1, 2, give_up=lambda: told.append("said"))
    with pytest.raises(FaultError):
        form.packed(str(tmp_path), {"weight": weights(2, 2)}, {})
    form.prepare(str(tmp_path))
    parts = form.packed(str(tmp_path), {"weight": weights(2, 2)}, {})
    for future in parts.futures:
        future.result()
    shutil.rmtree(form.part(str(tmp_path)))
    with pytest.raises(FaultError):
        form.write(str(tmp_path), parts, 1, 1, lambda: None, lambda rename: rename())
    assert told == ["said", "said"]


def test_a_process_that_follows_neither_locks_nor_deletes(tmp_path):
    def body(each):
        form = Shards("c" * 16, 1, 2)
        form.prepare(each.folder)
        with_lock = writer(tmp_path).use(lambda _: Effect.from_value("locked"))
        assert value(with_lock, QUIET) == "locked"
        form.prepare(each.folder)
        each.submit(1, {"weight": weights(2, 2)}, form=form)
        assert each.wait(60)
        return each.failures(), each.newest

    assert using(tmp_path, body, leads=False) == ((), None)
    assert names(tmp_path / f".save-{'c' * 16}.part") == ["arrays", "written.1"]


def test_the_saves_to_keep_are_chosen_as_among_files(tmp_path):
    def body(each):
        for step, loss_ in [(1, 0.1), (2, 0.5), (2, 0.4), (3, 0.3), (4, 0.2)]:
            form = Shards(next(TOKENS))
            form.prepare(each.folder)
            each.submit(step, {"weight": weights(2, 2)}, {"loss": loss_}, form=form)
        each.submit(5, {"weight": weights(2, 2)}, {"loss": 0.6})  # one file
        assert each.wait(60)
        return each.failures()

    assert using(tmp_path, body, keep=keep_any(keep_last(2), keep_best("loss"))) == ()
    assert [(saved.step, saved.note["loss"]) for saved in value(saves(tmp_path))] == [(1, 0.1), (4, 0.2), (5, 0.6)]
    assert names(tmp_path) == ["000000000001-1.orbax", "000000000004-5.orbax", "000000000005.npz"]


# ------------------------------------------------------------------------------- a run


def describe(width=4, rate=0.1, **options):
    x = np.linspace(-1, 1, 16, dtype=np.float32)[:, None]
    given = {
        "model": train.supervised(nn.linear(width) >> nn.batch_norm() >> nn.relu >> nn.linear(1), loss.mse()),
        "optimizer": optim.adamw(rate),
        "train_batches": lambda context: stream.minibatches(x, 3 * x, batch_size=4, seed=context.seed),
        "folds": {"best": train.best("train_loss")},
        "epochs": 4,
    }
    return train.epochs(**given | options)


def test_a_run_resumes_bit_for_bit_in_either_form(tmp_path):
    reference = value(describe(), QUIET)
    for form in ("file", "shards"):
        folder = tmp_path / form
        policy = train.Checkpoints(folder, steps=3, form="shards")
        value(describe(epochs=2, checkpoints=policy), Runtime(log=None, executor=train.Fused(chunk=3)))
        program = train.resumable(
            folder,
            lambda saved, folder=folder, form=form: describe(resume=saved, checkpoints=train.Checkpoints(folder, form=form)),
        )
        found = value(program, QUIET)
        same_bytes((found.params, found.state.optimizer_state), (reference.params, reference.state.optimizer_state))
        assert [report.train_loss for report in found.curve] == [report.train_loss for report in reference.curve]
        same_bytes(found.kept["best"].params, tree.map(np.asarray, reference.kept["best"].params))
        assert found.saved.endswith("000000000016.npz" if form == "file" else ".orbax")


def test_another_program_other_shapes_and_another_run_are_faults(tmp_path):
    value(describe(checkpoints=train.Checkpoints(tmp_path, form="shards")), QUIET)
    saved = value(latest(tmp_path))
    assert isinstance(fault(describe(rate=0.2, resume=saved), QUIET), ProgramDiffers)
    found = fault(describe(width=5, resume=train.fork(saved)), QUIET)
    assert isinstance(found, StateMismatch)
    assert "params/0/weight: expected float32[1, 5], got float32[1, 4]" in found.differing
    assert isinstance(fault(describe(checkpoints=train.Checkpoints(tmp_path, form="shards")), QUIET), RunExists)
    forked = value(describe(rate=0.2, epochs=5, resume=train.fork(saved)), QUIET)
    assert len(forked.curve) == 5
    started = value(describe(epochs=0, initial=saved), QUIET)
    same_bytes(tree.map(np.asarray, started.params), tree.map(np.asarray, saved_params(saved)))


def saved_params(saved):
    return tree.map(np.asarray, saved.tree["params"])


def test_a_folder_that_cannot_be_made_ends_the_run_or_is_a_warning(tmp_path, monkeypatch):
    def refuse(self, folder):
        raise FaultError(FileUnwritable(folder, "No space left on device"))

    monkeypatch.setattr(Shards, "prepare", refuse)
    assert isinstance(fault(describe(checkpoints=train.Checkpoints(tmp_path, form="shards")), QUIET), FileUnwritable)
    policy = train.Checkpoints(tmp_path, form="shards", on_failure="warn")
    found = value(describe(checkpoints=policy), QUIET)
    assert found.saved is None
    assert {str(each) for each in found.unsaved} == {f"{tmp_path}: cannot be written (No space left on device)"}


def test_an_error_of_orbax_is_a_fault_and_nothing_is_left(tmp_path, monkeypatch):
    import orbax.checkpoint

    def refuse(*_, **__):
        raise ValueError("RESOURCE_EXHAUSTED: no space left\nmore")

    monkeypatch.setattr(orbax.checkpoint.PyTreeCheckpointHandler, "finalize", refuse)
    (found,) = put(tmp_path, 1, {"weight": weights(2, 2)})
    assert found == FileUnwritable(str(tmp_path), "RESOURCE_EXHAUSTED: no space left")
    assert names(tmp_path) == []


def test_without_the_extra_the_fault_names_it(tmp_path, monkeypatch):
    put(tmp_path, 1, {"weight": weights(2, 2)})
    loaded = value(latest(tmp_path))
    for name in [name for name in sys.modules if name.split(".")[0] == "orbax"]:
        monkeypatch.setitem(sys.modules, name, None)
    missing = ExtraMissing("orbax-checkpoint", "orbax")
    assert fault(describe(checkpoints=train.Checkpoints(tmp_path / "new", form="shards")), QUIET) == missing
    assert not os.path.exists(tmp_path / "new")
    with pytest.raises(FaultError) as caught:
        np.asarray(loaded.tree["weight"])
    assert caught.value.fault == missing


def test_the_form_is_checked_and_explained(tmp_path):
    with pytest.raises(ValueError, match='form is "file" or "shards", got \'folder\''):
        train.Checkpoints(tmp_path, form="folder")
    policy = train.Checkpoints(tmp_path, form="shards")
    assert str(policy).startswith(f"saves in shards in {tmp_path}, every epoch")
    assert "saves in shards" in str(describe(checkpoints=policy).explain())
