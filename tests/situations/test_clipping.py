"""The norm of a gradient and its clipping, against NumPy in float64: large, tiny, of mixed dtypes, and not finite."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import optim
from fnlamp.tree import global_norm

RNG = np.random.default_rng(3)


def norm_of(tree):
    return np.sqrt(sum(np.sum(np.asarray(x, np.float64) ** 2) for x in jax.tree.leaves(tree)))


def clipped_by(tree, limit):
    factor = min(1.0, limit / norm_of(tree)) if norm_of(tree) else 1.0
    return jax.tree.map(lambda x: np.asarray(x, np.float64) * factor, tree)


def f32(*numbers):
    return jnp.array(numbers, jnp.float32)


GRADIENTS = {
    "usual": {"a": f32(3, 4), "b": f32(-12)},
    "of one array": f32(0.3, 0.4),
    "the squares overflow": {"a": f32(3e19, 4e19)},
    "only the sum overflows": {"a": jnp.full(1000, 1e18, jnp.float32)},
    "close to the largest": {"a": f32(-3.3e38), "b": f32(1, -2e38)},
    "the norm itself overflows": {"a": jnp.full(9, 3e38, jnp.float32)},
    "large and small": {"a": f32(3e19, 1e-20), "b": f32(4e19)},
    "the squares are lost": {"a": f32(3e-30, 4e-30)},
    "close to the smallest": {"a": jnp.full(7, 3e-37, jnp.float32)},
    "at the lower border": {"a": f32(1.1e-10, -0.2e-10)},
    "zero": {"a": f32(0, 0), "b": f32(0)},
    "bfloat16": {"a": jnp.array([3e19, 4e19], jnp.bfloat16)},
    "bfloat16, tiny": {"a": jnp.array([3e-30, 4e-30], jnp.bfloat16)},
    "float16": {"a": jnp.array([6e4, -6e4], jnp.float16)},
    "float16, tiny": {"a": jnp.array([6e-8, 1.2e-7], jnp.float16)},
    "mixed": {"a": jnp.array([3e4], jnp.float16), "b": f32(4e19), "c": jnp.array([1e30], jnp.bfloat16)},
    "an empty array": {"a": jnp.zeros((0, 3)), "b": f32(3, 4)},
    "a scalar": {"a": jnp.float32(-5)},
    "many": {f"{i}": jnp.asarray(RNG.standard_normal(7), jnp.float32) for i in range(50)},
}
each = pytest.mark.parametrize("tree", GRADIENTS.values(), ids=GRADIENTS)
compiled = pytest.mark.parametrize("how", [lambda f: f, jax.jit], ids=["eager", "compiled"])


@each
@compiled
def test_the_norm(tree, how):
    norm = how(global_norm)(tree)
    assert norm.dtype == jnp.float32
    expected = norm_of(tree)
    np.testing.assert_allclose(float(norm), expected if expected < 3.4028e38 else np.inf, rtol=1e-6)


@each
@compiled
@pytest.mark.parametrize("limit", [1.0, 1e-3, *(pytest.param(limit, marks=pytest.mark.slow) for limit in (2.5, 1e6))])
def test_the_clipped_gradient(tree, how, limit):
    made = how(lambda g: optim.clip_by_global_norm(g, limit))(tree)
    for ours, theirs, given in zip(*map(jax.tree.leaves, (made, clipped_by(tree, limit), tree)), strict=True):
        assert (ours.dtype, ours.shape) == (given.dtype, given.shape)
        digits = {"float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}[str(given.dtype)]
        smallest = float(jnp.finfo(given.dtype).smallest_subnormal) if given.dtype == jnp.float16 else 1.2e-38
        np.testing.assert_allclose(np.asarray(ours, np.float64), theirs, rtol=digits, atol=smallest)


@pytest.mark.parametrize("limit", [1.0, 7.0, 1e9])
def test_it_is_torchs_but_for_its_1e_6(limit):
    torch = pytest.importorskip("torch", reason="torch comes with the extra parity")
    leaf = torch.zeros(500, dtype=torch.float64, requires_grad=True)
    gradient = RNG.standard_normal(500)
    leaf.grad = torch.tensor(gradient)
    torch.nn.utils.clip_grad_norm_([leaf], limit)
    ours = optim.clip_by_global_norm(jnp.asarray(gradient, jnp.float32), limit)
    np.testing.assert_allclose(ours, leaf.grad.numpy(), rtol=2e-6)


@compiled
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("beside", [f32(1.0), f32(3e38), f32(0.0), f32(1e-30), jnp.ones(2, jnp.bfloat16)], ids=str)
def test_what_is_not_finite_is_never_clipped_to_zero(how, bad, beside):
    tree = {"a": f32(1, bad), "b": beside}
    made = how(lambda g: optim.clip_by_global_norm(g, 1.0))(tree)
    assert not any(jnp.isfinite(leaf).any() for leaf in jax.tree.leaves(made))
    norm = how(global_norm)(tree)
    assert np.isnan(float(norm)) if np.isnan(bad) else float(norm) == np.inf


@pytest.mark.parametrize("tree", [{}, [], (), {"a": {}}, None], ids=str)
def test_no_parameters_have_no_norm(tree):
    assert float(global_norm(tree)) == 0
    assert optim.clip_by_global_norm(tree, 1.0) == tree


@pytest.mark.parametrize("scale", [1.0, 1e200, 1e-200, 1e300, 1e-300])
def test_in_float64(scale):
    with jax.enable_x64(True):
        numbers = scale * RNG.standard_normal(100)
        expected = scale * np.sqrt(np.sum((numbers / scale) ** 2))
        tree = {"a": jnp.asarray(numbers[:30]), "b": jnp.asarray(numbers[30:])}
        norm = global_norm(tree)
        assert norm.dtype == jnp.float64
        np.testing.assert_allclose(float(norm), expected, rtol=1e-14)
        made = optim.clip_by_global_norm(tree, 1e-3)
        factor = min(1.0, 1e-3 / expected)
        np.testing.assert_allclose(np.concatenate([made["a"], made["b"]]), numbers * factor, rtol=1e-14)
        mixed = optim.clip_by_global_norm({"a": jnp.float32([3]), "b": jnp.float64([4])}, np.float64(1))
        assert (mixed["a"].dtype, mixed["b"].dtype) == (jnp.float32, jnp.float64)


@pytest.mark.parametrize("kind", [float, np.float64, np.float32, jnp.float32, np.asarray, int])
def test_limits_of_any_numeric_type(kind):
    with jax.enable_x64(True):
        made = optim.clip_by_global_norm({"a": f32(3, 4)}, kind(1))
        assert made["a"].dtype == jnp.float32
        np.testing.assert_allclose(made["a"], [0.6, 0.8], rtol=1e-6)


@pytest.mark.parametrize("wrong", [0, -1.0, np.nan, "1", None, [1.0], True], ids=str)
def test_limits_are_norms(wrong):
    with pytest.raises((TypeError, ValueError), match="limit is a norm above 0"):
        optim.clip_by_global_norm({"a": f32(3, 4)}, wrong)


def test_an_optimizer_steps_by_the_clipped_gradient():
    rule, params = optim.sgdw(1.0, clip=1.0), {"w": jnp.zeros(2)}
    new, _ = rule.advance({"w": f32(3e19, 4e19)}, rule.init(params, {"w": None}), params, {"w": None})
    np.testing.assert_allclose(new["w"], [-0.6, -0.8], rtol=1e-6)


def test_it_can_be_batched_and_differentiated():
    many = jnp.stack([f32(3, 4), f32(3e19, 4e19), f32(3e-30, 4e-30), f32(0, 0)])
    norms = jax.vmap(global_norm)(many)
    np.testing.assert_allclose(norms, [5, 5e19, 5e-30, 0], rtol=1e-6)
    np.testing.assert_allclose(jax.grad(global_norm)(f32(3, 4)), [0.6, 0.8], rtol=1e-6)
