"""The count of floating-point operations, against formulas, against loops over positions, and against XLA's own."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import loss, nn, optim, stream, train
from fnlamp.train.explain.work import Work, work_of


def counted(function, *given):
    return work_of(jax.make_jaxpr(function)(*given)).flops


def by_xla(function, *given):
    return jax.jit(function).lower(*given).cost_analysis()["flops"]


def test_a_product_is_two_operations_a_term():
    a, b = jnp.zeros((3, 4, 5)), jnp.zeros((3, 5, 7))
    assert counted(jnp.matmul, a, b) == 2 * 3 * 4 * 5 * 7


@pytest.mark.parametrize(
    ("stride", "padding", "hole"), [(1, ((0, 0), (0, 0)), 1), (2, ((1, 2), (0, 1)), 1), (1, ((2, 2), (2, 2)), 2)]
)
def test_a_convolution_counts_the_positions_inside_the_image(stride, padding, hole):
    x, kernel = jnp.zeros((2, 7, 6, 3)), jnp.zeros((3, 3, 3, 4))

    def convolve(x, kernel):
        form = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), padding, lhs_dilation=(hole, hole), dimension_numbers=form
        )

    out = jax.eval_shape(convolve, x, kernel).shape
    inside = 0
    for row in range(out[1]):
        for column in range(out[2]):
            for i in range(3):
                for j in range(3):
                    at = row * stride + i - padding[0][0], column * stride + j - padding[1][0]
                    inside += all(0 <= p <= (n - 1) * hole and p % hole == 0 for p, n in zip(at, (7, 6), strict=True))
    assert counted(convolve, x, kernel) == 2 * 2 * 3 * 4 * inside


@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_and_their_gradients_agree_with_xla(groups):
    x, kernel = jnp.zeros((2, 9, 9, 4)), jnp.zeros((3, 3, 4 // groups, 6))

    def total(x, kernel):
        form = ("NHWC", "HWIO", "NHWC")
        made = jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=form, feature_group_count=groups)
        return made.sum()

    for function in (total, jax.value_and_grad(total, argnums=(0, 1))):
        assert counted(function, x, kernel) == pytest.approx(by_xla(function, x, kernel), rel=0.02)


def test_every_iteration_of_a_loop_counts_and_a_loop_with_a_condition_counts_once():
    w = jnp.zeros((8, 8))

    def scanned(x):
        return jax.lax.scan(lambda x, _: (w @ x, None), x, None, length=10)[0]

    def until(x):
        return jax.lax.while_loop(lambda x: x[0, 0] < 1, lambda x: w @ x, x)

    x = jnp.zeros((8, 8))
    assert counted(scanned, x) == 10 * 2 * 8**3
    found = work_of(jax.make_jaxpr(until)(x))
    assert found.flops >= 2 * 8**3
    assert str(found).startswith("at least ")


def test_of_two_branches_the_longer_counts():
    w = jnp.zeros((8, 8))

    def either(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: w @ (w @ x), lambda x: x, x)

    assert counted(either, w) == 2 * 2 * 8**3


def test_moving_numbers_is_no_work_and_a_reduction_is_one_for_each():
    x = jnp.zeros((6, 5))
    assert counted(lambda x: jnp.concatenate([x.T.reshape(6, 5), x])[::-1], x) == 0
    assert counted(lambda x: x + 1, x) == 30
    assert counted(jnp.sum, x) == 30


def test_work_adds_up():
    assert Work(3, True).plus(Work(4)).times(2) == Work(14, True)
    assert [str(Work(n)) for n in (0, 1500, 25 * 10**5, 3 * 10**9, 4 * 10**12)] == [
        *("0 MFLOP", "0.0015 MFLOP", "2.5 MFLOP", "3 GFLOP", "4 TFLOP")
    ]


def step_and_all(layer, x, y, objective, **options):
    """The numbers of a plan's line on work, in MFLOP."""
    plan = train.epochs(
        model=train.supervised(layer, objective),
        optimizer=optim.sgdw(0.1),
        train_batches=lambda context: stream.minibatches(x, y, batch_size=128),
        **{"epochs": 3, **options},
    ).explain()
    (line,) = [line for line in plan.splitlines() if line.startswith("  work: ")]
    words = line.replace(",", "").split()
    units = {"MFLOP": 1, "GFLOP": 1e3}
    return [float(number) * units[unit] for number, unit in itertools.pairwise(words) if unit in units]


def test_the_work_of_an_mlp_is_that_of_its_products():
    x = np.zeros((320, 200), np.float32)  # batches of 128, 128 and 64
    layer = nn.linear(300) >> nn.linear(100)
    row = 2 * (2 * 200 * 300 + 3 * 300 * 100) / 1e6  # forward, weights, and the input of the second
    step, run = step_and_all(layer, x, np.zeros((320, 100), np.float32), loss.mse())
    assert step == pytest.approx(128 * row, rel=0.03)
    assert run == pytest.approx(3 * 320 * row, rel=0.03)


def test_validation_is_forward_alone_and_counted_by_its_epochs():
    x, y = np.zeros((128, 200), np.float32), np.zeros((128, 300), np.float32)
    _, training, validation = step_and_all(
        nn.linear(300), x, y, loss.mse(), validation_batches=lambda c: stream.full_batch(x, y), epochs=5, validate_every=2
    )
    assert training == pytest.approx(5 * 128 * 2 * 2 * 200 * 300 / 1e6, rel=0.03)
    assert validation == pytest.approx(2 * 128 * 2 * 200 * 300 / 1e6, rel=0.03)


def test_the_work_of_a_convolution_is_that_of_its_windows():
    x, y = np.zeros((32, 20, 20, 4), np.float32), np.zeros(32, np.int32)
    step, _ = step_and_all(
        nn.conv2d(16, (3, 3)) >> nn.conv2d(16, (3, 3)) >> nn.flatten >> nn.linear(3), x, y, loss.cross_entropy()
    )
    first, second, last = 18 * 18 * 9 * 4 * 16, 16 * 16 * 9 * 16 * 16, 16 * 16 * 16 * 3
    assert step == pytest.approx(2 * 32 * (2 * first + 3 * second + 3 * last) / 1e6, rel=0.05)


def test_microbatches_are_the_same_work():
    x, y = np.zeros((128, 200), np.float32), np.zeros((128, 300), np.float32)
    whole, _ = step_and_all(nn.linear(300), x, y, loss.mse())
    parts, _ = step_and_all(nn.linear(300), x, y, loss.mse(), gradient=train.microbatches(4))
    assert parts == pytest.approx(whole, rel=0.03)
