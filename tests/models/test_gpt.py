"""gpt."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import models, nn, tree
from fnlamp.arrays import array_spec
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch
from fnlamp.layer import Layer, abstract_init
from fnlamp.mode import Eval, Train
from fnlamp.tag import Role

KEY = jax.random.key(0)
SMALL = models.gpt(7, layers=2, width=8, heads=2, context=6)
TOKENS = jnp.array([[1, 6, 0, 2, 2], [3, 3, 5, 4, 6]])


LLAMA = {
    "query_key": nn.rotary_positions(500.0, halves=True),
    "norm": nn.rms_norm(1e-3),
    "activation": nn.silu,
    "gated": True,
    "bias": False,
}
"""The options of LLaMA, with a base and an eps that matter for a few time steps."""
SMALL_LLAMA = models.gpt(7, layers=2, width=8, heads=4, kv_heads=2, hidden=11, context=6, tied=False, soft_cap=2.0, **LLAMA)


def small_params(dtype: type = jnp.float32, layer: Layer = SMALL) -> dict:
    """Parameters far from their initial values, so that nothing is nearly zero."""
    params = layer.init(KEY, array_spec(TOKENS.shape, jnp.int32)).params
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda p: jnp.asarray(0.5 * rng.standard_normal(p.shape), dtype), params)


def by_hand(params: dict, tokens: np.ndarray) -> np.ndarray:
    """GPT-2 in NumPy and float64, from the papers' equations."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def norm(x, at):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * at["scale"] + at["shift"]

    def linear(x, at):
        return x @ at["weight"] + at["bias"]

    def attention(x, at, heads=2):
        batch, time, width = x.shape
        q, k, v = np.moveaxis(linear(x, at["input"]).reshape(batch, time, 3, heads, -1), 2, 0)
        scores = np.einsum("bthd,bshd->bhts", q, k) / np.sqrt(width / heads)
        scores[:, :, *np.triu_indices(time, 1)] = -np.inf
        e = np.exp(scores)
        return linear(np.einsum("bhts,bshd->bthd", e / e.sum(-1, keepdims=True), v).reshape(x.shape), at["output"])

    x = p["tokens"]["weight"][tokens] + p["positions"]["weight"][: tokens.shape[1]]
    for i in range(2):
        block = p[f"block_{i}"]
        x = x + attention(norm(x, block["attention_norm"]), block["attention"])
        second = block["feed_forward"]
        u = linear(norm(x, block["feed_forward_norm"]), second["up"])
        x = x + linear(0.5 * u * (1 + np.tanh(np.sqrt(2 / np.pi) * (u + 0.044715 * u**3))), second["out"])
    return norm(x, p["norm"]) @ p["tokens"]["weight"].T


def test_numbers() -> None:
    params = small_params()
    y, state = jax.jit(SMALL.apply)(params, {}, TOKENS, Eval())
    np.testing.assert_allclose(y, by_hand(params, np.asarray(TOKENS)), atol=1e-5)
    assert state == {}


