"""transformer_block and feed_forward."""

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
X = np.random.default_rng(0).standard_normal((2, 5, 4)).astype(np.float32)
SPEC = array_spec(X.shape, X.dtype)
ATTENTION = nn.self_attention(2)


@pytest.mark.slow
def test_dropout_acts_in_training_only() -> None:
    plain = nn.transformer_block(ATTENTION)
    params = plain.init(KEY, SPEC).params
    expected = jax.jit(plain.apply)(params, {}, X, Eval())[0]
    for rates in ({"drop_rate": 0.5}, {"depth_drop_rate": 0.5}):
        layer = nn.transformer_block(ATTENTION, **rates)
        assert jax.tree.structure(params) == jax.tree.structure(abstract_init(layer, SPEC).params)
        np.testing.assert_array_equal(jax.jit(layer.apply)(params, {}, X, Eval())[0], expected)
        assert not np.allclose(jax.jit(layer.apply)(params, {}, X, Train(KEY))[0], expected)


def test_expansion_is_the_width_inside() -> None:
    made = nn.transformer_block(ATTENTION, nn.feed_forward(3)).init(KEY, SPEC)
    assert made.params["feed_forward"]["up"]["weight"].shape == (4, 12)
    gated = nn.feed_forward(8 / 3, nn.silu, gated=True, bias=False).init(KEY, array_spec((2, 9), jnp.float32)).params
    assert jax.tree.map(jnp.shape, gated) == {
        "up": {"value": {"weight": (9, 24)}, "gate": {"weight": (9, 24)}},
        "out": {"weight": (24, 9)},
    }


@pytest.mark.slow
def test_recomputing_changes_no_number() -> None:
    layers = [nn.transformer_block(ATTENTION, drop_rate=0.3, recompute=recompute) for recompute in (False, True)]
    params = layers[0].init(KEY, SPEC).params
    plain, again = (
        jax.jit(jax.value_and_grad(lambda p, at=layer: jnp.sum(jnp.sin(at.apply(p, {}, X, Train(KEY))[0]))))(params)
        for layer in layers
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), plain, again)


def test_padding_changes_no_output_before_it() -> None:
    block = nn.transformer_block(ATTENTION)
    params, lengths = block.init(KEY, (SPEC, array_spec((2,), jnp.int32))).params, jnp.array([3, 5])
    other = X.copy()
    other[0, 3:] = np.nan
    apply = jax.jit(lambda x, lengths: block.apply(params, {}, (x, lengths), Eval())[0])
    (first, same), (second, _) = apply(X, lengths), apply(other, lengths)
    np.testing.assert_array_equal(same, lengths)
    np.testing.assert_array_equal(first[0, :3], second[0, :3])
    np.testing.assert_array_equal(first[1], second[1])
    alone, _ = block.apply(params, {}, X[:1, :3], Eval())
    np.testing.assert_allclose(first[:1, :3], alone, atol=1e-6)


def test_a_width_that_heads_does_not_divide_is_a_fault() -> None:
    with pytest.raises(FaultError, match="the width divisible by 3 heads") as caught:
        nn.transformer_block(nn.self_attention(3)).init(KEY, SPEC)
    assert isinstance(caught.value.fault, ShapeMismatch)


WRONG = {
    "a branch of another shape": (
        nn.transformer_block(ATTENTION, nn.linear(3)),
        SPEC,
        "keeps the shape of its input",
    ),
    "a decoder without memory": (nn.transformer_block(ATTENTION, cross=nn.cross_attention(2)), SPEC, r"a pair \(x, memory\)"),
    "a memory of other rows": (
        nn.transformer_block(ATTENTION, cross=nn.cross_attention(2)),
        (SPEC, array_spec((3, 5, 4), jnp.float32)),
        "a memory of 2 rows",
    ),
    "lengths of other rows": (nn.transformer_block(ATTENTION), (SPEC, array_spec((3,), jnp.int32)), r"lengths of shape \(2,\)"),
    "lengths of floats": (nn.transformer_block(ATTENTION), (SPEC, array_spec((2,), jnp.float32)), "integer lengths"),
    "a mask of numbers": (ATTENTION, (SPEC, array_spec((2, 5), jnp.float32)), "true where a key is seen"),
}


@pytest.mark.parametrize(("layer", "spec", "message"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_a_fault(layer, spec, message) -> None:
    with pytest.raises(FaultError, match=message):
        layer.init(KEY, spec)
