"""einsum."""

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
X = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 5), np.float32))
CASES = {
    "new axes": ("btf,fhd->bthd", "hd", {"h": 2, "d": 4}, Matrix((0,), (1, 2))),
    "two axes summed": ("btf,dft->bd", "d", {"d": 4}, Matrix((1, 2), (0,))),
    "a matrix for each": ("btf,tfd->bdt", "td", {"d": 4}, None),
    "a vector": ("btf,f->bt", "", {}, None),
}


@pytest.mark.parametrize(("equation", "bias", "sizes", "matrix"), CASES.values(), ids=CASES)
def test_numbers_and_tags(equation: str, bias: str, sizes: dict, matrix: Matrix | None) -> None:
    layer = nn.einsum(equation, bias=bias, bias_init=jax.nn.initializers.normal(1), **sizes)
    made = layer.init(KEY, array_spec(X.shape, X.dtype))
    y, state = layer.apply(made.params, {}, X, Eval())
    expected = np.einsum(equation, np.asarray(X, np.float64), np.asarray(made.params["weight"], np.float64))
    if bias:
        letters = equation.partition("->")[2]
        expected = expected + np.einsum(f"{bias},{letters}->{letters}", made.params["bias"], np.ones_like(expected))
        assert made.tags["bias"] == Tag("einsum", Role.BIAS)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    assert (y.shape, state) == (made.spec.shape, {})
    assert made.tags["weight"] == Tag("einsum", Role.WEIGHT, matrix=matrix)


def test_weights_are_initialised_by_what_is_summed_over() -> None:
    layer = nn.einsum("btf,hfd->bthd", h=8, d=16, weight_init=nn.torch_uniform)
    weight = layer.init(KEY, array_spec((2, 3, 100), jnp.float32)).params["weight"]
    assert 0.099 < np.abs(weight).max() <= 0.1  # 1 / sqrt(100)
    each = nn.einsum("bhf,hfd->bhd", d=50).init(KEY, array_spec((2, 3, 50), jnp.float32)).params["weight"]
    np.testing.assert_allclose(each.std((1, 2)), np.sqrt(2 / 100), rtol=0.1)
    assert not np.allclose(each[0], each[1])


def test_half_precision_and_no_time_steps() -> None:
    layer = nn.einsum("btf,fh->bth", h=4)
    made = layer.init(KEY, array_spec((2, 3, 5), jnp.bfloat16))
    y, _ = layer.apply(made.params, {}, X.astype(jnp.bfloat16), Eval())
    assert {y.dtype, made.spec.dtype, made.params["weight"].dtype} == {jnp.dtype(jnp.bfloat16)}
    assert layer.apply(made.params, {}, jnp.ones((2, 0, 5)), Eval())[0].shape == (2, 0, 4)


@pytest.mark.parametrize(
    ("equation", "more", "why"),
    [
        ("btf", {}, "input, weight, output"),
        ("btf,fh->bt", {"h": 2}, "each new axis of the weight"),
        ("btf,fh->bthz", {"h": 2}, "each axis of the output"),
        ("btf,th->bh", {"h": 2}, "each axis of the input"),
        ("btf,fh->tbh", {"h": 2}, "the batch"),
        ("btf,bfh->bth", {"h": 2}, "the batch"),
        ("bff,fh->bh", {"h": 2}, "named twice"),
        ("btf,fh->bth", {}, "sizes are those of the new axes h"),
        ("btf,fh->bth", {"h": 2, "t": 3}, "sizes are those of the new axes h"),
        ("btf,fh->bth", {"h": 2, "bias": "bh"}, "axes of bias"),
        ("btf,fh->bth", {"h": 2, "bias": "t"}, "axes of bias"),
        ("btf,th->bfth", {"h": 2}, "summed over"),
    ],
)
def test_an_equation_that_does_not_say_what_each_axis_is(equation: str, more: dict, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        nn.einsum(equation, **more)


def test_other_shapes_are_faults() -> None:
    layer = nn.einsum("btf,fh->bth", h=4)
    params = layer.init(KEY, array_spec((2, 3, 5), jnp.float32)).params
    for x, kind in ((X[0], ShapeMismatch), (X[..., :1], ShapeMismatch), (X.astype(int), DtypeMismatch)):
        with pytest.raises(FaultError) as caught:
            layer.apply(params, {}, x, Eval())
        assert isinstance(caught.value.fault, kind)
    with pytest.raises(ValueError, match="outputs of the weight"):
        nn.weight_norm(nn.einsum("btf,tfd->btd", d=2)).init(KEY, array_spec((2, 3, 5), jnp.float32))
