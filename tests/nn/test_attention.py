"""self_attention."""

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
SPEC = array_spec((2, 5, 6), jnp.float32)


def made() -> tuple[dict[str, dict[str, jax.Array]], jax.Array]:
    params = nn.self_attention(3).init(KEY, SPEC).params
    rng = np.random.default_rng(0)
    params["input"]["bias"] = jnp.asarray(rng.standard_normal(18, np.float32))
    return params, jnp.asarray(rng.standard_normal(SPEC.shape, np.float32))


def by_hand(params: dict[str, dict[str, jax.Array]], x: jax.Array, causal: bool) -> np.ndarray:
    """A loop over sequences, heads and time steps, in float64."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    z = np.asarray(x, np.float64) @ p["input"]["weight"] + p["input"]["bias"]
    heads = np.zeros(x.shape)
    for b in range(x.shape[0]):
        for start in range(0, 6, 2):
            q, k, v = (z[b, :, j * 6 + start : j * 6 + start + 2] for j in range(3))
            for t in range(x.shape[1]):
                last = t + 1 if causal else x.shape[1]
                e = np.exp(k[:last] @ q[t] / np.sqrt(2))
                heads[b, t, start : start + 2] = e / e.sum() @ v[:last]
    return heads @ p["output"]["weight"] + p["output"]["bias"]


@pytest.mark.parametrize("causal", [False, True])
def test_numbers(causal: bool) -> None:
    params, x = made()
    y, state = jax.jit(nn.self_attention(3, mask=nn.causal if causal else None).apply)(params, {}, x, Eval())
    np.testing.assert_allclose(y, by_hand(params, x, causal), atol=1e-5)
    assert state == {}


@pytest.mark.slow
def test_one_part_and_many_parts_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    params, x = made()
    x = jnp.concatenate([x, -x, x + 1, x - 1, 2 * x, x / 2, 1 - x, 1 / (1 + x * x)])  # 8 parts on CPU
    layer = nn.self_attention(3, mask=nn.causal)
    values = {}
    for platform in ("cpu", "gpu"):
        monkeypatch.setattr("fnlamp.nn.lowering.attend.platform", lambda name=platform: name)
        values[platform] = jax.vjp(jax.jit(lambda p, at: layer.apply(p, {}, at, Eval())[0]), params, x)
    (cpu, pull_cpu), (gpu, pull_gpu) = values["cpu"], values["gpu"]
    np.testing.assert_allclose(cpu, gpu, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), pull_cpu(cpu), pull_gpu(gpu))


def test_params_and_tags() -> None:
    init = nn.self_attention(3).init(KEY, SPEC)
    shapes = jax.tree.map(lambda leaf: leaf.shape, init.params, is_leaf=lambda leaf: hasattr(leaf, "shape"))
    assert shapes == {"input": {"weight": (6, 18), "bias": (18,)}, "output": {"weight": (6, 6), "bias": (6,)}}
    assert init.tags["output"] == {
        "weight": Tag("linear", Role.WEIGHT, ("output",), Matrix()),
        "bias": Tag("linear", Role.BIAS, ("output",)),
    }
    assert init.tags["input"]["weight"].matrix == Matrix(blocks=3)
    bare = nn.self_attention(3, bias=False).init(KEY, SPEC).params
    assert {name: list(part) for name, part in bare.items()} == {"input": ["weight"], "output": ["weight"]}


def test_if_causal_a_later_time_step_does_not_change_earlier_outputs() -> None:
    params, x = made()
    other = x.at[:, 3].add(1.0)
    first, second = (nn.self_attention(3, mask=nn.causal).apply(params, {}, at, Eval())[0] for at in (x, other))
    np.testing.assert_array_equal(first[:, :3], second[:, :3])
    assert np.all(first[:, 3:] != second[:, 3:])
    first, second = (nn.self_attention(3).apply(params, {}, at, Eval())[0] for at in (x, other))
    assert np.all(first != second)


@pytest.mark.parametrize("causal", [False, True])
def test_large_scores_do_not_overflow(causal: bool) -> None:
    params, x = made()
    layer = nn.self_attention(3, mask=nn.causal if causal else None)
    y, pull = jax.vjp(jax.jit(lambda at: layer.apply(params, {}, at, Eval())[0]), 1e4 * x)
    assert np.isfinite(y).all()
    assert np.isfinite(pull(y)[0]).all()


@pytest.mark.slow
def test_half_precision_flows_through_with_a_softmax_in_float32() -> None:
    params, x = made()
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    y, pull = jax.vjp(jax.jit(lambda p: nn.self_attention(3).apply(p, {}, x, Eval())[0]), half)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), by_hand(params, x, False), atol=0.05)
    assert {leaf.dtype for leaf in jax.tree.leaves(pull(y))} == {jnp.dtype(jnp.bfloat16)}
    assert nn.self_attention(3).init(KEY, array_spec((2, 5, 6), jnp.bfloat16)).spec.dtype == jnp.bfloat16


@pytest.mark.parametrize("shape", [(2, 6), (2, 5, 7), (2, 5, 6, 1)])
def test_another_shape_is_a_fault(shape: tuple[int, ...]) -> None:
    for call in (
        lambda: nn.self_attention(3).init(KEY, array_spec(shape, jnp.float32)),
        lambda: nn.self_attention(3).apply(made()[0], {}, jnp.ones(shape), Eval()),
    ):
        with pytest.raises(FaultError, match="the width divisible by 3 heads") as caught:
            call()
        assert isinstance(caught.value.fault, ShapeMismatch)


def test_another_width_than_the_parameters_is_a_fault_of_the_layer_inside() -> None:
    with pytest.raises(FaultError, match=r"input/linear: expected an array of shape \(batch, ..., 6\)"):
        nn.self_attention(3).apply(made()[0], {}, jnp.ones((2, 5, 9)), Eval())


def test_integers_are_a_fault() -> None:
    with pytest.raises(FaultError, match="embed tokens first") as caught:
        nn.self_attention(3).init(KEY, array_spec((2, 5, 6), jnp.int32))
    assert isinstance(caught.value.fault, DtypeMismatch)


def test_at_least_one_head() -> None:
    with pytest.raises(ValueError, match="at least one head, got 0"):
        nn.self_attention(0)
