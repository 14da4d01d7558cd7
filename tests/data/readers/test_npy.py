"""The readers of NumPy's files against NumPy's own writers, and archives damaged byte by byte."""

from __future__ import annotations

import gzip
import io
import struct
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from outcomes import fault, value
from returns.unsafe import unsafe_perform_io

from fnlamp import stream
from fnlamp.data import map_npy, read_npy, read_npz
from fnlamp.fault import FileCorrupt, FileMissing, TooLarge


def saved(array, **options):
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that need version 3.0
        np.save(file, array, **options)
    return file.getvalue()


def npy(header, data=b"", version=(1, 0)):
    text = header if isinstance(header, bytes) else header.encode()
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", len(text)) + text + data


ARRAYS = hnp.arrays(
    hnp.scalar_dtypes() | hnp.byte_string_dtypes(min_len=1) | hnp.unicode_string_dtypes(min_len=1) | hnp.array_dtypes(),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)


@given(ARRAYS, st.booleans(), st.booleans())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_numpy_saves_is_read(tmp_path_factory, array, fortran, packed):
    if array.dtype.itemsize == 0:
        return
    path = tmp_path_factory.mktemp("npy") / "file"
    raw = saved(np.array(array, order="F") if fortran else array)
    path.write_bytes(gzip.compress(raw) if packed else raw)
    read = value(read_npy(path))
    assert read.shape == array.shape
    assert read.dtype == array.dtype.newbyteorder("=")
    assert read.dtype.isnative
    assert read.astype(array.dtype).tobytes() == array.tobytes()
    if not packed and array.dtype.isnative:
        mapped = value(map_npy(path))
        assert mapped.tobytes() == array.tobytes()
        assert not mapped.flags.writeable


def test_fortran_order_is_kept(tmp_path):
    array = np.asfortranarray(np.arange(24).reshape(2, 3, 4))
    np.save(tmp_path / "a.npy", array)
    for read in (value(read_npy(tmp_path / "a.npy")), value(map_npy(tmp_path / "a.npy"))):
        np.testing.assert_array_equal(read, array)
        assert read.flags.f_contiguous


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version(tmp_path, version):
    path = tmp_path / "a.npy"
    with path.open("wb") as file:
        np.lib.format.write_array(file, np.arange(5, dtype=">i2"), version=version)
    np.testing.assert_array_equal(value(read_npy(path)), np.arange(5))


def test_names_of_fields_in_any_script(tmp_path):
    array = np.array([(1, 2.5), (3, 4.5)], [("größe \\u0041", "<i4"), ("値", ">f8")])
    with pytest.warns(UserWarning, match="3.0"):
        np.save(tmp_path / "a.npy", array)
    read = value(read_npy(tmp_path / "a.npy"))
    assert read.dtype.names == array.dtype.names
    assert read.tolist() == array.tolist()


def test_a_header_of_python_2(tmp_path):
    (tmp_path / "a.npy").write_bytes(npy("{'descr': '|u1', 'fortran_order': False, 'shape': (3L, 10L), }\n", bytes(range(30))))
    np.testing.assert_array_equal(value(read_npy(tmp_path / "a.npy")), np.arange(30).reshape(3, 10))


