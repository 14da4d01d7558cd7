"""With `lifted`, runs that differ in numbers are one executable, and each has the results of its own program."""

from __future__ import annotations

import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import outcomes
import pytest

from fnlamp import loss, nn, optim, stream, train
from fnlamp.effect import Runtime
from fnlamp.train.execute.lifted import lifted
from fnlamp.train.execute.programs import BODIES, PROGRAMS

rng = np.random.default_rng(0)
X = rng.standard_normal((40, 5)).astype(np.float32)
Y = np.arange(40, dtype=np.int32) % 3


@pytest.fixture
def compiled():
    """The names of the programs that XLA compiled while the test ran."""
    with outcomes.compiling(outcomes.compiled) as names:
        yield names


def describe(*, hidden=7, rate=0.1, smoothing=0.2, weight=0.5, warmup=3, clip=1.0, eps=1e-6, scale=0.3, cost=3.0, **options):
    layer = nn.linear(hidden) >> nn.tanh >> nn.dropout(rate) >> nn.linear(3) >> nn.fun(lambda x: x * scale)
    costs = np.array([1.0, 2.0, cost])
    terms = {"labels": loss.cross_entropy(label_smoothing=smoothing, class_weights=costs), "size": lambda p, y: (p**2).mean(-1)}
    return train.epochs(
        model=train.supervised(layer, loss.sum(terms, {"size": weight})),
        optimizer=optim.adamw(1e-2, eps=eps, clip=clip),
        train_batches=lambda context: stream.minibatches(X, Y, batch_size=16, seed=context.seed),
        validation_batches=lambda context: stream.full_batch(X, Y),
        **{"epochs": 2, "schedule": optim.warmup(warmup, optim.cosine(9)), **options},
    )


def run(executor=None, **settings):
    program = describe(**settings)
    return program.run(Runtime(log=None, executor=executor or train.Fused(lifted=True))).unwrap()._inner_value


def alone(executor=None, **settings):
    """As in a process that has run nothing else."""
    PROGRAMS.clear()
    BODIES.clear()
    return run(executor, **settings)


def figures(trained):
    losses = [(report.train_loss, report.validation_loss) for report in trained.curve]
    return [*map(np.asarray, jax.tree.leaves(trained.params)), np.array(losses)]


def same(one, other):
    return all(a.tobytes() == b.tobytes() for a, b in zip(figures(one), figures(other), strict=True))


OTHERS = {
    "rate": 0.25,
    "smoothing": 0.1,
    "weight": 0.7,
    "warmup": 4,
    "clip": 0.1,
    "eps": 1e-3,
    "scale": 0.45,
    "cost": 2.0,
    "schedule": optim.warmup(3, optim.cosine(8)),
}


@pytest.mark.slow
def test_other_numbers_compile_nothing_and_have_results_of_their_own(compiled):
    found = [run()]
    before = len(compiled)
    found += [run(**{name: value}) for name, value in OTHERS.items()]
    assert (len(compiled), sum(same(a, b) for a in found for b in found)) == (before, len(found))


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_a_run_compiles_nothing_and_has_the_results_of_its_own_program(compiled, name):
    run()
    before = len(compiled)
    shared = run(**{name: OTHERS[name]})
    assert len(compiled) == before
    for mine, plain in zip(figures(shared), figures(alone(train.Fused(), **{name: OTHERS[name]})), strict=True):
        np.testing.assert_allclose(mine, plain, rtol=1e-6, atol=1e-6 * np.abs(plain).max())


@pytest.mark.slow
def test_what_ran_before_does_not_change_a_bit_and_a_resumed_run_is_the_same():
    alone()
    second = run(rate=0.3)
    half = alone(rate=0.3, epochs=1)
    assert same(run(rate=0.3, resume=half), second)
    assert same(alone(train.Stepwise(lifted=True), rate=0.3), second)


