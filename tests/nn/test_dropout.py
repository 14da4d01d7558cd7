"""dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import nn
from fnlamp.fault import FaultError
from fnlamp.mode import Eval, Train

KEY = jax.random.key(0)
ONES = jnp.ones((400, 500))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_share_that_is_zero_and_the_expectation(rate: float) -> None:
    y, _ = nn.dropout(rate).apply({}, {}, ONES, Train(KEY))
    error = 5 * np.sqrt(rate * (1 - rate) / ONES.size)  # five standard errors
    assert abs(float(jnp.mean(y == 0)) - rate) < error
    assert abs(float(jnp.mean(y)) - 1) < error / (1 - rate)
    np.testing.assert_allclose(np.unique(y), [0, 1 / (1 - rate)], rtol=1e-6)


def test_rate_zero_and_evaluating_are_the_identity() -> None:
    assert nn.dropout(0.0).apply({}, {}, ONES, Train(KEY))[0] is ONES
    assert nn.dropout(0.9).apply({}, {}, ONES, Eval())[0] is ONES


@pytest.mark.parametrize("mode", [Train(KEY), Eval()])
def test_integers_are_a_fault(mode) -> None:
    with pytest.raises(FaultError, match=r"dropout: expected floating-point input, got int32\[3\]"):
        nn.dropout(0.5).apply({}, {}, jnp.arange(3), mode)
    with pytest.raises(FaultError, match="floating-point input"):
        nn.dropout(0.5).init(KEY, jax.ShapeDtypeStruct((3,), jnp.uint8))


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan")])
def test_the_rate_is_a_probability_below_one(rate: float) -> None:
    with pytest.raises(ValueError, match="0 <= rate < 1"):
        nn.dropout(rate)


def test_the_mask_is_a_function_of_the_key() -> None:
    layer = nn.dropout(0.5)
    a, b, c = (layer.apply({}, {}, ONES, Train(jax.random.key(seed)))[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_every_dropout_of_a_model_has_its_own_mask() -> None:
    both = nn.branch(nn.dropout(0.5), nn.dropout(0.5))
    a, b = both.apply({}, {}, ONES, Train(KEY))[0]
    assert float(jnp.mean((a == 0) == (b == 0))) == pytest.approx(0.5, abs=0.01)
    kept = nn.sequence(nn.dropout(0.5), nn.dropout(0.5)).apply({}, {}, ONES, Train(KEY))[0]
    assert float(jnp.mean(kept != 0)) == pytest.approx(0.25, abs=0.01)
    kept = nn.repeat(nn.dropout(0.5), 3, shared=True).apply({}, {}, ONES, Train(KEY))[0]
    assert float(jnp.mean(kept != 0)) == pytest.approx(0.125, abs=0.01)


def test_half_precision_is_kept() -> None:
    assert nn.dropout(0.5).apply({}, {}, ONES.astype(jnp.bfloat16), Train(KEY))[0].dtype == jnp.bfloat16