HEADER = "{{'descr': {}, 'fortran_order': False, 'shape': {}}}\n"


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "an empty file"),
        (b"label,pixel\n", "6c 61 62 65"),
        (saved(np.arange(3))[:7], "93 4e 55 4d 50 59 01"),
        (b"\x93NUMPY\x04\0" + bytes(50), "version 1.0, 2.0 or 3.0"),
        (b"\x93NUMPY\x01\0v", "an NPY header"),
        (saved(np.arange(3))[:60], "of its 118 bytes"),
        (saved(np.arange(3))[:-1], "24 bytes of data for shape [3], got 23 bytes"),
        (saved(np.arange(3)) + b"x", "got 25 bytes"),
        (saved(np.arange(3)) * 2, "got 25 bytes or more"),
        (saved(np.array([None, {}]), allow_pickle=True), "objects are pickles"),
        (npy(HEADER.format("[('a', 'O')]", "(1,)"), bytes(8)), "objects are pickles"),
        (npy(HEADER.format("[('a', 'O', (2,))]", "(1,)"), bytes(16)), "objects are pickles"),
        (npy(HEADER.format("'|T16'", "(1,)"), bytes(16)), "expected"),
        (npy(HEADER.format("'<f4'", "(2**60,)")), "an NPY header"),
        (npy(HEADER.format("'<f4'", "(1152921504606846976,)")), "4,611,686,018,427,387,904 bytes of data"),
        (npy(HEADER.format("'<f4'", "(-1,)")), "lengths that an array can have"),
        (npy(HEADER.format("'<f4'", "(0, 9223372036854775807, 5)")), "lengths that an array can have"),
        (npy(HEADER.format("'<f4'", "(" + "1," * 65 + ")"), bytes(4)), "lengths that an array can have"),
        (npy(HEADER.format("'S0'", "(1000000000000,)")), "a dtype and lengths"),
        (npy(HEADER.format("'|b1'", "(2,)"), b"\1\2"), "booleans"),
        (npy(HEADER.format("__import__('os').system('touch pwned')", "(1,)")), "an NPY header"),
        (npy("(" * 5000), "an NPY header"),
        (npy("-" * 9000 + "1"), "an NPY header"),
        (npy("{" * 90 + "'\\d': 0x_1"), "an NPY header"),
        (npy(b"\0" * 64), "an NPY header"),
        (npy(" " * 10_001 + "{}", version=(2, 0)), "one of 10,003 bytes"),
        (b"\x93NUMPY\x02\0\xff\xff\xff\xff", "one of 4,294,967,295 bytes"),
        (npy(b"\xff" * 64, version=(3, 0)), "an NPY header"),
        (gzip.compress(saved(np.arange(3)), mtime=0)[:-5], "gzip"),
    ],
)
def test_a_damaged_file_is_a_fault_that_says_what_it_got(tmp_path, monkeypatch, raw, says):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "damaged.npy"
    path.write_bytes(raw)
    found = fault(read_npy(path))
    assert isinstance(found, FileCorrupt), found
    assert says in str(found)
    assert str(path) in str(found)
    if b"b1" not in raw:
        assert isinstance(fault(map_npy(path)), FileCorrupt)
    assert [file.name for file in tmp_path.iterdir()] == ["damaged.npy"]


def test_a_mapped_file_is_neither_packed_nor_of_another_byte_order(tmp_path):
    (tmp_path / "a.npy").write_bytes(gzip.compress(saved(np.arange(3))))
    assert "not packed" in str(fault(map_npy(tmp_path / "a.npy")))
    (tmp_path / "a.npy").write_bytes(saved(np.arange(3, dtype=">i8")))
    assert "byte order" in str(fault(map_npy(tmp_path / "a.npy")))


def test_a_missing_file(tmp_path):
    for reader in (read_npy, read_npz, map_npy):
        assert isinstance(fault(reader(tmp_path / "nowhere")), FileMissing)
        assert isinstance(fault(reader(tmp_path)), FileMissing)


def test_the_limit(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(1000, np.uint8))
    assert fault(read_npy(tmp_path / "a.npy", limit=999)) == TooLarge(str(tmp_path / "a.npy"), 999, 1000)
    assert len(value(read_npy(tmp_path / "a.npy", limit=1000))) == 1000
    np.savez(tmp_path / "a.npz", a=np.zeros(1000, np.uint8), b=np.zeros(1000, np.uint8))
    assert isinstance(fault(read_npz(tmp_path / "a.npz", limit=1999)), TooLarge)
    assert len(value(read_npz(tmp_path / "a.npz", limit=2000))) == 2


def test_streams_take_a_mapped_file_batch_by_batch(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(20).reshape(10, 2))
    mapped = value(map_npy(tmp_path / "a.npy"))
    batches = stream.items(stream.minibatches(mapped, np.arange(10), batch_size=4, seed=None))
    np.testing.assert_array_equal(np.concatenate([features for features, _ in batches]), np.arange(20).reshape(10, 2))


# ------------------------------------------------------------------------------- archives

ARRAYS_BY_NAME = {"x": np.arange(6.0).reshape(2, 3), "a/b.c": np.array(3), "y": np.asfortranarray(np.eye(3, 4, dtype=">i4"))}


