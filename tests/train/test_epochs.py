"""The training loop: what a run gives, how it fails, how it stops and goes on."""

from __future__ import annotations

import gc
import os
import signal
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from outcomes import compiled, compiling, lowered
from returns.pipeline import is_successful
from returns.result import Failure
from returns.unsafe import unsafe_perform_io

from fnlamp import loss, nn, optim, stream, train
from fnlamp.effect import Effect, Resource, Runtime
from fnlamp.fault import (
    BatchTooSmall,
    DtypeMismatch,
    EmptyEpoch,
    FaultError,
    Interrupted,
    LabelOutOfRange,
    NonFinite,
    NotDifferentiable,
    NoWeight,
    ShapeMismatch,
    StateMismatch,
)
from fnlamp.tag import Role
from fnlamp.train.execute.supply import SUPER_BATCH

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (107, 12)).astype(np.uint8)
LABELS = PIXELS[:, :10].argmax(axis=1)
SIMPLE = nn.rescale(1 / 255) >> nn.linear(16) >> nn.relu >> nn.linear(10)
LAMP = nn.rescale(1.0) >> nn.mlp(hidden=(64, 32), out=10, drop_rate=0.2, norm_last=True) >> nn.log_softmax
NOISY = nn.rescale(1.0) >> nn.mlp(hidden=(16,), out=10, drop_rate=0.2, norm_last=True)
EXECUTORS = [train.Stepwise(), train.Fused(chunk=1), train.Fused(chunk=7), train.Fused(chunk=50), train.Fused()]
each_executor = pytest.mark.parametrize("executor", [train.Stepwise(), train.Fused(chunk=3), train.Fused()], ids=str)


def batches(context):
    return stream.minibatches(PIXELS, LABELS, batch_size=10, seed=context.seed)


def describe(layer=SIMPLE, objective=None, **options):
    defaults = {
        "optimizer": optim.adamw(1e-2),
        "train_batches": batches,
        "validation_batches": lambda context: stream.minibatches(PIXELS, LABELS, batch_size=50),
        "epochs": 3,
        "metrics": {"accuracy": loss.accuracy},
    }
    return train.epochs(model=train.supervised(layer, objective or loss.cross_entropy()), **{**defaults, **options})


def run(program, **options):
    outcome = program.run(Runtime(**{"log": None, **options}))
    assert is_successful(outcome), outcome
    return unsafe_perform_io(outcome.unwrap())


def fault(program, **options):
    outcome = program.run(Runtime(**{"log": None, **options}))
    assert not is_successful(outcome), outcome
    return unsafe_perform_io(outcome.failure())


def same(a, b):
    """Bit for bit: parameters, states, and curves but for the seconds."""
    for x, y in zip(jax.tree.leaves(a.state), jax.tree.leaves(b.state), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
    assert [replace(r, seconds=0.0) for r in a.curve] == [replace(r, seconds=0.0) for r in b.curve]


# ------------------------------------------------------------------------------- the same, however it is run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layer", "objective", "optimizer"),
    [
        pytest.param(SIMPLE, loss.cross_entropy(), optim.adamw(1e-3), id="simple"),
        pytest.param(LAMP, loss.nll(np.ones(10)), optim.sgdw(0.1, 1e-3, momentum=0.9), id="lamp", marks=pytest.mark.slow),
    ],
)
def test_every_executor_and_every_run_gives_the_same_bits(layer, objective, optimizer):
    program = describe(layer, objective, optimizer=optimizer, epochs=2)
    first = run(program)
    assert int(first.state.step) == 22
    for executor in EXECUTORS:
        same(first, run(program, executor=executor))


def test_training_lowers_the_loss():
    curve = run(describe(epochs=60)).curve
    assert curve[-1].train_loss < 0.6 * curve[0].train_loss


def test_building_computes_nothing_and_calls_no_factory():
    gc.collect()  # arrays of earlier tests, which would go in between
    before = len(jax.live_arrays())

    def never(context):
        raise AssertionError("a factory was called")

    program = describe(train_batches=never, validation_batches=never).bind(train.evaluate(never)).map(str)
    assert len(jax.live_arrays()) == before
    assert repr(program) == "<Effect: epochs(3) and 2 more>"


