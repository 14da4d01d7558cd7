"""The laws of every loss."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import LOSSES

PREDICTION = jax.nn.log_softmax(jax.random.normal(jax.random.key(0), (6, 3)))
each_loss = pytest.mark.parametrize(("loss", "target"), LOSSES.values(), ids=LOSSES)


@pytest.mark.slow
@each_loss
def test_totals_and_weights_of_parts_add_up_to_the_whole(loss, target):
    whole = loss(PREDICTION, target)
    parts = [loss(PREDICTION[rows], target[rows]) for rows in (slice(0, 1), slice(1, 4), slice(4, 6))]
    np.testing.assert_allclose(sum(part.total for part in parts), whole.total, rtol=1e-6)
    np.testing.assert_allclose(sum(part.weight for part in parts), whole.weight, rtol=1e-6)
    np.testing.assert_allclose(whole.mean, whole.total / whole.weight, rtol=1e-6)


@each_loss
def test_the_gradient_is_a_finite_difference(loss, target):
    with jax.enable_x64(True):
        at = jnp.asarray(np.asarray(PREDICTION), jnp.float64)
        direction = jnp.asarray(np.random.default_rng(1).standard_normal(at.shape))
        slope = jnp.sum(direction * jax.grad(lambda p: loss(p, jnp.asarray(target)).mean)(at))
        ahead, back = (loss(at + eps * direction, jnp.asarray(target)).mean for eps in (1e-5, -1e-5))
        np.testing.assert_allclose(float(slope), float((ahead - back) / 2e-5), rtol=1e-5, atol=1e-6)


@each_loss
def test_compiled_in_half_precision_it_sums_in_float32(loss, target):
    value = jax.jit(loss)(PREDICTION.astype(jnp.bfloat16), target)
    assert (value.total.dtype, value.weight.dtype) == (jnp.float32, jnp.float32)
