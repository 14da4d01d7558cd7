"""Counts and means over long epochs: counts are exact, means are those of float64."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import loss, nn, optim, stream, train
from fnlamp.effect import Runtime
from fnlamp.fault import StepsExceeded
from fnlamp.loss import LossValue
from fnlamp.train import tally

RNG = np.random.default_rng(0)


def after(batches, dtype=jnp.float32):
    """The sums of a tally that is given the batches `(rows, mean, total, weight)`, in one compiled loop."""
    rows = batches[0][0]
    columns = [jnp.asarray(np.array(column), dtype) for column in list(zip(*batches, strict=True))[1:]]

    def step(i, sums):
        return tally.add(sums, rows, [column[i] for column in columns])

    return tally.sums(jax.jit(lambda: jax.lax.fori_loop(0, len(batches), step, jnp.asarray(tally.empty())))())


@pytest.mark.parametrize(("value", "count"), [(0.01, 2_000_000), (1e-7, 300_000), (5.0, 2_000_000), (-0.1, 500_000)])
def test_a_sum_of_equal_losses_does_not_drift(value, count):
    def step(i, sums):
        one = jnp.float32(value)
        return tally.add(sums, 1, [one, one, jnp.float32(1)])

    sums = tally.sums(jax.jit(lambda: jax.lax.fori_loop(0, count, step, jnp.asarray(tally.empty())))())
    assert (sums.steps, sums.rows, sums.weight) == (count, count, count)
    assert sums.total == pytest.approx(count * float(np.float32(value)), rel=1e-12)


def test_counts_continue_past_two_to_the_24():
    start = np.array([[2.0**24, 2.0**24, 1, 2.0**24, 2.0**24], [0, 0, 0, 0, 0]], np.float32)
    one = jnp.float32(1)
    sums = jnp.asarray(start)
    for _ in range(5):
        sums = tally.add(sums, 1, [one, one, one])
    found = tally.sums(sums)
    assert (found.steps, found.rows, found.total, found.weight) == (2**24 + 5,) * 4


@pytest.mark.parametrize("rows", [3, 2**24 + 1, 30_000_001, 2**31 - 1])
def test_rows_of_a_batch_of_any_size_are_exact(rows):
    one = jnp.float32(1)
    sums = jnp.asarray(tally.empty())
    for _ in range(3):
        sums = tally.add(sums, rows, [one, one, one])
    assert tally.sums(sums).rows == 3 * rows


def test_sums_of_numbers_of_many_sizes_are_those_of_float64():
    numbers = (RNG.standard_normal(5000) * 10.0 ** RNG.integers(-6, 6, 5000)).astype(np.float32)
    sums = after([(1, n, n, 1.0) for n in numbers])
    assert sums.total == pytest.approx(numbers.astype(np.float64).sum(), rel=1e-12)


def test_float64_is_kept_where_it_is_enabled():
    with jax.enable_x64(True):
        numbers = RNG.standard_normal(1000) + 1e6
        sums = after([(1, n, n, 1.0) for n in numbers], jnp.float64)
        assert sums.total == pytest.approx(numbers.sum(), rel=1e-13)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_infinities_and_nan_are_kept(value):
    sums = after([(1, 1.0, 1.0, 1.0), (1, value, value, 1.0), (1, 1.0, 1.0, 1.0)])
    np.testing.assert_equal(sums.total, value)


def counted(rows, epochs=1):
    """Training and validation at batch 1 on a loss that is each row's own number."""
    x = RNG.integers(0, 256, rows).astype(np.uint8)
    y = (np.arange(rows) % 50 == 0).astype(np.uint8)

    def each(prediction, target):
        return LossValue(jnp.sum(prediction), jnp.float32(prediction.shape[0]))

    def one_in_fifty(prediction, target):
        return LossValue(jnp.sum(target == 0).astype(jnp.float32), jnp.float32(target.shape[0]))

    layer = nn.fun(lambda x: x.astype(jnp.float32)[:, None] / 255) >> nn.linear(1, bias=False) >> nn.fun(lambda y: y[:, 0])
    program = train.epochs(
        model=train.supervised(layer, each),
        optimizer=optim.sgdw(0.0),
        train_batches=lambda context: stream.minibatches(x, y, batch_size=1),
        validation_batches=lambda context: stream.minibatches(x, y, batch_size=1),
        epochs=epochs,
        initial={"1": {"weight": np.ones((1, 1), np.float32)}},
        metrics={"share": one_in_fifty},
    )
    trained = program.run(Runtime(log=None)).unwrap()._inner_value
    return trained.curve[-1], (x.astype(np.float32) / np.float32(255)).astype(np.float64).mean(), 1 - y.mean(dtype=np.float64)


