"""Gradients under uneven upstream gradients, ties, repeated inputs and square shapes, where uniform ones would hide a mistake.

lamp, whose tests have uniform upstream gradients, is wrong in each of these.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import Eval, Train, loss, nn, optim

KEY = jax.random.key(0)
CHANCE = np.random.default_rng(0)


def gradient(layer, x, upstream, params=None):
    """The gradient of the input, for that gradient of the output."""
    params = {} if params is None else params
    _, back = jax.vjp(lambda x: layer.apply(params, {}, x, Eval())[0], x)
    return np.asarray(back(upstream)[0])


def test_positions_are_each_rows_own():
    hidden = jnp.asarray(CHANCE.standard_normal((3, 4, 2)), jnp.float32)
    positions = jnp.array([[3, 0], [1, 1], [2, 3]])
    expected = [[np.asarray(hidden)[i, p] for p in row] for i, row in enumerate(positions.tolist())]
    np.testing.assert_array_equal(nn.gather_positions(hidden, positions), expected)
    upstream = CHANCE.standard_normal((3, 2, 2)).astype(np.float32)
    expected = np.zeros((3, 4, 2), np.float32)
    for i, row in enumerate(positions.tolist()):
        for k, p in enumerate(row):
            expected[i, p] += upstream[i, k]  # a position that is read twice takes both
    (grads,) = jax.vjp(lambda h: nn.gather_positions(h, positions), hidden)[1](jnp.asarray(upstream))
    np.testing.assert_allclose(grads, expected, rtol=1e-6)


def test_each_token_learns_and_one_that_is_read_several_times_takes_each_gradient_once():
    layer, tokens = nn.embedding(4, 2), jnp.array([[0, 2, 0], [0, 3, 3]])
    params = layer.init(KEY, jax.ShapeDtypeStruct((2, 3), jnp.int32)).params
    weights = jnp.asarray(CHANCE.standard_normal((2, 3, 2)), jnp.float32)

    def total(params):
        read = [layer.apply(params, {}, tokens, Eval())[0] for _ in range(3)]  # as several layers that share the table
        return sum(jnp.sum(weights * one) for one in read)

    expected = np.zeros((4, 2), np.float32)
    for at in np.ndindex(2, 3):
        expected[int(tokens[at])] += 3 * np.asarray(weights)[at]
    grads = np.asarray(jax.grad(total)(params)["weight"])
    np.testing.assert_allclose(grads, expected, rtol=1e-5)
    assert grads[0].all() and not grads[1].any()


@pytest.mark.parametrize(
    ("layer", "slope"),
    [
        (nn.relu6, lambda x: (x > 0) & (x < 6)),
        (nn.hard_tanh, lambda x: (x > -1) & (x < 1)),
        (nn.hard_shrink, lambda x: np.abs(x) > 0.5),
        (nn.fun(lambda x: jnp.clip(x, -0.25, 2.0)), lambda x: (x > -0.25) & (x < 2.0)),
    ],
)
def test_clamped_numbers_take_their_own_gradient(layer, slope):
    x = 4 * CHANCE.standard_normal((5, 7)).astype(np.float32)
    upstream = CHANCE.standard_normal((5, 7)).astype(np.float32)
    np.testing.assert_allclose(gradient(layer, x, upstream), upstream * slope(x), rtol=1e-6)


def test_the_mean_over_axes_of_square_images_goes_back_to_the_right_ones():
    x = CHANCE.standard_normal((3, 3, 3, 3)).astype(np.float32)  # every axis as long: a wrong one would fit
    upstream = CHANCE.standard_normal((3, 3)).astype(np.float32)
    expected = np.broadcast_to(upstream[:, None, None, :] / 9, x.shape)
    np.testing.assert_allclose(gradient(nn.global_avg_pool, x, upstream), expected, rtol=1e-6)


def test_the_variance_over_three_axes_counts_all_their_numbers():
    x = jnp.asarray(CHANCE.standard_normal((4, 3, 5, 2)) * [2, 7] + [1, -3], jnp.float32)
    layer = nn.batch_norm(decay=0.0)
    made = layer.init(KEY, jax.ShapeDtypeStruct(x.shape, x.dtype))
    y, state = layer.apply(made.params, made.state, x, Train(KEY))
    rows = np.asarray(x, float).reshape(-1, 2)
    np.testing.assert_allclose(state["variance"], rows.var(0, ddof=1), rtol=1e-5)
    expected = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5)
    np.testing.assert_allclose(np.asarray(y).reshape(-1, 2), expected, rtol=1e-4, atol=1e-5)


def test_norms_of_zeros_have_finite_gradients():
    zeros = jnp.zeros((2, 3))
    for norm in (nn.layer_norm(), nn.rms_norm(), nn.group_norm(1)):
        made = norm.init(KEY, jax.ShapeDtypeStruct(zeros.shape, zeros.dtype))
        assert np.isfinite(gradient(norm, zeros, jnp.ones((2, 3)), made.params)).all()
    clipped = optim.clip_by_global_norm({"a": zeros}, 1.0)
    np.testing.assert_array_equal(clipped["a"], zeros)


def test_ignored_rows_do_not_count_in_the_mean():
    logits = jnp.asarray(CHANCE.standard_normal((4, 3)), jnp.float32)
    target = jnp.array([2, -100, 0, -100])
    rows = np.asarray(jax.nn.log_softmax(logits))
    for value in (loss.cross_entropy()(logits, target), loss.nll()(jax.nn.log_softmax(logits), target)):
        np.testing.assert_allclose(value.mean, -(rows[0, 2] + rows[2, 0]) / 2, rtol=1e-6)
        assert float(value.weight) == 2
