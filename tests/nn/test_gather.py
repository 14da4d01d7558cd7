"""Positions of each row, against a loop."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import nn
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 4), (3, 5, 2, 2)])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64])
def test_every_row_has_its_own_positions(shape, dtype):
    hidden, positions = RNG.standard_normal(shape).astype(np.float32), RNG.integers(0, 5, (3, 6)).astype(dtype)
    expected = np.stack([[hidden[i, p] for p in positions[i]] for i in range(3)])
    np.testing.assert_array_equal(nn.gather_positions(jnp.asarray(hidden), jnp.asarray(positions)), expected)


def test_a_position_out_of_range_is_not_a_number():
    hidden = jnp.ones((1, 300, 2))
    out = nn.gather_positions(hidden, jnp.array([[0, 299, 300, -1]]))
    assert np.isnan(out).all(axis=-1).tolist() == [[False, False, True, True]]
    assert not np.isnan(nn.gather_positions(hidden, jnp.array([[255]], jnp.uint8))).any()


def test_the_gradient_reaches_the_chosen_positions_of_each_row():
    grad = jax.grad(lambda h: jnp.sum(nn.gather_positions(h, jnp.array([[0, 0], [2, 1]]))))(jnp.zeros((2, 3, 1)))
    np.testing.assert_array_equal(grad[..., 0], [[2, 0, 0], [0, 1, 1]])


def test_other_shapes_and_dtypes_are_faults():
    hidden = jnp.ones((2, 3, 1))
    for positions, kind in (
        (jnp.zeros(2, int), ShapeMismatch),
        (jnp.zeros((3, 2), int), ShapeMismatch),
        (jnp.zeros((2, 2)), DtypeMismatch),
    ):
        with pytest.raises(FaultError) as caught:
            nn.gather_positions(hidden, positions)
        assert isinstance(caught.value.fault, kind)


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint8, bool])
def test_dtypes_without_nan_are_refused_and_floats_keep_their_dtype(dtype):
    positions = jnp.zeros((2, 2), int)
    with pytest.raises(FaultError, match="DtypeMismatch.*cast them first"):
        nn.gather_positions(jnp.ones((2, 3), dtype), positions)
    for kept in (jnp.float16, jnp.bfloat16, jnp.float32):
        assert nn.gather_positions(jnp.ones((2, 3), kept), positions).dtype == kept