def test_another_seed_is_another_run_and_the_seed_is_all_there_is():
    assert run(describe(seed=1)).curve[0].train_loss != run(describe()).curve[0].train_loss
    same(run(describe(seed=1)), run(describe(seed=1)))


@pytest.fixture
def compilations():
    """The names of programs lowered while the test ran, and "XLA" for each one compiled."""
    with compiling(lambda message: lowered(message) or (compiled(message) and "XLA")) as names:
        yield names


def test_only_the_first_epoch_compiles_and_the_short_batch_takes_one_program_more(compilations):
    program = describe(validation_batches=None)
    run(program)
    assert sum("chunk" in name for name in compilations) == 2, compilations
    compilations.clear()
    run(program)
    assert [name for name in compilations if "chunk" in name or "lambda" in name] == []


def test_explaining_compiles_no_model_program(compilations):
    plan = describe().explain()
    assert "parameters: 378" in plan
    assert "11 steps of 10 rows, the last of 7" in plan
    assert "XLA" not in compilations  # one step is lowered, to count its work, and not compiled
    run(describe())
    assert "XLA" in compilations


@pytest.mark.slow
def test_a_lambda_made_anew_each_epoch_compiles_once_and_one_that_captures_anew_is_named(compilations):
    def steady(context):
        return batches(context).map(lambda batch: (batch[0][:, ::-1], batch[1]))

    run(describe(train_batches=steady, validation_batches=None))
    assert sum("chunk" in name for name in compilations) == 2
    compilations.clear()
    lines = []

    def changing(context):
        epoch = context.epoch
        return batches(context).map(lambda batch: (batch[0] // epoch, batch[1]))

    run(describe(train_batches=changing, validation_batches=None, epochs=2), log=lines.append)
    assert sum("chunk" in name for name in compilations) == 4
    assert any("compiling again" in line and "changing" not in line and "lambda" in line for line in lines)


# ------------------------------------------------------------------------------- faults


def without_arrays(program, expected):
    """The plan has the fault, and so has a run, before anything is on the device."""
    gc.collect()  # arrays of earlier tests, which would go in between
    lines, before = [], len(jax.live_arrays())
    found = fault(program, log=lines.append)
    assert isinstance(found, expected), found
    assert program.explain().fault == found
    assert f"this run would fail: {expected.__name__}" in program.explain()
    assert (lines, len(jax.live_arrays())) == ([f"failed: {expected.__name__}: {found}"], before)
    return found


def test_too_few_rows_for_a_batch():
    few = lambda context: stream.minibatches(PIXELS[:100], LABELS[:100], batch_size=200, drop_last=True)  # noqa: E731
    assert without_arrays(describe(train_batches=few), EmptyEpoch) == EmptyEpoch(rows=100, batch_size=200, drop_last=True)
    assert without_arrays(describe(validation_batches=few), EmptyEpoch).rows == 100


def test_a_prediction_that_would_broadcast():
    x, y = RNG.random((20, 5), np.float32), np.ones(20, np.float32)
    program = describe(nn.linear(1), loss.mse(), train_batches=lambda c: stream.full_batch(x, y), validation_batches=None)
    assert "squeeze the prediction" in str(without_arrays(program, ShapeMismatch))


def test_a_label_out_of_range_in_memory():
    labels = LABELS.copy()
    labels[33] = 10
    program = describe(train_batches=lambda c: stream.minibatches(PIXELS, labels, batch_size=10, seed=c.seed))
    found = without_arrays(program, LabelOutOfRange)
    assert (found.label, found.classes, found.row) == (10, 10, 33)


@pytest.mark.slow
@each_executor
def test_a_label_out_of_range_in_a_stream_is_found_in_its_step(executor):
    labels = LABELS.copy()
    labels[33] = -7
    mapped = lambda c: stream.minibatches(PIXELS, labels, batch_size=10).map(lambda batch: (batch[0], batch[1] * 1))  # noqa: E731
    one_by_one = stream.from_items([(PIXELS[i : i + 10], labels[i : i + 10]) for i in range(0, 100, 10)])
    for factory in (mapped, lambda c: one_by_one):
        found = fault(describe(train_batches=factory), executor=executor)
        assert isinstance(found, LabelOutOfRange)
        assert (found.label, found.row) == (-7, 3)


def test_accuracy_is_no_loss():
    assert without_arrays(describe(objective=loss.accuracy), NotDifferentiable).loss == "accuracy"


def test_integers_are_not_cast_in_silence():
    assert "rescale" in str(without_arrays(describe(nn.linear(10)), DtypeMismatch))


def test_a_last_batch_of_one_under_batch_norm():
    one_left = lambda c: stream.minibatches(PIXELS[:101], LABELS[:101], batch_size=10)  # noqa: E731
    layer = nn.rescale(1 / 255) >> nn.linear(10) >> nn.batch_norm()
    assert without_arrays(describe(layer, train_batches=one_left), BatchTooSmall).size == 1


@each_executor
@pytest.mark.parametrize("bad", [0, 4, 10])
def test_a_number_that_is_none_stops_before_the_update(executor, bad):
    x = (PIXELS / 255).astype(np.float32)
    x[10 * bad + 3, 2] = np.nan
    layer = nn.linear(16) >> nn.relu >> nn.linear(10)
    in_order = lambda c: stream.minibatches(x, LABELS, batch_size=10)  # noqa: E731
    found = fault(describe(layer, train_batches=in_order, validation_batches=None), executor=executor)
    assert isinstance(found, NonFinite)
    assert (found.what, found.epoch, found.step) == ("loss", 1, bad + 1)
    assert found.state.state.stream_state == bad
    assert np.isfinite(found.state.predict(x[:2])).all()
    if bad:
        good = run(describe(layer, train_batches=lambda c: in_order(c).take(bad), epochs=1, validation_batches=None))
        for a, b in zip(jax.tree.leaves(found.state.params), jax.tree.leaves(good.params), strict=True):
            np.testing.assert_array_equal(a, b)
    assert len(repr(found)) < 80


def test_a_gradient_that_overflows_under_a_finite_loss():
    def steep(prediction, target):
        return loss.LossValue(jnp.sum(jnp.sqrt(jnp.maximum(prediction * 0, 0))), jnp.asarray(1.0))

    found = fault(describe(objective=steep, metrics={}, validation_batches=None))
    assert isinstance(found, NonFinite)
    assert found.what == "update"


def test_an_epoch_in_which_nothing_counts():
    ignored = lambda c: stream.minibatches(PIXELS, np.full(107, -100), batch_size=10)  # noqa: E731
    assert fault(describe(train_batches=ignored)) == NoWeight(1)


def test_faults_of_factories_and_streams_are_failures_and_nonsense_is_a_bug():
    def broken(context):
        raise FaultError(ShapeMismatch("a", "b"))

    assert fault(describe(train_batches=broken)) == ShapeMismatch("a", "b")
    failing = replace(stream.from_items([(PIXELS[:4], LABELS[:4])]), source=lambda state: stream.Fail("disk on fire"))
    assert fault(describe(train_batches=lambda c: failing)) == "disk on fire"
    with pytest.raises(TypeError, match="expected BatchStream or Resource"):
        describe(train_batches=lambda c: [1, 2]).run(Runtime(log=None))
    with pytest.raises(ValueError, match="epochs >= 0"):
        describe(epochs=-1)


# ------------------------------------------------------------------------------- starting, stopping, going on


def test_initial_parameters_are_copied_and_checked():
    given = run(describe(epochs=0)).params
    program = describe(initial=given)
    same(run(program), run(program))
    same(run(program), run(describe(initial=jax.tree.map(np.asarray, given))))
    same(run(program), run(describe()))
    assert all(not leaf.is_deleted() for leaf in jax.tree.leaves(given))
    wrong = {**given, "1": {**given["1"], "weight": given["1"]["weight"][:, :-1]}}
    found = without_arrays(describe(initial=wrong), StateMismatch)
    assert (found.where, found.missing, found.extra) == ("initial", (), ())
    assert [text.partition(":")[0] for text in found.differing] == ["1/weight"]


def test_no_epochs_is_the_start():
    start = run(describe(epochs=0))
    assert (start.curve, int(start.state.step)) == ((), 0)
    assert start.predict(PIXELS[:5]).shape == (5, 10)


class Alarm:
    """A stream's host function that rings at its n-th call."""

    def __init__(self, at, ring):
        self.at, self.ring, self.calls = at, ring, 0

    def __call__(self, batch):
        self.calls += 1
        if self.calls == self.at:
            self.ring()
        return batch


@pytest.mark.slow
@pytest.mark.parametrize(
    ("at", "how"),
    [
        (17, "SIGINT"),
        *(
            pytest.param(at, how, marks=pytest.mark.slow)
            for at, how in ((1, "token"), (5, "SIGINT"), (11, "token"), (33, "token"))
        ),
    ],
)
@pytest.mark.parametrize("executor", [None, pytest.param(train.Stepwise(), marks=pytest.mark.slow)], ids=str)
def test_an_interrupted_run_goes_on_as_if_it_had_not_stopped(at, how, executor):
    runtime = Runtime(log=None, executor=executor)
    alarm = Alarm(at, runtime.cancel.cancel if how == "token" else lambda: os.kill(os.getpid(), signal.SIGINT))

    def host(context, function=lambda batch: batch):
        return batches(context).map(function, spec=batches(context).spec)

    outcome = describe(NOISY, train_batches=lambda c: host(c, alarm)).run(runtime)
    stopped = unsafe_perform_io(outcome.failure())
    assert isinstance(stopped, Interrupted)
    reached = int(stopped.state.state.step)  # read ahead by a dispatch, whose steps follow their time
    most = SUPER_BATCH[0]
    assert at - most <= reached < at + most if executor is None else reached in (at, at - 1)
    assert stopped.state.predict(PIXELS[:2]).shape == (2, 10)
    same(run(describe(NOISY, train_batches=host)), run(describe(NOISY, train_batches=host, resume=stopped.state)))
    # The compiled view stands at the same position, so that another executor can go on.
    same(run(describe(NOISY)), run(describe(NOISY, resume=stopped.state)))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interruption_in_a_hook_keeps_what_was_reached():
    runtime = Runtime(log=None)
    hook = lambda report: Effect.suspend(runtime.cancel.cancel).then(Effect.suspend(lambda: pytest.fail("went on")))  # noqa: E731
    stopped = unsafe_perform_io(describe(on_epoch=hook).run(runtime).failure())
    assert len(stopped.state.curve) == 1
    same(run(describe()), run(describe(resume=stopped.state)))


@pytest.mark.parametrize("where", ["the last line of the log", "the evaluation"])
def test_an_interruption_after_the_training_keeps_what_was_trained(where):
    runtime = Runtime(log=lambda line: runtime.cancel.cancel() if where != "the evaluation" and "3/3" in line else None)

    def cancelling(context):
        runtime.cancel.cancel()
        return stream.minibatches(PIXELS, LABELS, batch_size=10)

    stopped = unsafe_perform_io(describe().bind(train.evaluate(cancelling)).run(runtime).failure())
    assert isinstance(stopped, Interrupted)
    for a, b in zip(jax.tree.leaves(stopped.state.params), jax.tree.leaves(run(describe()).params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_more_epochs_are_the_same_as_all_at_once():
    first = run(describe(epochs=2))
    more = run(describe(epochs=5, resume=first))
    whole = run(describe(epochs=5))
    for a, b in zip(jax.tree.leaves(more.state), jax.tree.leaves(whole.state), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    assert [r.train_loss for r in more.curve] == [r.train_loss for r in whole.curve]


# ------------------------------------------------------------------------------- contexts, hooks, resources, the log


def test_contexts_count_from_one_and_carry_seeds_and_losses():
    seen = {"train": [], "validation": []}

    def note(purpose, made):
        def factory(context):
            seen[purpose].append(context)
            return made(context)

        return factory

    options = {"validation_batches": note("validation", lambda c: stream.full_batch(PIXELS, LABELS)), "validate_every": 2}
    trained = run(describe(train_batches=note("train", batches), epochs=5, **options))
    assert [c.epoch for c in seen["train"]] == [1, 2, 3, 4, 5]
    assert [c.epoch for c in seen["validation"]] == [1, 2, 4]  # the first is for the plan
    seeds = [c.seed for c in (*seen["train"], *seen["validation"])]
    assert len(set(seeds)) == 8
    assert all(isinstance(seed, int) and seed >= 0 for seed in seeds)
    losses = [r.validation_loss for r in trained.curve]
    assert [loss is None for loss in losses] == [True, False, True, False, True]
    assert [c.last_validation_loss for c in seen["train"]] == [None, None, losses[1], losses[1], losses[3]]
    assert seen["train"][4].best_validation_loss == min(losses[1], losses[3])


def test_hooks_run_after_each_epoch_and_their_failure_is_the_programs():
    seen = []
    run(describe(on_epoch=lambda report: Effect.suspend(lambda: seen.append(report.epoch))))
    assert seen == [1, 2, 3]
    assert fault(describe(on_epoch=lambda report: Effect.from_failure(f"epoch {report.epoch}"))) == "epoch 1"
    assert fault(describe(on_epoch=lambda report: Effect.from_result(Failure("no")))) == "no"


def test_a_resource_is_acquired_and_released_once_an_epoch():
    log = []

    def opened(context):
        acquire = Effect.suspend(lambda: log.append("+") or batches(context))
        return Resource.make(acquire, lambda s, outcome: Effect.suspend(lambda: log.append(type(outcome).__name__)))

    same(run(describe(train_batches=opened)), run(describe()))
    assert log == ["+", "Success"] * 3
    log.clear()
    assert isinstance(fault(describe(nn.linear(10), train_batches=opened)), DtypeMismatch)
    assert log == ["+", "Failure"]
    assert "acquired when it is run" in describe(train_batches=opened).explain()


def test_the_log_is_a_summary_and_a_line_an_epoch():
    lines = []
    trained = run(describe(epochs=2), log=lines.append)
    assert lines[0].startswith(
        "378 parameters, cross_entropy, adamw: 2 epochs of 11 steps of 10 rows, the last of 7, fused in chunks of 0.2 s on "
    )
    assert lines[1:] == [str(report) for report in trained.curve]
    report = train.EpochReport(1, 5, 1, 1, 0.31674, 0.3, 0.18018, 0.2, {"accuracy": 0.9505})
    assert str(report) == "Epoch 1/5, Training Loss: 0.3167, Validation Loss: 0.1802, Validation Accuracy: 95.05%"
    assert len(repr(trained)) < 200
    assert "378 parameters, 22 steps" in repr(trained)


def test_a_silent_runtime_prints_nothing_and_the_default_prints(capsys):
    run(describe(epochs=1))
    assert capsys.readouterr().out == ""
    describe(epochs=1).run()
    assert len(capsys.readouterr().out.splitlines()) == 2


# ------------------------------------------------------------------------------- numbers


def test_both_means_of_the_epoch_against_numpy():
    still = optim.sgdw(0.0)
    weights = RNG.uniform(0.5, 2, 10).astype(np.float32)
    labels = np.where(RNG.random(107) < 0.2, -100, LABELS)
    in_order = lambda c: stream.minibatches(PIXELS, labels, batch_size=10)  # noqa: E731
    metrics = {"top": loss.cross_entropy()}
    trained = run(
        describe(
            objective=loss.cross_entropy(weights),
            optimizer=still,
            train_batches=in_order,
            validation_batches=in_order,
            epochs=1,
            metrics=metrics,
        )
    )
    logits = np.asarray(trained.predict(PIXELS), np.float64)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    counted = labels >= 0
    label = np.where(counted, labels, 0)
    each = -logp[np.arange(107), label] * counted
    weight = weights[label] * counted
    means = [(each * weight)[i : i + 10].sum() / weight[i : i + 10].sum() for i in range(0, 107, 10)]
    report = trained.curve[0]
    assert report.train_loss == pytest.approx((each * weight).sum() / weight.sum(), rel=1e-6)
    assert report.train_loss_of_batches == pytest.approx(np.mean(means), rel=1e-6)
    assert report.validation_loss == pytest.approx(report.train_loss, rel=1e-6)
    assert report.validation_loss_of_batches == pytest.approx(np.mean(means), rel=1e-6)
    assert report.validation_metrics["top"] == pytest.approx(each.sum() / counted.sum(), rel=1e-6)
    assert (report.steps, report.samples) == (11, 107)
    evaluation = run(Effect.from_value(trained).bind(train.evaluate(in_order(None), metrics)))
    assert evaluation.loss == pytest.approx(report.train_loss, rel=1e-6)
    assert (evaluation.batches, evaluation.samples) == (11, 107)


def test_the_schedule_scales_each_step():
    x, y = np.ones((4, 1), np.float32), np.zeros((4, 1), np.float32)
    layer = nn.linear(1, bias=False, weight_init=jax.nn.initializers.ones)
    program = describe(
        layer,
        loss.mse(),
        optimizer=optim.sgdw(0.1),
        train_batches=lambda c: stream.minibatches(x, y, batch_size=1),
        validation_batches=None,
        epochs=1,
        schedule=lambda step: 1.0 / (step + 1),
        metrics={},
    )
    expected = np.prod([1 - 2 * 0.1 / (step + 1) for step in range(4)])
    assert float(run(program).params["weight"][0, 0]) == pytest.approx(expected, rel=1e-6)


def test_hyperparameters_by_tag_see_paths():
    seen = set()

    def rate(tag):
        seen.add((tag.layer, tag.role, tag.path))
        return 0.1 if tag.path == ("out",) else 0.0

    layer = nn.sequence(scale=nn.rescale(1.0), hidden=nn.linear(4), out=nn.linear(10))
    start, end = (run(describe(layer, optimizer=optim.sgdw(rate), epochs=n)).params for n in (0, 1))
    assert ("linear", Role.BIAS, ("hidden",)) in seen
    np.testing.assert_array_equal(start["hidden"]["weight"], end["hidden"]["weight"])
    assert (start["out"]["weight"] != end["out"]["weight"]).any()


@pytest.mark.slow
def test_mixed_precision_keeps_parameters_in_their_own_dtype():
    model = train.supervised(SIMPLE, loss.cross_entropy(), precision=train.bfloat16)
    trained = run(train.epochs(model=model, optimizer=optim.adamw(1e-2), train_batches=batches, epochs=20))
    assert {leaf.dtype for leaf in jax.tree.leaves(trained.params)} == {jnp.dtype("float32")}
    assert trained.predict(PIXELS[:2]).dtype == jnp.bfloat16
    assert trained.curve[-1].train_loss < 0.8 * trained.curve[0].train_loss
    half = train.supervised(SIMPLE, loss.cross_entropy(), precision=train.Precision(jnp.bfloat16, jnp.bfloat16))
    trained = run(train.epochs(model=half, optimizer=optim.adamw(1e-2), train_batches=batches, epochs=1))
    assert {leaf.dtype for leaf in jax.tree.leaves(trained.params)} == {jnp.dtype("bfloat16")}


def test_data_goes_to_the_device_once_in_its_own_dtype(monkeypatch):
    from fnlamp.train.execute import workspace

    sent = []
    original = workspace.to_device
    monkeypatch.setattr(
        workspace, "to_device", lambda x, device, **how: sent.append((x.shape, x.dtype)) or original(x, device, **how)
    )
    run(describe(validation_batches=None))
    assert sent == [((107, 12), np.uint8), ((107,), np.int64)]
