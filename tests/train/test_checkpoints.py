"""Runs that save themselves: resumed from any save, they end with the same bits; another program is a fault."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
import signal
import threading
import time

import jax
import numpy as np
import pytest
from catalogue import RULES, WRAPPERS
from outcomes import fault, value

from fnlamp import Matrix, Role, Tag, checkpoint, loss, nn, optim, stream, train
from fnlamp.effect import Effect, Interrupted, Runtime, sleep
from fnlamp.fault import (
    FileCorrupt,
    FileUnwritable,
    NonFinite,
    NotStorable,
    ProgramDiffers,
    ResumedElsewhere,
    RunExists,
    StateMismatch,
)
from fnlamp.train import Checkpoints, fork, resumable
from fnlamp.train.start import resumed_carry
from fnlamp.train.stored import ARRAYS, state_in, stored

QUIET = Runtime(log=None)
X = np.random.default_rng(0).normal(size=(44, 6)).astype(np.float32)
Y = (X @ np.arange(6, dtype=np.float32) > 0).astype(np.int32)


def settings(**changed):
    """A run in which everything that can be lost is there."""
    model = nn.linear(8) >> nn.batch_norm() >> nn.relu >> nn.dropout(0.3) >> nn.linear(2)
    folds = {"best": train.best(), "top": train.top_k(2), "slower": train.reduce_on_plateau(0.5, 1), "stop": train.patience(9)}
    given = {
        "model": train.supervised(model, loss.cross_entropy()),
        "optimizer": optim.ema(optim.adamw(0.05), 0.9),
        "train_batches": lambda context: stream.minibatches(X, Y, batch_size=8, seed=context.seed),
        "validation_batches": lambda context: stream.minibatches(X, Y, batch_size=16),
        "epochs": 4,
        "seed": 3,
        "schedule": optim.cosine(20),
        "gradient": train.microbatches(2),
        "metrics": {"accuracy": loss.accuracy},
        "train_metrics": {"accuracy": loss.accuracy},
        "folds": folds,
    }
    return given | changed


def bits(trained):
    """Everything that a run gives, as bytes and plain values; not its times."""
    kept = [each if isinstance(each, tuple) else (each,) for each in trained.kept.values()]
    weights = [(slot.params, slot.layer_state, slot.epoch) for slots in kept for slot in slots]
    arrays = jax.tree.leaves((trained.params, trained.layer_state, trained.state, weights))
    leaves = [np.asarray(leaf).tobytes() for leaf in arrays]
    return leaves, [dataclasses.replace(report, seconds=0.0) for report in trained.curve]


def same(one, other):
    (ours, curve), (theirs, other_curve) = bits(one), bits(other)
    assert ours == theirs
    assert curve == other_curve


class Patient(train.Stepwise):
    """Step by step, with time to write each save."""

    def fold(self, *given):
        for reached in super().fold(*given):
            time.sleep(0.03)
            yield reached


SLOWLY = dataclasses.replace(QUIET, executor=Patient())


@pytest.mark.slow
@pytest.mark.parametrize("executor", [train.Stepwise(), train.Fused(chunk=2)], ids=["stepwise", "fused"])
def test_a_run_resumed_from_any_of_its_saves_ends_with_the_same_bits(tmp_path, executor):
    whole = value(train.epochs(**settings()), QUIET)
    everything = Checkpoints(tmp_path / "all", steps=2, keep=checkpoint.keep_all)
    same(value(train.epochs(**settings(checkpoints=everything)), SLOWLY), whole)
    saves = value(checkpoint.saves(tmp_path / "all"), QUIET)
    assert {2, 6, 12, 18, 24} <= {save.step for save in saves}
    assert any(save.step % 6 for save in saves[2:])  # within an epoch
    for save in saves[::3] + saves[-1:]:
        saved = value(checkpoint.read(save.path), QUIET)
        same(value(train.epochs(**settings(resume=saved)), dataclasses.replace(QUIET, executor=executor)), whole)


@pytest.mark.slow
def test_a_finished_run_is_returned_at_once(tmp_path):
    calls = []

    def program(saved):
        def batches(context):
            calls.append(context.epoch)
            return stream.minibatches(X, Y, batch_size=8, seed=context.seed)

        return train.epochs(**settings(train_batches=batches, resume=saved, checkpoints=Checkpoints(tmp_path)))

    first = value(resumable(tmp_path, program), QUIET)
    seen = len(calls)
    again = value(resumable(tmp_path, program), QUIET)
    same(first, again)
    assert first.saved == again.saved == str(tmp_path / "000000000024.npz")
    assert calls[seen:] == [5, 1]  # for the shapes, and for the data of the first epoch; no step is taken


PLACES = ["train_batches", "validation_batches", "on_epoch", "sleep", "log"]


@pytest.mark.broad
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["sigterm", "ctrl_c"])
def test_an_interrupted_run_saves_itself_and_a_resumed_one_records_each_epoch_once(tmp_path, place, number):
    folder, records, stopped = tmp_path / "saves", tmp_path / "records.jsonl", []

    def stop(where, epoch=2):
        if (where, epoch) == (place, 2) and not stopped:
            stopped.append(where)
            os.kill(os.getpid(), number)

    def program(saved):
        given = settings()

        def calling(name):
            def batches(context):
                stop(name, context.epoch)
                return given[name](context)

            return batches

        def record(report):
            row = {**dataclasses.asdict(report), "seconds": None}
            stop("on_epoch", report.epoch)
            wait = sleep(0.0) if report.epoch != 2 else Effect.suspend(lambda: stop("sleep")).then(sleep(0.2))
            return wait.then(checkpoint.append(records, row))

        streams = {name: calling(name) for name in ("train_batches", "validation_batches")}
        return train.epochs(**given | streams, on_epoch=record, resume=saved, checkpoints=Checkpoints(folder, steps=1))

    runtime = dataclasses.replace(QUIET, log=lambda line: stop("log", 2 if line.startswith("Epoch 2") else 0))
    interrupted = fault(resumable(folder, program), runtime)
    assert stopped == [place]
    assert isinstance(interrupted, Interrupted)
    assert interrupted.state.saved in str(interrupted)
    saved = value(checkpoint.read(interrupted.state.saved))
    assert saved.tree["epoch"] == 2  # none of the places is after the hook of epoch 2
    resumed = value(resumable(folder, program), QUIET)
    same(resumed, value(train.epochs(**settings()), QUIET))
    rows = [json.loads(line) for line in records.read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]


def test_a_second_signal_does_not_wait_for_the_last_save(tmp_path, monkeypatch):
    """The writer is stuck; the run ends all the same, and the save before is whole."""
    stuck = threading.Event()
    real = os.fsync

    def fsync(descriptor):
        if stopped:
            stuck.wait(20)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    stopped = []

    def hook(report):
        if report.epoch == 2:
            while not list(tmp_path.glob("0*.npz")):
                time.sleep(0.01)
            stopped.append(0)
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()

    since = time.monotonic()
    program = train.epochs(**settings(on_epoch=hook, checkpoints=Checkpoints(tmp_path)))
    interrupted = fault(program, QUIET)
    stuck.set()
    assert isinstance(interrupted, Interrupted)
    assert time.monotonic() - since < 15
    assert value(checkpoint.read(interrupted.state.saved)).tree["epoch"] == 2


def test_the_grace_bounds_the_last_save(tmp_path, monkeypatch):
    stuck, stopped, real = threading.Event(), [], os.fsync

    def fsync(descriptor):
        if stopped:
            stuck.wait(20)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)

    def hook(report):
        if report.epoch == 2:
            stopped.append(0)
            os.kill(os.getpid(), signal.SIGTERM)

    since = time.monotonic()
    lines = []
    program = train.epochs(**settings(on_epoch=hook, checkpoints=Checkpoints(tmp_path, grace=0.5)))
    assert isinstance(fault(program, Runtime(log=lines.append)), Interrupted)
    stuck.set()
    assert time.monotonic() - since < 15
    assert any("not finished" in line for line in lines)


OTHERS = {
    "optimizer": {"optimizer": optim.ema(optim.adamw(0.06), 0.9)},
    "schedule": {"schedule": optim.cosine(30)},
    "seed": {"seed": 4},
    "batch size": {"train_batches": lambda context: stream.minibatches(X, Y, batch_size=11, seed=context.seed)},
    "data": {"train_batches": lambda context: stream.minibatches(X + 1, Y, batch_size=8, seed=context.seed)},
    "functions of model": {"model": train.supervised(settings()["model"].layer, loss.cross_entropy(label_smoothing=0.1))},
    "model": {
        "model": train.supervised(
            nn.linear(8) >> nn.batch_norm() >> nn.relu >> nn.dropout(0.4) >> nn.linear(2), loss.cross_entropy()
        )
    },
    "gradient": {"gradient": train.plain},
    "fold stop": {"folds": {**settings()["folds"], "stop": train.patience(8)}},
}


@pytest.fixture(scope="module")
def saves(tmp_path_factory):
    """The saves after the first epoch, and within the second."""
    folder = tmp_path_factory.mktemp("saves")
    policy = Checkpoints(folder, steps=3, keep=checkpoint.keep_all)
    value(train.epochs(**settings(checkpoints=policy)), SLOWLY)
    found = value(checkpoint.saves(folder))
    return [value(checkpoint.read(save.path)) for save in found if save.step in (6, 9)]


@pytest.mark.slow
@pytest.mark.parametrize("what", OTHERS)
def test_another_program_is_a_fault_that_lists_what_differs_and_a_fork_permits_it(tmp_path, saves, what):
    other = train.epochs(**settings() | OTHERS[what] | {"resume": saves[0]})
    assert isinstance(other.explain().fault, ProgramDiffers)
    found = fault(other, QUIET)
    assert isinstance(found, ProgramDiffers)
    assert what in [name.partition(",")[0] for name, _, _ in found.differing]
    assert "train.fork(saved)" in str(found)
    forked = value(
        train.epochs(**settings() | OTHERS[what] | {"resume": fork(saves[0]), "checkpoints": Checkpoints(tmp_path)}), QUIET
    )
    assert [report.epoch for report in forked.curve] == [1, 2, 3, 4]
    assert value(checkpoint.latest(tmp_path)).note["parent"] == saves[0].path


def test_another_model_is_a_fault_that_lists_the_arrays(saves):
    deeper = nn.linear(9) >> nn.batch_norm() >> nn.relu >> nn.dropout(0.3) >> nn.linear(2) >> nn.linear(2)
    for start in (saves[0], fork(saves[0])):
        found = fault(train.epochs(**settings(model=train.supervised(deeper, loss.cross_entropy()), resume=start)), QUIET)
        assert isinstance(found, StateMismatch)
        assert "params/5/bias" in found.missing
        assert "params/0/bias" in [text.partition(":")[0] for text in found.differing]


def test_a_fork_with_the_same_program_has_the_same_bits(saves):
    whole = value(train.epochs(**settings()), QUIET)
    for save in saves:
        same(value(train.epochs(**settings(resume=fork(save))), QUIET), whole)


def test_other_data_within_an_epoch_is_a_fault_for_a_fork_too(saves):
    program = train.epochs(**settings() | OTHERS["batch size"] | {"resume": fork(saves[1])})
    assert isinstance(fault(program, QUIET), ResumedElsewhere)


def test_the_weights_of_a_save_are_a_start(saves):
    trained = value(train.epochs(**settings(initial=saves[0], epochs=0)), QUIET)
    assert all(
        np.array_equal(one, other)
        for one, other in zip(jax.tree.leaves(trained.params), jax.tree.leaves(saves[0].tree["params"]), strict=True)
    )


def test_a_new_run_does_not_save_into_the_folder_of_another(tmp_path):
    def program(**start):
        return train.epochs(**settings(epochs=2, checkpoints=Checkpoints(tmp_path), **start))

    value(program(), QUIET)
    assert isinstance(fault(program(), QUIET), RunExists)
    first = value(checkpoint.read(value(checkpoint.saves(tmp_path))[0].path))
    assert isinstance(fault(program(resume=first), QUIET), RunExists)


def test_a_save_of_something_else_is_a_fault(tmp_path):
    value(checkpoint.save(tmp_path, 3, {"weights": np.zeros(3)}))
    found = fault(resumable(tmp_path, lambda saved: train.epochs(**settings(resume=saved))), QUIET)
    assert isinstance(found, FileCorrupt)
    assert "training run" in str(found)


@pytest.mark.parametrize("on_failure", ["stop", "warn"])
def test_a_save_that_fails_is_in_the_result(tmp_path, on_failure):
    folder, lines = tmp_path / "saves", []

    def hook(report):
        if report.epoch == 2:
            shutil.rmtree(folder)

    program = train.epochs(**settings(on_epoch=hook, checkpoints=Checkpoints(folder, on_failure=on_failure)))
    runtime = Runtime(log=lines.append)
    if on_failure == "stop":
        found = fault(program, runtime)
        assert isinstance(found, FileUnwritable)
        assert found.state.state.epoch >= 2
    else:
        trained = value(program, runtime)
        assert len(trained.curve) == 4
        assert trained.unsaved
        assert all(isinstance(each, FileUnwritable) for each in trained.unsaved)
    assert any(line.startswith("not saved") for line in lines)


def test_saves_that_a_policy_does_not_keep_are_deleted(tmp_path):
    value(train.epochs(**settings(checkpoints=Checkpoints(tmp_path, keep=checkpoint.keep_best("validation_loss")))), QUIET)
    kept = value(checkpoint.saves(tmp_path))
    losses = [save.note["validation_loss"] for save in kept]
    curve = [report.validation_loss for report in value(train.epochs(**settings()), QUIET).curve]
    assert min(losses) == pytest.approx(min(curve), abs=0)
    assert len(kept) <= 2


def test_a_run_under_another_counter_of_seconds_saves_when_they_have_passed(tmp_path):
    class Clock:
        time = 0.0

        def now(self):
            self.time += 0.5
            return self.time

        def sleep(self, seconds, cancel): ...

    policy = Checkpoints(tmp_path, seconds=2, epochs=None, keep=checkpoint.keep_all)
    value(train.epochs(**settings(checkpoints=policy)), Runtime(log=None, clock=Clock(), executor=train.Stepwise()))
    assert 3 <= len(value(checkpoint.saves(tmp_path))) <= 24


@pytest.mark.slow
def test_streams_with_positions_of_many_kinds_are_resumed(tmp_path):
    def batches(context):
        halves = [
            stream.minibatches(X[part], Y[part], batch_size=4, seed=context.seed) for part in (slice(0, 20), slice(20, 44))
        ]
        joined = stream.from_items([(X[at : at + 4], Y[at : at + 4]) for at in range(0, 44, 4)])
        return halves[0].concat(halves[1]).interleave(joined).shuffle_buffer(4, seed=context.seed).take(15).drop(1)

    plain = settings(train_batches=batches, gradient=train.plain)
    whole = value(train.epochs(**plain), QUIET)
    policy = Checkpoints(tmp_path, steps=1, keep=checkpoint.keep_all)
    value(train.epochs(**plain, checkpoints=policy), SLOWLY)
    saves = value(checkpoint.saves(tmp_path))
    for save in saves[4::9]:
        same(value(train.epochs(**plain, resume=value(checkpoint.read(save.path))), QUIET), whole)


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"folder": 3}, TypeError, "folder"),
        ({"folder": "a", "steps": 0}, ValueError, "steps"),
        ({"folder": "a", "seconds": 0}, ValueError, "seconds"),
        ({"folder": "a", "epochs": 1.5}, TypeError, "epochs"),
        ({"folder": "a", "keep": 3}, TypeError, "keep"),
        ({"folder": "a", "on_failure": "ignore"}, ValueError, "on_failure"),
        ({"folder": "a", "grace": -1}, ValueError, "grace"),
    ],
)
def test_wrong_arguments_are_named(given, error, text):
    with pytest.raises(error, match=text):
        Checkpoints(**given)


def test_the_step_that_broke_is_taken_again():
    broken = X.copy()
    broken[30, 2] = np.inf
    model = train.supervised(nn.linear(8) >> nn.relu >> nn.linear(2), loss.cross_entropy())
    program = train.epochs(
        model=model,
        optimizer=optim.sgdw(0.1),
        train_batches=lambda context: stream.minibatches(broken, Y, batch_size=4),
        epochs=1,
    )
    found = fault(program, QUIET)
    assert isinstance(found, NonFinite)
    step = value(train.rerun(found))
    first = step.culprits[0]
    assert (first.path, first.index, first.count, first.size) == ("batch/0", (2, 2), 1, 24)
    assert {"loss", "gradient/0/weight", "params after/0/weight"} <= {each.path for each in step.culprits}
    assert fault(train.rerun(pickle.loads(pickle.dumps(found)))).where == "rerun"


def test_a_position_that_a_file_cannot_give_back_is_a_fault_at_the_first_save(tmp_path):
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(frozen=True)
    class Place:
        at: int

    def batch(place):
        at = 0 if place is None else place.at
        return stream.Emit((X[at : at + 4], Y[at : at + 4]), Place(at + 4)) if at < 44 else stream.End()

    batches = stream.BatchStream(None, batch, jax.eval_shape(lambda: (X[:4], Y[:4])), 11)
    given = settings(train_batches=lambda context: batches, gradient=train.plain)
    found = fault(train.epochs(**given, checkpoints=Checkpoints(tmp_path, steps=1)), SLOWLY)
    assert isinstance(found, NotStorable)
    assert "Place" in str(found)


def test_explain_says_when_a_run_saves_itself(tmp_path):
    text = str(train.epochs(**settings(checkpoints=Checkpoints(tmp_path, steps=100, seconds=60))).explain())
    assert f"saves in {tmp_path}, every 100 steps, every 60 seconds, every epoch, at the end and when the run stops" in text


OPTIMIZERS = {
    **RULES,
    **{f"{name} of adamw": lambda wrap=wrap: wrap(optim.adamw(0.01)) for name, wrap in WRAPPERS.items()},
}


@pytest.mark.broad
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_file_gives_back_the_state_of_every_optimizer(tmp_path, name):
    """Its tree, dtypes and bits, after two steps."""
    params = {"0": {"weight": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4), "bias": np.zeros(4, np.float32)}}
    tags = {"0": {"weight": Tag("linear", Role.WEIGHT, matrix=Matrix()), "bias": Tag("linear", Role.BIAS)}}
    optimizer = OPTIMIZERS[name]()

    def taken(params):
        params, state = jax.tree.map(jax.numpy.asarray, params), None
        state = optimizer.init(params, tags)
        for _ in range(2):
            grads = jax.tree.map(lambda x: 0.1 * x + 0.01, params)
            params, state = optimizer.advance(grads, state, params, tags, 1.0)
        return train.state.Carry(np.int32(2), params, {}, state, np.zeros(5, np.float32))

    whole, spec = jax.jit(taken)(params), jax.eval_shape(taken, params)
    state = train.TrainState(*(getattr(whole, part) for part in ARRAYS), 1, None)
    trained = train.Trained(None, whole.params, {}, (), state)
    saved = value(checkpoint.write(tmp_path / "a.npz", stored(trained, {})).then(checkpoint.read(tmp_path / "a.npz")))
    again = resumed_carry(state_in(saved), spec, saved.tree["tally"])
    assert jax.tree.structure(again) == jax.tree.structure(whole)
    for ours, theirs, leaf in zip(*map(jax.tree.leaves, (whole, again, spec)), strict=True):
        assert (ours.dtype, ours.shape, np.asarray(ours).tobytes()) == (
            theirs.dtype,
            theirs.shape,
            np.asarray(theirs).tobytes(),
        )
        assert not leaf.weak_type  # a file has no weak types
