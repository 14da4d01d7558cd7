"""The IDX reader against files written byte by byte."""

from __future__ import annotations

import gzip
import struct
import tracemalloc

import numpy as np
import outcomes
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from returns.io import IOSuccess
from returns.pipeline import is_successful
from returns.unsafe import unsafe_perform_io

from fnlamp.data import read_idx
from fnlamp.effect import Effect
from fnlamp.fault import FileCorrupt, FileMissing, TooLarge

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx(array: np.ndarray) -> bytes:
    code = CODES[array.dtype.str[1:]]
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def fault(path):
    return outcomes.fault(read_idx(path))


@given(
    hnp.arrays(st.sampled_from(sorted(CODES)), hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4)), st.booleans()
)
@settings(max_examples=60, deadline=None)
def test_what_was_written_is_read(tmp_path_factory, array, packed):
    path = tmp_path_factory.mktemp("idx") / "file"
    path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    read = unsafe_perform_io(read_idx(path).run().unwrap())
    assert read.dtype == array.dtype
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, array)


def test_a_literal_file():
    assert idx(np.array([[1, 2]], np.int16)) == bytes.fromhex("00000b02 00000001 00000002 0001 0002")


def test_nothing_is_opened_before_run(tmp_path):
    path = tmp_path / "late"
    program = read_idx(path)
    assert isinstance(program, Effect)
    path.write_bytes(idx(np.array([3], np.uint8)))
    assert program.map(lambda a: a.tolist()).run() == IOSuccess([3])


def test_a_missing_file_and_a_folder_are_faults_that_name_it(tmp_path):
    for path in (tmp_path / "nowhere", tmp_path):
        found = fault(path)
        assert isinstance(found, FileMissing)
        assert str(path) in str(found)


GOOD = idx(np.arange(12, dtype=np.int32).reshape(3, 4))


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "an empty file"),
        (b"label,pixel\n", "6c 61 62 65"),
        (b"\0\0\x07\x01\0\0\0\0", "00 00 07 01"),
        (GOOD[:7], "a header with 2 lengths, got a file of 7 bytes"),
        (GOOD[:-1], "48 bytes of data for shape [3, 4], got 47 bytes"),
        (GOOD + b"x", "got 49 bytes"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "got 0 bytes"),  # a product far above any memory is not allocated
        (b"\0\0\x08\x04\0\0\0\0" + b"\xff" * 12, "lengths that an array can have"),  # no data, and lengths past any memory
        (b"\0\0\x08\x00\x05", "1 to 64 axes"),
        (b"\0\0\x08\x41" + b"\0\0\0\x01" * 65 + b"\x05", "1 to 64 axes, as an array can have, got 65"),
        (gzip.compress(GOOD, mtime=0)[:-9], "an intact gzip stream"),
        (gzip.compress(GOOD, mtime=0)[:12] + b"\xff\xff" + gzip.compress(GOOD, mtime=0)[14:], "an intact gzip stream"),
        (gzip.compress(GOOD, mtime=0)[:-8] + b"\0" * 8, "an intact gzip stream"),
    ],
)
def test_a_damaged_file_is_a_fault_that_says_what_it_got(tmp_path, raw, says):
    path = tmp_path / "damaged"
    path.write_bytes(raw)
    found = fault(path)
    assert isinstance(found, FileCorrupt)
    assert says in str(found)
    assert str(path) in str(found)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_mutated_file_reads_or_fails_typed(tmp_path_factory, data):
    raw = bytearray(data.draw(st.sampled_from([GOOD, gzip.compress(GOOD, mtime=0)])))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("idx") / "mutated"
    path.write_bytes(bytes(raw[: data.draw(st.integers(0, len(raw)))]))
    outcome = read_idx(path).run()
    assert is_successful(outcome) or isinstance(unsafe_perform_io(outcome.failure()), FileCorrupt)


@pytest.mark.parametrize("level", [0, 9])
def test_several_members_and_padding_are_one_file(tmp_path, level):
    raw = idx(np.arange(300_000, dtype=np.int32))
    parts = [gzip.compress(raw[a:b], level) for a, b in ((0, 3), (3, 500_000), (500_000, 500_000), (500_000, len(raw)))]
    (tmp_path / "members").write_bytes(b"\0\0".join(parts) + bytes(100_000))
    read = unsafe_perform_io(read_idx(tmp_path / "members").run().unwrap())
    np.testing.assert_array_equal(read, np.arange(300_000))
    (tmp_path / "members").write_bytes(b"".join(parts) + b"rubbish")
    assert "gzip" in str(fault(tmp_path / "members"))


def test_a_size_that_the_file_cannot_hold_is_not_allocated(tmp_path):
    lie = gzip.compress(b"\0\0\x08\x01\x00\xff\xff\xff" + bytes(100))
    (tmp_path / "lie").write_bytes(lie)
    found = fault(tmp_path / "lie")
    assert isinstance(found, FileCorrupt)
    assert "at the most" in str(found)


def test_a_file_larger_than_the_limit_is_not_unpacked(tmp_path):
    (tmp_path / "large").write_bytes(gzip.compress(idx(np.zeros(10**6, np.uint8))))
    outcome = read_idx(tmp_path / "large", limit=10**6 - 1).run()
    assert unsafe_perform_io(outcome.failure()) == TooLarge(str(tmp_path / "large"), 10**6 - 1, 10**6)
    assert unsafe_perform_io(read_idx(tmp_path / "large", limit=10**6).run().unwrap()).shape == (10**6,)


def test_a_bomb_behind_a_small_header_is_a_fault(tmp_path):
    (tmp_path / "bomb").write_bytes(gzip.compress(idx(np.zeros(10, np.uint8)) + bytes(10**7)))
    tracemalloc.start()
    found = fault(tmp_path / "bomb")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(found, FileCorrupt)
    assert "11 bytes or more" in str(found)
    assert peak < 2_000_000
