"""attend and its masks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import Eval, Train, nn
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


Q, K, V = normal(2, 5, 4, 3), normal(2, 7, 2, 3), normal(2, 7, 2, 6)
SEEN = RNG.random((2, 4, 5, 7)) < 0.6
SEEN[0, 1, 2] = False  # this query sees nothing
LENGTHS = jnp.array([4, 0], jnp.int8)
MASKS = {
    "all": (None, np.ones((2, 4, 5, 7), bool)),
    "causal": (nn.causal, np.tri(5, 7, dtype=bool)),
    "window": (nn.window(1, 2), np.tri(5, 7, 2, dtype=bool) & ~np.tri(5, 7, -2, dtype=bool)),
    "lengths": (nn.key_lengths(LENGTHS), np.arange(7) < np.array([4, 0])[:, None, None, None]),
    "array": (nn.mask(SEEN), SEEN),
    "array of all heads": (nn.mask(SEEN[:, 0]), SEEN[:, :1]),
    "array of all rows": (nn.mask(SEEN[0, 0]), SEEN[0, 0]),
    "array of keys": (nn.mask(SEEN[:, 0, :1]), SEEN[:, :1, :1]),
    "causal and lengths": (nn.causal & nn.key_lengths(LENGTHS), np.tri(5, 7, dtype=bool) & (np.arange(7) < [[[[4]]], [[[0]]]])),
    "window or array": (nn.window(0) | nn.mask(SEEN), np.eye(5, 7, dtype=bool) | SEEN),
    "nothing": (nn.mask(np.zeros((5, 7), bool)), np.zeros((5, 7), bool)),
}
each_mask = pytest.mark.parametrize(("mask", "seen"), MASKS.values(), ids=MASKS)


def by_hand(q, k, v, seen, soft_cap=None, scale=None):
    """A loop over rows, heads and queries, in float64."""
    seen = np.broadcast_to(seen, (q.shape[0], q.shape[2], q.shape[1], k.shape[1]))
    y = np.zeros((*q.shape[:3], v.shape[3]))
    for b, t, h in np.ndindex(q.shape[:3]):
        at = np.flatnonzero(seen[b, h, t])
        own = h // (q.shape[2] // k.shape[2])
        scores = k[b, at, own].astype(np.float64) @ q[b, t, h] * (q.shape[3] ** -0.5 if scale is None else scale)
        e = np.exp(scores if soft_cap is None else soft_cap * np.tanh(scores / soft_cap))
        y[b, t, h] = (e / e.sum()) @ v[b, at, own] if len(at) else 0
    return y


@each_mask
@pytest.mark.parametrize("block_size", [None, 2])
def test_numbers(mask, seen, block_size):
    y = nn.attend(Q, K, V, mask, block_size=block_size)
    np.testing.assert_allclose(y, by_hand(Q, K, V, seen), atol=2e-6)


def test_scale_and_soft_cap():
    expected = by_hand(Q, K, V, SEEN, soft_cap=1.5, scale=2.0)
    np.testing.assert_allclose(nn.attend(Q, K, V, nn.mask(SEEN), scale=2.0, soft_cap=1.5), expected, atol=2e-6)


DIFFERENTIATED = {
    "plain": ("all", {}),
    "soft cap": ("array", {"soft_cap": 1.5}),
    "dropout": ("window", {"drop_rate": 0.4, "mode": Train(KEY)}),
    "blocks": ("causal and lengths", {"block_size": 2}),
    "blocks with dropout": ("array", {"block_size": 2, "drop_rate": 0.4, "mode": Train(KEY)}),
}


@pytest.mark.slow
@pytest.mark.parametrize(("mask", "options"), DIFFERENTIATED.values(), ids=DIFFERENTIATED)
def test_gradients_in_both_modes_are_finite_differences(mask, options):
    mask, _ = MASKS[mask]
    with jax.enable_x64(True):
        arrays = [jnp.asarray(x, jnp.float64) for x in (Q, K, V)]
        weights = np.random.default_rng(1).standard_normal((2, 5, 4, 6))

        def total(arrays):
            return jnp.sum(weights * nn.attend(*arrays, mask, **options))

        along = [jnp.asarray(np.random.default_rng(i).standard_normal(x.shape)) for i, x in enumerate(arrays)]
        sides = [total([x + e * a for x, a in zip(arrays, along, strict=True)]) for e in (1e-5, -1e-5)]
        difference = float(sides[0] - sides[1]) / 2e-5
        grads = jax.jit(jax.grad(total))(arrays)
        reverse = sum(float(jnp.sum(g * a)) for g, a in zip(grads, along, strict=True))
        _, forward = jax.jit(lambda at, along: jax.jvp(total, (at,), (along,)))(arrays, along)
        np.testing.assert_allclose([reverse, float(forward)], difference, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("block_size", [None, 2])
def test_second_derivatives_and_vmap(block_size):
    """Forward over reverse, reverse over reverse and forward over forward agree; gradients by row are those of the rows."""
    with jax.enable_x64(True):
        q, k, v = (jnp.asarray(x, jnp.float64) for x in (Q, K, V))
        options = {"soft_cap": 2.0, "block_size": block_size, "drop_rate": 0.2, "mode": Train(KEY)}

        @jax.jit
        def total(q):
            return jnp.sum(jnp.sin(nn.attend(q, k, v, nn.causal, **options)))

        along = jnp.asarray(np.random.default_rng(1).standard_normal(Q.shape))
        ahead = jax.jvp(jax.grad(total), (q,), (along,))[1]
        back = jax.grad(lambda q: jnp.vdot(jax.grad(total)(q), along))(q)
        np.testing.assert_allclose(ahead, back, atol=1e-10)
        twice = jax.jvp(lambda q: jax.jvp(total, (q,), (along,))[1], (q,), (along,))[1]
        np.testing.assert_allclose(twice, jnp.vdot(ahead, along), rtol=1e-9)
        step = (jax.grad(total)(q + 1e-5 * along) - jax.grad(total)(q - 1e-5 * along)) / 2e-5
        np.testing.assert_allclose(ahead, step, atol=1e-7)
        row = jax.grad(lambda *arrays: jnp.sum(nn.attend(*(x[None] for x in arrays), block_size=block_size) ** 2))
        both = jax.grad(lambda *arrays: jnp.sum(nn.attend(*arrays) ** 2))(q, k, v)
        np.testing.assert_allclose(jax.vmap(row)(q, k, v), both, atol=1e-12)
        slopes = jax.vmap(lambda along: jax.jvp(total, (q,), (along,))[1])(jnp.stack([along, 2 * along]))
        np.testing.assert_allclose(slopes[1], 2 * slopes[0], rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_has_its_softmax_in_float32(dtype):
    q, k, v = (jnp.asarray(x, dtype) for x in (Q, K, V))
    y, pull = jax.vjp(lambda q: nn.attend(q, k, v, nn.causal), q)
    assert (y.dtype, pull(y)[0].dtype) == (dtype, dtype)
    rounded = (np.asarray(x, np.float32) for x in (q, k, v))
    np.testing.assert_allclose(y.astype(jnp.float32), by_hand(*rounded, np.tri(5, 7, dtype=bool)), atol=0.02)


@pytest.mark.slow
def test_a_row_that_sees_nothing_is_zero_with_zero_gradients():
    hidden = nn.mask(jnp.zeros((5, 7), bool))
    for options in ({}, {"block_size": 2}, {"soft_cap": 1.0}):
        y, pull = jax.vjp(lambda *arrays, o=options: nn.attend(*arrays, hidden, **o), Q, K, V)
        assert not np.any(y)
        assert not any(np.any(d) for d in pull(jnp.ones_like(y)))


@pytest.mark.parametrize("scale", [1e4, 3e38])
def test_large_scores_do_not_overflow(scale):
    y, pull = jax.vjp(lambda q: nn.attend(q, K, V, nn.causal, scale=scale), Q * 1e-2 if scale > 1e30 else Q)
    assert np.isfinite(y).all() or scale > 1e30
    assert np.isfinite(pull(y)[0]).all() or scale > 1e30


def test_dropout_draws_in_training_only_and_keeps_the_mean():
    ones = np.ones((1, 64, 2, 4), np.float32)
    plain = nn.attend(ones, ones, ones, drop_rate=0.5, mode=Eval())
    np.testing.assert_allclose(plain, 1, rtol=1e-6)
    for size in (None, 16):
        y = nn.attend(ones, ones, ones, drop_rate=0.5, mode=Train(KEY), block_size=size)
        assert len(np.unique(np.asarray(y))) > 10  # each query draws for itself
        np.testing.assert_allclose(np.mean(y), 1, atol=0.05)
        again = nn.attend(ones, ones, ones, drop_rate=0.5, mode=Train(KEY), block_size=size)
        np.testing.assert_array_equal(y, again)


@pytest.mark.parametrize("lengths", [[5, -1], [8, 7]])
def test_a_length_that_is_not_possible_makes_its_row_nan(lengths):
    y = np.asarray(nn.attend(Q, K, V, nn.causal & nn.key_lengths(jnp.array(lengths))))
    assert [np.isnan(row).all() for row in y] == [not 0 <= n <= 7 for n in lengths]
    assert not np.isnan(y[[0 <= n <= 7 for n in lengths]]).any()


@pytest.mark.parametrize("shapes", [((2, 0, 4, 3), (2, 7, 2, 3)), ((2, 5, 4, 3), (2, 0, 2, 3)), ((0, 5, 4, 3), (0, 7, 2, 3))])
def test_no_rows_queries_or_keys(shapes):
    q, k = (jnp.ones(shape) for shape in shapes)
    y = nn.attend(q, k, k, nn.causal)
    assert y.shape == q.shape
    assert not y.any()


@pytest.mark.slow
@pytest.mark.parametrize("block_size", [None, 2])
def test_a_query_sees_its_own_document(block_size):
    numbers = np.array([[1, 1, 2, 2, 2, 3, 0], [4, 4, 4, 4, 4, 4, 4]])
    q, own = np.repeat(K, 2, axis=2)[..., : K.shape[3]], numbers[:, None, :, None] == numbers[:, None, None]
    y = nn.attend(q, K, V, nn.documents(numbers) & nn.causal, block_size=block_size)
    np.testing.assert_allclose(y, by_hand(q, K, V, own & np.tri(7, dtype=bool)), atol=2e-6)
    for layer in (nn.self_attention(1), nn.transformer_block(nn.self_attention(1))):
        x = (V[:, :, 0], nn.documents(numbers))
        (vectors, mask), _ = layer.apply(layer.init(jax.random.key(0), x).params, {}, x, Eval())
        assert vectors.shape == x[0].shape and isinstance(mask, nn.Mask)


def test_a_mask_is_a_pytree_and_can_be_an_argument():
    mask = nn.causal & nn.key_lengths(LENGTHS)
    compiled = jax.jit(lambda mask: nn.attend(Q, K, V, mask))
    np.testing.assert_allclose(compiled(mask), nn.attend(Q, K, V, mask), atol=1e-6)
    np.testing.assert_allclose(
        compiled(nn.causal & nn.key_lengths(jnp.array([7, 7], jnp.int8))), nn.attend(Q, K, V, nn.causal), atol=1e-6
    )


def linear(mask):
    layer = nn.linear_attention(1)
    return layer.apply(layer.init(jax.random.key(0), V[:, :, 0]).params, {}, (V[:, :, 0], mask), Eval())


WRONG = {
    "rank": (lambda: nn.attend(Q[0], K, V), ShapeMismatch, "attend: q: expected an array of shape"),
    "features": (
        lambda: nn.attend(Q, K[..., :2], V),
        ShapeMismatch,
        r"expected keys of shape \(2, keys, kv_heads, 3\)",
    ),
    "heads": (lambda: nn.attend(Q[:, :, :3], K, V), ShapeMismatch, "kv_heads a divisor of 3"),
    "rows": (lambda: nn.attend(Q[:1], K, V), ShapeMismatch, "attend: k"),
    "values": (lambda: nn.attend(Q, K, V[:, :6]), ShapeMismatch, "attend: v: expected values of shape"),
    "integers": (lambda: nn.attend(Q.astype(int), K, V), DtypeMismatch, "floating-point"),
    "two dtypes": (lambda: nn.attend(Q, K.astype(np.float16), V), DtypeMismatch, "the dtype of q, float32"),
    "mask": (lambda: nn.attend(Q, K, V, nn.mask(SEEN[..., :6])), ShapeMismatch, r"\(2, 4, 5, 7\), or 1"),
    "lengths": (
        lambda: nn.attend(Q, K, V, nn.causal | nn.key_lengths(jnp.arange(3))),
        ShapeMismatch,
        r"of shape \(2,\)",
    ),
    "mask of numbers": (lambda: nn.mask(jnp.zeros((5, 7))), DtypeMismatch, "booleans"),
    "documents of other keys": (
        lambda: nn.attend(Q, K, V, nn.documents(jnp.ones((2, 7), int))),
        ShapeMismatch,
        r"numbers of documents of shape \(2, 7\), for 7 queries",
    ),
    "documents of floats": (lambda: nn.documents(jnp.ones((2, 7))), DtypeMismatch, "integer numbers"),
    "documents, linear": (
        lambda: linear(nn.documents(jnp.ones((2, 7), int))),
        ShapeMismatch,
        "lengths or booleans",
    ),
    "causal, linear": (lambda: linear(nn.causal), ShapeMismatch, "lengths or booleans"),
    "lengths of floats": (lambda: nn.key_lengths(jnp.ones(2)), DtypeMismatch, "integer lengths"),
}


@pytest.mark.parametrize(("call", "fault", "message"), WRONG.values(), ids=WRONG)
def test_wrong_arrays_are_faults(call, fault, message):
    with pytest.raises(FaultError, match=message) as caught:
        call()
    assert isinstance(caught.value.fault, fault)


def test_a_mask_is_no_array():
    with pytest.raises(TypeError, match="nn.mask makes one of an array of booleans"):
        nn.attend(Q, K, V, SEEN)
