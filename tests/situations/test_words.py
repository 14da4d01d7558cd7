# ruff: noqa: RUF001  # other scripts
"""Words by Unicode's rule, and special tokens that decoding restores."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from returns.pipeline import is_successful
from returns.unsafe import unsafe_perform_io

from fnlamp import data
from fnlamp.data.text.words import words_of

WHOLE = {
    "Hindi": "हिन्दी",
    "Hindi, a conjunct": "क्षत्रिय",
    "Tamil": "தமிழ்",
    "Bengali": "বাংলা",
    "Telugu": "తెలుగు",
    "decomposed": "cafe\u0301",
    "Vietnamese, decomposed": unicodedata.normalize("NFD", "Việt"),
    "Arabic, vowelled": "مَرْحَبًا",
    "Arabic, long": "مـرحبا",
    "Persian, a non-joiner": "می\u200cخواهم",
    "Sinhala, a joiner": "ශ්\u200dරී",
    "Hebrew, pointed": "שָׁלוֹם",
    "Hebrew, an acronym": 'צה"ל',
    "Hebrew, a geresh": "ז׳בוטינסקי",
    "Catalan": "col·lecció",
    "a soft hyphen": "co\u00adoperate",
    "a byte order mark inside": "ab\ufeffcd",
    "an apostrophe": "don't",
    "a typographic apostrophe": "o\u2019clock",
    "two apostrophes": "rock'n'roll",
    "an underscore": "snake_case_1",
    "digits": "42",
    "Arabic digits": "٤٢",
    "letters and digits": "mp3",
    "Katakana": "カタカナ",
    "Katakana, half width": "ﾃﾞｰﾀ",
    "Korean": "한국어",
    "Korean, decomposed": unicodedata.normalize("NFD", "한국어"),
    "Roman numerals": "ⅷ",
    "Cyrillic": "привет",
    "Mongolian, a vowel separator": "ᠠ\u180eᠠ",
    "a flag": "🇩🇪",
    "a family": "👩\u200d👩\u200d👧",
    "a skin tone": "👍🏽",
    "a keycap": "1\ufe0f\u20e3",
    "a letter beyond 16 bits": "𝔘𝔫𝔦",
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_word_is_one_word(name):
    word = WHOLE[name]
    assert words_of(word) == [word]
    assert words_of(f"{word} {word},\n{word}") == [word, word, ",", word]
    codec = data.word_codec(f"{word} a {word}", unknown=None)
    assert codec.words == (word, "a")
    assert codec.decode(codec.encode(f"a  {word}\u3000a")) == f"a {word} a"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("我是 学生", ["我", "是", "学", "生"]),  # each ideograph is a word
        ("ひらがなカタカナ", ["ひ", "ら", "が", "な", "カタカナ"]),
        ("สวัสดี", ["ส", "วั", "ส", "ดี"]),  # Thai needs a dictionary; marks stay with their letter
        ("カabc", ["カ", "abc"]),
        ("データ_1", ["データ_1"]),
        ("🇩🇪🇫🇷🇮🇹", ["🇩🇪", "🇫🇷", "🇮🇹"]),
        ("'quoted'", ["'", "quoted", "'"]),
        ("3.5 1,000 a:b e.g.", ["3", ".", "5", "1", ",", "000", "a", ":", "b", "e", ".", "g", "."]),
        ("a-b — c", ["a", "-", "b", "—", "c"]),
        ("m² 50%", ["m", "²", "50", "%"]),
        ("a \u0301b", ["a", "\u0301", "b"]),  # a mark after a space has no letter
        ("Bonjour\u202f!", ["Bonjour", "!"]),
        ("1·2", ["1", "·", "2"]),
        (" \t\n\u2028 ", []),
    ],
)
def test_texts_are_split_into_words(text, words):
    assert words_of(text) == words


TEXT = st.text(st.one_of(st.sampled_from("aé1_'’\"· .\u0301\u200d\u200c\u00adאカ\n汉👩🇩हि्न"), st.characters()), max_size=40)


@given(TEXT)
@settings(max_examples=300, deadline=None)
def test_only_white_space_is_lost_and_splitting_again_changes_nothing(text):
    words = words_of(text)
    assert "".join(words) == "".join(text.split())
    assert words_of(" ".join(words)) == words


def test_a_long_text_takes_linear_time():
    parts = ("'a" * 10**5, "_" * 10**5, "e" + "\u0301" * 10**5, "👩\u200d" * 10**5, 'א"' * 10**5, "a·" * 10**5)
    for part in parts:
        assert "".join(words_of(part)) == part


# ------------------------------------------------------------------------------- special tokens

SPECIAL = ["[café]", "«fin»", "<ö>", "[łódź]", "<日本>", "<🙂>", "[ space ]", "<\u0301>", "<ĠĊ>", "[שלום]", "[MASK]", "<|end|>"]
CODECS = {
    "bpe": lambda: data.train_bpe(["low lower lowest é ö « ł"] * 9, 300, special=SPECIAL),
    "byte": lambda: data.byte_codec(special=SPECIAL),
    "character": lambda: data.character_codec("low lower é ö « ł", special=SPECIAL, unknown="<?>"),
    "word": lambda: data.word_codec("low lower é ö « ł", special=SPECIAL),
}


@pytest.mark.parametrize("name", CODECS)
def test_decoding_restores_special_tokens(tmp_path, name):
    if name == "bpe":
        pytest.importorskip("tokenizers")
    made = CODECS[name]()
    outcome = data.save_codec(made, tmp_path / "codec.json").then(data.read_codec(tmp_path / "codec.json")).run()
    assert is_successful(outcome)
    gap = " " if name == "word" else ""
    for codec in (made, unsafe_perform_io(outcome.unwrap())):
        assert set(SPECIAL) <= set(codec.special)
        text = codec.encode("low lower é ö « ł")
        ids = [codec.id_of(special) for special in SPECIAL]
        assert [codec.decode([i]) for i in ids] == SPECIAL
        assert codec.decode(np.array(ids)) == gap.join(SPECIAL)
        mixed = [ids[0], *text.tolist(), ids[1], ids[2], *text.tolist()]
        plain = codec.decode(text)
        assert codec.decode(mixed) == gap.join([SPECIAL[0], plain, SPECIAL[1], SPECIAL[2], plain])
        assert plain == "low lower é ö « ł"


def test_bytes_on_both_sides_of_a_special_token_do_not_join():
    codec = data.byte_codec(special=["é"])
    assert codec.decode([0xC3, 256, 0xA9, 256]) == "\ufffdé\ufffdé"


@pytest.mark.parametrize("name", ["\ud800", "a\udfffb"])
def test_half_a_character_in_a_special_token(name):
    codec = data.byte_codec(special=[name])
    assert codec.decode([97, 256]) == "a" + name
    print(codec, data.word_codec("a", special=[name]), data.character_codec("a", special=[name]))
    pytest.importorskip("tokenizers")
    with pytest.raises(ValueError, match="special"):
        data.train_bpe(["a"], 300, special=[name])
