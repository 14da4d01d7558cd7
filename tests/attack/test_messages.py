"""A damaged file is a typed fault of one line that names the true cause."""

from __future__ import annotations

import io
import json
import struct

import numpy as np
import pytest
from outcomes import fault
from returns.pipeline import is_successful
from returns.unsafe import unsafe_perform_io

from fnlamp import data
from fnlamp.fault import CodecFailed, FaultError, FileCorrupt, FileUnwritable, UnknownToken

# ------------------------------------------------------------------------------- NPY

HEADERS = [
    ("<f4", "(True,)"),
    ("<f4", "(False, 3)"),
    ("<f4", "(-1,)"),
    ("<f4", "(1.0,)"),
    ("<f4", "('1',)"),
    ("<f4", "(None,)"),
    ("<f4", "3"),
    ("<f4", "[3]"),
    ("<f4", "(" + "1, " * 65 + ")"),
    ("<f4", f"({2**63},)"),
    ("<f4", f"({2**70}, 0)"),
    ("(2,3)<f4", "(" + "1, " * 64 + ")"),
    ("(2,3)<f4", "(1,)"),
    ("<f0", "(3,)"),
    ("|V0", "(3,)"),
    ("|S0", "(3,)"),
    ("|O", "(1,)"),
    ([], "(1,)"),
    ([("x", "|O")], "(1,)"),
    ("<M9", "(1,)"),
    ("none", "(1,)"),
    (None, "(1,)"),
    (3, "(1,)"),
    ({"names": ["a"]}, "(1,)"),
]


def npy(descr, shape, order="False", raw=bytes(64)):
    header = f"{{'descr': {descr!r}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + raw


@pytest.mark.parametrize(("descr", "shape"), HEADERS)
@pytest.mark.parametrize("reader", [data.read_npy, data.map_npy])
@pytest.mark.parametrize("order", ["False", "True"])
def test_every_damaged_npy_header_is_a_typed_fault(tmp_path, descr, shape, reader, order):
    (tmp_path / "a.npy").write_bytes(npy(descr, shape, order))
    found = fault(reader(tmp_path / "a.npy"))
    assert isinstance(found, FileCorrupt) and len(str(found)) < 1000


@pytest.mark.parametrize("order", ["1", "None", "'C'", "[]"])
def test_an_invalid_order_in_a_header(tmp_path, order):
    (tmp_path / "a.npy").write_bytes(npy("<f4", "(16,)", order))
    assert isinstance(fault(data.read_npy(tmp_path / "a.npy")), FileCorrupt)


def test_the_cause_is_named(tmp_path):
    for descr, shape, says in (("<f4", "(True,)", "(True,)"), ("(2,3)<f4", "(1,)", "(2, 3)"), ("|O", "(1,)", "objects")):
        (tmp_path / "a.npy").write_bytes(npy(descr, shape))
        for reader in (data.read_npy, data.map_npy):
            assert says in str(fault(reader(tmp_path / "a.npy")))


# ------------------------------------------------------------------------------- images


def big_tiff(offset):
    return b"II+\0\x08\0\0\0" + struct.pack("<Q", offset)


def tiff(offset):
    return b"II*\0" + struct.pack("<I", offset)


