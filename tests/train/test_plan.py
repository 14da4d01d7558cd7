"""Plans: what `explain` shows and what it finds before anything is computed."""

from __future__ import annotations

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from returns.pipeline import is_successful
from returns.unsafe import unsafe_perform_io

from fnlamp import loss, nn, optim, stream, train
from fnlamp.effect import Effect, Resource, Runtime
from fnlamp.fault import BatchTooSmall, DtypeMismatch, EmptyEpoch, FaultError, LabelOutOfRange, ShapeMismatch

X = np.random.default_rng(3).random((25, 6), np.float32)
Y = X[:, :4].argmax(axis=1)
LAYER = nn.linear(8) >> nn.relu >> nn.linear(4)


def batches(context):
    return stream.minibatches(X, Y, batch_size=10, seed=context.seed)


def describe(layer=LAYER, objective=None, **options):
    defaults = {"optimizer": optim.adamw(1e-2), "train_batches": batches, "epochs": 2}
    return train.epochs(model=train.supervised(layer, objective or loss.cross_entropy()), **{**defaults, **options})


def fault_of_both(program):
    """The fault that the plan has; a run ends with the same, logs nothing else and makes no array."""
    gc.collect()  # what earlier tests left in cycles may go at any moment
    lines, before = [], len(jax.live_arrays())
    got = program.run(Runtime(log=lines.append))
    assert not is_successful(got)
    found = unsafe_perform_io(got.failure())
    assert program.explain().fault == found
    assert (lines, len(jax.live_arrays())) == ([f"failed: {type(found).__name__}: {found}"], before)
    return found


def test_a_plan_tells_steps_shapes_parameters_and_work():
    plan = describe(
        validation_batches=lambda c: stream.minibatches(X, Y, batch_size=20), metrics={"accuracy": loss.accuracy}
    ).explain()
    assert plan.fault is None
    assert "train 2 epochs of 3 steps of 10 rows, the last of 5" in plan
    assert "batch: (float32[10, 6], int32[10])" in plan
    assert "parameters: 92 (368 bytes), state 0 bytes, adamw 740 bytes" in plan  # two slots and the step
    assert "validate on 2 batches of 20 rows, the last of 5: loss, accuracy" in plan
    assert "MFLOP per step" in plan


def test_a_plan_tells_the_factors_of_a_schedule():
    plan = describe(schedule=optim.warmup(2, optim.linear_ramp(3.0, 0.0, 4))).explain()
    assert "schedule: 1.5 at first, 3 at most, 0.75 at last" in plan
    assert "schedule" not in describe(schedule=optim.constant(1)).explain()
    assert "schedule" not in describe(epochs=0, schedule=optim.cosine(3)).explain()
    assert "schedule: 1 at first" in describe(epochs=2**31, schedule=optim.cosine(3)).explain()


def test_the_work_is_about_six_products_a_parameter_and_row():
    # 2 forward, 2 for the gradient of the weight, 2 for that of the input, which the first layer has none of
    layer = nn.linear(256, bias=False) >> nn.linear(256, bias=False)
    x = np.zeros((64, 256), np.float32)
    plan = describe(
        layer, loss.mse(), optimizer=optim.sgdw(0.1), train_batches=lambda c: stream.full_batch(x, x), epochs=1
    ).explain()
    (line,) = [line for line in plan.splitlines() if "MFLOP" in line]
    products = 2 * 64 * 256**2 * 5 / 1e6
    assert products <= float(line.split()[1]) <= 1.05 * products


def test_planning_makes_no_array_and_calls_each_factory_once():
    calls = []
    program = describe(
        train_batches=lambda c: calls.append("train") or batches(c),
        validation_batches=lambda c: calls.append("validation") or batches(c),
    )
    gc.collect()  # arrays of earlier tests, which would go in between
    before = len(jax.live_arrays())
    program.explain()
    assert calls == ["train", "validation"]
    assert len(jax.live_arrays()) <= before  # others may go, which a cache held


def test_building_opens_no_file(tmp_path):
    missing = tmp_path / "missing.npy"
    program = describe(train_batches=lambda c: stream.full_batch(np.load(missing), Y))
    with pytest.raises(FileNotFoundError):
        program.run(Runtime(log=None))


def test_one_epoch_and_one_step_are_singular():
    plan = describe(train_batches=lambda c: stream.full_batch(X, Y), epochs=1).explain()
    assert "train 1 epoch of 1 step of 25 rows\n" in plan


@pytest.mark.slow
def test_the_data_of_validation_is_checked_before_the_first_step():
    def validating(x, y, **options):
        return describe(validation_batches=lambda c: stream.minibatches(x, y, batch_size=10, **options))

    assert isinstance(fault_of_both(validating(X[:, :5], Y)), ShapeMismatch)
    assert isinstance(fault_of_both(validating(X, Y + 1)), LabelOutOfRange)
    assert isinstance(fault_of_both(validating(X[:5], Y[:5], drop_last=True)), EmptyEpoch)
    assert isinstance(fault_of_both(validating((X * 9).astype(np.int32), Y)), DtypeMismatch)


def test_a_metric_that_does_not_fit_is_found_before_the_first_step():
    program = describe(validation_batches=batches, metrics={"error": loss.mse()})
    assert "mse" in fault_of_both(program).where


def test_a_short_batch_of_one_is_found_only_where_batch_norm_trains():
    layer = nn.linear(8) >> nn.batch_norm() >> nn.linear(4)
    one_left = lambda c: stream.minibatches(X[:21], Y[:21], batch_size=10)  # noqa: E731
    assert isinstance(fault_of_both(describe(layer, train_batches=one_left)), BatchTooSmall)
    assert describe(layer, validation_batches=one_left).explain().fault is None
    dropped = lambda c: stream.minibatches(X[:21], Y[:21], batch_size=10, drop_last=True)  # noqa: E731
    assert describe(layer, train_batches=dropped).explain().fault is None


