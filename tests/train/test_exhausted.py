"""A device without the memory for a run: from shapes before the first step, and from XLA's own error while it runs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from returns.io import IOFailure
from returns.result import Failure

from fnlamp import loss, nn, optim, stream, sweep, train
from fnlamp.arrays import array_spec
from fnlamp.config import group
from fnlamp.effect import Defect, Runtime
from fnlamp.fault import DeviceOutOfMemory, FaultError
from fnlamp.layer import Init, Layer
from fnlamp.mode import Eval
from fnlamp.train.execute.exhausted import exhaustion
from fnlamp.train.explain.analysis import STEP
from fnlamp.train.explain.explained import plan_of
from fnlamp.train.explain.inside import programs_of
from fnlamp.train.explain.memory import on_device

X = np.random.default_rng(0).random((48, 6), np.float32)
Y = np.arange(48) % 4
WORDS = "RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes."
SILENT = Runtime(log=None)


def describe(layer=None, x=X, **options):
    batches = lambda c: stream.minibatches(x, Y[: len(x)], batch_size=16, seed=c.seed)  # noqa: E731
    model = train.supervised(layer or nn.linear(4), loss.cross_entropy())
    defaults = {"optimizer": optim.sgdw(1e-2), "train_batches": batches, "epochs": 2}
    return train.epochs(model=model, **{**defaults, **options})


def fault_of(program, runtime=SILENT):
    match program.run(runtime):
        case IOFailure(Failure(DeviceOutOfMemory() as fault)):
            return fault
        case other:
            pytest.fail(f"expected a DeviceOutOfMemory, got {other}")


def sorted_copies(modes=(object,), log=23):
    """A layer that sorts the rows of a square matrix, in these modes only: 256 TiB that XLA cannot do without."""

    def init(key, spec):
        return Init({}, {}, spec, {})

    def apply(params, state, x, mode):
        if not isinstance(mode, modes):
            return x, state
        row = jax.lax.stop_gradient(x.ravel()[0]) * jax.lax.iota(jnp.float32, 1 << log)
        return x + jnp.sort(row * row[:, None])[:2, 0].sum(), state

    return Layer(init, apply, "sorted_copies")


def test_state_beyond_the_limit_is_found_before_anything_is_allocated():
    wide = np.ones((2, 2**18), np.float32)  # the layer's parameters would have 16 TiB
    fault = fault_of(describe(nn.linear(2**24), wide, optimizer=optim.adamw(1e-2)), Runtime(log=None, memory=2**33))
    parts = dict(fault.plan)
    assert (fault.limit, fault.reason, fault.state) == (2**33, "", None)
    assert parts["parameters"] == 4 * (2**42 + 2**24)
    assert parts["adamw, m"] == parts["adamw, v"] == parts["parameters"]
    assert parts["a second copy of these"] >= 3 * parts["parameters"]  # the gradient fits in it
    assert fault.needed == sum(parts.values()) and "the state alone exceeds it" in str(fault)


@pytest.mark.parametrize("executor", [pytest.param(train.Fused(), marks=pytest.mark.slow), train.Stepwise()])
def test_state_that_the_machine_cannot_hold_is_the_same_fault(executor):
    wide = np.ones((2, 2**18), np.float32)
    fault = fault_of(describe(nn.linear(2**24), wide), Runtime(log=None, executor=executor))
    assert fault.limit is None and "Out of memory" in fault.reason and fault.device == "cpu:0"
    assert dict(fault.plan)["parameters"] == 4 * (2**42 + 2**24)


@pytest.mark.parametrize("executor", [pytest.param(train.Fused(), marks=pytest.mark.slow), train.Stepwise()])
def test_activations_that_the_machine_cannot_hold_are_in_the_plan(executor):
    fault = fault_of(describe(nn.linear(4) >> sorted_copies()), Runtime(log=None, executor=executor))
    assert dict(fault.plan)[STEP] >= 4 * 2**46
    assert int(fault.state.state.step) == 0
    assert "lower batch_size" in str(fault) and "train.microbatches(k)" in str(fault)


def test_the_limit_includes_the_temporaries_of_the_compiled_step():
    program = describe()
    (found,) = programs_of("program", program)
    plan, _ = plan_of(found)
    without, step = sum(on_device(plan).values()), train.compiled_memory(program).temporaries
    assert step > 0
    fault = fault_of(program, Runtime(log=None, memory=without + step - 1))
    assert dict(fault.plan) == {**on_device(plan), STEP: step}
    said = []
    program.run_or_raise(Runtime(log=said.append, memory=without + step))
    whole = f"memory: a plan of {without + step:,} of {without + step:,} bytes on cpu:0, with the temporaries of a step"
    assert said.count(whole) == 1


def exhausted_at(step):
    """The rows of `X` in order; reading batch `step`, from 1, fails as an allocation on a device does."""

    def batch(at):
        if at == step - 1:
            raise jax.errors.JaxRuntimeError(WORDS)
        return X[8 * at : 8 * at + 8], Y[8 * at : 8 * at + 8].astype(np.int32)

    spec = array_spec((8, 6), np.float32), array_spec((8,), np.int32)
    return lambda context: stream.from_function(6, batch, spec=spec)


@pytest.mark.parametrize("executor", [train.Fused(chunk=2), train.Stepwise()])
def test_the_last_good_state_resumes_bit_for_bit(executor):
    runtime = Runtime(log=None, executor=executor)
    fault = fault_of(describe(train_batches=exhausted_at(5)), runtime)
    assert 0 < int(fault.state.state.step) <= 4 and fault.reason == "Out of memory allocating 5 bytes"
    resumed = describe(train_batches=exhausted_at(0), resume=fault.state).run_or_raise(runtime)
    whole = describe(train_batches=exhausted_at(0)).run_or_raise(runtime)
    for a, b in zip(jax.tree.leaves(resumed.params), jax.tree.leaves(whole.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_validation_keeps_the_epoch_that_was_trained():
    validation = lambda c: stream.from_arrays((X, Y), batch_size=16)  # noqa: E731
    fault = fault_of(describe(nn.linear(4) >> sorted_copies(Eval), validation_batches=validation))
    assert int(fault.state.state.step) == 3 and dict(fault.plan)["data"] == X.nbytes + 4 * len(Y) + 4 * len(Y)


def test_a_trained_model_is_kept_by_what_follows():
    trained = describe(nn.linear(4) >> sorted_copies(Eval)).run_or_raise(SILENT)
    data = stream.from_arrays((X, Y), batch_size=16)
    for work in (train.evaluate(data), train.predict_batches(data)):
        fault = fault_of(work(trained))
        assert fault.state is trained and dict(fault.plan)["parameters"] == 4 * 28
    with pytest.raises(FaultError) as raised:
        trained.predict(X)
    assert isinstance(raised.value.fault, DeviceOutOfMemory)


@group
class Rate:
    rate: float = 0.1


def test_lanes_side_by_side_are_counted(tmp_path):
    program = lambda place: describe(nn.linear(4) >> sorted_copies(), optimizer=optim.sgdw(place.config.rate))  # noqa: E731
    lanes = sweep.sweep("wide", program, Rate, sweep.grid({"rate": (0.1, 0.2)}), together=2, folder=tmp_path)
    fault = fault_of(lanes)
    assert fault.lanes == 2 and "fewer lanes" in str(fault)


def test_another_error_of_xla_is_not_a_fault():
    def fails(context):
        raise jax.errors.JaxRuntimeError("INTERNAL: no")

    program = describe(train_batches=lambda c: stream.from_arrays((X, Y), batch_size=16).map(fails))
    assert isinstance(program.run_exit(SILENT), Defect)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), exhaustion(dict, SILENT, None):
        fails(None)


def test_a_status_within_another_error_counts():
    with pytest.raises(FaultError) as raised, exhaustion(dict, Runtime(memory=7), None):
        raise jax.errors.JaxRuntimeError(f"INTERNAL: CUDA graph: {WORDS}\nlong table")
    assert raised.value.fault == DeviceOutOfMemory("cpu:0", (), 7, "Out of memory allocating 5 bytes")


@pytest.mark.parametrize(("memory", "error"), [("8G", TypeError), (0, ValueError), (1.5, TypeError)])
def test_the_limit_is_a_number_of_bytes(memory, error):
    with pytest.raises(error, match=r"Runtime\.memory"):
        Runtime(memory=memory)