def llama_by_hand(params: dict, tokens: np.ndarray) -> np.ndarray:
    """LLaMA in NumPy and float64, from its papers' equations; rotations as products of complex numbers."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def norm(x, at):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-3) * at["scale"]

    def turned(x):
        half = x.shape[-1] // 2
        rates = 500.0 ** (-np.arange(half) / half)
        z = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * np.arange(x.shape[1])[:, None, None] * rates)
        return np.concatenate([z.real, z.imag], -1)

    def attention(x, at, heads=4, groups=2):
        q = (x @ at["query"]["weight"]).reshape(*x.shape[:2], heads, -1)
        k, v = ((x @ w).reshape(*x.shape[:2], groups, -1) for w in np.split(at["memory"]["weight"], 2, 1))
        q, k = turned(q), turned(k)
        y = np.zeros_like(q)
        for h in range(heads):
            for t in range(x.shape[1]):
                scores = np.einsum("bd,bsd->bs", q[:, t, h], k[:, : t + 1, h // 2]) / np.sqrt(q.shape[-1])
                e = np.exp(scores)
                y[:, t, h] = np.einsum("bs,bsd->bd", e / e.sum(1, keepdims=True), v[:, : t + 1, h // 2])
        return y.reshape(x.shape) @ at["output"]["weight"]

    x = p["tokens"]["weight"][tokens]
    for i in range(2):
        block = p[f"block_{i}"]
        x = x + attention(norm(x, block["attention_norm"]), block["attention"])
        second, inside = block["feed_forward"], norm(x, block["feed_forward_norm"])
        gate = inside @ second["up"]["gate"]["weight"]
        x = x + (gate / (1 + np.exp(-gate)) * (inside @ second["up"]["value"]["weight"])) @ second["out"]["weight"]
    return 2 * np.tanh(norm(x, p["norm"]) @ p["out"]["weight"] / 2)


def test_numbers_of_llama() -> None:
    params = small_params(layer=SMALL_LLAMA)
    y, state = jax.jit(SMALL_LLAMA.apply)(params, {}, TOKENS, Eval())
    np.testing.assert_allclose(y, llama_by_hand(params, np.asarray(TOKENS)), atol=1e-5)
    assert state == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "count"),
    [
        ({"vocabulary": 32_000, "layers": 32, "width": 4096, "heads": 32, "hidden": 11_008, "tied": False}, 6_738_415_616),
        (
            {"vocabulary": 128_256, "layers": 32, "width": 4096, "heads": 32, "kv_heads": 8, "hidden": 14_336, "tied": False},
            8_030_261_248,
        ),
    ],
    ids=["LLaMA 2 7B", "Llama 3 8B"],
)
def test_llama_has_its_number_of_parameters(sizes: dict, count: int) -> None:
    made = abstract_init(models.gpt(context=4096, **sizes, **LLAMA), array_spec((1, 16), jnp.int32))
    assert sum(int(np.prod(leaf.shape)) for leaf in tree.leaves(made.params)) == count
    assert not [path for path in tree.paths(made.params) if path.endswith(("bias", "shift")) or "positions" in path]


@pytest.mark.parametrize("layer", [SMALL, pytest.param(SMALL_LLAMA, marks=pytest.mark.slow)], ids=["GPT-2", "LLaMA"])
def test_packed_documents_have_the_logits_of_each_alone(layer: Layer) -> None:
    params = small_params(layer=layer)
    numbers = jnp.array([[1, 1, 1, 2, 2], [1, 2, 2, 0, 0]])
    packed = jax.jit(layer.apply)(params, {}, (TOKENS, numbers), Eval())[0]
    places = [(0, slice(0, 3)), (0, slice(3, 5)), (1, slice(0, 1)), (1, slice(1, 3))]
    alone = np.zeros((4, 5), int)  # what follows a document has no effect
    for number, place in enumerate(places):
        alone[number, : len(TOKENS[place])] = TOKENS[place]
    logits = jax.jit(layer.apply)(params, {}, alone, Eval())[0]
    for number, place in enumerate(places):
        np.testing.assert_allclose(packed[place], logits[number, : len(packed[place])], atol=1e-5)


@pytest.mark.parametrize("numbers", [jnp.ones((2, 4), int), jnp.ones(5, int), jnp.ones((2, 5))], ids=str)
def test_wrong_numbers_of_documents_are_a_fault(numbers: jax.Array) -> None:
    with pytest.raises(FaultError, match="gpt: expected .*numbers of documents"):
        SMALL.apply(small_params(), {}, (TOKENS, numbers), Eval())


@pytest.mark.slow
@pytest.mark.parametrize("rates", [{"drop_rate": 0.5}, {"attention_drop_rate": 0.5}], ids=str)
def test_rates_drop_in_training_alone(rates: dict) -> None:
    layer, params = models.gpt(7, layers=2, width=8, heads=2, context=6, **rates), small_params()
    apply = jax.jit(layer.apply)
    plain, evaluated = (each(params, {}, TOKENS, Eval())[0] for each in (jax.jit(SMALL.apply), apply))
    np.testing.assert_array_equal(plain, evaluated)
    first, second = (apply(params, {}, TOKENS, Train(jax.random.key(seed)))[0] for seed in (0, 1))
    assert not np.allclose(first, second)
    assert np.isfinite(first).all()


@pytest.mark.slow
def test_gradients_are_finite_differences() -> None:
    with jax.enable_x64(True):
        params = small_params(jnp.float64)
        rng = np.random.default_rng(1)
        weights = rng.standard_normal((*TOKENS.shape, 7))
        direction = jax.tree.map(lambda p: rng.standard_normal(p.shape), params)
        gradient = jax.jit(jax.grad(lambda p: jnp.sum(weights * SMALL.apply(p, {}, TOKENS, Eval())[0])))(params)
        along = sum(jnp.sum(g * d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
        shifted = [jax.tree.map(lambda p, d, e=e: p + e * d, params, direction) for e in (1e-6, -1e-6)]
        above, below = (float((weights * by_hand(at, np.asarray(TOKENS))).sum()) for at in shifted)
        np.testing.assert_allclose(float(along), (above - below) / 2e-6, rtol=1e-6)


def test_a_later_token_does_not_change_earlier_logits() -> None:
    params = small_params()
    apply = jax.jit(lambda tokens: SMALL.apply(params, {}, tokens, Eval())[0])
    first, second = apply(TOKENS), apply(TOKENS.at[:, 3].set(1))
    np.testing.assert_array_equal(first[:, :3], second[:, :3])
    assert np.all(first[:, 3:] != second[:, 3:])


def test_a_prefix_has_the_logits_of_the_longer_text() -> None:
    params = small_params()
    whole, part = (jax.jit(SMALL.apply)(params, {}, tokens, Eval())[0] for tokens in (TOKENS, TOKENS[:, :3]))
    np.testing.assert_allclose(whole[:, :3], part, atol=1e-5)


@pytest.mark.slow
def test_initial_deviations_are_those_of_gpt_2() -> None:
    params = models.gpt(500, layers=2, width=128, heads=2, context=200).init(KEY, array_spec((1, 200), jnp.int32)).params
    deviations = {path: float(jnp.std(leaf)) for path, leaf in tree.paths(params).items() if path.endswith("weight")}
    assert len(deviations) == 2 + 4 * 2
    for path, deviation in deviations.items():
        ends = path.endswith(("output/weight", "out/weight"))
        np.testing.assert_allclose(deviation, 0.02 / 2 if ends else 0.02, rtol=0.03)
    assert all(not leaf.any() for path, leaf in tree.paths(params).items() if path.endswith(("bias", "shift")))


def test_the_smallest_gpt_2_has_its_number_of_parameters() -> None:
    layer = models.gpt(50257, layers=12, width=768, heads=12, context=1024)
    made = abstract_init(layer, array_spec((2, 1024), jnp.int32))
    assert tree.count(made.params) == 124_439_808
    assert made.spec.shape == (2, 1024, 50257)
    assert {path for path, tag in tree.paths(made.tags).items() if tag.role is Role.EMBEDDING} == {
        "tokens/weight",
        "positions/weight",
    }


def test_a_token_out_of_range_is_nan() -> None:
    logits = jax.jit(SMALL.apply)(small_params(), {}, TOKENS.at[0, 2].set(7), Eval())[0]
    assert np.isnan(logits[0, 2]).all()
    assert np.isfinite(logits[1]).all()


@pytest.mark.parametrize(
    ("layer", "expected"),
    [(SMALL, by_hand), pytest.param(SMALL_LLAMA, llama_by_hand, marks=pytest.mark.slow)],
    ids=["GPT-2", "LLaMA"],
)
def test_half_precision_flows_through(layer: Layer, expected: Callable[[dict, np.ndarray], np.ndarray]) -> None:
    params = tree.cast(small_params(layer=layer), jnp.bfloat16)
    y = jax.jit(layer.apply)(params, {}, TOKENS, Eval())[0]
    assert y.dtype == jnp.bfloat16
    exact = expected(params, np.asarray(TOKENS))
    np.testing.assert_allclose(y.astype(jnp.float32), exact, atol=0.05 * np.abs(exact).max())


@pytest.mark.parametrize("tokens", [jnp.ones(5, int), jnp.ones((2, 7), int), jnp.ones((2, 5, 1), int)])
def test_another_rank_or_a_longer_text_is_a_fault(tokens: jax.Array) -> None:
    for call in (
        lambda: SMALL.init(KEY, array_spec(tokens.shape, tokens.dtype)),
        lambda: SMALL.apply(small_params(), {}, tokens, Eval()),
    ):
        with pytest.raises(FaultError, match=r"gpt: expected tokens of shape \(batch, time\), time at most 6") as caught:
            call()
        assert isinstance(caught.value.fault, ShapeMismatch)


def test_tokens_that_are_not_integers_are_a_fault() -> None:
    with pytest.raises(FaultError, match="tokens/embedding: expected integer tokens") as caught:
        SMALL.init(KEY, array_spec((2, 5), jnp.float32))
    assert isinstance(caught.value.fault, DtypeMismatch)


@pytest.mark.parametrize("wrong", [{"layers": 0}, {"heads": 0}, {"context": 0}, {"heads": 3}])
def test_wrong_sizes(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="gpt needs layers, heads and context of at least 1"):
        models.gpt(7, **({"layers": 1, "width": 8, "heads": 2, "context": 6} | wrong))


def test_a_width_that_rotations_do_not_divide() -> None:
    layer = models.gpt(7, layers=1, width=6, heads=2, context=6, query_key=nn.rotary_positions())
    with pytest.raises(FaultError, match="the width even"):
        layer.init(KEY, array_spec(TOKENS.shape, jnp.int32))
