"""batch_norm and layer_norm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import nn
from fnlamp.arrays import array_spec
from fnlamp.fault import BatchTooSmall, DtypeMismatch, FaultError, ShapeMismatch
from fnlamp.layer import Layer
from fnlamp.mode import Eval, Train
from fnlamp.nn.norm import moments, running
from fnlamp.tag import Role

KEY = jax.random.key(0)
TRAIN = Train(KEY)


def test_training_uses_the_batch_and_moves_the_running_moments() -> None:
    x = jnp.array([[1.0, 10.0], [3.0, 30.0]])
    made = nn.batch_norm(decay=0.9, eps=0.0).init(KEY, array_spec(x.shape, x.dtype))
    y, state = nn.batch_norm(decay=0.9, eps=0.0).apply(made.params, made.state, x, TRAIN)
    np.testing.assert_allclose(y, [[-1, -1], [1, 1]], rtol=1e-6)
    np.testing.assert_allclose(state["mean"], [0.2, 2.0], rtol=1e-6)
    np.testing.assert_allclose(state["variance"], [0.9 + 0.1 * 2, 0.9 + 0.1 * 200], rtol=1e-6)  # unbiased: 2, 200


def test_evaluating_uses_the_running_moments_and_does_not_change_them() -> None:
    layer = nn.batch_norm(eps=0.0)
    params = {"scale": jnp.array([3.0]), "shift": jnp.array([1.0])}
    state = {"mean": jnp.array([2.0]), "variance": jnp.array([4.0])}
    y, after = layer.apply(params, state, jnp.array([[6.0]]), Eval())
    assert y.tolist() == [[7.0]]  # 3 (6 - 2) / 2 + 1
    assert after is state


def test_the_running_moments_reach_those_of_the_data() -> None:
    layer = nn.batch_norm()
    made = layer.init(KEY, array_spec((256, 3), jnp.float32))
    state, step, rng = made.state, jax.jit(layer.apply), np.random.default_rng(0)
    for _ in range(100):
        x = rng.normal([0, 5, -5], [1, 2, 3], (256, 3)).astype(np.float32)
        _, state = step(made.params, state, x, TRAIN)
    np.testing.assert_allclose(state["mean"], [0, 5, -5], atol=0.15)
    np.testing.assert_allclose(np.sqrt(state["variance"]), [1, 2, 3], rtol=0.05)


def test_the_running_moments_of_half_precision_do_not_stop_on_the_way() -> None:
    layer = nn.batch_norm(decay=0.99)
    x = jnp.tile(jnp.array([[99.0], [101.0]], jnp.bfloat16), (50, 1))
    made = layer.init(KEY, array_spec(x.shape, x.dtype))
    state, step = made.state, jax.jit(layer.apply)
    for _ in range(1000):
        y, state = step(made.params, state, x, TRAIN)
    assert y.dtype == jnp.bfloat16
    assert float(state["mean"][0]) == pytest.approx(100, rel=1e-3)


def test_a_training_batch_of_one_is_a_fault_and_evaluating_one_is_not() -> None:
    layer = nn.sequence(norm=nn.batch_norm())
    made = layer.init(KEY, array_spec((1, 3), jnp.float32))
    with pytest.raises(FaultError, match="drop_last") as caught:
        layer.apply(made.params, made.state, jnp.ones((1, 3)), TRAIN)
    assert caught.value.fault == BatchTooSmall("batch_norm", 1, where="norm/batch_norm")
    y, _ = layer.apply(made.params, made.state, jnp.ones((1, 3)), Eval())
    assert y.shape == (1, 3)


def test_positions_count_as_batch() -> None:
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 50, 3), np.float32) + 7)
    made = nn.batch_norm().init(KEY, array_spec(x.shape, x.dtype))
    y, state = nn.batch_norm().apply(made.params, made.state, x, TRAIN)
    np.testing.assert_allclose(y.mean((0, 1)), 0, atol=1e-5)
    np.testing.assert_allclose(y.var((0, 1)), 1, atol=1e-3)
    assert state["mean"].shape == (3,)


@pytest.mark.parametrize(("layer", "axis"), [(nn.batch_norm(), 0), (nn.layer_norm(), -1)], ids=str)
def test_a_large_mean_does_not_cancel(layer: Layer, axis: int) -> None:
    offset = np.random.default_rng(0).normal(size=(128, 128)).astype(np.float32)
    x = (np.float32(1e4) + offset).astype(np.float32)
    exact = x.astype(np.float64)
    exact = (exact - exact.mean(axis, keepdims=True)) / np.sqrt(exact.var(axis, keepdims=True) + 1e-5)
    made = layer.init(KEY, array_spec(x.shape, x.dtype))
    y, _ = layer.apply(made.params, made.state, jnp.asarray(x), TRAIN)
    # The numbers have steps of 2^-10 here and the mean is rounded to one: E[x^2] - E[x]^2 would be off by whole units.
    np.testing.assert_allclose(y, exact, atol=3e-3)


def test_layer_norm_numbers() -> None:
    x = jnp.array([[1.0, 3.0], [10.0, 30.0]])
    params = {"scale": jnp.array([2.0, 3.0]), "shift": jnp.array([0.5, -0.5])}
    for mode in (TRAIN, Eval()):
        y, state = nn.layer_norm(eps=0.0).apply(params, {}, x, mode)
        np.testing.assert_allclose(y, [[-1.5, 2.5], [-1.5, 2.5]], rtol=1e-6)
        assert state == {}


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("shift", [True, False])
def test_layer_norm_params(scale: bool, shift: bool) -> None:
    layer = nn.layer_norm(scale=scale, shift=shift)
    made = layer.init(KEY, array_spec((2, 3), jnp.float32))
    assert sorted(made.params) == ["scale"] * scale + ["shift"] * shift
    assert [tag.role for tag in jax.tree.leaves(made.tags)] == [Role.SCALE] * scale + [Role.SHIFT] * shift
    y, _ = layer.apply(made.params, {}, jnp.array([[1.0, 2.0, 3.0]]), Eval())
    np.testing.assert_allclose(y, [[-1.2247, 0, 1.2247]], atol=1e-4)


@pytest.mark.parametrize("layer", [nn.batch_norm(), nn.layer_norm(), nn.group_norm(3), nn.rms_norm()], ids=str)
def test_faults_of_wrong_input(layer: Layer) -> None:
    for wrong in (array_spec((3,), jnp.float32), (array_spec((2, 3), jnp.float32),)):
        with pytest.raises(FaultError) as caught:
            layer.init(KEY, wrong)
        assert isinstance(caught.value.fault, ShapeMismatch)
    with pytest.raises(FaultError, match="cast first") as caught:
        layer.init(KEY, array_spec((2, 5, 3), jnp.uint8))
    assert isinstance(caught.value.fault, DtypeMismatch)
    made = layer.init(KEY, array_spec((2, 5, 3), jnp.float32))
    with pytest.raises(FaultError) as caught:
        layer.apply(made.params, made.state, jnp.ones((2, 5, 1)), TRAIN)  # would broadcast
    assert isinstance(caught.value.fault, ShapeMismatch)
    assert caught.value.fault.expected == "an array of shape (batch, ..., 3)"


def test_norms_compute_in_float32_and_give_back_the_dtype_of_the_input() -> None:
    x = jnp.asarray(np.random.default_rng(0).standard_normal((512, 4)) + 100, jnp.bfloat16)
    made = nn.batch_norm().init(KEY, array_spec(x.shape, x.dtype))
    y, state = nn.batch_norm().apply(made.params, made.state, x, TRAIN)
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(np.asarray(y, np.float64), (exact - exact.mean(0)) / exact.std(0), atol=0.02)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in state.values()} == {jnp.dtype("float32")}


def test_moments_and_running() -> None:
    mean, variance = moments(jnp.array([[1.0, 2.0], [3.0, 6.0]]), 0)
    assert (mean.tolist(), variance.tolist()) == ([2, 4], [1, 4])
    assert running(jnp.array([1.0]), jnp.array([2.0]), 0.75).tolist() == [1.25]


def test_groups_must_divide_the_channels_and_have_two_values() -> None:
    with pytest.raises(FaultError, match="channels that 2 groups divide"):
        nn.group_norm(2).init(KEY, array_spec((2, 3), jnp.float32))
    for layer in (nn.group_norm(3), nn.instance_norm()):
        with pytest.raises(FaultError, match="at least two values in a group.*always 0"):
            layer.init(KEY, array_spec((2, 3), jnp.float32))
        empty = layer.init(KEY, array_spec((2, 0, 3), jnp.float32))
        assert layer.apply(empty.params, {}, jnp.ones((2, 0, 3)), TRAIN)[0].shape == (2, 0, 3)


@pytest.mark.slow
@pytest.mark.parametrize("layer", [nn.group_norm(2), nn.instance_norm(), nn.rms_norm(), nn.layer_norm()], ids=str)
def test_one_row_in_training_zeros_and_half_precision(layer: Layer) -> None:
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 5, 4), np.float32))
    made = layer.init(KEY, array_spec(x.shape, x.dtype))
    many = jnp.concatenate([x, 3 * x, x + 1])
    np.testing.assert_allclose(  # a row's numbers do not depend on other rows
        layer.apply(made.params, {}, many, TRAIN)[0][:1], layer.apply(made.params, {}, x, TRAIN)[0], atol=1e-6
    )

    def total(x: jax.Array) -> jax.Array:
        return jnp.sum(layer.apply(made.params, {}, x, TRAIN)[0])

    value, gradient = jax.value_and_grad(total)(jnp.zeros((1, 5, 4)))
    assert value == 0
    assert jnp.isfinite(gradient).all()
    half = layer.init(KEY, array_spec(x.shape, jnp.bfloat16))
    y, _ = layer.apply(half.params, {}, (x + 100).astype(jnp.bfloat16), TRAIN)
    wide, _ = layer.apply(made.params, {}, (x + 100).astype(jnp.bfloat16).astype(jnp.float32), TRAIN)
    assert {y.dtype, *(leaf.dtype for leaf in half.params.values())} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_allclose(y.astype(jnp.float32), wide, atol=0.02)
