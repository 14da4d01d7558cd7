"""GPT-2, as transformers names it."""

from __future__ import annotations

from fnlamp.models.weights.kind import as_is, norm
from fnlamp.models.weights.names import Table, row
from fnlamp.models.weights.state_dict import Weights


def gpt2() -> Weights:
    """The weights of transformers' `GPT2LMHeadModel`, for `models.gpt` of the same sizes.

    A file may have names with `transformer.` or without.  Its output weight, if it has one, is the embedding's.  Fails: a tied
    weight of other numbers is a `StateMismatch`, when it is read.

    >>> gpt = models.gpt(7, layers=1, width=4, heads=2, context=5)
    >>> made = gpt.init(key, jax.ShapeDtypeStruct((1, 5), jnp.int32))
    >>> gpt2().write(made.params)["transformer.h.0.attn.c_attn.weight"].shape
    (4, 12)
    """
    block, theirs = "block_#", "transformer.h.#"
    rows = (
        row("tokens", "transformer.wte", as_is),
        row("positions", "transformer.wpe", as_is),
        row(f"{block}/attention_norm", f"{theirs}.ln_1", norm),
        row(f"{block}/attention/input", f"{theirs}.attn.c_attn", as_is),
        row(f"{block}/attention/output", f"{theirs}.attn.c_proj", as_is),
        row(f"{block}/feed_forward_norm", f"{theirs}.ln_2", norm),
        row(f"{block}/feed_forward/up", f"{theirs}.mlp.c_fc", as_is),
        row(f"{block}/feed_forward/out", f"{theirs}.mlp.c_proj", as_is),
        row("norm", "transformer.ln_f", norm),
    )
    tied = {"lm_head.weight": "transformer.wte.weight"}
    return Weights(Table(rows, tied, ("h.#.attn.bias", "h.#.attn.masked_bias"), "transformer."), "gpt2")
