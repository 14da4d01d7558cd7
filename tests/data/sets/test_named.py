"""Named data sets, from folders and from a server on this machine; the real MNIST if FNLAMP_MNIST names a folder."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import os
import struct
import subprocess
import sys
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from returns.pipeline import is_successful
from returns.unsafe import unsafe_perform_io

from fnlamp.data import ImageSet, cifar10, digits, fashion_mnist, kmnist, mnist
from fnlamp.data.sets import published
from fnlamp.effect import Runtime
from fnlamp.fault import ChecksumMismatch, DownloadFailed, FileCorrupt, FileMissing

RNG = np.random.default_rng(0)
QUIET = Runtime(log=None)


def run(program):
    return program.run(QUIET)


def value(program):
    outcome = run(program)
    assert is_successful(outcome), outcome
    return unsafe_perform_io(outcome.unwrap())


def fault(program):
    outcome = run(program)
    assert not is_successful(outcome), outcome
    return unsafe_perform_io(outcome.failure())


def sha(raw):
    return hashlib.sha256(raw).hexdigest()


IMAGES = RNG.integers(0, 256, (20, 3, 4), np.uint8)
LABELS = RNG.integers(0, 10, 20).astype(np.uint8)
RAW = {
    "train-images-idx3-ubyte": struct.pack(">4I", 0x803, 20, 3, 4) + IMAGES.tobytes(),
    "train-labels-idx1-ubyte": struct.pack(">2I", 0x801, 20) + LABELS.tobytes(),
}
PACKED = {name: gzip.compress(raw, mtime=0) for name, raw in RAW.items()}


@pytest.fixture
def small(monkeypatch):
    """MNIST with twenty images of 3x4."""
    files = tuple(published.File(name, len(PACKED[name]), sha(PACKED[name]), sha(raw)) for name, raw in RAW.items())
    source = dataclasses.replace(
        published.MNIST, files={"train": files, "test": files}, shape=(3, 4), rows={"train": 20, "test": 20}
    )
    monkeypatch.setattr(published, "MNIST", source)
    return source


def write(folder, contents, suffix=""):
    folder.mkdir(parents=True, exist_ok=True)
    for name, raw in contents.items():
        (folder / f"{name}{suffix}").write_bytes(raw)


def is_right(images):
    np.testing.assert_array_equal(images.images, IMAGES[..., None])
    np.testing.assert_array_equal(images.labels, LABELS)
    assert (images.images.dtype, images.labels.dtype) == (np.uint8, np.int32)
    return True


@pytest.mark.parametrize("place", [".", "MNIST/raw"])
@pytest.mark.parametrize(
    ("contents", "suffix"),
    [(PACKED, ".gz"), (RAW, ""), ({name: gzip.compress(raw, 1, mtime=7) for name, raw in RAW.items()}, ".gz")],
    ids=["packed", "unpacked", "packed by somebody else"],
)
def test_a_folder_that_has_the_files_needs_no_network(small, tmp_path, place, contents, suffix):
    write(tmp_path / place, contents, suffix)
    images = value(mnist(tmp_path, "train", mirrors=["http://127.0.0.1:9"]))
    assert is_right(images)
    assert repr(images) == "<ImageSet: 20 images of 3x4x1 in 10 classes>"


@pytest.mark.slow
def test_a_folder_that_has_the_files_needs_no_extra(tmp_path):
    code = """
import sys
for name in ("pooch", "requests", "tqdm", "urllib3"):
    sys.modules[name] = None
