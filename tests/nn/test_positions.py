"""Positions: learned, as sines, as rotations."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import nn
from fnlamp.arrays import array_spec
from fnlamp.fault import FaultError
from fnlamp.mode import Eval
from fnlamp.tag import Matrix, Role, Tag

KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).standard_normal((2, 9, 3, 8), np.float32))


@pytest.mark.slow
def test_learned_positions() -> None:
    layer = nn.learned_positions(5)
    made = layer.init(KEY, array_spec((2, 3, 4), jnp.float32))
    assert made.tags == {"weight": Tag("learned_positions", Role.EMBEDDING, matrix=Matrix())}
    y, _ = layer.apply(made.params, {}, jnp.ones((2, 3, 4)), Eval())
    np.testing.assert_allclose(y[1] - 1, made.params["weight"][:3], atol=1e-6)
    assert layer.apply(made.params, {}, jnp.ones((2, 0, 4)), Eval())[0].shape == (2, 0, 4)
    for wrong in (jnp.ones((2, 6, 4)), jnp.ones((2, 3, 1)), jnp.ones((3, 4)), jnp.ones((2, 3, 4), int)):
        with pytest.raises(FaultError):
            layer.apply(made.params, {}, wrong, Eval())


def test_learned_positions_that_are_given() -> None:
    weight = jnp.arange(10.0).reshape(5, 2)
    given = jnp.array([[4, 0, 5], [1, 1, -1]])
    layer, x = nn.learned_positions(5), jnp.ones((2, 3, 2))
    y, _ = layer.apply({"weight": weight}, {}, (x, given), Eval())
    expected = [[weight[4], weight[0], [np.nan] * 2], [weight[1], weight[1], [np.nan] * 2]]
    np.testing.assert_array_equal(y - 1, np.array(expected))
    assert layer.init(KEY, (x, given)).spec.shape == (2, 3, 2)
    for wrong in ((x, given[:, :2]), (x, given[0]), (x, x[..., 0]), (x, given, given)):
        with pytest.raises(FaultError, match="learned_positions"):
            layer.apply({"weight": weight}, {}, wrong, Eval())


def test_document_positions() -> None:
    numbers = np.random.default_rng(0).integers(0, 3, (20, 17))
    expected = np.zeros_like(numbers)
    for row, t in np.ndindex(20, 16):
        expected[row, t + 1] = expected[row, t] + 1 if numbers[row, t] == numbers[row, t + 1] else 0
    np.testing.assert_array_equal(nn.document_positions(numbers), expected)
    assert nn.document_positions(numbers[:, :0]).shape == (20, 0)


@pytest.mark.parametrize("width", [6, 7])
def test_sinusoidal_positions_are_the_papers_formula_far_out_too(width: int) -> None:
    time = 5000
    y, _ = nn.sinusoidal_positions().apply({}, {}, jnp.zeros((1, time, width)), Eval())
    for t in (0, 1, 17, 4999):
        for i in range(width):
            angle = t / 10000 ** (2 * (i // 2) / width)
            expected = math.cos(angle) if i % 2 else math.sin(angle)
            assert float(y[0, t, i]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("halves", [False, True])
def test_rotations_are_products_of_complex_numbers(halves: bool) -> None:
    x = np.asarray(X, np.float64)
    pairs = x[..., :4] + 1j * x[..., 4:] if halves else x[..., 0::2] + 1j * x[..., 1::2]
    angles = np.arange(9)[:, None, None] / 10000 ** (np.arange(0, 8, 2) / 8)
    turned = pairs * np.exp(1j * angles)
    parts = np.concatenate([turned.real, turned.imag], -1) if halves else np.stack([turned.real, turned.imag], -1)
    y = nn.rotary(X, halves=halves)
    np.testing.assert_allclose(y, parts.reshape(x.shape), atol=1e-5)
    rows = jnp.broadcast_to(jnp.arange(9), (2, 9))
    np.testing.assert_allclose(nn.rotary(X, rows, halves=halves), y, atol=1e-5)
    later = nn.rotary(X[:, 4:6], jnp.arange(4, 6), halves=halves)  # as while decoding
    np.testing.assert_allclose(later, y[:, 4:6], atol=1e-5)


def test_products_depend_on_distances_alone() -> None:
    q, k = (nn.rotary(jnp.broadcast_to(X[:1, :1], (1, 9, 3, 8))) for _ in range(2))
    products = jnp.einsum("bthd,bshd->bhts", q, k)[0]
    np.testing.assert_allclose(products[:, 1:, 1:], products[:, :-1, :-1], atol=1e-4)


def test_half_precision_and_wrong_shapes_of_rotations() -> None:
    half = nn.rotary(X.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), nn.rotary(X.astype(jnp.bfloat16).astype(jnp.float32)), atol=0.03)
    with pytest.raises(FaultError, match="the width even"):
        nn.rotary(X[..., :7])
    for positions, expected in ((jnp.arange(8), r"positions of shape \(9,\)"), (jnp.ones(9), "integer positions")):
        with pytest.raises(FaultError, match=expected):
            nn.rotary(X, positions)
