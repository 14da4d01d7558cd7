"""Damaged and hostile files: a typed fault or the previous save, never a wrong number and never another exception."""

from __future__ import annotations

import hashlib
import json
import random
import tracemalloc
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from outcomes import fault, value
from returns.pipeline import is_successful
from returns.unsafe import unsafe_perform_io

from fnlamp.checkpoint import latest, read, save, write
from fnlamp.checkpoint.archive import MANIFEST, TRAILER, Member, Trailer, directory, local_header, parsed_trailer, trailer
from fnlamp.checkpoint.file import loaded
from fnlamp.checkpoint.manifest import decoded
from fnlamp.effect import Runtime
from fnlamp.fault import FaultError, FileCorrupt, FileMissing, FileTooNew

QUIET = Runtime(log=None)
TREE = {
    "weight": np.random.default_rng(0).normal(size=(64, 48)).astype(np.float32),
    "half": jnp.ones((17, 3), jnp.bfloat16),
    "key": jax.random.key(0),
    "rest": [1, -0.5, "text", None, (2, {"a": 3})],
}


def written(path, tree=TREE):
    value(write(path, tree, step=5, note={"loss": 0.5}))
    return path.read_bytes()


def damaged(path, raw):
    """The fault of the damaged file, which must be one of damage."""
    path.write_bytes(raw)
    with pytest.raises(FaultError) as raised:
        loaded(str(path))
    assert isinstance(raised.value.fault, FileCorrupt), raised.value
    return raised.value.fault


def flips(count, size, seed):
    chance = random.Random(seed)
    return [(chance.randrange(size), chance.randrange(8)) for _ in range(count)]


def check_flips(path, count, seed):
    raw = bytearray(written(path))
    for byte, bit in flips(count, len(raw), seed):
        raw[byte] ^= 1 << bit
        damaged(path, raw)
        raw[byte] ^= 1 << bit


def test_200_random_bit_flips(tmp_path):
    check_flips(tmp_path / "a.npz", 200, seed=0)


@pytest.mark.slow
def test_10_000_random_bit_flips(tmp_path):
    check_flips(tmp_path / "a.npz", 10_000, seed=1)


@pytest.mark.slow
def test_every_bit_of_a_small_file(tmp_path):
    path = tmp_path / "a.npz"
    raw = bytearray(written(path, {"a": np.arange(3)}))
    for byte in range(len(raw)):
        for bit in range(8):
            raw[byte] ^= 1 << bit
            damaged(path, raw)
            raw[byte] ^= 1 << bit


@pytest.mark.parametrize("step", [pytest.param(4096, marks=pytest.mark.slow), 97])
def test_truncation(tmp_path, step):
    path = tmp_path / "a.npz"
    tree = {"a": np.random.default_rng(0).normal(size=(1024, 1024)), "b": np.arange(5)} if step == 4096 else TREE
    raw = written(path, tree)
    for size in [*range(0, len(raw), step), *range(len(raw) - TRAILER - 30, len(raw))]:
        damaged(path, raw[:size])


def test_bytes_added_removed_or_swapped(tmp_path):
    path = tmp_path / "a.npz"
    raw = written(path)
    for other in (raw + b"\0", b"\0" + raw, raw + raw, raw[:100] + raw[101:], raw[:100] + b"\0" + raw[100:], bytes(len(raw))):
        damaged(path, other)


def test_other_files(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, a=np.arange(3))
    damaged(path, path.read_bytes())
    damaged(path, b"")
    damaged(path, b"text")
    assert isinstance(fault(read(tmp_path)), FileMissing)
    assert isinstance(fault(read("/dev/zero")), FileMissing)


def test_a_damaged_newest_save_gives_the_one_before(tmp_path):
    value(save(tmp_path, 1, {"x": np.arange(100)}))
    value(save(tmp_path, 2, {"x": np.arange(100) * 2}))
    newest = tmp_path / "000000000002.npz"
    raw = bytearray(newest.read_bytes())
    for byte, bit in flips(60, len(raw), seed=2):
        raw[byte] ^= 1 << bit
        newest.write_bytes(raw)
        raw[byte] ^= 1 << bit
        found = value(latest(tmp_path), QUIET)
        assert found.step == 1
        np.testing.assert_array_equal(found.tree["x"], np.arange(100))


# ---- files that are whole, and not as fnlamp writes them


def rebuilt(raw, change):
    """The file with a changed manifest, and all hashes right."""
    place = parsed_trailer(raw[-TRAILER:])
    assert place is not None
    content = json.loads(raw[place.start : place.start + place.size])
    content = change(content) or content
    text = json.dumps(content, separators=(",", ":")).encode()
    return with_manifest(raw, place, text)


def with_manifest(raw, place, text, *, sha256=None):
    manifest = decoded(raw[place.start : place.start + place.size])
    members = manifest.members()
    start = place.start - len(local_header(Member(MANIFEST, 0, 0, 0)))
    last = Member(MANIFEST, zlib.crc32(text), len(text), start)
    found = Trailer(1, 0, place.start, len(text), sha256 or hashlib.sha256(text).hexdigest())
    return raw[:start] + local_header(last) + text + directory([*members, last], trailer(found))


