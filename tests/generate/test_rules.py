"""Rules of sampling, against the same written another way, and how often sampling takes what."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp.generate import Past, Rule, below, min_p, repetition_penalty, temperature, top_k, top_p
from fnlamp.generate.rules import applied

RANDOM = np.random.default_rng(0)
LOGITS = (3 * RANDOM.normal(size=(20, 30))).astype(np.float32)
TIED = np.round(LOGITS / 2)
TOKENS = RANDOM.integers(0, 30, size=(20, 9)).astype(np.int32)
LENGTH = RANDOM.integers(1, 10, size=20).astype(np.int32)


def probabilities(x: np.ndarray) -> np.ndarray:
    e = np.exp(np.asarray(x, np.float64) - x.max())
    return e / e.sum()


def by_hand(rule: str, value: float, x: np.ndarray, seen: set[int]) -> np.ndarray:
    p, kept = probabilities(x), np.zeros(len(x), bool)
    order = sorted(range(len(x)), key=lambda i: (-x[i], i))
    if rule == "temperature":
        return x / np.float32(value)
    if rule == "repetition_penalty":
        lowered = [v / value if v > 0 else v * value for v in x]
        return np.array([lowered[i] if i in seen else x[i] for i in range(len(x))], np.float32)
    if rule == "top_k":
        kept = x >= x[order[min(int(value), len(x)) - 1]]
    if rule == "min_p":
        kept = p >= value * p.max() * (1 - 1e-6)
    if rule == "top_p":
        total = 0.0
        for i in order:
            kept[i] = True
            total += p[i]
            if value < 1 and total >= value - 1e-7:
                break
    return np.where(kept, x, -np.inf)


RULES = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "repetition_penalty": repetition_penalty}


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        *[("temperature", t) for t in (0.3, 2.0)],
        *[("top_k", k) for k in (1, 7, 30, 500)],
        *[("top_p", p) for p in (0.01, 0.5, 0.93, 1.0)],
        *[("min_p", p) for p in (0.02, 0.4, 1.0)],
        *[("repetition_penalty", p) for p in (1.3, 0.5)],
    ],
)
def test_a_rule_is_what_it_says(rule, value):
    for logits in (LOGITS, TIED):
        made = applied((RULES[rule](value),), jnp.asarray(logits), jnp.asarray(TOKENS), jnp.asarray(LENGTH))
        for row, x in enumerate(logits):
            expected = by_hand(rule, value, x, set(TOKENS[row, : LENGTH[row]].tolist()))
            np.testing.assert_allclose(made[row], expected, rtol=1e-6)


def test_rules_are_applied_in_their_order_to_each_row():
    rules = repetition_penalty(1.5), temperature(0.7), top_k(9), top_p(0.8), below(25)
    made = applied(rules, jnp.asarray(LOGITS), jnp.asarray(TOKENS), jnp.asarray(LENGTH))
    for row, x in enumerate(LOGITS):
        for name, value in (("repetition_penalty", 1.5), ("temperature", 0.7), ("top_k", 9), ("top_p", 0.8)):
            x = by_hand(name, value, x, set(TOKENS[row, : LENGTH[row]].tolist()))
        np.testing.assert_allclose(made[row], np.where(np.arange(30) < 25, x, -np.inf), rtol=1e-6)


def test_what_is_excluded_stays_so_and_one_token_stays():
    x = jnp.array([-jnp.inf, 1.0, -jnp.inf, 0.0])
    past = Past(jnp.array([0, 1]), jnp.array(2))
    for rule in (
        temperature(0.5),
        temperature(0.0),
        top_k(2),
        top_k(3),
        top_p(0.7),
        top_p(1.0),
        min_p(0.1),
        repetition_penalty(2.0),
    ):
        made = np.asarray(rule(x, past))
        assert np.isneginf(made[[0, 2]]).all()
        assert np.isfinite(made[1])


def test_numbers_of_rules_are_leaves():
    assert jax.tree.leaves((temperature(0.5), top_p(0.9), min_p(0.1), repetition_penalty(2.0))) == [0.5, 0.9, 0.1, 2.0]
    assert isinstance(temperature(0.5), Rule)


@pytest.mark.parametrize(
    "rule", [lambda: temperature(-1), lambda: top_k(0), lambda: top_p(0), lambda: top_p(1.1), lambda: min_p(2)]
)
def test_numbers_that_make_no_sense_are_refused(rule):
    with pytest.raises(ValueError, match=r"temperature|top_k|top_p|min_p"):
        rule()
