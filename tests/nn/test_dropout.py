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


@pytest.mark.parametrize("layer", [nn.channel_dropout, nn.stochastic_depth], ids=lambda f: f.__name__)
@pytest.mark.parametrize("rate", [0.1, 0.6])
def test_whole_channels_and_whole_rows(layer, rate: float) -> None:
    x = jnp.ones((600, 3, 2, 40))
    y, _ = layer(rate).apply({}, {}, x, Train(KEY))
    np.testing.assert_allclose(np.unique(y), [0, 1 / (1 - rate)], rtol=1e-6)
    np.testing.assert_array_equal(y, jnp.broadcast_to(y[:, :1, :1], y.shape))
    own = y[:, 0, 0] if layer is nn.channel_dropout else y[:, 0, 0, 0]
    if layer is nn.stochastic_depth:
        np.testing.assert_array_equal(y, jnp.broadcast_to(y[..., :1], y.shape))
    assert abs(float(jnp.mean(own == 0)) - rate) < 5 * np.sqrt(rate * (1 - rate) / own.size)
    assert layer(0.0).apply({}, {}, x, Train(KEY))[0] is x
    assert layer(rate).apply({}, {}, x, Eval())[0] is x


def test_faults_of_channels_and_rows() -> None:
    with pytest.raises(FaultError, match=r"\(batch, ..., channels\) with positions between, got float32\[2, 3\]"):
        nn.channel_dropout(0.5).apply({}, {}, jnp.ones((2, 3)), Eval())
    with pytest.raises(FaultError, match="an array of shape"):
        nn.stochastic_depth(0.5).apply({}, {}, jnp.ones(()), Eval())
    for layer in (nn.channel_dropout, nn.stochastic_depth):
        with pytest.raises(ValueError, match="0 <= rate < 1, got 1"):
            layer(1.0)
        with pytest.raises(FaultError, match="floating-point input"):
            layer(0.5).init(KEY, jax.ShapeDtypeStruct((3, 2, 2), jnp.uint8))


def test_a_row_whose_branch_is_dropped_is_its_input() -> None:
    block = nn.residual(nn.fun(jnp.ones_like) >> nn.stochastic_depth(0.5))
    y, _ = block.apply({}, {}, jnp.full((50, 3), 7.0), Train(KEY))
    assert set(np.unique(y)) == {7.0, 9.0}