@pytest.mark.slow
def test_other_shapes_and_other_operations_are_other_programs(compiled):
    run()
    for settings in ({"hidden": 8}, {"rate": 0.0}, {"schedule": optim.constant(1.0)}):
        before = len(compiled)
        shared = run(**settings)
        assert len(compiled) > before
        first = figures(shared)[0]
        np.testing.assert_allclose(first, figures(alone(train.Fused(), **settings))[0], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("executor", [train.Fused(lifted=True), train.Stepwise(lifted=True)], ids=str)
def test_indicators_are_lifted_too_and_change_no_bit(compiled, executor):
    watched = {"loss": train.step_loss(), "norms": train.gradient_norm()}
    for rate in (0.1, 0.3):
        told = []
        runtime = Runtime(log=None, executor=executor, observers=(told.append,))
        before = len(compiled)
        trained = describe(rate=rate, indicators=watched, measure_every=2).run(runtime).unwrap()._inner_value
        assert any("loss" in str(event) for event in told)
        assert rate == 0.1 or len(compiled) == before
        assert same(trained, run(executor, rate=rate))


# ---- single functions


def loops(by, times=3):
    """Numbers within loops, conditions, rematerialised parts and functions with their own derivative."""

    @jax.custom_jvp
    def own(x):
        return x * by

    own.defjvp(lambda primals, tangents: (own(*primals), tangents[0] * (by + 1)))

    @jax.custom_vjp
    def back(x):
        return x + by

    back.defvjp(lambda x: (back(x), ()), lambda _, g: (g * by,))

    def objective(x):
        x, rows = jax.lax.scan(lambda c, row: (c * by + row, c - by), x, jnp.ones((4, 3)), reverse=True, unroll=2)
        x = jax.checkpoint(lambda x: jnp.sin(x * by))(back(own(x)))
        x = jax.lax.switch(jnp.int32(x[0] > by), [lambda x: x * by, lambda x: jax.lax.cond(x[1] < by, jnp.cos, jnp.sin, x)], x)
        return (x + rows.sum(0)).sum() * 5

    def function(x, spare):
        limit = jnp.float32(by) * 40
        x = jax.lax.while_loop(lambda x: (x < limit).all(), lambda x: x * jnp.float32(by) + 1, x)
        value, grad = jax.value_and_grad(objective)(x)
        grad = jax.lax.fori_loop(0, times, lambda i, g: g * by + i, grad)
        return {"value": value, "grad": grad, "number": by}

    return function


@pytest.mark.slow
def test_numbers_inside_of_control_flow_are_arguments():
    PROGRAMS.clear()
    x = jnp.array([0.3, 0.2, 0.1])
    for by in (1.5, 1.25, 3.0, 0.75 + 1):
        found = lifted(loops(by), 1)(x, x + 0)
        for name, each in jax.jit(loops(by))(x, x).items():
            np.testing.assert_allclose(found[name], each, rtol=1e-6, err_msg=name)
    assert len(PROGRAMS) == 1
    lifted(loops(1.5, times=4), 1)(x, x + 0)  # a number of iterations is a part of a scan
    assert len(PROGRAMS) == 2


def test_differentiated_rematerialisation_stays_one():
    def function(by):
        return lambda x, spare: jax.grad(lambda x: jax.checkpoint(lambda x: jnp.sin(x * by))(x).sum())(x)

    PROGRAMS.clear()
    x = jnp.arange(3.0)
    for by in (2.0, 3.0):
        np.testing.assert_allclose(lifted(function(by), 1)(x, x + 0), by * np.cos(np.arange(3) * by), rtol=1e-6)
    assert len(PROGRAMS) == 1


@pytest.mark.parametrize(
    ("values", "programs"),
    [
        ((2, 3, -7), 1),
        ((2, np.float32(2.5)), 2),  # integers are other operations
        ((np.float16(2.5), np.float16(1.5), np.float32(2.5)), 2),
        ((0.5, 0.0, -0.0, 0.25), 3),  # zero stays a constant, and has a sign
        ((np.nan, np.nan, np.inf), 2),
        ((np.arange(3), np.arange(3) + 2, np.arange(3.0), np.ones(1)), 3),
        ((np.array([True, False, True]), np.array([False, False, True])), 1),
    ],
)
def test_which_numbers_share_a_program(values, programs):
    PROGRAMS.clear()
    x = jnp.array([1.0, 2.0, 3.0])
    for value in values:
        found = lifted(lambda x, spare, by=value: (x * by, by), 1)(x, x + 0)
        expected = jax.jit(lambda x, by=value: (x * by, by))(x)
        for one, other in zip(found, expected, strict=True):
            assert (one.dtype, one.shape) == (other.dtype, other.shape)
            np.testing.assert_array_equal(one, other)
            np.testing.assert_array_equal(np.signbit(one), np.signbit(other))
    assert len(PROGRAMS) == programs


def test_a_function_of_the_host_is_never_another_one():
    def function(host):
        return lambda x, spare: jax.pure_callback(host, jax.ShapeDtypeStruct((3,), np.float32), x)

    x = jnp.ones(3)
    assert [float(lifted(function(lambda x, by=by: x * np.float32(by)), 1)(x, x + 0)[0]) for by in (2, 3)] == [2, 3]


def test_threads_share_a_program():
    PROGRAMS.clear()
    x, found = jnp.arange(4.0), {}

    def work(by):
        found[by] = lifted(lambda x, spare: jnp.tanh(x / by) + by, 1)(x, x + 0)

    threads = [threading.Thread(target=work, args=(by,)) for by in (2.0, 3.0, 5.0, 7.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for by, each in found.items():
        np.testing.assert_allclose(each, np.tanh(np.arange(4) / by) + by, rtol=1e-6)
    assert (len(found), len(PROGRAMS)) == (4, 1)


MEMORY = """
import numpy as np
from fnlamp import nn, loss, optim, stream, train
from fnlamp.effect import Runtime
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
X, Y = np.ones((32, 4), np.float32), np.arange(32) % 3
def run(rate):
    train.epochs(
        model=train.supervised(nn.linear(8) >> nn.dropout(rate) >> nn.linear(3), loss.cross_entropy(label_smoothing=rate)),
        optimizer=optim.adamw(1e-3), epochs=2,
        train_batches=lambda c: stream.minibatches(X, Y, batch_size=8, seed=c.seed),
        validation_batches=lambda c: stream.full_batch(X, Y),
    ).run(Runtime(log=None, executor=train.Fused(lifted=True))).unwrap()
marks = [run(rate) or resident() for rate in np.linspace(0.01, 0.9, 100)]
print(marks[99] / marks[49])
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/statm")
def test_memory_is_flat():
    done = subprocess.run([sys.executable, "-c", MEMORY], check=True, capture_output=True, text=True)
    assert float(done.stdout) < 1.02