def test_a_batch_is_a_pair():
    program = describe(train_batches=lambda c: stream.from_items([X]))
    found = fault_of_both(program)
    assert found == ShapeMismatch("a batch (features, target)", "float32[25, 6]", where="stream")


def test_a_fault_of_a_factory_is_in_the_plan():
    def broken(context):
        raise FaultError(ShapeMismatch("a table", "a picture"))

    assert fault_of_both(describe(train_batches=broken)) == ShapeMismatch("a table", "a picture")
    assert fault_of_both(describe(validation_batches=broken)) == ShapeMismatch("a table", "a picture")


@pytest.mark.parametrize("which", ["train_batches", "validation_batches"])
def test_what_is_no_stream_is_a_bug_that_is_told_before_the_first_step(which):
    lines = []
    program = describe(**{which: lambda c: [(X, Y)]})
    with pytest.raises(TypeError, match="returned list, expected BatchStream or Resource of one"):
        program.run(Runtime(log=lines.append))
    assert lines == []
    with pytest.raises(TypeError, match="returned list"):
        program.explain()


def test_a_resource_is_not_acquired_by_a_plan():
    resource = Resource.make(Effect.suspend(lambda: pytest.fail("acquired")), lambda s, got: Effect.from_value(None))
    plan = describe(train_batches=lambda c: resource).explain()
    assert plan.fault is None
    assert "a stream that is acquired when it is run" in plan
    assert describe(validation_batches=lambda c: resource).explain().fault is None


@pytest.mark.slow
def test_initial_parameters_are_checked_path_by_path():
    got = describe(epochs=0).run(Runtime(log=None))
    params = jax.tree.map(np.asarray, unsafe_perform_io(got.unwrap()).params)
    missing = {name: part for name, part in params.items() if name != "2"}
    extra = {**params, "7": {"weight": np.zeros((2, 2), np.float32)}}
    wide = {**params, "0": {**params["0"], "bias": np.zeros(9, np.float32)}}
    found = fault_of_both(describe(initial=missing))
    assert (found.where, found.missing, found.extra, found.differing) == ("initial", ("2/bias", "2/weight"), (), ())
    found = fault_of_both(describe(initial=extra))
    assert (found.missing, found.extra, found.differing) == ((), ("7/weight",), ())
    found = fault_of_both(describe(initial=wide))
    assert (found.missing, found.extra, found.differing) == ((), (), ("0/bias: expected [8], got [9]",))


def test_integers_are_taken_as_initial_parameters_in_the_parameters_dtype():
    layer = nn.linear(4)
    given = {"weight": np.ones((6, 4), np.int64), "bias": np.zeros(4)}
    got = describe(layer, initial=given, epochs=0).run(Runtime(log=None))
    params = unsafe_perform_io(got.unwrap()).params
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert float(params["weight"].sum()) == 24


@pytest.mark.slow
def test_a_plan_of_a_resumed_run_is_of_what_is_left():
    before = describe(epochs=2).run(Runtime(log=None))
    done = unsafe_perform_io(before.unwrap())
    ramp = optim.linear_ramp(1.0, 0.0, 15)
    resumed = describe(epochs=5, resume=done, schedule=ramp).explain()
    assert "resume: epoch 3, at its start, after 6 steps" in resumed
    assert "schedule: 0.6 at first, 0.6 at most, 0.06667 at last" in resumed
    (left,), (whole,) = (
        [x for x in plan.splitlines() if " in all" in x] for plan in (resumed, describe(epochs=3, schedule=ramp).explain())
    )
    assert left == whole  # three epochs


def test_a_plan_tells_each_stage_after_the_steps():
    def saved(report, trained):
        return None

    plan = describe(
        validation_batches=lambda c: stream.full_batch(X, Y),
        validate_every=2,
        epochs=9,
        gradient=train.perturbed(0.1, train.microbatches(2)),
        folds={
            "rate": train.reduce_on_plateau(0.5, 1),
            "own": train.Fold(0, lambda acc, report: (acc, train.Verdict()), "mine"),
        },
        on_epoch=saved,
        optimizer=optim.adamw(1e-2, weight_decay=lambda tag: 0.1 if tag.matrix else 0.0),
        initial={"0": {"weight": np.ones((6, 8)), "bias": np.zeros(8)}, "2": {"weight": np.ones((8, 4)), "bias": np.zeros(4)}},
    ).explain()
    for line in (
        "optimizer: adamw, learning_rate 0.01, weight_decay 0 to 0.1",
        "gradient: perturbed(0.1, microbatches(2))",
        "start: from given weights (dict), the optimizer from its first state",
        "validate on 1 batch of 25 rows: loss, after every 2 epochs",
        "after each epoch, the fold rate: reduce_on_plateau(0.5 after 1, validation_loss) lowers the learning rate",
        "after each epoch, the fold own: mine decides, at most 368 bytes on the host",
        f"after each epoch, on_epoch: {saved.__name__}, with the report and the model so far",
    ):
        assert line in plan
    resource = Resource.make(Effect.from_value(1), lambda s, outcome: Effect.from_value(None))
    acquired = describe(train_batches=lambda c: resource, validation_batches=lambda c: resource, on_epoch=print).explain()
    assert "validate on a stream that is acquired when it is run: loss" in acquired
    assert "on_epoch: print, with the report" in acquired