def of_array(**changes):
    return lambda content: content["arrays"][0].update(changes)


def of_tree(tree):
    return lambda content: content.update(tree=tree)


HOSTILE = {
    "another version": lambda content: content.update(version=0),
    "no arrays": lambda content: content.pop("arrays"),
    "a list": lambda content: [1],
    "a negative step": lambda content: content.update(step=-1),
    "a step that is none": lambda content: content.update(step=True),
    "a note of arrays": lambda content: content.update(note={"dict": [["a", {"array": 0}]]}),
    "a note that is none": lambda content: content.update(note=[1]),
    "a huge shape": of_array(shape=[2**40, 2**20]),
    "a negative shape": of_array(shape=[-1]),
    "an empty shape with a huge axis": of_array(shape=[0, 2**62, 2**62], sha256=[]),
    "a shape of floats": of_array(shape=[2.0]),
    "many axes": of_array(shape=[1] * 100_000),
    "objects": of_array(dtype="|O"),
    "records": of_array(dtype="f4,f4"),
    "a dtype under another name": of_array(dtype="float32"),
    "a wide dtype": of_array(dtype="<U1000000000"),
    "no dtype": of_array(dtype=None),
    "another dtype": of_array(dtype="<f8"),
    "another kind": of_array(kind="pickle"),
    "a scalar of many": of_array(kind="scalar"),
    "keys that are floats": of_array(kind="key", impl="threefry2x32"),
    "keys of no kind": of_array(kind="key", impl="no"),
    "another name": of_array(name="../../x.npy"),
    "a name that is not ASCII": of_array(name="ü.npy"),
    "another hash": of_array(sha256=["0" * 64]),
    "no hash": of_array(sha256=[]),
    "a large crc": of_array(crc32=2**40),
    "an argument more": of_array(more=1),
    "an array that is not there": of_tree({"array": 99}),
    "an array from the end": of_tree({"array": -99}),
    "an unknown tag": of_tree({"pickle": "x"}),
    "two tags": of_tree({"tuple": [], "dict": []}),
    "a list as a key": of_tree({"dict": [[[1], 2]]}),
    "a key twice": of_tree({"dict": [["a", 1], ["a", 2]]}),
    "a float as a key": of_tree({"dict": [[1.5, 1]]}),
    "a record of no kind": of_tree({"record": 3, "by": "name", "fields": []}),
    "a record by nothing": of_tree({"record": "A", "by": "code", "fields": []}),
    "an int of words": of_tree({"int": "seven"}),
    "a short float": of_tree({"float": "00"}),
    "bytes of words": of_tree({"bytes": "zz"}),
    "a complex of text": of_tree({"complex": ["1", "2"]}),
    "text that is not UTF-8": of_tree({"text": "ff"}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_manifest_that_fnlamp_would_not_write(tmp_path, name):
    path = tmp_path / "a.npz"
    raw = written(path)
    tracemalloc.start()
    damaged(path, rebuilt(raw, HOSTILE[name]))
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_manifests_that_are_not_json(tmp_path):
    path = tmp_path / "a.npz"
    raw = written(path)
    place = parsed_trailer(raw[-TRAILER:])
    assert place is not None
    for text in (b"", b"null", b"{", b"[" * 100_000, b"\xff", b'{"step": ' + b"9" * 10_000 + b"}"):
        damaged(path, with_manifest(raw, place, text))
    damaged(path, with_manifest(raw, place, b"{}", sha256="0" * 64))


def test_an_unchanged_rebuilt_file_is_read(tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(rebuilt(written(path), lambda content: None))
    assert value(read(path)).step == 5


@pytest.mark.parametrize("change", [{"start": 10**19}, {"size": 10**19}, {"size": 2**26}, {"start": 0}, {"size": 0}])
def test_a_trailer_that_points_elsewhere(tmp_path, change):
    path = tmp_path / "a.npz"
    raw = written(path)
    place = parsed_trailer(raw[-TRAILER:])
    assert place is not None
    damaged(path, raw[:-TRAILER] + trailer(place._replace(**change)))


def test_a_later_version_says_so(tmp_path):
    path = tmp_path / "a.npz"
    raw = written(path)
    place = parsed_trailer(raw[-TRAILER:])
    assert place is not None
    path.write_bytes(raw[:-TRAILER] + trailer(place._replace(version=7)))
    found = fault(read(path), QUIET)
    assert isinstance(found, FileTooNew) and "version 7" in str(found)


def test_a_file_that_is_replaced_while_it_is_read(tmp_path, monkeypatch):
    from fnlamp.checkpoint import file

    path = tmp_path / "a.npz"
    written(path)
    real = file.manifest_of

    def and_replaced(*arguments):
        found = real(*arguments)
        value(write(path, {"other": np.zeros(100_000)}))
        return found

    monkeypatch.setattr(file, "manifest_of", and_replaced)
    outcome = read(path).run(QUIET)
    assert is_successful(outcome)
    np.testing.assert_array_equal(unsafe_perform_io(outcome.unwrap()).tree["weight"], TREE["weight"])
