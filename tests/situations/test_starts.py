"""The starts of runs: weights in every form, with the layers' state, and the stream of a resumed run."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from dataclasses import asdict, replace

import jax
import numpy as np
import pytest

from fnlamp import loss, nn, optim, stream, train
from fnlamp.effect import CancelToken, Runtime
from fnlamp.fault import DtypeMismatch, Interrupted, NonFinite, ResumedElsewhere, ShapeMismatch

torch = pytest.importorskip("torch", reason="torch comes with the extra parity")

RNG = np.random.default_rng(0)
X = (RNG.standard_normal((64, 5)) * 3 + 20).astype(np.float32)
Y = (X @ RNG.standard_normal((5, 1))).astype(np.float32)
QUIET = Runtime(log=None)
NORMED = train.supervised(nn.batch_norm() >> nn.linear(1), loss.mse())


def describe(model=NORMED, x=X, y=Y, batch_size=8, order=lambda context: context.seed, **options):
    defaults = {
        "optimizer": optim.adamw(0.05),
        "train_batches": lambda c: stream.minibatches(x, y, batch_size=batch_size, seed=order(c)),
        "epochs": 3,
    }
    return train.epochs(model=model, **{**defaults, **options})


def outcome(program, **options):
    made = program.run(Runtime(**{"log": None, **options}))
    return made._inner_value._inner_value


@pytest.fixture(scope="module")
def trained():
    return outcome(describe(epochs=20))


def mean_error(trained):
    return float(np.mean((np.asarray(trained.predict(X), np.float64) - Y) ** 2))


@pytest.mark.parametrize(
    "form",
    [
        lambda t: t,
        lambda t: t.state,
        lambda t: (t.params, t.layer_state),
        lambda t: jax.tree.map(np.asarray, (t.params, t.layer_state)),
        lambda t: pickle.loads(pickle.dumps(t.state)),
    ],
)
def test_a_warm_start_predicts_what_the_start_did(trained, form):
    warm = outcome(describe(initial=form(trained), epochs=0))
    np.testing.assert_array_equal(warm.predict(X), trained.predict(X))
    assert int(warm.state.step) == 0  # with a new optimizer
    further = outcome(describe(initial=form(trained), epochs=1))
    assert mean_error(further) < 10 * mean_error(trained) + 1


def test_parameters_alone_of_a_model_with_state_are_a_fault_that_says_what_is_missing(trained):
    found = outcome(describe(initial=trained.params))
    assert isinstance(found, ShapeMismatch)
    assert "0/mean, 0/variance" in str(found)
    assert "(params, None) starts with a fresh state" in str(found)
    fresh = outcome(describe(initial=(trained.params, None), epochs=0))
    np.testing.assert_array_equal(fresh.layer_state["0"]["mean"], np.zeros(5))


def test_a_new_optimizer_takes_the_weights_of_another_ones_run(trained):
    other = outcome(describe(initial=trained, optimizer=optim.sgdw(1e-4, momentum=0.9), epochs=1))
    assert mean_error(other) < 10 * mean_error(trained) + 1
    assert "v" in other.state.optimizer_state


WEIGHTS = {"weight": np.array([[1.0], [2.0], [3.0], [4.0], [5.0]], np.float32), "bias": np.array([6.0], np.float32)}
PLAIN = train.supervised(nn.linear(1), loss.mse())


FORMS = [lambda x, dtype=dtype: x.astype(dtype) for dtype in (np.float64, np.int64, np.float16, ">f4", object)]


@pytest.mark.parametrize("make", [*FORMS, torch.tensor, jax.numpy.asarray])
def test_weights_that_convert_exactly_are_those_numbers(make):
    given = {name: make(x) for name, x in WEIGHTS.items()}
    found = outcome(describe(model=PLAIN, initial=given, epochs=0))
    for name, x in WEIGHTS.items():
        np.testing.assert_array_equal(found.params[name], x)
        assert found.params[name].dtype == np.float32


@pytest.mark.parametrize(
    "weight",
    [WEIGHTS["weight"] * 1j, jax.numpy.ones((5, 1)) * 1j, np.array([["a"]] * 5), np.full((5, 1), 1e39), [["a"]] * 5],
)
def test_weights_that_do_not_convert_exactly_are_named(weight):
    found = outcome(describe(model=PLAIN, initial={**WEIGHTS, "weight": weight}))
    assert isinstance(found, DtypeMismatch | ShapeMismatch)
    assert "initial" in str(found)


def test_the_start_is_not_changed(trained):
    before = jax.tree.map(np.array, trained.params)
    outcome(describe(initial=trained, epochs=2))
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.asarray, trained.params))


# ------------------------------------------------------------------------------- resuming


def stopped_in_the_middle(**options):
    token = CancelToken()

    class Stopping(train.Fused):
        def fold(self, *args):
            for number, item in enumerate(super().fold(*args)):
                if number == 2:
                    token.cancel()
                yield item

    found = outcome(describe(**options), executor=Stopping(chunk=1), cancel=token)
    assert isinstance(found, Interrupted)
    assert found.state.state.stream_state == 3
    return found.state


@pytest.fixture(scope="module")
def middle():
    return stopped_in_the_middle()


ON_TWO_DEVICES = """
import jax, numpy as np
from fnlamp import loss, nn, optim, stream, train
from fnlamp.effect import Runtime
x = np.ones((4, 2), np.float32)
def run(runtime, x=x, **options):
    batches = stream.minibatches(x, x[:, :1], batch_size=2)
    parts = dict(model=train.supervised(nn.linear(1), loss.mse()), optimizer=optim.adamw(0.1), epochs=1)
    return train.epochs(**{**parts, **options}, train_batches=lambda c: batches).run(runtime).unwrap()._inner_value
