"""The results of training, what factories are given, and resuming from a state."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from returns.pipeline import is_successful
from returns.unsafe import unsafe_perform_io

from fnlamp import loss, nn, optim, stream, train
from fnlamp.effect import Effect, Resource, Runtime, do
from fnlamp.fault import FaultError, Interrupted, NonFinite, ShapeMismatch, StateMismatch
from fnlamp.train import EpochReport

RNG = np.random.default_rng(2)
X = RNG.random((23, 3), np.float32)
Y = X @ np.array([[1.0], [-2.0], [0.5]], np.float32)
MODEL = train.supervised(nn.linear(4) >> nn.batch_norm() >> nn.dropout(0.2) >> nn.linear(1), loss.mse())


def batches(context):
    return stream.minibatches(X, Y, batch_size=5, seed=context.seed)


def describe(model=MODEL, **options):
    defaults = {"optimizer": optim.sgdw(0.1, momentum=0.9), "train_batches": batches, "epochs": 2}
    return train.epochs(model=model, **{**defaults, **options})


def outcome(program, **options):
    got = program.run(Runtime(**{"log": None, **options}))
    return unsafe_perform_io(got.unwrap() if is_successful(got) else got.failure())


def same(a, b):
    for x, y in zip(jax.tree.leaves(a.state), jax.tree.leaves(b.state), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
    assert [replace(r, seconds=0.0) for r in a.curve] == [replace(r, seconds=0.0) for r in b.curve]


class Stopping:
    """An executor that cancels the run after its n-th dispatch, of training or of validation."""

    def __init__(self, executor, runtime, at):
        self.executor, self.runtime, self.at, self.dispatches = executor, runtime, at, 0

    def fold(self, *args):
        for item in self.executor.fold(*args):
            self.dispatches += 1
            if self.dispatches == self.at:
                self.runtime.cancel.cancel()
            yield item


@pytest.mark.slow
@pytest.mark.parametrize("executor", [train.Stepwise(), train.Fused(chunk=3)], ids=str)
def test_a_run_stopped_at_any_moment_goes_on_to_the_same_bits(executor):
    validated = {"validation_batches": lambda c: stream.full_batch(X, Y)}
    program = describe(**validated)
    count = Stopping(executor, None, None)
    whole = outcome(program, executor=count)
    positions = set()
    for at in range(1, count.dispatches + 1):
        runtime = Runtime(log=None)
        stopped = program.run(replace(runtime, executor=Stopping(executor, runtime, at)))
        stopped = unsafe_perform_io(stopped.failure())
        assert isinstance(stopped, Interrupted)
        positions.add((stopped.state.state.epoch, stopped.state.state.stream_state))
        same(whole, outcome(describe(**validated, resume=stopped.state), executor=executor))
    assert len(positions) > 3
    assert any(position not in (None, 5) for _, position in positions)


@pytest.mark.slow
def test_a_run_stopped_in_its_validation_validates_after_going_on():
    runtime = Runtime(log=None)

    def ring(batch):
        runtime.cancel.cancel()
        return batch

    full = stream.full_batch(X, Y)
    stopped = unsafe_perform_io(describe(validation_batches=lambda c: full.map(ring, spec=full.spec)).run(runtime).failure())
    assert isinstance(stopped, Interrupted)
    assert (stopped.state.curve, int(stopped.state.state.step)) == ((), 5)
    resumed = outcome(describe(validation_batches=lambda c: full, resume=stopped.state))
    same(outcome(describe(validation_batches=lambda c: full)), resumed)


@pytest.mark.slow
def test_a_cancelled_log_stops_at_an_epoch_boundary():
    runtime = Runtime(log=lambda line: line.startswith("Epoch 1") and runtime.cancel.cancel())
    stopped = unsafe_perform_io(describe().run(runtime).failure())
    assert [r.epoch for r in stopped.state.curve] == [1]
    assert stopped.state.state.stream_state is None
    same(outcome(describe()), outcome(describe(resume=stopped.state)))


def test_a_cancelled_runtime_does_not_start():
    runtime = Runtime(log=None)
    runtime.cancel.cancel()
    assert unsafe_perform_io(describe().run(runtime).failure()) == Interrupted()


def test_resuming_leaves_what_was_resumed_alive():
    first = outcome(describe(epochs=1))
    same(outcome(describe(resume=first)), outcome(describe(resume=first)))
    assert all(not leaf.is_deleted() for leaf in jax.tree.leaves(first.state) if isinstance(leaf, jax.Array))
    assert first.predict(X).shape == (23, 1)


def test_a_finished_run_resumed_is_itself():
    first = outcome(describe())
    same(first, outcome(describe(resume=first)))


def test_the_last_model_is_of_the_epoch_that_was_reached_without_the_curve_too():
    part = outcome(describe(epochs=1))
    resumed = outcome(describe(resume=part.state, epochs=3))
    assert len(resumed.curve) == 2 and resumed.last.epoch == 3


def test_a_run_of_other_dtypes_does_not_fit():
    first = outcome(describe(epochs=1))
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), first.state.params)
    found = outcome(describe(resume=replace(first, state=replace(first.state, params=params))))
    assert isinstance(found, StateMismatch)
    assert found.where == "resume"
    assert "params/0/bias: expected float32[4], got bfloat16[4]" in found.differing
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), first.state.params)  # JAX would take them, and lose digits
    found = outcome(describe(resume=replace(first, state=replace(first.state, params=params))))
    assert all("got float64" in text for text in found.differing)


@pytest.mark.parametrize(
    ("options", "kind", "path"),
    [
        ({"optimizer": optim.sgdw(0.1)}, "extra", "optimizer_state/v/0/bias"),
        ({"optimizer": optim.adamw(0.1)}, "missing", "optimizer_state/m/0/bias"),
        ({"model": train.supervised(nn.linear(4) >> nn.linear(1), loss.mse())}, "missing", "params/1/bias"),
    ],
)
def test_a_run_that_does_not_fit_names_the_paths(options, kind, path):
    first = outcome(describe(epochs=1))
    program = describe(**options, resume=first)
    found = outcome(program)
    assert isinstance(found, StateMismatch)
    assert program.explain().fault == found
    assert found.where == "resume"
    assert path in getattr(found, kind)


def test_initial_and_resume_exclude_each_other():
    first = outcome(describe(epochs=1))
    with pytest.raises(ValueError, match="not both"):
        describe(initial=first.params, resume=first)


# ------------------------------------------------------------------------------- contexts, resources, composition


@pytest.mark.slow
def test_contexts_are_the_same_in_every_run_and_other_with_another_seed():
    def seeds(**options):
        seen = []
        outcome(describe(train_batches=lambda c: seen.append(c.seed) or batches(c), **options))
        return seen

    assert seeds() == seeds()
    assert len({*seeds(), *seeds(seed=1)}) == 4


def test_contexts_go_on_counting_after_a_resume():
    first = outcome(describe(epochs=2, validation_batches=lambda c: stream.full_batch(X, Y)))
    seen = []
    note = lambda c: seen.append(c) or batches(c)  # noqa: E731
    outcome(describe(epochs=3, resume=first, train_batches=note, validation_batches=lambda c: stream.full_batch(X, Y)))
    losses = [r.validation_loss for r in first.curve]
    assert [(c.epoch, c.last_validation_loss, c.best_validation_loss) for c in seen] == [(3, losses[-1], min(losses))]


def test_a_resource_is_released_when_the_step_fails_and_when_the_run_is_stopped():
    log = []
    bad = X.copy()
    bad[12] = np.nan

    def opened(make):
        acquire = Effect.suspend(lambda: log.append("+") or make())
        return Resource.make(acquire, lambda s, got: Effect.suspend(lambda: log.append(type(got).__name__)))

    found = outcome(describe(train_batches=lambda c: opened(lambda: stream.minibatches(bad, Y, batch_size=5))))
    assert isinstance(found, NonFinite)
    assert log == ["+", "Failure"]
    log.clear()
    runtime = Runtime(log=None)
    ringing = lambda: runtime.cancel.cancel() or stream.minibatches(X, Y, batch_size=5)  # noqa: E731
    describe(train_batches=lambda c: opened(ringing)).run(runtime)
    assert log == ["+", "Interrupted"]


def test_a_resource_that_cannot_be_acquired_is_the_programs_failure():
    resource = Resource.make(Effect.from_failure("locked"), lambda s, got: Effect.from_value(None))
    assert outcome(describe(train_batches=lambda c: resource)) == "locked"


def test_programs_compose():
    diverging = describe(optimizer=optim.sgdw(1e30))
    assert isinstance(outcome(diverging), NonFinite)
    assert outcome(diverging.lash(lambda fault: Effect.from_value(type(fault).__name__))) == "NonFinite"
    seen = []

    def flaky(context):
        seen.append(context.epoch)
        if len(seen) == 1:
            raise FaultError(ShapeMismatch("a file", "none yet"))
        return batches(context)

    same(outcome(describe(train_batches=flaky).retry(2)), outcome(describe()))
    assert seen == [1, 1, 2]

    @do
    def both():
        first = yield from describe(epochs=1)
        second = yield from describe(resume=first)
        evaluation = yield from train.evaluate(stream.full_batch(X, Y))(second)
        return second, evaluation.loss

    second, value = outcome(both())
    for a, b in zip(jax.tree.leaves(second.params), jax.tree.leaves(outcome(describe()).params), strict=True):
        np.testing.assert_array_equal(a, b)
    assert value == outcome(describe().bind(train.evaluate(stream.full_batch(X, Y)))).loss


# ------------------------------------------------------------------------------- reports and representations


def test_a_report_is_one_line():
    report = EpochReport(1, 5, 10, 100, 0.31674, 0.3, 0.18018, 0.2, {"accuracy": 0.9505})
    assert str(report) == "Epoch 1/5, Training Loss: 0.3167, Validation Loss: 0.1802, Validation Accuracy: 95.05%"
    assert str(EpochReport(2, 5, 10, 100, 0.5, 0.5)) == "Epoch 2/5, Training Loss: 0.5000"
    top = replace(report, validation_metrics={"top_5_error": 0.25})
    assert str(top).endswith("Validation Loss: 0.1802, Validation Top 5 Error: 0.2500")


def test_representations_are_short():
    trained = outcome(describe(validation_batches=lambda c: stream.full_batch(X, Y)))
    bad = X.copy()
    bad[0] = np.inf
    broken = outcome(describe(train_batches=lambda c: stream.minibatches(bad, Y, batch_size=5)))
    for value in (describe(), trained, trained.state, trained.model, broken, Interrupted(trained)):
        assert len(repr(value)) < 200, repr(value)
    assert repr(trained.state) == "<TrainState: step 10, epoch 3>"
    assert repr(trained).startswith("<Trained: 29 parameters, 10 steps, epoch 2/2, training loss: ")
    assert "\n" not in str(broken)


def test_what_was_trained_predicts_without_dropout_from_running_moments():
    trained = outcome(describe())
    once, again = trained.predict(X), trained.predict(X)
    np.testing.assert_array_equal(once, again)
    np.testing.assert_allclose(trained.predict(X[:1]), once[:1], rtol=1e-5)
    np.testing.assert_array_equal(trained.predict(X.tolist()), once)
    assert isinstance(once, jax.Array)
    with pytest.raises(FaultError, match=r"expected an array of shape \(batch, ..., 3\), got float32\[23, 2\]"):
        trained.predict(X[:, :2])
    assert jnp.isfinite(once).all()


# ------------------------------------------------------------------------------- the spec of the features


def test_what_was_trained_knows_the_spec_of_its_features():
    named = {"flat": X, "pair": (X[:, :2].astype(np.float16), np.arange(23, dtype=np.int32))}
    layer = nn.fun(lambda x: x["flat"]) >> nn.linear(1)
    seen = []
    trained = outcome(
        describe(
            train.supervised(layer, loss.mse()),
            train_batches=lambda context: stream.minibatches(named, Y, batch_size=5, seed=context.seed),
            folds={"best": train.best("train_loss"), "top": train.top_k(2, "train_loss")},
            on_epoch=lambda report, trained: seen.append(trained.features),
        )
    )
    expected = {
        "flat": jax.ShapeDtypeStruct((5, 3), jnp.float32),
        "pair": (jax.ShapeDtypeStruct((5, 2), jnp.float16), jax.ShapeDtypeStruct((5,), jnp.int32)),
    }
    kept = [trained.last, trained.kept["best"], *trained.kept["top"]]
    assert [each.features for each in (trained, *kept)] == [expected] * 5
    assert seen == [expected] * 2
    assert outcome(describe(resume=outcome(describe(epochs=1)))).features == jax.ShapeDtypeStruct((5, 3), jnp.float32)
    runtime = Runtime(log=None)
    stopped = outcome(describe(), executor=Stopping(train.Stepwise(), runtime, 1), cancel=runtime.cancel)
    assert isinstance(stopped, Interrupted)
    assert stopped.state.features == jax.ShapeDtypeStruct((5, 3), jnp.float32)
    assert pickle.loads(pickle.dumps(trained.features)) == copy.deepcopy(trained.features) == expected
