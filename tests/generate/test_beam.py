"""Beam search: against every text, against a search in NumPy, and ordinary situations."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import nn
from fnlamp.effect import Runtime
from fnlamp.generate import Reason, beam, generate, greedy, repetition_penalty, temperature

QUIET = Runtime(log=None)
VOCABULARY, STOP, MOST = 4, 3, 4
MODEL = nn.embedding(VOCABULARY, 6) >> nn.rnn(6) >> nn.linear(VOCABULARY)


def params() -> Any:
    numbers = np.random.default_rng(3)
    made = {
        "0": {"weight": numbers.normal(size=(VOCABULARY, 6))},
        "1": {
            "input_weight": numbers.normal(size=(6, 6)),
            "recurrent_weight": numbers.normal(size=(6, 6)),
            "bias": numbers.normal(size=6),
        },
        "2": {"weight": numbers.normal(size=(6, VOCABULARY)), "bias": numbers.normal(size=VOCABULARY)},
    }
    return {name: {part: jnp.asarray(x, jnp.float32) for part, x in own.items()} for name, own in made.items()}


def log_probs(tokens: list[int]) -> np.ndarray:
    """Of the token after these, in float64 and without JAX."""
    own = {name: {part: np.asarray(x, np.float64) for part, x in given.items()} for name, given in params().items()}
    h = np.zeros(6)
    for token in tokens:
        h = np.tanh(own["0"]["weight"][token] @ own["1"]["input_weight"] + h @ own["1"]["recurrent_weight"] + own["1"]["bias"])
    logits = h @ own["2"]["weight"] + own["2"]["bias"]
    return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())


def score(prompt: list[int], new: tuple[int, ...], penalty: float) -> float:
    terms = [log_probs([*prompt, *new[:i]])[token] for i, token in enumerate(new)]
    return float(np.sum(terms) / len(new) ** penalty)


def texts() -> list[tuple[int, ...]]:
    """Every text of at most four tokens that ends at the first stop token, or at the length."""
    every = [new for length in range(1, MOST + 1) for new in itertools.product(range(VOCABULARY), repeat=length)]
    return [new for new in every if STOP not in new[:-1] and (len(new) == MOST or new[-1] == STOP)]


def searched(prompt: list[int], width: int, penalty: float) -> tuple[float, tuple[int, ...]]:
    """The search, text by text."""
    alive: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    ended: list[tuple[float, tuple[int, ...]]] = []
    for length in range(1, MOST + 1):
        grown = [
            (total + log_probs([*prompt, *new])[token], (*new, token)) for total, new in alive for token in range(VOCABULARY)
        ]
        grown.sort(reverse=True)
        ended += [(total / length**penalty, new) for total, new in grown[:width] if new[-1] == STOP]
        ended = sorted(ended, reverse=True)[:width]
        alive = [one for one in grown if one[1][-1] != STOP][:width]
    return max(ended + [(total / MOST**penalty, new) for total, new in alive])


@pytest.mark.slow
@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0, -1.0])
def test_a_wide_beam_finds_the_best_of_all_texts(penalty):
    prompts = [[0], [1, 2, 0], [2, 2]]
    made = generate(MODEL, params(), prompts, tokens=MOST, sampling=beam(64, length_penalty=penalty), stop=[STOP])
    made = made.run_or_raise(QUIET)
    for row, prompt in enumerate(prompts):
        expected = max(texts(), key=lambda new, prompt=prompt: score(prompt, new, penalty))
        assert tuple(made.row(row)) == expected
        assert made.reasons[row] is (Reason.STOP_TOKEN if expected[-1] == STOP else Reason.LENGTH)
        own = made.log_probs[row, : made.lengths[row]].sum()
        np.testing.assert_allclose(own, score(prompt, expected, 0), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, 2, 3])
def test_a_narrow_beam_finds_what_a_search_text_by_text_finds(width):
    prompts = [[a, b] for a in range(3) for b in range(3)]
    for penalty in (0.5, 1.5):
        made = generate(MODEL, params(), prompts, tokens=MOST, sampling=beam(width, length_penalty=penalty), stop=[STOP])
        made = made.run_or_raise(QUIET)
        for row, prompt in enumerate(prompts):
            assert tuple(made.row(row)) == searched(prompt, width, penalty)[1]


@pytest.mark.slow
def test_a_beam_of_one_is_greedy_and_rules_apply():
    options: Any = {"tokens": 9}
    one = generate(MODEL, params(), [[0], [1]], sampling=beam(1), **options).run_or_raise(QUIET)
    assert (
        one.tokens.tolist()
        == generate(MODEL, params(), [[0], [1]], sampling=greedy, **options).run_or_raise(QUIET).tokens.tolist()
    )
    cold = beam(3, repetition_penalty(1.5), temperature(0.7))
    with_cache, without = (
        generate(MODEL, params(), [[0], [1]], sampling=cold, cached=cached, **options).run_or_raise(QUIET)
        for cached in (True, False)
    )
    assert with_cache.tokens.tolist() == without.tokens.tolist()


@pytest.mark.slow
def test_the_cache_of_stacked_layers_moves_with_the_texts():
    block = nn.transformer_block(nn.self_attention(2, kv_heads=1, mask=nn.causal, query_key=nn.rotary_positions()))
    model = nn.embedding(7, 8) >> nn.repeat(block, 2, scan=True) >> nn.linear(7)
    own = jax.tree.map(lambda x: 3 * x, model.init(jax.random.key(1), jax.ShapeDtypeStruct((1, 4), jnp.int32)).params)
    both = [
        generate(model, own, [[0], [1, 2, 3]], tokens=12, stop=[5], sampling=beam(4), cached=cached).run_or_raise(QUIET)
        for cached in (True, False)
    ]
    assert both[0].tokens.tolist() == both[1].tokens.tolist()
    np.testing.assert_allclose(both[0].log_probs, both[1].log_probs, atol=1e-4)


def test_a_search_has_no_pieces():
    with pytest.raises(ValueError, match="beam search"):
        generate(MODEL, params(), [[0]], sampling=beam(2), each=lambda piece: None)
