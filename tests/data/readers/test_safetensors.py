"""The reader of safetensors against the library's own writer, and headers that lie."""

from __future__ import annotations

import gzip
import importlib
import json
import struct
import sys
import tracemalloc

import ml_dtypes
import numpy as np
import outcomes
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fnlamp.data import read_safetensors
from fnlamp.fault import ExtraMissing, FileCorrupt, FileMissing, TooLarge

library = pytest.importorskip("safetensors.numpy")


def value(path, **options):
    return outcomes.value(read_safetensors(path, **options))


def fault(path, **options):
    return outcomes.fault(read_safetensors(path, **options))


KINDS = ["?", "u1", "i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8", "c8"]
ARRAYS = hnp.arrays(st.sampled_from(KINDS), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))


@given(
    st.dictionaries(st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"), ARRAYS, max_size=4),
    st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_what_the_library_saves_is_read(tmp_path_factory, arrays, packed):
    path = tmp_path_factory.mktemp("safetensors") / "file"
    raw = library.save(arrays, {"author": "nobody"})
    path.write_bytes(gzip.compress(raw) if packed else raw)
    read = value(path)
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (read[name].dtype, read[name].shape) == (array.dtype, array.shape)
        assert read[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_the_small_floats_are_those_of_jax(tmp_path, name):
    kind = getattr(ml_dtypes, name)
    array = np.linspace(-2, 2, 12).reshape(3, 4).astype(kind)
    library.save_file({"a": array}, tmp_path / "a")
    read = value(tmp_path / "a")["a"]
    assert read.dtype == kind
    np.testing.assert_array_equal(read.astype(np.float32), array.astype(np.float32))


def file(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "a safetensors file"),
        (b"label,pixel\n", "a safetensors file"),
        (file({}, length=2**63), "a safetensors file"),
        (file({}, length=90_000_000), "a safetensors file"),
        (file({"a": entry()}, bytes(7)), "a safetensors file"),
        (file({"a": entry()}, bytes(9)), "a safetensors file"),
        (file({"a": entry(shape=(2**40,), offsets=(0, 2**42))}), "a safetensors file"),
        (file({"a": entry(shape=(2**62, 8), offsets=(0, 0))}), "a safetensors file"),
        (file({"a": entry(shape=(0, 2**62, 8), offsets=(0, 0))}), "a safetensors file"),
        (file({"a": entry(shape=(3,))}, bytes(8)), "a safetensors file"),
        (file({"a": entry(), "b": entry()}, bytes(8)), "a safetensors file"),
        (file({"a": entry(offsets=(8, 0))}, bytes(8)), "a safetensors file"),
        (file({"a": entry("O")}, bytes(8)), "a safetensors file"),
        (file({"a": entry("F4", offsets=(0, 1))}, bytes(1)), "a: expected a dtype of whole bytes that NumPy or ml_dtypes has"),
        (file({"a": entry("BOOL", offsets=(0, 2))}, b"\1\2"), "booleans"),
        (file(b"[" * 100_000), "a safetensors file"),
        (file(b'{"a":' * 50_000), "a safetensors file"),
        (gzip.compress(file({"a": entry()}, bytes(8)), mtime=0)[:-4], "gzip"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_a_fault_that_says_what_it_got(tmp_path, raw, says):
    (tmp_path / "damaged").write_bytes(raw)
    tracemalloc.start()
    found = fault(tmp_path / "damaged")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(found, FileCorrupt), found
    assert says in str(found)
    assert str(tmp_path / "damaged") in str(found)
    assert peak < 2_000_000


def test_a_missing_file_the_limit_and_a_missing_package(tmp_path, monkeypatch):
    assert isinstance(fault(tmp_path / "nowhere"), FileMissing)
    (tmp_path / "bomb").write_bytes(gzip.compress(library.save({"a": np.zeros(10**6)})))
    assert isinstance(fault(tmp_path / "bomb", limit=10**6), TooLarge)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError):
        importlib.import_module("safetensors")
    assert fault(tmp_path / "bomb") == ExtraMissing("safetensors", "safetensors")


def several(folder, index, **files):
    for name, arrays in files.items():
        library.save_file(arrays, folder / f"{name}.safetensors")
    path = folder / "model.safetensors.index.json"
    path.write_text(index if isinstance(index, str) else json.dumps({"metadata": {}, "weight_map": index}))
    return path


def test_a_model_in_several_files(tmp_path):
    a, b, c = (np.arange(n, dtype=np.float32) for n in (3, 4, 5))
    index = {"a": "one.safetensors", "b": "two.safetensors", "c": "one.safetensors"}
    path = several(tmp_path, index, one={"a": a, "c": c}, two={"b": b})
    read = value(path)
    assert sorted(read) == ["a", "b", "c"]
    np.testing.assert_array_equal(read["c"], c)
    sizes = [file.stat().st_size for file in tmp_path.iterdir()]
    assert value(path, limit=sum(sizes)).keys() == read.keys()
    assert isinstance(fault(path, limit=sum(sizes) - 1), TooLarge), "the limit is that of all files"


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ("[]", "an index of safetensors files"),
        ("{", "an index of safetensors files"),
        ('{"weight_map": [1]}', "an index of safetensors files"),
        ({"a": "../one.safetensors"}, "names of files in its folder"),
        ({"a": "/etc/passwd"}, "names of files in its folder"),
        ({"a": "..\\one.safetensors"}, "names of files in its folder"),
        ({"a": 1}, "names of files in its folder"),
        ({"a": ["one.safetensors"]}, "an index of safetensors files"),
        ({"a": "one.safetensors", "b": "one.safetensors"}, "one without 'b'"),
        ({}, None),
    ],
)
def test_an_index_that_lies(tmp_path, index, says):
    path = several(tmp_path, index, one={"a": np.zeros(2)})
    if says is None:
        assert value(path) == {}
        return
    found = fault(path)
    assert isinstance(found, FileCorrupt) and says in str(found)
    (tmp_path / "one.safetensors").unlink()
    assert isinstance(fault(several(tmp_path, {"a": "one.safetensors"})), FileMissing)


def test_a_file_with_more_than_the_index_lists(tmp_path):
    path = several(tmp_path, {"a": "one.safetensors"}, one={"a": np.zeros(2), "z": np.zeros(2)})
    assert "the index lists for it, got 'z' too" in str(fault(path))
