"""Codecs in files: written and read back, damaged ones typed."""

from __future__ import annotations

import gzip
import json
import os
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from returns.pipeline import is_successful
from returns.unsafe import unsafe_perform_io

from fnlamp import data
from fnlamp.fault import FaultError, FileCorrupt, FileMissing, FileUnwritable, TooLarge, UnknownToken

CODECS = [
    data.character_codec('he"llo\\\n\ud800é🙂', special=["<pad>"], unknown="<unk>"),
    data.character_codec(""),
    data.word_codec("To be, or not to be: that's the question", lower=True),
    data.word_codec("a b", unknown=None, special=["é"]),
    data.byte_codec(),
    data.byte_codec(special=["<end>"]),
    data.train_bpe(["hello hello hello"], 270, special=["<end>"]),
]


def read(path):
    outcome = data.read_codec(path).run()
    return unsafe_perform_io(outcome.unwrap() if is_successful(outcome) else outcome.failure())


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: repr(codec).replace("\0", ""))
def test_what_is_saved_is_read(tmp_path, codec):
    path = tmp_path / "codec.json"
    assert is_successful(data.save_codec(codec, path).run())
    assert read(path) == codec
    json.loads(path.read_text("utf-8"))
    assert os.listdir(tmp_path) == ["codec.json"]


def test_nothing_is_opened_before_run(tmp_path):
    path = tmp_path / "codec.json"
    saving, reading = data.save_codec(CODECS[0], path), data.read_codec(path)
    assert os.listdir(tmp_path) == []
    assert is_successful(saving.then(reading).run())


def test_a_failed_write_leaves_the_previous_file(tmp_path):
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "nowhere" / "codec.json", tmp_path / "folder"):
        outcome = data.save_codec(CODECS[0], path).run()
        assert isinstance(unsafe_perform_io(outcome.failure()), FileUnwritable)
    assert os.listdir(tmp_path) == ["folder"]


def test_a_missing_file(tmp_path):
    assert isinstance(read(tmp_path / "nowhere.json"), FileMissing)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "JSON"),
        (b"\xff\xfe", "JSON"),
        (b"[" * 100_000, "thousands of nested brackets"),
        (b"[1]", "a list"),
        (b"{}", "no 'fnlamp codec'"),
        (b'{"fnlamp codec": "pictures", "unknown": null}', "pictures"),
        (b'{"fnlamp codec": "bytes"}', "no 'special'"),
        (b'{"fnlamp codec": "bytes", "special": "<pad>"}', "special that are not a list of strings"),
        (b'{"fnlamp codec": "characters", "characters": "aa", "special": [], "unknown": null}', "once"),
        (b'{"fnlamp codec": "characters", "characters": ["a"], "special": [], "unknown": null}', "other fields"),
        (b'{"fnlamp codec": "characters", "characters": "a", "special": [], "unknown": "<unk>"}', "unknown token"),
        (b'{"fnlamp codec": "characters", "characters": "a", "special": [], "unknown": 3}', "unknown token"),
        (b'{"fnlamp codec": "words", "words": ["a", 1], "special": [], "unknown": null, "lower": true}', "strings"),
        (b'{"fnlamp codec": "words", "words": ["a"], "special": [], "unknown": null, "lower": 1}', "other fields"),
        (b'{"fnlamp codec": ["words"], "unknown": null}', "other fields"),
        (b'{"model": {}}', "tokenizers"),
        (b'{"model": {"type": "BPE", "vocab": {"a": 1, "b": -1}, "merges": []}}', "tokenizers"),
        (b'{"model": {"type": "BPE", "vocab": {"a": 4294967295}, "merges": []}}', "31 bits"),
        (b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}', "tokenizers"),
        (b'{"model": {"type": "NoSuch", "vocab": {}}}', "tokenizers"),
    ],
)
def test_a_damaged_file_is_corrupt(tmp_path, raw, says):
    (tmp_path / "codec.json").write_bytes(raw)
    found = read(tmp_path / "codec.json")
    assert isinstance(found, FileCorrupt), found
    assert says in str(found)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_text_is_read_unchanged(tmp_path, pack):
    text = "one\r\ntwo\n\ufeffGrüße 🙂\0"
    for mark in (b"", b"\xef\xbb\xbf"):
        (tmp_path / "text").write_bytes(pack(mark + text.encode()))
        assert unsafe_perform_io(data.read_text(tmp_path / "text").run().unwrap()) == text


def test_bytes_that_are_not_utf8_are_a_fault(tmp_path):
    assert isinstance(unsafe_perform_io(data.read_text(tmp_path / "none").run().failure()), FileMissing)
    (tmp_path / "text").write_bytes(b"abc\xff")
    found = unsafe_perform_io(data.read_text(tmp_path / "text").run().failure())
    assert found == FileCorrupt(str(tmp_path / "text"), "UTF-8 text", "the byte 0xff at 3")


def test_a_file_that_unpacks_to_more_than_the_limit_is_too_large(tmp_path):
    (tmp_path / "text").write_bytes(gzip.compress(b" " * 10_000))
    for read_file in (data.read_text, data.read_codec):
        found = unsafe_perform_io(read_file(tmp_path / "text", limit=1000).run().failure())
        assert isinstance(found, TooLarge)


def test_nothing_in_a_file_is_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    (tmp_path / "codec.json").write_bytes(pickle.dumps(Evil()))
    assert isinstance(read(tmp_path / "codec.json"), FileCorrupt)
    assert not (tmp_path / "ran").exists()


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_mutated_file_reads_or_fails_typed(tmp_path_factory, data_):
    path = tmp_path_factory.mktemp("codec") / "codec.json"
    assert is_successful(data.save_codec(data_.draw(st.sampled_from(CODECS)), path).run())
    raw = bytearray(path.read_bytes())
    for _ in range(data_.draw(st.integers(0, 3))):
        raw[data_.draw(st.integers(0, len(raw) - 1))] = data_.draw(st.integers(0, 255) | st.sampled_from(b'"{}[],:019'))
    path.write_bytes(bytes(raw[: data_.draw(st.integers(0, len(raw)) | st.just(len(raw)))]))
    outcome = data.read_codec(path).run()
    if is_successful(outcome):
        codec = unsafe_perform_io(outcome.unwrap())
        assert isinstance(codec.size, int)
        try:
            codec.decode(range(min(codec.size, 3)))
        except FaultError as error:  # a mutated vocabulary may leave a gap
            assert isinstance(error.fault, UnknownToken)
    else:
        assert isinstance(unsafe_perform_io(outcome.failure()), FileCorrupt)


def test_the_truncation_and_padding_of_a_tokenizers_file_are_ignored(tmp_path):
    path = tmp_path / "tokenizer.json"
    fields = json.loads(CODECS[-1].serialized)
    fields["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    fields["padding"] = {
        **{"strategy": {"Fixed": 50}, "direction": "Right", "pad_to_multiple_of": None},
        **{"pad_id": 0, "pad_type_id": 0, "pad_token": "!"},
    }
    path.write_text(json.dumps(fields))
    assert read(path).encode("hello " * 5).tolist() == CODECS[-1].encode("hello " * 5).tolist()
    assert read(path).decode(read(path).encode("hello " * 5)) == "hello " * 5
