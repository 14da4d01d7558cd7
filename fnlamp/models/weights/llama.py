"""LLaMA and models of its form, as transformers names them."""

from __future__ import annotations

from fnlamp.given import shown, whole
from fnlamp.models.weights.kind import as_is, linear, norm
from fnlamp.models.weights.layout import Layout, halves_to_pairs
from fnlamp.models.weights.names import Table, row
from fnlamp.models.weights.state_dict import Weights


def llama(*, pairs: tuple[int, int] | None = None) -> Weights:
    """The weights of transformers' `LlamaForCausalLM`, for `models.gpt` with rotary positions, gates, and RMS norms.

    transformers' rotary pairs are halves of a head, as of `nn.rotary_positions(halves=True)`.  For a model whose pairs are
    neighbours, `pairs` are its numbers of heads and of heads of keys and values: queries and keys are reordered.  The output
    weight is the embedding's if the layer has none.  Mistral has the same names; Qwen 3 has too, with
    `query_key=nn.sequence(nn.rms_norm(), nn.rotary_positions(halves=True))`.

    >>> form = dict(norm=nn.rms_norm(), activation=nn.silu, gated=True, bias=False, tied=False)
    >>> gpt = models.gpt(7, layers=1, width=8, heads=2, context=5, query_key=nn.rotary_positions(halves=True), **form)
    >>> made = gpt.init(key, jax.ShapeDtypeStruct((1, 5), jnp.int32))
    >>> llama().write(made.params)["model.layers.0.mlp.gate_proj.weight"].shape
    (32, 8)
    """
    block, theirs = "block_#", "model.layers.#"
    q, k, v = (f"{theirs}.self_attn.{name}_proj" for name in "qkv")
    of_input, of_query, of_memory = _orders(pairs)
    rows = (
        row("tokens", "model.embed_tokens", as_is),
        row(f"{block}/attention_norm", f"{theirs}.input_layernorm", norm),
        row(f"{block}/attention/input", (q, k, v), linear, of_input),
        row(f"{block}/attention/query", q, linear, of_query),
        row(f"{block}/attention/memory", (k, v), linear, of_memory),
        row(f"{block}/attention/on_query/0", f"{theirs}.self_attn.q_norm", norm),
        row(f"{block}/attention/on_key/0", f"{theirs}.self_attn.k_norm", norm),
        row(f"{block}/attention/output", f"{theirs}.self_attn.o_proj", linear),
        row(f"{block}/feed_forward_norm", f"{theirs}.post_attention_layernorm", norm),
        row(f"{block}/feed_forward/up/gate", f"{theirs}.mlp.gate_proj", linear),
        row(f"{block}/feed_forward/up/value", f"{theirs}.mlp.up_proj", linear),
        row(f"{block}/feed_forward/out", f"{theirs}.mlp.down_proj", linear),
        row("norm", "model.norm", norm),
        row("out", "lm_head", linear),
    )
    tied = {"lm_head.weight": "model.embed_tokens.weight"}
    return Weights(Table(rows, tied, ("layers.#.self_attn.rotary_emb.inv_freq", "rotary_emb.inv_freq"), "model."), "llama")


def _orders(pairs: tuple[int, int] | None) -> tuple[Layout | None, Layout | None, Layout | None]:
    """The further layouts of the weights of all, of queries, and of keys and values."""
    if pairs is None:
        return None, None, None
    if not isinstance(pairs, tuple | list) or len(pairs) != 2:
        raise TypeError(f"llama: pairs are the numbers of heads and of heads of keys and values, got {shown(pairs)}")
    heads, kv_heads = (whole("llama: pairs", n) for n in pairs)
    return halves_to_pairs(2 * heads, heads), halves_to_pairs(heads), halves_to_pairs(kv_heads, kv_heads)
