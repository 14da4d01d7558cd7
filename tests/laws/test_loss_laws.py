"""The laws of every loss."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import LOSSES

each_loss = pytest.mark.parametrize(("loss", "target", "prediction"), LOSSES.values(), ids=LOSSES)


@pytest.mark.slow
@each_loss
def test_totals_and_weights_of_parts_add_up_to_the_whole(loss, target, prediction):
    whole = loss(prediction, target)
    parts = [
        loss(*jax.tree.map(lambda x, rows=rows: x[rows], (prediction, target)))
        for rows in (slice(0, 1), slice(1, 4), slice(4, 6))
    ]
    np.testing.assert_allclose(sum(part.total for part in parts), whole.total, rtol=1e-6)
    np.testing.assert_allclose(sum(part.weight for part in parts), whole.weight, rtol=1e-6)
    np.testing.assert_allclose(whole.mean, whole.total / whole.weight, rtol=1e-6)


@pytest.mark.slow
@each_loss
def test_the_gradient_is_a_finite_difference(loss, target, prediction):
    with jax.enable_x64(True):
        at = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), prediction)
        target, rng = jax.tree.map(jnp.asarray, target), np.random.default_rng(1)
        direction = jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape)), at)
        grads = jax.grad(lambda p: loss(p, target).mean)(at)
        slope = sum(jnp.sum(d * g) for d, g in zip(jax.tree.leaves(direction), jax.tree.leaves(grads), strict=True))
        ahead, back = (
            loss(jax.tree.map(lambda x, d, eps=eps: x + eps * d, at, direction), target).mean for eps in (1e-5, -1e-5)
        )
        np.testing.assert_allclose(float(slope), float((ahead - back) / 2e-5), rtol=1e-5, atol=1e-6)


@pytest.mark.broad
@each_loss
def test_compiled_in_half_precision_it_sums_in_float32(loss, target, prediction):
    value = jax.jit(loss)(jax.tree.map(lambda x: x.astype(jnp.bfloat16), prediction), target)
    assert (value.total.dtype, value.weight.dtype) == (jnp.float32, jnp.float32)
