"""Byte pair encoding: decoding restores every text, tokens of many bytes are used, merges follow the definition."""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from returns.unsafe import unsafe_perform_io

from fnlamp import data
from fnlamp.fault import ExtraMissing, FaultError, UnknownToken

TEXTS = [
    "How much wood would a woodchuck chuck, if a woodchuck could chuck wood? " * 5,
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. 我能吞下玻璃而不伤身体。" * 5,
]
CODEC = data.train_bpe(TEXTS, 350, special=["<pad>", "[MASK]"])


@given(st.text(max_size=200))
@settings(max_examples=300, deadline=None)
def test_decoding_restores_every_text(text):
    ids = CODEC.encode(text)
    assert ids.dtype == np.int32
    assert CODEC.decode(ids) == text


@given(st.lists(st.sampled_from(["wood", "chuck ", "  ", "\n\r\n", "<pad>", "[MASK]", "é", "\u200d", "🙂", "\0"]), max_size=20))
@settings(max_examples=100, deadline=None)
def test_text_that_reads_like_a_special_token_is_text(parts):
    text = "".join(parts)
    ids = CODEC.encode(text)
    assert CODEC.decode(ids) == text
    assert not set(ids.tolist()) & {CODEC.id_of("<pad>"), CODEC.id_of("[MASK]")}


def test_tokens_of_many_bytes_are_emitted():
    for text in TEXTS:
        ids = CODEC.encode(text)
        assert len(ids) < len(text.encode()) / 2
        assert max(len(CODEC.decode([i]).encode()) for i in ids.tolist()) >= 6
        # The bytes of all ids together are the bytes of the text.
        assert sum(len(CODEC.decode([i])) for i in ids.tolist() if "\ufffd" not in CODEC.decode([i])) <= len(text)


def test_the_first_merges_are_the_most_frequent_pairs():
    """Sennrich et al. 2016, algorithm 1, by hand."""
    words = Counter({"low": 50, " lower": 20, " newest": 60, " widest": 30})
    pieces = {word: list(word) for word in words}
    merges = []
    for _ in range(8):
        pairs = Counter()
        for word, count in words.items():
            for pair in zip(pieces[word], pieces[word][1:], strict=False):
                pairs[pair] += count
        best = max(pairs.values())
        tied = {pair for pair, count in pairs.items() if count == best}
        codec = data.train_bpe(_texts(words), 257 + len(merges))
        new = codec.decode([256 + len(merges)])
        assert new in {a + b for a, b in tied}
        pair = next((a, b) for a, b in tied if a + b == new)
        merges.append(new)
        for word, parts in pieces.items():
            merged, at = [], 0
            while at < len(parts):
                both = tuple(parts[at : at + 2]) == pair
                merged.append(new if both else parts[at])
                at += 2 if both else 1
            pieces[word] = merged
    codec = data.train_bpe(_texts(words), 256 + len(merges))
    for word, parts in pieces.items():
        assert [codec.decode([i]) for i in codec.encode(word).tolist()] == parts


def _texts(words):
    return [word for word, count in words.items() for _ in range(count)]


def test_training_twice_gives_the_same():
    assert data.train_bpe(iter(TEXTS), 350, special=["<pad>", "[MASK]"]) == CODEC


def test_special_tokens_have_the_last_ids_and_the_size_is_the_requested_one():
    assert (CODEC.size, CODEC.special) == (350, ("<pad>", "[MASK]"))
    assert [CODEC.id_of(name) for name in CODEC.special] == [348, 349]
    assert sorted(CODEC.decode([i]) for i in range(256) if len(CODEC.decode([i]).encode()) == 1) == [chr(i) for i in range(128)]


def test_a_vocabulary_may_end_before_its_size():
    codec = data.train_bpe(["ab ab"], 1000, special=["<pad>"])
    assert codec.size == codec.id_of("<pad>") + 1 < 262


def test_half_a_surrogate_pair_is_a_fault():
    for call in (CODEC.encode, lambda text: data.train_bpe([text], 256)):
        with pytest.raises(FaultError) as caught:
            call("ab\ud800")
        assert isinstance(caught.value.fault, UnknownToken)
        assert caught.value.fault.position == 2


def test_wrong_arguments_are_bugs():
    with pytest.raises(ValueError, match="256 bytes and 1"):
        data.train_bpe([], 256, special=["<pad>"])
    with pytest.raises(ValueError, match="distinct"):
        data.train_bpe([], 300, special=["a", "a"])
    with pytest.raises(ValueError, match="already"):
        data.train_bpe(["a"], 300, special=["a"])


def test_without_the_package_the_fault_names_the_extra(monkeypatch, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(CODEC.serialized)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(FaultError) as caught:
        data.train_bpe(TEXTS, 300)
    assert caught.value.fault == ExtraMissing("tokenizers", "text")
    assert unsafe_perform_io(data.read_codec(path).run().failure()) == ExtraMissing("tokenizers", "text")
    assert data.byte_codec().size == 256