def test_an_epoch_of_batches_of_one_counts_each_row():
    report, mean, share = counted(200_000)
    assert (report.steps, report.samples) == (200_000, 200_000)
    assert report.train_loss == pytest.approx(mean, rel=1e-6)
    assert report.validation_loss == pytest.approx(mean, rel=1e-6)
    assert report.validation_metrics["share"] == pytest.approx(share, rel=1e-6)


@pytest.mark.slow
def test_thirty_million_rows_at_batch_one_are_counted_exactly():
    report, mean, share = counted(30_000_000)
    assert (report.steps, report.samples) == (30_000_000, 30_000_000)
    assert report.train_loss == pytest.approx(mean, rel=1e-6)
    assert report.validation_loss == pytest.approx(mean, rel=1e-6)
    assert report.validation_metrics["share"] == pytest.approx(share, rel=1e-6)


# ------------------------------------------------------------------------------- the number of the step

X, Y = RNG.standard_normal((12, 2)).astype(np.float32), RNG.standard_normal((12, 1)).astype(np.float32)


def describe(**options):
    defaults = {
        "model": train.supervised(nn.linear(1), loss.mse()),
        "optimizer": optim.adamw(1e-3),
        "train_batches": lambda context: stream.minibatches(X, Y, batch_size=4),
        "epochs": 2,
    }
    return train.epochs(**{**defaults, **options})


@pytest.mark.parametrize("executor", [train.Fused(), train.Fused(chunk=2), train.Stepwise()], ids=str)
@pytest.mark.parametrize("left", [0, 1, 2])
@pytest.mark.parametrize("both", [True, False], ids=["both counters", "the optimizer's"])
def test_a_step_past_the_last_that_32_bits_count_is_a_fault_with_the_state_before_it(executor, left, both):
    trained = describe(epochs=1).run(Runtime(log=None)).unwrap()._inner_value
    far = jnp.int32(2**31 - 1 - left)
    state = replace(trained.state, optimizer_state={**trained.state.optimizer_state, "step": far})
    state = replace(state, step=far) if both else state
    found = describe(resume=state).run(Runtime(log=None, executor=executor)).failure()._inner_value
    assert isinstance(found, StepsExceeded)
    assert int(found.state.state.optimizer_state["step"]) == 2**31 - 1
    again = describe(initial=found.state).run(Runtime(log=None)).unwrap()._inner_value
    assert int(again.state.step) == 6


def test_adamw_at_a_late_step_is_adamw_without_bias_correction():
    """At step 2^31 - 1 the corrections are 1: the rule in float64, without them."""
    optimizer = optim.adamw(0.1)
    params, tags, g = {"w": jnp.array([1.0, -2.0])}, {"w": None}, np.array([0.5, 3.0])
    state = optimizer.init(params, tags)
    state = {"step": jnp.int32(2**31 - 2), "m": {"w": jnp.array([0.1, 0.2])}, "v": {"w": jnp.array([0.3, 0.4])}}
    new, after_one = optimizer.advance({"w": jnp.asarray(g, jnp.float32)}, state, params, tags, 1.0)
    m, v = 0.9 * np.array([0.1, 0.2]) + 0.1 * g, 0.999 * np.array([0.3, 0.4]) + 0.001 * g**2
    np.testing.assert_allclose(new["w"], np.array([1.0, -2.0]) - 0.1 * m / (np.sqrt(v) + 1e-8), rtol=1e-6)
    assert int(after_one["step"]) == 2**31 - 1
