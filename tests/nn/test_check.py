"""The checks that layers share."""

import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp.arrays import array_spec
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch
from fnlamp.nn.check import check_features, check_float, check_integer, check_window
from fnlamp.nn.lowering.axes import Axis

WRONG = [
    (lambda x: check_features(x, "here"), (), "an array of shape (batch, ..., features)"),
    (lambda x: check_features(x, "here", least=2), (3,), "an array of shape (batch, ..., features)"),
    (lambda x: check_features(x, "here", 4), (2, 3), "an array of shape (batch, ..., 4)"),
    (lambda x: check_features(x, "here", axes="batch, time"), (2, 3), "an array of shape (batch, time, features)"),
    (lambda x: check_features(x, "here", axes="batch, time"), (2, 3, 4, 5), "an array of shape (batch, time, features)"),
    (lambda x: check_features(x, "here"), (2, 0), "an array with at least one feature"),
    (lambda x: check_window(x, (Axis(2), Axis(2)), "here"), (2, 3, 4), "images (batch, height, width, channels)"),
]


@pytest.mark.parametrize(("check", "shape", "expected"), WRONG)
def test_a_shape_that_does_not_fit_is_a_fault_of_the_layer(check, shape, expected):
    with pytest.raises(FaultError) as caught:
        check(array_spec(shape, jnp.float32))
    assert isinstance(caught.value.fault, ShapeMismatch)
    assert (caught.value.fault.expected, caught.value.fault.where) == (expected, "here")


def test_a_shape_that_fits_passes():
    check_features(jnp.ones(3), "here", 3)
    check_features(jnp.ones((2, 5, 3)), "here", axes="batch, time")
    assert check_window(jnp.ones((1, 5, 7, 1)), (Axis(2), Axis(3)), "here") == (4, 5)


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.bool_, np.float32, jnp.bfloat16])
def test_numbers_are_floating_point_or_integers(dtype):
    x = np.zeros(3, dtype)
    fits = jnp.issubdtype(dtype, jnp.floating), jnp.issubdtype(dtype, jnp.integer)
    for check, right in zip((check_float, lambda x, where: check_integer(x, where, "tokens")), fits, strict=True):
        if right:
            check(x, "here")
        else:
            with pytest.raises(FaultError, match="here: expected") as caught:
                check(x, "here")
            assert isinstance(caught.value.fault, DtypeMismatch)
