"""weight_norm and spectral_norm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import nn, optim, tree
from fnlamp.arrays import array_spec
from fnlamp.mode import Eval, Train
from fnlamp.tag import Role

KEY = jax.random.key(0)
SPEC = array_spec((6, 4), jnp.float32)
X = jnp.asarray(np.random.default_rng(0).standard_normal((6, 4), np.float32))


def test_weight_norm_starts_as_the_layer_itself_and_has_a_length_per_output() -> None:
    for layer, spec, units in ((nn.linear(3), SPEC, 3), (nn.conv2d(5, 2), array_spec((2, 4, 4, 3), jnp.float32), 5)):
        normed = nn.weight_norm(layer)
        made, plain = normed.init(KEY, spec), layer.init(KEY, spec)
        assert made.params["gain"]["weight"].shape == (units,)
        assert made.tags["gain"]["weight"].role is Role.SCALE  # weight decay of weights leaves it alone
        x = jax.random.normal(KEY, spec.shape)
        expected, _ = layer.apply(plain.params, {}, x, Eval())
        np.testing.assert_allclose(normed.apply(made.params, {}, x, Eval())[0], expected, atol=1e-5)


def test_the_length_alone_scales_an_output() -> None:
    params = {"layer": {"weight": jnp.array([[3.0, 0.0], [4.0, 2.0]])}, "gain": {"weight": jnp.array([10.0, 7.0])}}
    y, _ = nn.weight_norm(nn.linear(2, bias=False)).apply(params, {}, jnp.eye(2), Eval())
    np.testing.assert_allclose(y, [[6, 0], [8, 7]], rtol=1e-6)


def test_weights_of_half_precision_stay_in_it_and_are_normed_in_float32() -> None:
    spec = array_spec((6, 4), jnp.bfloat16)
    for layer in (nn.weight_norm(nn.linear(3)), nn.spectral_norm(nn.linear(3))):
        made = layer.init(KEY, spec)
        y, _ = layer.apply(made.params, made.state, X.astype(jnp.bfloat16), Train(KEY))
        assert {y.dtype, made.spec.dtype, *(leaf.dtype for leaf in jax.tree.leaves(made.params))} == {jnp.dtype(jnp.bfloat16)}
    assert made.state["u"]["weight"].dtype == jnp.float32


@pytest.mark.parametrize("normed", [nn.weight_norm, nn.spectral_norm], ids=lambda f: f.__name__)
def test_a_weight_of_zeros_has_no_direction_and_is_nan(normed) -> None:
    layer = normed(nn.linear(2, weight_init=jax.nn.initializers.zeros))
    made = layer.init(KEY, SPEC)
    assert np.isnan(layer.apply(made.params, made.state, X, Train(KEY))[0]).all()


@pytest.mark.parametrize("normed", [nn.weight_norm, nn.spectral_norm], ids=lambda f: f.__name__)
def test_a_layer_without_weights_is_a_mistake(normed) -> None:
    for layer in (nn.relu, nn.batch_norm()):
        with pytest.raises(ValueError, match="has no weight to normalise"):
            normed(layer).init(KEY, SPEC)


def test_the_largest_singular_value_becomes_one_and_eval_leaves_the_estimate() -> None:
    layer = nn.spectral_norm(nn.linear(3, bias=False))
    made = layer.init(KEY, SPEC)
    params = {"weight": jnp.asarray(np.random.default_rng(1).standard_normal((4, 3), np.float32) * 9)}  # another weight
    state = made.state
    for _ in range(60):
        _, state = layer.apply(params, state, X, Train(KEY))
    y, after = layer.apply(params, state, jnp.eye(4), Eval())
    np.testing.assert_allclose(np.linalg.svd(y)[1][0], 1, rtol=1e-5)
    u, s, vt = np.linalg.svd(np.asarray(params["weight"], np.float64))
    np.testing.assert_allclose(np.abs(state["v"]["weight"]), np.abs(u[:, 0]), atol=1e-4)
    np.testing.assert_allclose(np.abs(state["u"]["weight"]), np.abs(vt[0]), atol=1e-4)
    np.testing.assert_allclose(y, np.asarray(params["weight"]) / s[0], atol=1e-5)
    assert after is state


@pytest.mark.slow
def test_the_gradient_in_eval_is_that_of_finite_differences() -> None:
    layer = nn.spectral_norm(nn.linear(3) >> nn.tanh)
    made = layer.init(KEY, SPEC)
    with jax.enable_x64(True):
        params, state, x = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), jnp.float64), (made.params, made.state, X))

        def objective(params: object) -> jax.Array:
            return jnp.sum(jnp.sin(layer.apply(params, state, x, Eval())[0]))  # type: ignore[arg-type]

        gradient = jax.grad(objective)(params)
        for path, leaf in tree.named(params).items():
            for index in np.ndindex(leaf.shape):
                up, down = (objective(tree.put(params, path, leaf.at[index].add(e))) for e in (1e-6, -1e-6))
                np.testing.assert_allclose(tree.at(gradient, path)[index], (up - down) / 2e-6, rtol=1e-6, atol=1e-8)


def test_the_state_of_the_layer_inside_moves() -> None:
    layer = nn.spectral_norm(nn.linear(3) >> nn.batch_norm())
    made = layer.init(KEY, SPEC)
    _, state = layer.apply(made.params, made.state, X, Train(KEY))
    assert sorted(state) == ["layer", "u", "v"]
    assert not np.allclose(state["layer"]["1"]["mean"], made.state["layer"]["1"]["mean"])


def test_decay_of_weights_leaves_the_gain() -> None:
    made = nn.weight_norm(nn.linear(3)).init(KEY, SPEC)
    rule = optim.sgdw(0.1, lambda tag: 0.5 if tag.role is Role.WEIGHT else 0.0)
    zeros = jax.tree.map(jnp.zeros_like, made.params)
    params, _ = rule.advance(zeros, rule.init(made.params, made.tags), made.params, made.tags)
    np.testing.assert_array_equal(params["gain"]["weight"], made.params["gain"]["weight"])
    assert not np.allclose(params["layer"]["weight"], made.params["layer"]["weight"])
