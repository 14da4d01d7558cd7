"""Generation against transformers: the rules, and the texts of the same GPT-2, greedy and by beam search."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnlamp import models
from fnlamp.arrays import array_spec
from fnlamp.effect import Runtime
from fnlamp.generate import beam, generate, greedy, min_p, repetition_penalty, sampled, temperature, top_k, top_p
from fnlamp.generate.rules import applied

torch = pytest.importorskip("torch", reason="torch comes with the extra parity")
transformers = pytest.importorskip("transformers", reason="transformers comes with the extra parity")
pytestmark = pytest.mark.slow

RANDOM = np.random.default_rng(0)
LOGITS = (3 * RANDOM.normal(size=(40, 50))).astype(np.float32)
TOKENS = RANDOM.integers(0, 50, size=(40, 9)).astype(np.int32)
PAIRS = {
    "temperature": (lambda v: temperature(v), "TemperatureLogitsWarper", (0.3, 1.7)),
    "top_k": (lambda v: top_k(v), "TopKLogitsWarper", (1, 7, 49, 900)),
    "top_p": (lambda v: top_p(v), "TopPLogitsWarper", (0.1, 0.5, 0.95)),
    "min_p": (lambda v: min_p(v), "MinPLogitsWarper", (0.01, 0.3, 1.0)),
    "repetition_penalty": (lambda v: repetition_penalty(v), "RepetitionPenaltyLogitsProcessor", (0.7, 1.3)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_rule_is_that_of_transformers(name):
    make, theirs, values = PAIRS[name]
    for value in values:
        made = applied((make(value),), jnp.asarray(LOGITS), jnp.asarray(TOKENS), jnp.full(40, 9))
        expected = getattr(transformers, theirs)(value)(torch.from_numpy(TOKENS).long(), torch.from_numpy(LOGITS.copy()))
        np.testing.assert_allclose(made, expected.numpy(), rtol=1e-6)


def both() -> tuple[Any, Any, Any]:
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=40, n_positions=64, n_embd=32, n_layer=2, n_head=4, initializer_range=0.4)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    ours = models.gpt(40, layers=2, width=32, heads=4, context=64)
    state = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    made = jax.eval_shape(
        lambda key: (lambda m: (m.params, m.state))(ours.init(key, array_spec((1, 8), jnp.int32))), jax.random.key(0)
    )
    return theirs, ours, models.weights.gpt2().read(state, made)[0]


@pytest.mark.parametrize(
    ("ours_by", "theirs_by"),
    [
        (greedy, {}),
        (sampled(repetition_penalty(1.4), temperature(0.0)), {"repetition_penalty": 1.4}),
        (beam(3), {"num_beams": 3, "length_penalty": 1.0}),
        (beam(4, length_penalty=0.0), {"num_beams": 4, "length_penalty": 0.0}),
    ],
)
def test_a_text_is_that_of_transformers(ours_by, theirs_by):
    theirs, ours, params = both()
    for prompt in ([1, 2, 3], [7], [39, 0, 39, 5]):
        ids = torch.tensor([prompt])
        expected = theirs.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=24,
            eos_token_id=None,
            pad_token_id=0,
            **theirs_by,
        )
        made = generate(ours, params, [prompt], tokens=24, sampling=ours_by).run_or_raise(Runtime(log=None))
        assert made.row(0).tolist() == expected[0, len(prompt) :].tolist()