first, second = jax.devices()
quiet = Runtime(log=None)
there = run(Runtime(log=None, device=second))
with jax.default_device(second):
    chosen = run(quiet)
further = run(quiet, initial=there), run(quiet, resume=there, epochs=2), run(quiet, jax.device_put(x, second))
for trained in (there, chosen, *further):
    assert {str(d) for leaf in jax.tree.leaves((trained.params, trained.state)) for d in leaf.devices()} == {str(second)}
"""


@pytest.mark.slow
def test_a_state_is_on_one_device():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", ON_TWO_DEVICES], env={**os.environ, **flags}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def halves(second):
    first = stream.minibatches(X[:32], Y[:32], batch_size=8)
    return lambda context: first.concat(stream.minibatches(second, Y[32:], batch_size=8))


def test_the_second_of_two_data_sets_is_compared_too():
    state = stopped_in_the_middle(train_batches=halves(X[32:]))
    assert not isinstance(outcome(describe(resume=state, train_batches=halves(X[32:]))), ResumedElsewhere)
    assert isinstance(outcome(describe(resume=state, train_batches=halves(X[32:] + 1))), ResumedElsewhere)


OTHERS = {
    "batch size": ({"batch_size": 4}, "batch size is 8, got 4"),
    "seed": ({"seed": 1}, "seed is 0, got 1"),
    "data": ({"x": X + 1}, "data is"),
    "targets": ({"y": Y + 1}, "data is"),
    "rows": ({"x": X[:56], "y": Y[:56]}, "batches is 8, got 7"),
    "order": ({"order": lambda context: 5}, "order of rows is"),
    "no order": ({"order": lambda context: None}, "order of rows is"),
    "part": ({"train_batches": lambda c: stream.minibatches(X, Y, batch_size=8, seed=c.seed).take(6)}, "batches is 8, got 6"),
    "from the disk": (
        {"train_batches": lambda c: stream.from_items([(X[i : i + 4], Y[i : i + 4]) for i in range(0, 64, 4)])},
        "batch size is 8, got 4",
    ),
}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("form", [lambda t: t, lambda t: t.state, lambda t: pickle.loads(pickle.dumps(t.state))])
def test_resuming_in_the_middle_with_another_stream_says_what_differs(middle, other, form):
    options, words = OTHERS[other]
    found = outcome(describe(**options, resume=form(middle)))
    assert isinstance(found, ResumedElsewhere)
    assert words in str(found)


def test_resuming_with_the_same_stream_is_bit_for_bit_the_run_that_did_not_stop(middle):
    whole = outcome(describe())
    for form in (middle, middle.state):
        resumed = outcome(describe(resume=form))
        jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(whole.params), jax.tree.leaves(resumed.params))


def test_at_the_start_of_an_epoch_another_stream_is_fine():
    first = outcome(describe(epochs=1))
    resumed = outcome(describe(batch_size=4, resume=first, epochs=2))
    assert [report.steps for report in resumed.curve] == [8, 16]


# ------------------------------------------------------------------------------- recovery


def diverging(rate, bound, **options):
    return describe(
        model=train.supervised(nn.linear(1), loss.mse()),
        optimizer=optim.sgdw(rate),
        parameter_bound=bound,
        **{"epochs": 40, **options},
    )


@pytest.mark.parametrize("executor", [train.Fused(), train.Fused(chunk=3), train.Stepwise()], ids=str)
def test_a_run_that_left_a_bound_recovers_with_a_lower_rate(executor):
    found = outcome(diverging(0.1, 50.0), executor=executor)
    assert isinstance(found, NonFinite)
    assert "or larger than 50" in str(found)
    assert max(float(abs(leaf).max()) for leaf in jax.tree.leaves(found.state.params)) <= 50
    recovered = outcome(diverging(0.1, 50.0).lash(lambda fault: diverging(1e-4, 50.0, initial=fault.state)))
    assert recovered.curve[-1].train_loss < recovered.curve[0].train_loss
    resumed = outcome(diverging(0.1, 50.0).lash(lambda fault: diverging(1e-4, 50.0, resume=fault.state)))
    assert resumed.curve[-1].train_loss < 100


# ------------------------------------------------------------------------------- plain data


def test_reports_evaluations_states_and_faults_are_plain_data(middle, trained):
    report = outcome(
        describe(epochs=1, validation_batches=lambda c: stream.full_batch(X, Y), metrics={"error": loss.mse()})
    ).curve[0]
    evaluation = outcome(train.evaluate(stream.full_batch(X, Y), {"error": loss.mse()})(trained))
    for value in (report, evaluation):
        assert pickle.loads(pickle.dumps(value)) == copy.deepcopy(value) == value
        assert asdict(value) == asdict(copy.copy(value))
    assert asdict(report)["validation_metrics"] == {"error": report.validation_loss}
    assert hash(report) == hash(copy.copy(report))
    for state in (pickle.loads(pickle.dumps(middle.state)), copy.deepcopy(middle.state)):
        jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(state), jax.tree.leaves(middle.state))
        assert (state.epoch, state.stream_state, state.stream) == (1, 3, middle.state.stream)
    for fault in (Interrupted(middle), NonFinite("loss", 1, 2, middle), ResumedElsewhere("seed", "0", "1", state=middle)):
        again = pickle.loads(pickle.dumps(fault))
        assert again == fault == copy.deepcopy(fault)
        assert again.state.epoch == 1
        assert replace(fault, where="here").state is middle
