"""fun, flatten, rescale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import nn
from fnlamp.arrays import array_spec
from fnlamp.layer import abstract_init
from fnlamp.mode import Eval


def test_fun_is_named_after_its_function() -> None:
    def double(x: jax.Array) -> jax.Array:
        return 2 * x

    assert repr(nn.fun(double)) == "double"
    assert repr(nn.fun(double, "twice")) == "twice"
    assert repr(nn.fun(lambda x: x)) == "<lambda>"


def test_fun_sees_the_whole_batch_and_hands_the_state_through() -> None:
    state = {"kept": jnp.ones(())}
    y, after = nn.fun(lambda x: x.sum(0)).apply({}, state, jnp.ones((3, 2)), Eval())
    assert y.tolist() == [3, 3]
    assert after is state


@pytest.mark.parametrize(("shape", "flat"), [((5, 2, 3), (5, 6)), ((5,), (5, 1)), ((0, 2, 3), (0, 6)), ((5, 6), (5, 6))])
def test_flatten_keeps_the_batch_axis(shape: tuple[int, ...], flat: tuple[int, ...]) -> None:
    x = jnp.arange(np.prod(shape)).reshape(shape)
    y, _ = nn.flatten.apply({}, {}, x, Eval())
    assert y.shape == flat == abstract_init(nn.flatten, array_spec(shape, jnp.int32)).spec.shape
    np.testing.assert_array_equal(y.ravel(), x.ravel())


def test_rescale_casts_pixels() -> None:
    y, _ = nn.rescale(1 / 255, -0.5).apply({}, {}, jnp.array([[0, 51, 255]], jnp.uint8), Eval())
    np.testing.assert_allclose(y, [[-0.5, -0.3, 0.5]], atol=1e-7)
    assert y.dtype == jnp.float32
    assert nn.rescale(2.0, dtype=jnp.bfloat16).apply({}, {}, jnp.ones((1, 1), jnp.uint8), Eval())[0].dtype == jnp.bfloat16
    assert repr(nn.rescale(1 / 255)) == "rescale(0.00392157)"
    assert repr(nn.rescale(2.0, -1.0)) == "rescale(2, -1)"
