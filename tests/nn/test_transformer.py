"""transformer_block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import nn
from fnlamp.arrays import array_spec
from fnlamp.fault import FaultError, ShapeMismatch
from fnlamp.layer import abstract_init
from fnlamp.mode import Eval, Train

KEY = jax.random.key(0)


def test_dropout_acts_in_training_only() -> None:
    layer, plain = (nn.transformer_block(2, drop_rate=rate) for rate in (0.5, 0.0))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 4), np.float32))
    params = layer.init(KEY, array_spec(x.shape, x.dtype)).params
    abstract = abstract_init(plain, array_spec(x.shape, x.dtype)).params
    assert jax.tree.structure(params) == jax.tree.structure(abstract)
    expected = jax.jit(plain.apply)(params, {}, x, Eval())[0]
    np.testing.assert_array_equal(jax.jit(layer.apply)(params, {}, x, Eval())[0], expected)
    assert not np.allclose(jax.jit(layer.apply)(params, {}, x, Train(KEY))[0], expected)


def test_expansion_is_the_width_inside() -> None:
    made = nn.transformer_block(2, expansion=3).init(KEY, array_spec((2, 5, 4), jnp.float32))
    assert made.params["perceptron"]["layer"]["up"]["weight"].shape == (4, 12)
    with pytest.raises(ValueError, match="expansion of at least 1"):
        nn.transformer_block(2, expansion=0)


def test_a_width_that_heads_does_not_divide_is_a_fault() -> None:
    with pytest.raises(FaultError, match="transformer_block: expected") as caught:
        nn.transformer_block(3).init(KEY, array_spec((2, 5, 4), jnp.float32))
    assert isinstance(caught.value.fault, ShapeMismatch)
