"""Activations at points where their value is known; against torch in parity/."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import nn
from fnlamp.fault import FaultError
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
        (nn.relu6, [0, 0, 0, 1, 3]),
        (nn.relu_squared, [0, 0, 0, 1, 9]),
        (nn.selu, [-1.6705687, -1.1113307, 0, 1.0507010, 3.1521030]),
        (nn.celu, [np.exp(-3) - 1, np.exp(-1) - 1, 0, 1, 3]),
        (nn.mish, X * np.tanh(np.log1p(np.exp(X)))),
        (nn.hard_sigmoid, [0, 1 / 3, 1 / 2, 2 / 3, 1]),
        (nn.hard_tanh, [-1, -1, 0, 1, 1]),
        (nn.log_sigmoid, -np.log1p(np.exp(-X))),
        (nn.soft_sign, [-0.75, -0.5, 0, 0.5, 0.75]),
        (nn.hard_shrink, [-3, -1, 0, 1, 3]),
        (nn.soft_shrink, [-2.5, -0.5, 0, 0.5, 2.5]),
        (nn.tanh_shrink, X - np.tanh(X)),
        (nn.softmin, np.exp(-X) / np.exp(-X).sum()),
    ],
    ids=str,
)
def test_values(layer: Layer, values: object) -> None:
    y, state = layer.apply({}, {}, jnp.asarray(X, jnp.float32)[None], Eval())
    np.testing.assert_allclose(y[0], np.asarray(values), atol=2e-6)
    assert state == {}


@pytest.mark.parametrize(
    "layer",
    [
        *(nn.silu, nn.sigmoid, nn.tanh, nn.softplus, nn.softmax, nn.log_softmax, nn.elu, nn.gelu, nn.gelu_tanh, nn.selu),
        *(nn.celu, nn.mish, nn.log_sigmoid, nn.soft_sign, nn.softmin, nn.prelu(), nn.rrelu()),
    ],
    ids=str,
)
def test_no_overflow_in_values_and_gradients(layer: Layer) -> None:
    x = jnp.array([[-1e4, -1e2, 0.0, 1e2, 1e4]])
    params = layer.init(jax.random.key(0), x).params
    for index in range(5):
        y, slope = jax.value_and_grad(lambda x, i=index: layer.apply(params, {}, x, Eval())[0][0, i])(x)
        assert jnp.isfinite(y)
        assert jnp.isfinite(slope).all()


def test_the_gradient_of_relu_at_zero_is_zero() -> None:
    assert jax.grad(lambda x: nn.relu.apply({}, {}, x, Eval())[0])(0.0) == 0


def test_softmax_sums_to_one_over_the_last_axis() -> None:
    y, _ = nn.softmax.apply({}, {}, jax.random.normal(jax.random.key(0), (2, 3, 4)), Eval())
    np.testing.assert_allclose(y.sum(-1), 1, rtol=1e-6)


def test_gradients_at_kinks_and_beyond_the_bounds() -> None:
    """The gradient passes where the bound does not hold, element by element, and is 0 beyond it."""
    x, upstream = jnp.array([-9.0, -0.5, 0.5, 5.0, 9.0]), jnp.array([1.0, 2.0, 3.0, 4.0, 5.0])
    for layer, inside in (
        (nn.relu6, [0, 0, 1, 1, 0]),
        (nn.hard_tanh, [0, 1, 1, 0, 0]),
        (nn.soft_shrink, [1, None, None, 1, 1]),
    ):
        _, pull = jax.vjp(lambda x, layer=layer: layer.apply({}, {}, x, Eval())[0], x)
        for got, up, one in zip(pull(upstream)[0], upstream, inside, strict=True):
            assert one is None or got == up * one


def test_gated_units() -> None:
    x = jnp.array([[1.0, 2.0, 0.0, 100.0]])
    np.testing.assert_allclose(nn.glu.apply({}, {}, x, Eval())[0], [[0.5, 2]])
    np.testing.assert_allclose(nn.geglu.apply({}, {}, x, Eval())[0], [[0, 200]])
    np.testing.assert_allclose(nn.swiglu.apply({}, {}, x, Eval())[0], [[0, 200]])
    with pytest.raises(FaultError, match="even number of features"):
        nn.glu.apply({}, {}, x[:, :3], Eval())
    layer = nn.gated_linear(2, nn.silu)
    made = layer.init(jax.random.key(0), jax.ShapeDtypeStruct((1, 4), jnp.float32))
    value, gate = (np.asarray(x, np.float64) @ np.asarray(made.params[name]["weight"]) for name in ("value", "gate"))
    np.testing.assert_allclose(layer.apply(made.params, {}, x, Eval())[0], value * gate / (1 + np.exp(-gate)), rtol=1e-4)
    with pytest.raises(FaultError, match="gates of the values' shape"):
        nn.gated_linear(2, nn.glu).init(jax.random.key(0), jax.ShapeDtypeStruct((1, 4), jnp.float32))


def test_prelu_of_another_number_of_features_and_of_integers_is_a_fault() -> None:
    params = nn.prelu(per_feature=True).init(jax.random.key(0), jax.ShapeDtypeStruct((2, 3), jnp.float32)).params
    for x in (jnp.ones((2, 1)), jnp.ones((2, 3), int)):
        with pytest.raises(FaultError):
            nn.prelu(per_feature=True).apply(params, {}, x, Eval())
    with pytest.raises(ValueError, match="lower is at most upper"):
        nn.rrelu(0.5, 0.1)
