"""embedding."""

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
PARAMS = {"weight": jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])}


def look(tokens: object, params: dict[str, jax.Array] = PARAMS) -> jax.Array:
    y: jax.Array = nn.embedding(3, 2).apply(params, {}, jnp.asarray(tokens), Eval())[0]
    return y


def test_numbers() -> None:
    assert look([[2, 0], [1, 1]]).tolist() == [[[5.0, 6.0], [1.0, 2.0]], [[3.0, 4.0], [3.0, 4.0]]]


def test_params_tags_and_spec() -> None:
    made = nn.embedding(3, 2).init(KEY, array_spec((4, 5), jnp.int32))
    assert made.params["weight"].shape == (3, 2)
    assert made.tags == {"weight": Tag("embedding", Role.EMBEDDING, matrix=Matrix())}
    assert (made.spec.shape, made.spec.dtype) == ((4, 5, 2), jnp.float32)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.uint32])
@pytest.mark.parametrize("rows", [3, 300])
def test_tokens_of_any_integer_type(dtype: type, rows: int) -> None:
    weight = jnp.arange(2.0 * rows).reshape(rows, 2)
    last = [200.0, 201.0] if rows == 300 else [np.nan, np.nan]
    y = jax.jit(look)(np.array([0, 2, 100], dtype), {"weight": weight})
    np.testing.assert_array_equal(y, [[0, 1], [4, 5], last])


@pytest.mark.parametrize("token", [-1, -3, 3, 2**31 - 1, -(2**31)])
def test_a_token_out_of_range_is_nan_and_so_is_its_loss(token: int) -> None:
    for apply in (look, jax.jit(look)):
        y = apply(np.array([1, token], np.int32))
        np.testing.assert_array_equal(y, [[3, 4], [np.nan, np.nan]])


@pytest.mark.parametrize("vocabulary", [3, 5000], ids=["small", "large"])
def test_the_gradient_sums_over_the_occurrences_of_a_token(vocabulary: int) -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, vocabulary, (7, 9))
    upstream = rng.standard_normal((7, 9, 2)).astype(np.float32)
    expected = np.zeros((vocabulary, 2))
    np.add.at(expected, tokens, upstream)
    weight = jnp.zeros((vocabulary, 2))
    for look_ in (look, jax.jit(look)):
        ours = jax.grad(lambda w, f=look_: jnp.sum(f(jnp.asarray(tokens), {"weight": w}) * upstream))(weight)
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_it_gives_the_dtype_of_the_weight() -> None:
    params = {"weight": jnp.ones((3, 2), jnp.bfloat16)}
    assert look([1], params).dtype == jnp.bfloat16
    gradient = jax.grad(lambda p: look([1, 1], p).astype(jnp.float32).sum())(params)["weight"]
    assert gradient.dtype == jnp.bfloat16
    assert gradient.tolist() == [[0, 0], [2, 2], [0, 0]]


@pytest.mark.parametrize("x", [jnp.ones((2, 3)), jnp.ones((2, 3), bool)])
def test_tokens_that_are_not_integers_are_a_fault(x: jax.Array) -> None:
    for call in (lambda: nn.embedding(3, 2).init(KEY, array_spec(x.shape, x.dtype)), lambda: look(x)):
        with pytest.raises(FaultError, match="expected integer tokens, got") as caught:
            call()
        assert isinstance(caught.value.fault, DtypeMismatch)


def test_tokens_without_a_batch_are_a_fault() -> None:
    with pytest.raises(FaultError) as caught:
        look(1)
    assert isinstance(caught.value.fault, ShapeMismatch)


def test_at_least_one_token_and_one_feature() -> None:
    for sizes in ((0, 2), (3, 0)):
        with pytest.raises(ValueError, match="at least one token and one feature"):
            nn.embedding(*sizes)


def test_every_token_learns_but_the_padding_one() -> None:
    """Token 0 learns too, unless it is the padding."""
    tokens, upstream = jnp.array([[0, 1, 2, 0]]), jnp.ones((1, 4, 2))
    for padding, learns in ((None, [2, 1, 1]), (0, [0, 1, 1]), (2, [2, 1, 0])):
        layer = nn.embedding(3, 2, padding=padding)
        made = layer.init(KEY, array_spec((1, 4), jnp.int32))
        if padding is not None:
            np.testing.assert_array_equal(made.params["weight"][padding], 0)
        _, pull = jax.vjp(lambda p, layer=layer: layer.apply(p, {}, tokens, Eval())[0], made.params)
        assert pull(upstream)[0]["weight"].tolist() == [[n, n] for n in learns]
    np.testing.assert_array_equal(look([0], PARAMS), nn.embedding(3, 2, padding=0).apply(PARAMS, {}, jnp.array([0]), Eval())[0])
    with pytest.raises(ValueError, match="padding is a token from 0 to 2, got 3"):
        nn.embedding(3, 2, padding=3)


def test_a_token_out_of_range_is_nan_with_padding_too() -> None:
    y = nn.embedding(3, 2, padding=0).apply(PARAMS, {}, jnp.array([3, 0]), Eval())[0]
    np.testing.assert_array_equal(y, [[np.nan, np.nan], [1, 2]])
