"""Impossible options of readers: errors when the program is built, or the documented faults."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
from returns.unsafe import unsafe_perform_io

from fnlamp import data, plots
from fnlamp.extra import need
from fnlamp.fault import DownloadFailed, ExtraMissing, FaultError, FileMissing, FileUnwritable

READERS = [
    *(data.read_idx, data.read_csv, data.read_npy, data.read_npz, data.map_npy, data.read_pickle, data.read_safetensors),
    *(data.read_parquet, data.read_arrow, data.read_image, data.image_folder, data.read_text, data.read_codec, data.read_torch),
]
NAMED = [data.mnist, data.fashion_mnist, data.kmnist, data.cifar10]


def fault(program):
    return unsafe_perform_io(program.run().failure())


@pytest.mark.parametrize("path", ["a\0b", "a\ud800b", "x" * 5000], ids=["NUL", "surrogate", "long"])
def test_an_impossible_path_is_a_missing_file(path, tmp_path):
    for reader in READERS:
        found = fault(reader(path))
        assert isinstance(found, FileMissing), reader
        str(found).encode()
    for reader in NAMED:
        found = fault(reader(path, "train", download=False))
        assert isinstance(found, FileMissing), reader
        str(found).encode()
    assert isinstance(fault(data.image_table(path, tmp_path)), FileMissing)
    found = fault(data.fetch("http://localhost:1/x", path, sha256="0" * 64))
    assert isinstance(found, DownloadFailed) and not found.again


def test_a_nul_in_a_path_to_write_to(tmp_path):
    assert isinstance(fault(data.save_codec(data.byte_codec(), "a\0b")), FileUnwritable)
    assert isinstance(fault(plots.show_images(np.zeros((1, 2, 2)), path="a\0b.png")), FileUnwritable)


def test_bytes_are_not_a_path(tmp_path):
    name = os.fsencode(tmp_path)
    for build in (
        *READERS,
        *(lambda path, one=one: one(path, "train", download=False) for one in NAMED),
        lambda path: data.image_table(path, tmp_path),
        lambda path: data.image_table(tmp_path, path),
        lambda path: data.fetch("http://localhost/x", path, sha256="0" * 64),
        lambda path: data.save_codec(data.byte_codec(), path),
    ):
        with pytest.raises(TypeError, match="a path is a str"):
            build(name)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), None])
def test_a_timeout_is_a_number_of_seconds(tmp_path, timeout):
    with pytest.raises(ValueError, match="above 0"):
        data.fetch("http://localhost/x", tmp_path / "x", sha256="0" * 64, timeout=timeout)
    for reader in NAMED:
        with pytest.raises(ValueError, match="above 0"):
            reader(tmp_path, "train", timeout=timeout)


def test_one_string_for_several_is_a_bug():
    for build in (
        lambda: data.train_bpe("low lower lowest", 300),
        lambda: data.train_bpe(["low"], 300, special="<pad>"),
        lambda: data.word_codec("low", special="<pad>"),
        lambda: data.character_codec("low", special="<pad>"),
        lambda: data.byte_codec(special="<pad>"),
        lambda: data.image_table("a", "b", classes="xy"),
        lambda: data.read_parquet("a", columns="length"),
        lambda: data.read_arrow("a", columns="length"),
        lambda: plots.show_images(np.zeros((1, 2, 2)), classes="xy"),
    ):
        with pytest.raises(TypeError, match=r"give \["):
            build()


def test_one_mirror_may_be_a_string(tmp_path, monkeypatch):
    monkeypatch.setattr("fnlamp.data.sets.download._WAIT", 0.0)
    for reader in NAMED:
        found = fault(reader(tmp_path, "test", mirrors="http://localhost:1/there/"))
        assert isinstance(found, DownloadFailed)
        assert found.url.startswith("http://localhost:1/there/")


@pytest.mark.parametrize("url", ["http://[", "", "file:///etc/passwd"])
def test_another_attempt_is_advised_only_if_it_may_help(tmp_path, url):
    assert "run it again" not in str(fault(data.fetch(url, tmp_path / "x", sha256="0" * 64)))
    found = fault(data.fetch("http://localhost:1/x", tmp_path, sha256="0" * 64))
    assert "run it again" not in str(found)
    assert "run it again" in str(DownloadFailed("url", "the server was silent", "path"))


@pytest.mark.parametrize(("module", "package"), [("PIL.Image", "pillow"), ("sklearn.datasets", "scikit-learn")])
def test_a_missing_package_has_the_name_to_install(monkeypatch, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, module.partition(".")[0], None)
    with pytest.raises(FaultError) as raised:
        need(module, "extra")
    assert raised.value.fault == ExtraMissing(package, "extra")


def test_an_impossible_padding_is_an_error_at_the_call():
    with pytest.raises(ValueError, match="int32"):
        data.padded_batches([[1]], 2, pad=2**40)
    with pytest.raises(FaultError, match="DtypeMismatch"):
        data.padded_batches([[1], [2]], 2, pad=0, targets=["a", "b"])
