"""The vision transformer, as transformers names it."""

from __future__ import annotations

import re

from fnlamp.given import flag
from fnlamp.models.weights.kind import bare, linear, norm
from fnlamp.models.weights.layout import leading
from fnlamp.models.weights.names import Table, row
from fnlamp.models.weights.state_dict import Weights

_OF_FILES = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "layernorm_before": "layernorm_before",
    "layernorm_after": "layernorm_after",
}
"""The modules of a block, as transformers 5 names them in memory, and as files and transformers 4 do."""


def vit(*, files: bool = True) -> Weights:
    """The weights of transformers' `ViTForImageClassification`, for `models.vit` with the `eps` of its configuration.

    Files, and transformers 4, have other names than the state dict of transformers 5.  `read` takes both, `write` gives those
    of files, or with `files=False` those of the state dict.

    >>> layer = models.vit(3, size=8, patch=4, layers=1, width=8, heads=2)
    >>> made = layer.init(key, jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32))
    >>> vit().write(made.params)["vit.encoder.layer.0.attention.attention.query.weight"].shape
    (8, 8)
    """
    in_memory = {name: name for name in _OF_FILES}
    here, there = ("encoder.layer", "layers") if flag("vit: files", files) else ("layers", "encoder.layer")
    names, others = (_OF_FILES, in_memory) if files else (in_memory, _OF_FILES)
    block, theirs = "block_#", f"vit.{here}.#"
    q, k, v = (f"{theirs}.{names[f'attention.{each}_proj']}" for each in "qkv")
    rows = (
        row("patches", "vit.embeddings.patch_embeddings.projection", linear),
        row("class", "vit.embeddings", bare("token", "cls_token", leading(2))),
        row("positions", "vit.embeddings", bare("weight", "position_embeddings", leading(1))),
        row(f"{block}/attention_norm", f"{theirs}.layernorm_before", norm),
        row(f"{block}/attention/input", (q, k, v), linear),
        row(f"{block}/attention/output", f"{theirs}.{names['attention.o_proj']}", linear),
        row(f"{block}/feed_forward_norm", f"{theirs}.layernorm_after", norm),
        row(f"{block}/feed_forward/up", f"{theirs}.{names['mlp.fc1']}", linear),
        row(f"{block}/feed_forward/out", f"{theirs}.{names['mlp.fc2']}", linear),
        row("norm", "vit.layernorm", norm),
        row("out", "classifier", linear),
    )
    aliases = tuple(
        (rf"^{re.escape(there)}\.(\d+)\.{re.escape(others[name])}\.", rf"{here}.\1.{names[name]}.") for name in _OF_FILES
    )
    return Weights(Table(rows, base="vit.", aliases=aliases), "vit")