@pytest.mark.parametrize(
    "raw",
    [
        *(big_tiff(offset) for offset in (2**63, 2**64 - 1, 2**62, 2**40, 16, 0)),
        *(tiff(offset) for offset in (2**32 - 1, 8, 0)),
        big_tiff(16) + struct.pack("<Q", 2**60),
        big_tiff(16) + struct.pack("<QHHQQ", 1, 256, 16, 2**61, 2**63),
        tiff(8) + struct.pack("<HHHII", 1, 256, 4, 2**31, 2**32 - 1),
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_damaged_tiff_is_not_missing(tmp_path, raw, mode):
    pytest.importorskip("PIL.Image")
    (tmp_path / "a.tif").write_bytes(raw)
    found = fault(data.read_image(tmp_path / "a.tif", mode=mode))
    assert isinstance(found, FileCorrupt) and "image" in str(found)


@pytest.mark.parametrize("keep", [0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
@pytest.mark.parametrize("packing", ["raw", "tiff_lzw", "tiff_deflate", "jpeg", "packbits"])
@pytest.mark.parametrize("big", [True, False])
def test_a_cut_tiff_is_corrupt_or_read(tmp_path, keep, packing, big):
    pillow = pytest.importorskip("PIL.Image")
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    pillow.fromarray(pixels).save(file, "TIFF", compression=packing, big_tiff=big)
    (tmp_path / "a.tif").write_bytes(file.getvalue()[: int(keep * len(file.getvalue()))])
    outcome = data.read_image(tmp_path / "a.tif").run()
    assert is_successful(outcome) or isinstance(unsafe_perform_io(outcome.failure()), FileCorrupt)


# ------------------------------------------------------------------------------- codecs


def tokenizer(**changes):
    parts = dict.fromkeys(["truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"])
    model = {"type": "WordLevel", "vocab": {"a": 0, "[UNK]": 1}, "unk_token": "[UNK]"}
    return json.dumps({"version": "1.0", **parts, "added_tokens": [], "model": model, **changes}).encode()


ODD = {
    "no unknown token": tokenizer(model={"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"}),
    "no unknown piece": tokenizer(
        model={
            "type": "WordPiece",
            "vocab": {"a": 0},
            "unk_token": "?",
            "continuing_subword_prefix": "#",
            "max_input_chars_per_word": 5,
        }
    ),
    "an unknown id that is none": tokenizer(model={"type": "Unigram", "unk_id": None, "vocab": [["a", 0.0]]}),
    "a template of unknown tokens": tokenizer(
        post_processor={"type": "BertProcessing", "sep": ["x", 7], "cls": ["y", 2**31]},
    ),
    "a negative stride": tokenizer(truncation={"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 5}),
    "an empty pattern": tokenizer(
        pre_tokenizer={"type": "Split", "pattern": {"Regex": ""}, "behavior": "Isolated", "invert": False}
    ),
    "a decoder of nothing": tokenizer(decoder={"type": "Sequence", "decoders": []}),
    "a decoder that cuts": tokenizer(decoder={"type": "Strip", "content": "a", "start": 2**40, "stop": 2**40}),
    "a decoder that replaces": tokenizer(decoder={"type": "Replace", "pattern": {"String": ""}, "content": "x"}),
    "an id of 32 bits": tokenizer(model={"type": "WordLevel", "vocab": {"a": 2**32 - 1}, "unk_token": "a"}),
    "an id of 31 bits": tokenizer(model={"type": "WordLevel", "vocab": {"a": 2**31 - 1}, "unk_token": "a"}),
}


@pytest.mark.parametrize("name", ODD)
def test_a_tokenizer_fails_typed_or_works(tmp_path, name):
    pytest.importorskip("tokenizers")
    (tmp_path / "t.json").write_bytes(ODD[name])
    outcome = data.read_codec(tmp_path / "t.json").run()
    if not is_successful(outcome):
        assert isinstance(unsafe_perform_io(outcome.failure()), FileCorrupt)
        return
    codec = unsafe_perform_io(outcome.unwrap())
    print(codec, codec.special)
    for act in (lambda: codec.encode("a b aaaaaaaaaa é"), lambda: codec.decode([0, 0]), lambda: codec.id_of("a")):
        try:
            act()
        except FaultError as error:
            assert isinstance(error.fault, CodecFailed | UnknownToken), error


class Panics:
    """A tokenizer whose library fails in all known ways."""

    def __init__(self, error):
        self.error = error

    def encode(self, *arguments, **options):
        raise self.error

    decode = encode


class PanicException(BaseException):  # the name of Rust's
    pass


@pytest.mark.parametrize("error", [PanicException("index out of bounds"), Exception("no"), OverflowError(), TypeError("?")])
def test_every_exception_of_the_library_is_a_fault(error):
    pytest.importorskip("tokenizers")
    codec = data.train_bpe(["a b c"], 260)
    codec.size, codec._known, codec._added  # noqa: B018  # are known before
    codec.__dict__["_tokenizer"] = Panics(error)
    for act in (lambda: codec.encode("a"), lambda: codec.decode([0])):
        with pytest.raises(FaultError) as raised:
            act()
        assert isinstance(raised.value.fault, CodecFailed) and raised.value.__cause__ is error


def test_an_interruption_in_a_tokenizer_is_not_a_fault_of_the_tokenizer():
    pytest.importorskip("tokenizers")
    codec = data.train_bpe(["a b c"], 260)
    codec.size, codec._known, codec._added  # noqa: B018
    codec.__dict__["_tokenizer"] = Panics(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        codec.encode("a")


# ------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("kind", ["folder", "no folder", "link to a folder"])
def test_a_codec_is_written_to_a_file_or_not_at_all(tmp_path, kind):
    path = tmp_path / "codec"
    if kind == "folder":
        path.mkdir()
    elif kind == "link to a folder":
        (tmp_path / "other").mkdir()
        path = tmp_path / "other"
    else:
        path = tmp_path / "no" / "codec"
    found = fault(data.save_codec(data.byte_codec(), path))
    assert isinstance(found, FileUnwritable)
    assert not list(tmp_path.rglob("*.part"))


def test_a_codec_is_not_written_through_a_link(tmp_path):
    (tmp_path / "other").write_text("precious")
    (tmp_path / "codec").symlink_to("other")
    assert is_successful(data.save_codec(data.byte_codec(), tmp_path / "codec").run())
    assert (tmp_path / "other").read_text() == "precious" and not (tmp_path / "codec").is_symlink()