def archive(members, packing=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", packing) as out:
        for name, raw in members:
            out.writestr(name, raw)
    return file.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_saves_in_an_archive_is_read(tmp_path, save):
    save(tmp_path / "a.npz", **ARRAYS_BY_NAME)
    read = value(read_npz(tmp_path / "a.npz"))
    assert list(read) == list(ARRAYS_BY_NAME)
    for name, array in ARRAYS_BY_NAME.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype.isnative
    save(tmp_path / "none.npz")
    assert value(read_npz(tmp_path / "none.npz")) == {}


def test_a_large_compressed_array(tmp_path):
    array = np.random.default_rng(0).integers(0, 4, 3_000_001, np.uint8)
    np.savez_compressed(tmp_path / "a.npz", array)
    np.testing.assert_array_equal(value(read_npz(tmp_path / "a.npz"))["arr_0"], array)


SMALL = saved(np.arange(100))
PACKED = archive([("a.npy", SMALL)], zipfile.ZIP_DEFLATED)
STORED = archive([("a.npy", SMALL)])
at = STORED.index(SMALL)
central = STORED.index(b"PK\x01\x02")


def with_bytes(raw, position, new):
    return raw[:position] + new + raw[position + len(new) :]


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "an empty file"),
        (SMALL, "a zip archive, got 93 4e 55 4d"),
        (STORED[:-30], "an intact zip archive"),
        (with_bytes(STORED, at + 200, b"\xff"), "Bad CRC-32"),
        (with_bytes(STORED, central + 16, b"\0\0\0\0"), "Bad CRC-32"),
        (with_bytes(PACKED, PACKED.index(b"a.npy") + 40, b"\xff\xff\xff"), "an intact zip archive"),
        (with_bytes(with_bytes(STORED, central + 8, b"\1"), 6, b"\1"), "not encrypted"),
        (with_bytes(STORED, central + 10, b"\x63"), "of packing 99"),
        (archive([("a.npy", SMALL)], zipfile.ZIP_BZIP2), "of packing 12"),
        (archive([("a.npy", SMALL)], zipfile.ZIP_LZMA), "of packing 14"),
        (with_bytes(STORED, central + 42, b"\xff\xff\xff\x7f"), "an intact zip archive"),
        (archive([("a.txt", b"text")]), "NPY files only, got 'a.txt'"),
        (archive([("a.npy", b"text")]), "a.npy: expected an NPY file's magic number"),
        (archive([("a.npy", saved(np.array([{}]), allow_pickle=True))]), "objects are pickles"),
        (archive([("a.npy", SMALL[:-1])]), "got 799 bytes"),
        (archive([("a.npy", SMALL + b"x")]), "got 801 bytes"),
    ],
)
def test_a_damaged_archive_is_a_fault_that_says_what_it_got(tmp_path, raw, says):
    path = tmp_path / "damaged.npz"
    path.write_bytes(raw)
    found = fault(read_npz(path))
    assert isinstance(found, FileCorrupt), found
    assert says in str(found)
    assert str(path) in str(found)


def test_an_array_that_occurs_twice(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        raw = archive([("a.npy", SMALL), ("a.npy", SMALL)])
    (tmp_path / "a.npz").write_bytes(raw)
    assert "'a.npy' twice" in str(fault(read_npz(tmp_path / "a.npz")))


def test_bombs_are_not_unpacked(tmp_path):
    lie = npy(HEADER.format("'|u1'", "(2147483648,)"), bytes(100))
    for raw, kind in [
        (archive([("a.npy", npy(HEADER.format("'|u1'", "(10,)"), bytes(10**7)))], zipfile.ZIP_DEFLATED), FileCorrupt),
        (archive([("a.npy", lie)], zipfile.ZIP_DEFLATED), FileCorrupt),
        (with_bytes(archive([("a.npy", lie)]), len(archive([("a.npy", lie)])) - 22 - 51 + 24, b"\0\0\0\xff"), FileCorrupt),
        (archive([("a.npy", saved(np.zeros(10**7, np.uint8)))], zipfile.ZIP_DEFLATED), TooLarge),
    ]:
        (tmp_path / "bomb.npz").write_bytes(raw)
        tracemalloc.start()
        found = fault(read_npz(tmp_path / "bomb.npz", limit=10**6))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert isinstance(found, kind), found
        assert peak < 3_000_000


def test_an_array_larger_than_memory_is_a_fault(tmp_path, monkeypatch):
    def full(shape, dtype):
        raise MemoryError

    np.save(tmp_path / "a.npy", np.zeros(3))
    monkeypatch.setattr(np, "empty", full)
    found = read_npy(tmp_path / "a.npy").run().failure()._inner_value
    assert "memory holds" in str(found) and "24 bytes" in str(found)


def test_an_empty_file_to_be_mapped_is_called_so(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"")
    assert str(unsafe_perform_io(map_npy(tmp_path / "a.npy").run().failure())).endswith("got an empty file")


@pytest.mark.parametrize(
    "header", [b"{'descr': '<f8', 'shape': (3,", b"{'descr': '\\d', 'fortran_order': False, 'shape': (3,), }\n"]
)
def test_a_damaged_header_is_shown_without_pythons_errors(tmp_path, header):
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header)
    found = str(unsafe_perform_io(read_npy(tmp_path / "a.npy").run().failure()))
    assert "EOF" not in found and ("'descr'" in found or "escape" in found)