sys.path.insert(0, sys.argv[2])
import test_named as t
from fnlamp.data import mnist; from fnlamp.data.sets import published
import dataclasses
files = tuple(published.File(n, len(t.PACKED[n]), t.sha(t.PACKED[n]), t.sha(r)) for n, r in t.RAW.items())
published.MNIST = dataclasses.replace(published.MNIST, files={"train": files}, shape=(3, 4), rows={"train": 20})
assert t.is_right(t.value(mnist(sys.argv[1], "train")))
print(t.fault(mnist(sys.argv[1] + "/none", "train")))
"""
    write(tmp_path, PACKED, ".gz")
    command = [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "pip install 'fnlamp[datasets]'" in ran.stdout


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("damage", ["a bit", "cut", "longer", "another", "bomb"])
def test_a_wrong_file_is_a_fault_that_names_it_and_is_left_unchanged(small, tmp_path, suffix, damage):
    contents = dict(PACKED if suffix else RAW)
    raw = contents["train-images-idx3-ubyte"]
    raw = {
        "a bit": raw[:-30] + bytes([raw[-30] ^ 1]) + raw[-29:],
        "cut": raw[:-5],
        "longer": raw + b"x",
        "another": contents["train-labels-idx1-ubyte"],
        "bomb": gzip.compress(bytes(10_000_000)),
    }[damage]
    contents["train-images-idx3-ubyte"] = raw
    write(tmp_path, contents, suffix)
    path = tmp_path / f"train-images-idx3-ubyte{suffix}"
    found = fault(mnist(tmp_path, "train"))
    expected = small.files["train"][0]
    assert found == ChecksumMismatch(str(path), expected.sha256 if suffix else expected.unpacked, sha(raw))
    assert path.read_bytes() == raw


def test_a_right_file_beside_a_wrong_one_is_taken(small, tmp_path):
    write(tmp_path, dict.fromkeys(RAW, b"wrong"), ".gz")
    write(tmp_path / "MNIST" / "raw", RAW)
    assert is_right(value(mnist(tmp_path, "train")))


def test_without_download_a_missing_file_is_a_fault(small, tmp_path):
    found = fault(mnist(tmp_path, "train", download=False))
    assert isinstance(found, FileMissing)
    assert found.path == str(tmp_path / "MNIST/raw/train-images-idx3-ubyte.gz")
    assert "download=False" in found.reason
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("make", [mnist, fashion_mnist, kmnist, cifar10])
def test_a_split_is_one_of_two_and_nothing_is_done_before_run(make, tmp_path):
    with pytest.raises(ValueError, match='"train" or "test", got \'valid\''):
        make(tmp_path, "valid")
    make(tmp_path, "train")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def server(tmp_path_factory, monkeypatch):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "*")

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    folder = tmp_path_factory.mktemp("served")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    server.folder, server.url = folder, f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_missing_file_is_downloaded_into_torchvisions_folder(small, tmp_path, server):
    write(server.folder / "some", PACKED, ".gz")
    assert is_right(value(mnist(tmp_path, "train", mirrors=[server.url + "/none", server.url + "/some/"])))
    kept = tmp_path / "MNIST" / "raw"
    assert sorted(p.name for p in kept.iterdir()) == [f"{name}.gz" for name in sorted(RAW)]
    assert is_right(value(mnist(tmp_path, "train", download=False)))


def test_only_the_missing_file_is_downloaded(small, tmp_path, server):
    write(tmp_path, {"train-images-idx3-ubyte": RAW["train-images-idx3-ubyte"]})
    write(server.folder, {"train-labels-idx1-ubyte": PACKED["train-labels-idx1-ubyte"]}, ".gz")
    assert is_right(value(mnist(tmp_path, "train", mirrors=[server.url])))


def test_a_server_with_other_files_is_a_fault(small, tmp_path, server):
    write(server.folder, {name: bytes(len(raw)) for name, raw in PACKED.items()}, ".gz")
    assert isinstance(fault(mnist(tmp_path, "train", mirrors=[server.url])), ChecksumMismatch)
    assert isinstance(fault(mnist(tmp_path, "train", mirrors=[server.url + "/none"])), DownloadFailed)


def test_kmnist_is_not_read_from_files_without_a_published_checksum(tmp_path):
    for file in published.KMNIST.files["train"]:
        (tmp_path / file.name).write_bytes(RAW["train-images-idx3-ubyte"])
    assert isinstance(fault(kmnist(tmp_path, "train", download=False)), FileMissing)


BATCHES = {name: RNG.integers(0, 10, (4, 3073), np.uint8) for name in published.CIFAR_BATCHES}


def archive(batches, folder="cifar-10-batches-bin"):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, records in {"readme.html": np.zeros(3, np.uint8), **batches}.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = records.nbytes
            tar.addfile(member, io.BytesIO(records.tobytes()))
    return file.getvalue()


@pytest.fixture
def small_cifar(monkeypatch):
    def make(raw):
        monkeypatch.setattr(published, "CIFAR_SHA256", sha(raw))
        monkeypatch.setattr(published, "CIFAR_SIZE", len(raw))
        monkeypatch.setattr(published, "CIFAR_BYTES", 4 * 3073)
        monkeypatch.setattr(published, "CIFAR_BATCHES", {name: sha(b.tobytes()) for name, b in BATCHES.items()})
        return raw

    return make


def cifar_is_right(images, names):
    records = np.concatenate([BATCHES[name] for name in names])
    np.testing.assert_array_equal(images.labels, records[:, 0])
    for i, record in enumerate(records):  # the published layout: red, green, blue, each row by row
        for channel in range(3):
            plane = record[1 + 1024 * channel : 1 + 1024 * (channel + 1)].reshape(32, 32)
            np.testing.assert_array_equal(images.images[i, :, :, channel], plane)
    assert (images.images.dtype, images.labels.dtype) == (np.uint8, np.int32)
    return True


TRAIN = [f"data_batch_{i}.bin" for i in range(1, 6)]


def test_cifar10_from_the_archive_which_is_not_unpacked(small_cifar, tmp_path):
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(small_cifar(archive(BATCHES)))
    assert cifar_is_right(value(cifar10(tmp_path, "train")), TRAIN)
    assert cifar_is_right(value(cifar10(tmp_path, "test")), ["test_batch.bin"])
    assert [p.name for p in tmp_path.iterdir()] == ["cifar-10-binary.tar.gz"]


@pytest.mark.parametrize("place", [".", "cifar-10-batches-bin"])
def test_cifar10_from_unpacked_batches(small_cifar, tmp_path, place):
    small_cifar(archive(BATCHES))
    write(tmp_path / place, {name: b.tobytes() for name, b in BATCHES.items()})
    assert cifar_is_right(value(cifar10(tmp_path, "train", download=False)), TRAIN)
    (tmp_path / place / TRAIN[2]).write_bytes(bytes(4 * 3073))
    assert fault(cifar10(tmp_path, "train")).path == str(tmp_path / place / TRAIN[2])


def test_cifar10_from_a_server(small_cifar, tmp_path, server):
    write(server.folder, {"cifar-10-binary.tar.gz": small_cifar(archive(BATCHES))})
    assert cifar_is_right(value(cifar10(tmp_path, "test", mirrors=[server.url])), ["test_batch.bin"])
    assert isinstance(fault(cifar10(tmp_path / "none", "test", download=False)), FileMissing)


def test_an_archive_with_another_checksum_is_not_opened(small_cifar, tmp_path):
    small_cifar(archive(BATCHES))
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(other := archive(BATCHES, "../up"))
    assert fault(cifar10(tmp_path, "train")).actual == sha(other)


def test_an_archive_without_the_members_is_corrupt(small_cifar, tmp_path):
    batches = {**BATCHES, "data_batch_3.bin": np.zeros(5, np.uint8)}
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(small_cifar(archive(batches)))
    assert isinstance(fault(cifar10(tmp_path, "train")), FileCorrupt)


def test_digits_are_scikit_learns_in_their_order():
    from sklearn.datasets import load_digits

    bundled = load_digits()
    train, test = value(digits("train")), value(digits("test"))
    assert (len(train), len(test)) == (1437, 360)
    both = np.concatenate([train.images, test.images])[..., 0]
    np.testing.assert_array_equal(both, bundled.images)
    np.testing.assert_array_equal(np.concatenate([train.labels, test.labels]), bundled.target)
    assert set(test.labels.tolist()) == set(range(10))
    with pytest.raises(ValueError, match="split"):
        digits("all")


def test_an_image_set_is_a_data_set():
    images = ImageSet(IMAGES[..., None], LABELS.astype(np.int32), tuple("0123456789"))
    assert len(images) == 20
    image, label = images[-1]
    np.testing.assert_array_equal(image, IMAGES[-1][..., None])
    assert label == LABELS[-1]
    assert images.arrays == (images.images, images.labels)
    assert len(list(images)) == 20  # iteration ends by IndexError, as for a list
    for wrong in (20, -21):
        with pytest.raises(IndexError):
            images[wrong]
    with pytest.raises(TypeError):
        images[0:2]
    with pytest.raises(dataclasses.FrozenInstanceError):
        images.labels = None


def test_every_published_checksum_is_one_and_no_two_files_share_one():
    sources = published.MNIST, published.FASHION_MNIST, published.KMNIST
    files = [file for source in sources for pair in source.files.values() for file in pair]
    sums = [s for file in files for s in (file.sha256, file.unpacked) if s]
    sums += [published.CIFAR_SHA256, *published.CIFAR_BATCHES.values()]
    assert all(len(s) == 64 and set(s) <= set("0123456789abcdef") for s in sums)
    assert len(set(sums)) == len(sums)


@pytest.mark.acceptance
def test_mnist_itself():
    folder = os.environ.get("FNLAMP_MNIST")
    if folder is None:
        pytest.skip("FNLAMP_MNIST names no folder with MNIST's IDX files")
    train, test = (value(mnist(folder, split, download=False)) for split in ("train", "test"))
    assert train.images.shape == (60_000, 28, 28, 1) and test.images.shape == (10_000, 28, 28, 1)
    # The published count of each digit.
    assert np.bincount(train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert round(train.images.mean() / 255, 4) == 0.1307 and round(train.images.std() / 255, 4) == 0.3081
