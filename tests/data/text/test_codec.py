"""Codecs against literals, Python's own counting and encoding, and the law that decoding inverts encoding."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fnlamp import data
from fnlamp.data.text.codec import words_of
from fnlamp.fault import DtypeMismatch, FaultError, ShapeMismatch, UnknownToken

TEXTS = st.text(max_size=60)


def fault(call, *arguments):
    with pytest.raises(FaultError) as caught:
        call(*arguments)
    return caught.value.fault


# ------------------------------------------------------------------------------- characters


def test_characters_have_ids_by_falling_frequency_and_ties_by_code_point():
    codec = data.character_codec("banana bread")
    assert codec.characters == "abn der"  # 4 a, 2 each, then one each, the space first
    ids = codec.encode("bad")
    assert (ids.tolist(), ids.dtype) == ([codec.characters.index(c) for c in "bad"], np.int32)


def test_that_order_is_the_one_named_here():
    text = "banana bread"
    counted = Counter(text)
    assert data.character_codec(text).characters == "".join(sorted(counted, key=lambda c: (-counted[c], c)))


@given(st.text(alphabet=st.characters(), max_size=80), TEXTS)
@settings(max_examples=150, deadline=None)
def test_decoding_restores_characters_and_others_are_named(text, other):
    codec, counted = data.character_codec(text), Counter(text)
    assert codec.characters == "".join(sorted(counted, key=lambda c: (-counted[c], c)))
    ids = codec.encode(text)
    assert codec.decode(ids) == text
    assert ids.dtype == np.int32
    assert set(ids.tolist()) == set(range(codec.size))
    unknown = [(c, i) for i, c in enumerate(other) if c not in text]
    if unknown:
        assert fault(codec.encode, other) == UnknownToken(*unknown[0], codec.size, where="encode")
    else:
        assert codec.decode(codec.encode(other)) == other


@given(TEXTS, TEXTS)
@settings(max_examples=100, deadline=None)
def test_an_unknown_token_stands_for_every_other_character(text, other):
    codec = data.character_codec(text, special=["<pad>"], unknown="<unk>")
    assert (codec.special, codec.size) == (("<pad>", "<unk>"), len(set(text)) + 2)
    assert codec.decode(codec.encode(other)) == "".join(c if c in text else "<unk>" for c in other)


def test_special_tokens_have_the_last_ids_and_no_text_is_encoded_to_them():
    codec = data.character_codec("<pad>", special=["<pad>", "<"])
    assert [codec.id_of(name) for name in codec.special] == [5, 6]
    assert max(codec.encode("<pad>")) < 5
    assert codec.decode([5, codec.id_of("p"), 6]) == "<pad>p<"


def test_half_a_surrogate_pair_is_a_character():
    codec = data.character_codec("a\ud800")
    assert codec.decode(codec.encode("\ud800a")) == "\ud800a"


def test_a_codec_of_an_empty_text_knows_no_character():
    codec = data.character_codec("")
    assert (codec.size, codec.encode("").tolist(), codec.decode([])) == (0, [], "")
    assert fault(codec.encode, "a") == UnknownToken("a", 0, 0, where="encode")


# ------------------------------------------------------------------------------- words


def test_words_are_divided_as_documented():
    assert words_of("Don't stop—it's 3.5 o\u2019clock, snake_case!") == [
        *("Don't", "stop", "—", "it's", "3", ".", "5", "o\u2019clock", ",", "snake_case", "!")
    ]
    assert words_of("  \t\n ") == []
    assert words_of("'quoted' ''") == ["'", "quoted", "'", "'", "'"]


def test_rare_words_are_unknown():
    codec = data.word_codec("b a a c c c b", minimum_frequency=2)
    assert (codec.words, codec.special, codec.size) == (("c", "a", "b"), ("<unk>",), 4)
    assert codec.encode("a d B").tolist() == [1, 3, 3]
    assert data.word_codec("b a a c c c b", minimum_frequency=3).words == ("c",)


def test_without_an_unknown_token_a_new_word_is_a_fault():
    codec = data.word_codec("one two", unknown=None)
    assert fault(codec.encode, "two  three") == UnknownToken("three", 1, 2, where="encode")
    assert codec.size == 2


def test_lower_case_is_an_option():
    assert data.word_codec("The THE the").size == 4
    codec = data.word_codec("The THE the", lower=True)
    assert codec.words == ("the",)
    assert codec.encode("tHe").tolist() == [0]


@given(TEXTS, st.booleans(), st.integers(1, 3))
@settings(max_examples=200, deadline=None)
def test_decoding_restores_words_and_loses_only_white_space(text, lower, minimum):
    codec = data.word_codec(text, lower=lower, minimum_frequency=minimum, unknown=None if minimum == 1 else "<unk>")
    ids = codec.encode(text)
    counted = Counter(words_of(text, lower=lower))
    assert list(codec.words) == sorted((w for w, n in counted.items() if n >= minimum), key=lambda w: (-counted[w], w))
    if minimum == 1:
        decoded = codec.decode(ids)
        assert codec.encode(decoded).tolist() == ids.tolist()
        assert "".join(decoded.split()) == "".join((text.lower() if lower else text).split())
    else:
        assert [codec.words[i] if i < len(codec.words) else None for i in ids] == [
            word if counted[word] >= minimum else None for word in words_of(text, lower=lower)
        ]


# ------------------------------------------------------------------------------- bytes


@given(TEXTS)
@settings(max_examples=100, deadline=None)
def test_bytes_are_utf8(text):
    codec = data.byte_codec(special=["<end>"])
    ids = codec.encode(text)
    assert ids.tolist() == list(text.encode())
    assert ids.dtype == np.int32
    assert codec.decode(ids) == text


def test_bytes_have_256_ids_and_special_tokens_after_them():
    codec = data.byte_codec(special=["<end>"])
    assert (codec.size, codec.id_of("<end>"), codec.id_of("A")) == (257, 256, 65)
    assert codec.decode([72, 105, 256]) == "Hi<end>"
    assert codec.decode([0xC3]) == "\ufffd"  # half of a character
    assert fault(codec.encode, "a\ud800") == UnknownToken("\ud800", 1, 257, where="encode")
    assert isinstance(fault(codec.id_of, "é"), UnknownToken)


# ------------------------------------------------------------------------------- all of them

CODECS = [
    data.character_codec("hello", special=["<pad>"]),
    data.word_codec("to be or not to be", special=["<pad>"]),
    data.byte_codec(special=["<pad>"]),
    data.train_bpe(["hello hello"], 260, special=["<pad>"]),
]


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_a_codec_is_a_value(codec):
    copy = pickle.loads(pickle.dumps(codec))
    assert copy == codec
    assert hash(copy) == hash(codec)
    assert copy.encode("hello").tolist() == codec.encode("hello").tolist()
    with pytest.raises(AttributeError):
        codec.special = ()


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_ids_out_of_range_are_a_fault(codec):
    for wrong, at in (([0, codec.size], 1), ([-1], 0), (np.array([2**40], np.uint64), 0)):
        assert fault(codec.decode, wrong) == UnknownToken(int(wrong[at]), at, codec.size, where="decode")
    assert isinstance(fault(codec.decode, [0.5]), DtypeMismatch)
    assert isinstance(fault(codec.decode, [[0]]), ShapeMismatch)
    assert codec.decode([]) == codec.decode(np.zeros(0, np.int32)) == ""
    assert codec.encode("").shape == (0,)
    assert codec.encode("").dtype == np.int32


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_special_tokens_are_found_by_name(codec):
    assert codec.decode([codec.id_of("<pad>")]) == "<pad>"
    assert codec.special[0] == "<pad>"
    assert "<pad>" in repr(codec)
    assert isinstance(fault(codec.id_of, "no such token"), UnknownToken)


def test_repeated_tokens_and_a_missing_unknown_token_are_bugs():
    with pytest.raises(ValueError, match="once"):
        data.character_codec("a", special=["<pad>", "<pad>"])
    with pytest.raises(ValueError, match="once"):
        data.CharacterCodec("aa")
    with pytest.raises(ValueError, match="unknown token"):
        data.WordCodec(("a",), unknown="<unk>")
    with pytest.raises(ValueError, match="minimum_frequency"):
        data.word_codec("a", minimum_frequency=0)
