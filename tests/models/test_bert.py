"""bert, its heads, and masked tokens."""

from math import erf

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import loss, models, tree
from fnlamp.arrays import array_spec
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch
from fnlamp.layer import Layer, abstract_init
from fnlamp.mode import Eval, Train

KEY = jax.random.key(0)
SMALL = models.bert(11, layers=2, width=8, heads=2, context=6, hidden=12)
TOKENS = jnp.array([[1, 6, 0, 2, 2], [3, 10, 5, 4, 6]])
SPEC = array_spec(TOKENS.shape, jnp.int32)
MASKED, CLASSES = models.masked_language_model(SMALL, 11), models.sentence_classifier(SMALL, 3)


def params_of(layer: Layer) -> dict:
    """Parameters far from their initial values, so that nothing is nearly zero."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda p: jnp.asarray(0.5 * rng.standard_normal(p.shape), p.dtype), layer.init(KEY, SPEC).params)


def exact_gelu(x):
    return x * 0.5 * (1 + np.vectorize(erf)(x / np.sqrt(2)))


def norm(x, at):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12) * at["scale"] + at["shift"]


def linear(x, at):
    return x @ at["weight"] + at["bias"]


def by_hand(p: dict, tokens: np.ndarray, segments: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """BERT's encoder in NumPy and float64, a row at a time, without the padding."""
    out = np.zeros((*tokens.shape, 8))
    for row, n in enumerate(lengths):
        x = p["tokens"]["weight"][tokens[row, :n]] + p["segments"]["weight"][segments[row, :n]] + p["positions"]["weight"][:n]
        x = norm(x, p["norm"])
        for block in (p["block_0"], p["block_1"]):
            q, k, v = np.moveaxis(linear(x, block["attention"]["input"]).reshape(n, 3, 2, 4), 1, 0)
            e = np.exp(np.einsum("thd,shd->hts", q, k) / 2)
            y = np.einsum("hts,shd->thd", e / e.sum(-1, keepdims=True), v).reshape(n, 8)
            x = norm(x + linear(y, block["attention"]["output"]), block["attention_norm"])
            second = block["feed_forward"]
            x = norm(x + linear(exact_gelu(linear(x, second["up"])), second["out"]), block["feed_forward_norm"])
        out[row, :n] = x
    return out


SEGMENTS = np.array([[0, 0, 1, 1, 0], [0, 1, 1, 1, 1]])
LENGTHS = np.array([4, 5])


@pytest.fixture(scope="module")
def both() -> tuple[dict, dict]:
    params = params_of(SMALL)
    return params, jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)


def test_numbers_of_padded_pairs(both: tuple[dict, dict]) -> None:
    params, wide = both
    x = {"ids": TOKENS, "segments": SEGMENTS, "lengths": LENGTHS}
    y, state = jax.jit(SMALL.apply)(params, {}, x, Eval())
    expected = by_hand(wide, np.asarray(TOKENS), SEGMENTS, LENGTHS)
    np.testing.assert_allclose(y[0, :4], expected[0, :4], atol=2e-5)
    np.testing.assert_allclose(y[1], expected[1], atol=2e-5)
    assert state == {}


@pytest.mark.slow
def test_each_form_of_input(both: tuple[dict, dict]) -> None:
    params, wide = both
    apply = jax.jit(lambda x: SMALL.apply(params, {}, x, Eval())[0])
    zeros = np.zeros_like(SEGMENTS)
    plain, seen = apply(TOKENS), np.arange(5) < LENGTHS[:, None]
    np.testing.assert_allclose(plain, by_hand(wide, np.asarray(TOKENS), zeros, np.array([5, 5])), atol=2e-5)
    np.testing.assert_allclose(apply({"ids": TOKENS, "segments": zeros}), plain, atol=1e-6)
    padded = apply((TOKENS, LENGTHS))
    for other in (apply((TOKENS, seen)), apply({"ids": TOKENS, "lengths": LENGTHS, "positions": SEGMENTS})):
        np.testing.assert_allclose(other[0, :4], padded[0, :4], atol=1e-6)
        np.testing.assert_allclose(other[1], padded[1], atol=1e-6)
    # Neither padding nor another row has an effect.
    changed = apply((TOKENS.at[0, 4].set(9).at[1, 0].set(0), LENGTHS))
    np.testing.assert_array_equal(changed[0, :4], padded[0, :4])


