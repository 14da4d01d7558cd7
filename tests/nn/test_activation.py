"""Activations at points where their value is known; against torch in parity/."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import nn
from fnlamp.layer import Layer
from fnlamp.mode import Eval

X = np.array([-3.0, -1.0, 0.0, 1.0, 3.0])


@pytest.mark.parametrize(
    ("layer", "values"),
    [
        (nn.relu, [0, 0, 0, 1, 3]),
        (nn.gelu, [-0.0040497, -0.1586553, 0, 0.8413447, 2.9959503]),
        (nn.gelu_tanh, [-0.0036374, -0.1588080, 0, 0.8411920, 2.9963626]),
        (nn.silu, X / (1 + np.exp(-X))),
        (nn.hard_swish, [0, -1 / 3, 0, 2 / 3, 3]),
        (nn.sigmoid, 1 / (1 + np.exp(-X))),
        (nn.tanh, np.tanh(X)),
        (nn.leaky_relu, [-0.03, -0.01, 0, 1, 3]),
        (nn.elu, [np.exp(-3) - 1, np.exp(-1) - 1, 0, 1, 3]),
        (nn.softplus, np.log1p(np.exp(X))),
        (nn.softmax, np.exp(X) / np.exp(X).sum()),
        (nn.log_softmax, X - np.log(np.exp(X).sum())),
    ],
    ids=str,
)
def test_values(layer: Layer, values: object) -> None:
    y, state = layer.apply({}, {}, jnp.asarray(X, jnp.float32)[None], Eval())
    np.testing.assert_allclose(y[0], np.asarray(values), atol=2e-6)
    assert state == {}


@pytest.mark.parametrize(
    "layer", [nn.silu, nn.sigmoid, nn.tanh, nn.softplus, nn.softmax, nn.log_softmax, nn.elu, nn.gelu, nn.gelu_tanh], ids=str
)
def test_no_overflow_in_values_and_gradients(layer: Layer) -> None:
    x = jnp.array([[-1e4, -1e2, 0.0, 1e2, 1e4]])
    for index in range(5):
        y, slope = jax.value_and_grad(lambda x, i=index: layer.apply({}, {}, x, Eval())[0][0, i])(x)
        assert jnp.isfinite(y)
        assert jnp.isfinite(slope).all()


def test_the_gradient_of_relu_at_zero_is_zero() -> None:
    assert jax.grad(lambda x: nn.relu.apply({}, {}, x, Eval())[0])(0.0) == 0


def test_softmax_sums_to_one_over_the_last_axis() -> None:
    y, _ = nn.softmax.apply({}, {}, jax.random.normal(jax.random.key(0), (2, 3, 4)), Eval())
    np.testing.assert_allclose(y.sum(-1), 1, rtol=1e-6)
