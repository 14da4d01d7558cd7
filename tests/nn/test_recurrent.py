"""lstm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import nn
from fnlamp.arrays import array_spec
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch
from fnlamp.mode import Eval
from fnlamp.tag import Matrix, Role, Tag

KEY = jax.random.key(0)


def made(shape: tuple[int, ...] = (3, 5, 4), hidden: int = 6, **options: object) -> tuple[dict[str, jax.Array], jax.Array]:
    """Parameters with a bias that is nowhere 0, and an input."""
    layer = nn.lstm(hidden, bias_init=jax.nn.initializers.normal(1), **options)
    x = np.random.default_rng(1).standard_normal(shape, np.float32)
    return layer.init(KEY, array_spec(shape, jnp.float32)).params, jnp.asarray(x)


def by_hand(params: dict[str, jax.Array], x: jax.Array) -> np.ndarray:
    """The equations of the docstring, one time step after the other, in float64."""
    w, r = (np.asarray(params[name], np.float64) for name in ("input_weight", "recurrent_weight"))
    b = np.asarray(params["bias"], np.float64) if "bias" in params else 0
    h = c = np.zeros((x.shape[0], r.shape[0]))
    states = []
    for t in range(x.shape[1]):
        i, f, g, o = np.split(np.asarray(x[:, t], np.float64) @ w + h @ r + b, 4, axis=-1)
        i, f, o = (1 / (1 + np.exp(-z)) for z in (i, f, o))
        c = f * c + i * np.tanh(g)
        h = o * np.tanh(c)
        states.append(h)
    return np.stack(states, 1)


@pytest.mark.parametrize("bias", [True, False])
def test_numbers(bias: bool) -> None:
    params, x = made(bias=bias)
    y, state = nn.lstm(6, bias=bias).apply(params, {}, x, Eval())
    np.testing.assert_allclose(y, by_hand(params, x), atol=1e-6)
    assert state == {}


def test_params_tags_and_initial_values() -> None:
    init = nn.lstm(6).init(KEY, array_spec((3, 5, 4), jnp.float32))
    shapes = {name: leaf.shape for name, leaf in init.params.items()}
    assert shapes == {"input_weight": (4, 24), "recurrent_weight": (6, 24), "bias": (24,)}
    roles = {"input_weight": Role.WEIGHT, "recurrent_weight": Role.WEIGHT, "bias": Role.BIAS}
    assert init.tags == {
        name: Tag("lstm", role, matrix=Matrix(blocks=4) if role is Role.WEIGHT else None) for name, role in roles.items()
    }
    assert init.spec.shape == (3, 5, 6)
    np.testing.assert_array_equal(init.params["bias"].reshape(4, 6)[:, 0], [0, 1, 0, 0])
    recurrent = init.params["recurrent_weight"]
    np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(6), atol=1e-5)
    assert sorted(nn.lstm(6, bias=False).init(KEY, array_spec((3, 5, 4), jnp.float32)).params) == [
        "input_weight",
        "recurrent_weight",
    ]


def test_a_later_input_does_not_change_earlier_outputs() -> None:
    params, x = made()
    first, second = (nn.lstm(6).apply(params, {}, at, Eval())[0] for at in (x, x.at[:, 3].add(1.0)))
    np.testing.assert_array_equal(first[:, :3], second[:, :3])
    assert np.all(first[:, 3:] != second[:, 3:])


def test_every_batch_starts_from_zeros() -> None:
    params, x = made()
    together, alone = (nn.lstm(6).apply(params, {}, at, Eval())[0] for at in (x, x[1:2]))
    np.testing.assert_allclose(together[1:2], alone, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 7, 3), (5, 1, 2)])
def test_sizes_of_one(shape: tuple[int, ...]) -> None:
    params, x = made(shape, 2)
    np.testing.assert_allclose(nn.lstm(2).apply(params, {}, x, Eval())[0], by_hand(params, x), atol=1e-6)


@pytest.mark.slow
def test_half_precision_flows_through_and_its_gradients_have_it() -> None:
    params, x = made(hidden=8)
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    apply = jax.jit(lambda p: nn.lstm(8).apply(p, {}, x, Eval())[0])
    y = apply(half)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), by_hand(params, x), atol=0.03)
    grads, wide = (jax.jit(jax.grad(lambda p: apply(p).astype(jnp.float32).sum()))(p) for p in (half, params))
    for name, leaf in grads.items():
        assert leaf.dtype == jnp.bfloat16
        np.testing.assert_allclose(leaf.astype(jnp.float32), wide[name], atol=0.05 * float(jnp.abs(wide[name]).max()))
    spec = nn.lstm(8).init(KEY, array_spec((3, 5, 4), jnp.bfloat16))
    assert {spec.spec.dtype, *(leaf.dtype for leaf in spec.params.values())} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("x", [jnp.ones((3, 4)), jnp.ones((3, 5, 3)), jnp.ones((3, 5, 4, 1)), (jnp.ones((3, 5, 4)),)])
def test_another_shape_is_a_fault(x: object) -> None:
    with pytest.raises(FaultError) as caught:
        nn.lstm(6).apply(made()[0], {}, x, Eval())
    assert isinstance(caught.value.fault, ShapeMismatch)
    assert caught.value.fault.expected == "an array of shape (batch, time, 4)"


def test_integers_are_a_fault() -> None:
    for call in (
        lambda: nn.lstm(6).init(KEY, array_spec((3, 5, 4), jnp.int32)),
        lambda: nn.lstm(6).apply(made()[0], {}, jnp.ones((3, 5, 4), int), Eval()),
    ):
        with pytest.raises(FaultError, match="embed tokens first") as caught:
            call()
        assert isinstance(caught.value.fault, DtypeMismatch)


def test_at_least_one_hidden_feature() -> None:
    with pytest.raises(ValueError, match="at least one hidden feature, got 0"):
        nn.lstm(0)
