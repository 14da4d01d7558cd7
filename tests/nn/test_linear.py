"""linear."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import nn
from fnlamp.arrays import array_spec
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch
from fnlamp.mode import Eval
from fnlamp.tag import Matrix, Role, Tag

KEY = jax.random.key(0)


def test_numbers() -> None:
    params = {"weight": jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), "bias": jnp.array([0.5, -0.5])}
    y, state = nn.linear(2).apply(params, {}, jnp.array([[1.0, 0.0, -1.0], [1.0, 1.0, 1.0]]), Eval())
    assert y.tolist() == [[-3.5, -4.5], [9.5, 11.5]]
    assert state == {}


def test_it_works_on_the_last_axis() -> None:
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 5, 7), np.float32))
    made = nn.linear(4).init(KEY, array_spec(x.shape, x.dtype))
    y, _ = nn.linear(4).apply(made.params, {}, x, Eval())
    assert y.shape == made.spec.shape == (2, 3, 5, 4)
    np.testing.assert_allclose(y[1, 2], x[1, 2] @ made.params["weight"], atol=1e-6)


def test_params_and_tags() -> None:
    made = nn.linear(4).init(KEY, array_spec((1, 3), jnp.float32))
    assert {name: leaf.shape for name, leaf in made.params.items()} == {"weight": (3, 4), "bias": (4,)}
    assert made.tags == {"weight": Tag("linear", Role.WEIGHT, matrix=Matrix()), "bias": Tag("linear", Role.BIAS)}
    assert list(nn.linear(4, bias=False).init(KEY, array_spec((1, 3), jnp.float32)).params) == ["weight"]


def test_the_bias_starts_at_zero_and_does_not_change_the_weight() -> None:
    spec = array_spec((1, 3), jnp.float32)
    with_bias, without = nn.linear(4).init(KEY, spec), nn.linear(4, bias=False).init(KEY, spec)
    np.testing.assert_array_equal(with_bias.params["bias"], 0)
    np.testing.assert_array_equal(with_bias.params["weight"], without.params["weight"])


def test_it_computes_in_the_dtype_of_the_weight() -> None:
    params = {"weight": jnp.ones((3, 4), jnp.bfloat16), "bias": jnp.ones(4, jnp.bfloat16)}
    assert nn.linear(4).apply(params, {}, jnp.ones((2, 3)), Eval())[0].dtype == jnp.bfloat16
    made = nn.linear(4).init(KEY, array_spec((2, 3), jnp.bfloat16))
    assert made.spec.dtype == made.params["weight"].dtype == jnp.bfloat16


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int32, jnp.bool_])
def test_integer_input_is_a_fault(dtype: type) -> None:
    with pytest.raises(FaultError, match="cast first, as nn.rescale") as caught:
        nn.linear(4).init(KEY, array_spec((2, 3), dtype))
    assert isinstance(caught.value.fault, DtypeMismatch)
    with pytest.raises(FaultError) as caught:
        nn.linear(4).apply({"weight": jnp.ones((3, 4)), "bias": jnp.ones(4)}, {}, jnp.ones((2, 3), dtype), Eval())
    assert isinstance(caught.value.fault, DtypeMismatch)


@pytest.mark.parametrize("x", [jnp.ones((2, 5)), jnp.ones(()), (jnp.ones((2, 3)),)])
def test_another_number_of_features_is_a_fault(x: object) -> None:
    with pytest.raises(FaultError) as caught:
        nn.linear(4).apply({"weight": jnp.ones((3, 4)), "bias": jnp.ones(4)}, {}, x, Eval())
    assert isinstance(caught.value.fault, ShapeMismatch)
    assert caught.value.fault.expected == "an array of shape (batch, ..., 3)"


def test_at_least_one_output() -> None:
    with pytest.raises(ValueError, match="at least one output, got 0"):
        nn.linear(0)