@pytest.mark.slow
def test_the_smallest_bert_has_its_number_of_parameters() -> None:
    base = models.bert(30522, layers=12, width=768, heads=12, context=512)
    spec = array_spec((2, 512), jnp.int32)
    count = tree.count(abstract_init(base, spec).params)
    assert count + 768 * 768 + 768 == 109_482_240  # with the pooler, as `BertModel`
    assert tree.count(abstract_init(models.masked_language_model(base, 30522), spec).params) == 109_514_298


@pytest.mark.slow
def test_the_masked_head_takes_the_positions_of_each_row() -> None:
    params = params_of(MASKED)
    positions = np.array([[3, 0], [1, 1]])
    apply = jax.jit(lambda x: MASKED.apply(params, {}, x, Eval())[0])
    everywhere = apply({"ids": TOKENS})
    some = apply({"ids": TOKENS, "positions": positions})
    np.testing.assert_allclose(some, np.stack([everywhere[0, [3, 0]], everywhere[1, [1, 1]]]), atol=1e-5)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    head = p["head"]
    x = by_hand(p["encoder"], np.asarray(TOKENS), np.zeros_like(SEGMENTS), np.array([5, 5]))
    x = norm(exact_gelu(linear(x, head["dense"])), head["norm"]) @ p["encoder"]["tokens"]["weight"].T + head["out"]["bias"]
    np.testing.assert_allclose(everywhere, x, atol=5e-5)
    assert "weight" not in head["out"]


def test_the_classifier_takes_the_first_token_of_each_row() -> None:
    params = params_of(CLASSES)
    y = jax.jit(lambda x: CLASSES.apply(params, {}, x, Eval())[0])((TOKENS, LENGTHS))
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    first = by_hand(p["encoder"], np.asarray(TOKENS), np.zeros_like(SEGMENTS), LENGTHS)[:, 0]
    np.testing.assert_allclose(y, linear(np.tanh(linear(first, p["head"]["pooler"])), p["head"]["out"]), atol=2e-5)


@pytest.mark.slow
def test_rates_drop_in_training_alone() -> None:
    rates = {"drop_rate": 0.5, "attention_drop_rate": 0.5}
    dropping = models.sentence_classifier(models.bert(11, layers=2, width=8, heads=2, context=6, hidden=12, **rates), 3)
    params, apply = params_of(CLASSES), jax.jit(dropping.apply)
    plain = jax.jit(CLASSES.apply)(params, {}, TOKENS, Eval())[0]
    np.testing.assert_allclose(apply(params, {}, TOKENS, Eval())[0], plain, atol=1e-6)
    first, second = (apply(params, {}, TOKENS, Train(jax.random.key(seed)))[0] for seed in (0, 1))
    assert np.isfinite(first).all() and not np.allclose(first, second)


@pytest.mark.slow
def test_half_precision_flows_through(both: tuple[dict, dict]) -> None:
    params = tree.cast(both[0], jnp.bfloat16)
    y = jax.jit(SMALL.apply)(params, {}, (TOKENS, LENGTHS), Eval())[0]
    assert y.dtype == jnp.bfloat16
    exact = by_hand(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params), np.asarray(TOKENS), 0 * SEGMENTS, LENGTHS)
    for row, n in enumerate(LENGTHS):
        np.testing.assert_allclose(y[row, :n].astype(jnp.float32), exact[row, :n], atol=0.05 * np.abs(exact).max())


