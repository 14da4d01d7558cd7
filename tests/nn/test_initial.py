"""Moments and bounds of the initial distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import nn
from fnlamp.arrays import array_spec
from fnlamp.nn.initial import bias_of, glorot_normal

KEY = jax.random.key(7)
SHAPE = (300, 500)


def test_glorot_normal_has_variance_two_over_the_sum_of_the_fans() -> None:
    weight = np.asarray(glorot_normal(KEY, SHAPE, jnp.float32))
    # 150,000 numbers: the standard error of the mean is 0.0026 deviations, of the variance 0.4 %.
    assert abs(weight.mean()) < 5 * 0.0026 * np.sqrt(2 / 800)
    assert weight.var() == pytest.approx(2 / 800, rel=0.02)


def test_a_weight_by_torch_uniform_is_uniform_in_one_over_the_root_of_the_fan_in() -> None:
    weight, bound = np.asarray(nn.torch_uniform(KEY, SHAPE, jnp.float32)), 1 / np.sqrt(300)
    assert bound * 0.999 < weight.max() <= bound * (1 + 1e-6)
    assert bound * 0.999 < -weight.min() <= bound * (1 + 1e-6)
    assert weight.var() == pytest.approx(bound**2 / 3, rel=0.01)
    assert abs(weight.mean()) < 0.01 * bound


def test_a_bias_by_torch_uniform_is_uniform_in_one_over_the_root_of_the_fan_in_of_the_weight() -> None:
    layer = nn.linear(20_000, weight_init=nn.torch_uniform, bias_init=nn.torch_uniform)
    bias = np.asarray(layer.init(KEY, array_spec((1, 16), jnp.float32)).params["bias"])
    assert 0.249 < bias.max() <= 0.25
    assert -0.25 <= bias.min() < -0.249
    assert bias.var() == pytest.approx(0.25**2 / 3, rel=0.03)


def test_bias_of_takes_both_kinds() -> None:
    constant = jax.nn.initializers.constant
    by_inputs = nn.by_fan_in(lambda n: constant(1 / n))
    assert bias_of(by_inputs, 4)(KEY, (2,), jnp.float32).tolist() == [0.25, 0.25]
    assert bias_of(constant(3.0), 4)(KEY, (2,), jnp.float32).tolist() == [3, 3]


def test_weight_and_bias_have_different_keys() -> None:
    layer = nn.linear(5, weight_init=jax.nn.initializers.normal(1.0), bias_init=jax.nn.initializers.normal(1.0))
    made = layer.init(KEY, array_spec((1, 1), jnp.float32))
    assert not np.allclose(made.params["weight"][0], made.params["bias"])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_they_keep_the_dtype(dtype: type) -> None:
    layer = nn.linear(5, weight_init=nn.torch_uniform, bias_init=nn.torch_uniform)
    made = layer.init(KEY, array_spec((1, 4), dtype))
    assert {leaf.dtype for leaf in jax.tree.leaves(made.params)} == {jnp.dtype(dtype)}


@pytest.mark.slow
def test_a_bias_without_a_number_of_inputs_is_refused() -> None:
    with pytest.raises(TypeError, match="by_fan_in: shape .24,. has no inputs"):
        nn.lstm(6, bias_init=nn.torch_uniform).init(KEY, array_spec((3, 5, 4), jnp.float32))
