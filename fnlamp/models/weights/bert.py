"""BERT, as transformers names it."""

from __future__ import annotations

from fnlamp.models.weights.kind import as_is, bare, linear, norm
from fnlamp.models.weights.names import Row, Table, row
from fnlamp.models.weights.state_dict import Weights

_OLDER = ((r"\.LayerNorm\.gamma$", ".LayerNorm.weight"), (r"\.LayerNorm\.beta$", ".LayerNorm.bias"))
"""The names of norms in the first files, translated from TensorFlow."""


def bert() -> Weights:
    """The weights of transformers' `BertModel` without a pooler, for `models.bert`.

    Of a file with heads, `ignore` them: `read(..., ignore=["cls", "bert.pooler"])`.

    >>> made = models.bert(9, layers=1, width=8, heads=2, context=16).init(key, jax.ShapeDtypeStruct((1, 5), jnp.int32))
    >>> bert().write(made.params)["encoder.layer.0.attention.self.query.weight"].shape
    (8, 8)
    """
    return _weights("bert", _encoder("", ""))


def masked_language_model() -> Weights:
    """The weights of transformers' `BertForMaskedLM`, for `models.masked_language_model`.

    The output weight is the embedding's, and written again, as its bias is.  Older files have more, to be ignored: `read(...,
    ignore=["cls.seq_relationship", "bert.pooler"])`.
    """
    rows = (
        *_encoder("encoder/", "bert."),
        row("head/dense", "cls.predictions.transform.dense", linear),
        row("head/norm", "cls.predictions.transform.LayerNorm", norm),
        row("head/out", "cls.predictions", bare("bias", "bias")),
    )
    decoder = "cls.predictions.decoder"
    tied = {f"{decoder}.weight": "bert.embeddings.word_embeddings.weight", f"{decoder}.bias": "cls.predictions.bias"}
    return _weights("masked_language_model", rows, tied)


def sentence_classifier() -> Weights:
    """The weights of transformers' `BertForSequenceClassification`, for `models.sentence_classifier`."""
    head = row("head/pooler", "bert.pooler.dense", linear), row("head/out", "classifier", linear)
    return _weights("sentence_classifier", (*_encoder("encoder/", "bert."), *head))


def _weights(name: str, rows: tuple[Row, ...], tied: dict[str, str] | None = None) -> Weights:
    return Weights(Table(rows, tied or {}, ("embeddings.position_ids",), "bert.", _OLDER), name)


def _encoder(ours: str, base: str) -> tuple[Row, ...]:
    block, theirs = f"{ours}block_#", f"{base}encoder.layer.#"
    queries, keys, values = (f"{theirs}.attention.self.{name}" for name in ("query", "key", "value"))
    return (
        row(f"{ours}tokens", f"{base}embeddings.word_embeddings", as_is),
        row(f"{ours}segments", f"{base}embeddings.token_type_embeddings", as_is),
        row(f"{ours}positions", f"{base}embeddings.position_embeddings", as_is),
        row(f"{ours}norm", f"{base}embeddings.LayerNorm", norm),
        row(f"{block}/attention/input", (queries, keys, values), linear),
        row(f"{block}/attention/output", f"{theirs}.attention.output.dense", linear),
        row(f"{block}/attention_norm", f"{theirs}.attention.output.LayerNorm", norm),
        row(f"{block}/feed_forward/up", f"{theirs}.intermediate.dense", linear),
        row(f"{block}/feed_forward/out", f"{theirs}.output.dense", linear),
        row(f"{block}/feed_forward_norm", f"{theirs}.output.LayerNorm", norm),
    )