WRONG = {
    "a single text": (TOKENS[0], ShapeMismatch),
    "a longer text": (jnp.zeros((2, 7), int), ShapeMismatch),
    "floating-point tokens": (jnp.ones((2, 5)), DtypeMismatch),
    "another name": ({"ids": TOKENS, "length": LENGTHS}, ShapeMismatch),
    "no tokens": ({"lengths": LENGTHS}, ShapeMismatch),
    "segments of other shape": ({"ids": TOKENS, "segments": SEGMENTS[:, :3]}, ShapeMismatch),
    "floating-point segments": ({"ids": TOKENS, "segments": jnp.ones((2, 5))}, DtypeMismatch),
    "lengths of other rows": ((TOKENS, jnp.array([1, 2, 3])), ShapeMismatch),
    "a mask of numbers": ((TOKENS, jnp.ones((2, 5), int)), DtypeMismatch),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_input_is_a_fault(name: str) -> None:
    x, kind = WRONG[name]
    params = jax.eval_shape(lambda: params_of(SMALL))
    with pytest.raises(FaultError) as caught:
        jax.eval_shape(lambda params, x: SMALL.apply(params, {}, x, Eval())[0], params, x)
    assert isinstance(caught.value.fault, kind)


def test_what_is_out_of_range_is_nan(both: tuple[dict, dict]) -> None:
    apply = jax.jit(lambda x: SMALL.apply(both[0], {}, x, Eval())[0])
    for x in ({"ids": TOKENS.at[0, 2].set(11), "segments": SEGMENTS}, {"ids": TOKENS, "segments": 2 * SEGMENTS}):
        y = apply(x)
        assert np.isnan(y[0]).all()
    long = apply((TOKENS, jnp.array([6, 5])))
    assert np.isnan(long[0]).all() and np.isfinite(long[1]).all()


# ------------------------------------------------------------------------------- masked tokens


def masked(tokens: np.ndarray, seed: int = 0, **options) -> tuple[np.ndarray, np.ndarray]:
    arguments = {"vocabulary": 50, "mask": 3, "special": (0, 1), **options}
    return tuple(np.asarray(part) for part in models.mask_tokens(jax.random.key(seed), tokens, **arguments))


def test_shares_of_masked_tokens_are_the_papers() -> None:
    tokens = np.random.default_rng(0).integers(0, 50, (400, 500))
    inputs, targets = masked(tokens)
    ordinary, chosen = ~np.isin(tokens, [0, 1, 3]), targets != -100
    assert not (chosen & ~ordinary).any()
    assert (inputs[~chosen] == tokens[~chosen]).all() and (targets[chosen] == tokens[chosen]).all()
    # Five standard deviations of a share of about 28,000 chosen of 188,000 ordinary tokens are below 0.012.
    np.testing.assert_allclose(chosen.sum() / ordinary.sum(), 0.15, atol=0.005)
    np.testing.assert_allclose((inputs[chosen] == 3).mean(), 0.8, atol=0.012)
    np.testing.assert_allclose((inputs[chosen] == tokens[chosen]).mean(), 0.1 + 0.1 / 47, atol=0.012)
    drawn = inputs[chosen & (inputs != 3) & (inputs != tokens)]
    assert set(drawn) == set(range(50)) - {0, 1, 3}


def test_each_row_has_a_masked_token_if_it_has_an_ordinary_one() -> None:
    tokens = np.array([[5, 0, 0], [0, 1, 3], [7, 8, 9]])
    for seed in range(20):
        inputs, targets = masked(tokens, seed, share=1e-6)
        assert ((targets != -100).sum(1) == [1, 0, 1]).all()
        assert (inputs[1] == tokens[1]).all()
    value = loss.cross_entropy()(jnp.zeros((3, 3, 50)), targets)
    assert float(value.weight) == 2 and np.isclose(float(value.mean), np.log(50))


def test_masks_are_a_function_of_the_key() -> None:
    tokens = np.arange(4, 44).reshape(2, 20)
    first, again, other = (masked(tokens, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first[1] != other[1]).any()
    jitted = jax.jit(lambda key, t: models.mask_tokens(key, t, vocabulary=50, mask=3, special=(0, 1)))(
        jax.random.key(0), tokens
    )
    np.testing.assert_array_equal(first, jitted)
    small = masked(tokens.astype(np.uint8))  # -100 is not among 8 bits
    np.testing.assert_array_equal(first, small)


@pytest.mark.parametrize("wrong", [{"mask": 50}, {"special": (50,)}, {"vocabulary": 1, "mask": 0, "special": ()}, {"share": 0}])
def test_wrong_ids_are_bugs(wrong: dict) -> None:
    with pytest.raises(ValueError, match="mask_tokens"):
        masked(np.ones((1, 2), int), **wrong)
