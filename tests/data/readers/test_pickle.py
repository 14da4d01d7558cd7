"""The reader of pickles against Python's own pickle, and malicious pickles."""

from __future__ import annotations

import builtins
import collections
import gzip
import importlib
import os
import pickle
import struct
import subprocess
import time
import tracemalloc

import numpy as np
import outcomes
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from returns.unsafe import unsafe_perform_io

from fnlamp.data import read_pickle
from fnlamp.fault import FileCorrupt, FileMissing, TooLarge


def value(path, **options):
    return outcomes.value(read_pickle(path, **options))


def fault(path, **options):
    return outcomes.fault(read_pickle(path, **options))


@pytest.fixture
def write(tmp_path):
    def write(raw, name="file.pkl"):
        (tmp_path / name).write_bytes(raw)
        return tmp_path / name

    return write


def same(a, b):
    if isinstance(b, np.ndarray | np.generic):
        assert type(a) is type(b)
        assert a.dtype == b.dtype.newbyteorder("=")
        assert a.shape == b.shape
        assert a.astype(b.dtype).tobytes() == b.tobytes()
    elif isinstance(b, tuple | list):
        assert type(a) is type(b)
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    elif isinstance(b, dict):
        assert list(a) == list(b)
        same(list(a.values()), list(b.values()))
    else:
        assert type(a) is type(b)
        assert a == b or (a != a and b != b)


DTYPES = (
    hnp.boolean_dtypes()
    | hnp.integer_dtypes()
    | hnp.unsigned_integer_dtypes()
    | hnp.floating_dtypes()
    | hnp.complex_number_dtypes()
    | hnp.byte_string_dtypes(min_len=1)
    | hnp.unicode_string_dtypes(min_len=1)
)
ARRAYS = hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
LEAVES = (
    ARRAYS
    | ARRAYS.map(np.asfortranarray)
    | ARRAYS.filter(lambda array: array.size).map(lambda array: array.ravel()[0])
    | st.none()
    | st.booleans()
    | st.integers(-(2**100), 2**100)
    | st.floats()
    | st.complex_numbers()
    | st.text()
    | st.binary()
)
KEYS = st.text(max_size=5) | st.integers(-(2**59), 2**59) | st.booleans() | st.binary(max_size=3)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=8
)


@pytest.mark.slow
@given(VALUES, st.integers(0, 5), st.booleans())
@settings(max_examples=300, deadline=None)
def test_what_pickle_writes_is_read(tmp_path_factory, found, protocol, packed):
    path = tmp_path_factory.mktemp("pickle") / "file"
    raw = pickle.dumps(found, protocol)
    path.write_bytes(gzip.compress(raw) if packed else raw)
    same(value(path), found)


@pytest.mark.parametrize("protocol", range(6))
def test_the_module_names_of_numpy_1_are_known(write, protocol):
    found = {"x": np.arange(6.0).reshape(2, 3), "y": np.float32(2.5), "f": np.asfortranarray(np.eye(2, 3))}
    raw = pickle.dumps(found, protocol)
    for name in (b"numpy._core.multiarray", b"numpy._core.numeric"):
        old = name.replace(b"_core", b"core")
        raw = raw.replace(bytes([len(name)]) + name, bytes([len(old)]) + old).replace(b"c" + name, b"c" + old)
    assert b"_core" not in raw
    same(value(write(raw)), found)


# ------------------------------------------------------------------------------- as Python 2 wrote them


def py2_array(array, memo):
    """Protocol 2 of cPickle, opcode by opcode: strings are strings of bytes."""
    raw = array.tobytes()
    kind = array.dtype.str[1:].encode()
    shape = b"".join(b"J" + struct.pack("<i", n) for n in array.shape)
    put = lambda n: b"r" + struct.pack("<I", memo + n)  # noqa: E731
    string = b"T" + struct.pack("<i", len(raw)) + raw if len(raw) > 255 else b"U" + bytes([len(raw)]) + raw
    return (
        b"cnumpy.core.multiarray\n_reconstruct\n" + put(0) + b"cnumpy\nndarray\n" + put(1) + b"K\0\x85" + put(2) + b"U\x01b\x87"
        + put(3) + b"R" + put(4) + b"(K\x01(" + shape + b"t" + put(5) + b"cnumpy\ndtype\n" + put(6)
        + b"U" + bytes([len(kind)]) + kind + b"K\0K\x01\x87" + put(7) + b"R" + put(8)
        + b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89" + string + put(9) + b"tb"
    )  # fmt: skip


def py2_mnist(splits):
    pairs = [py2_array(x, 100 * i) + py2_array(y, 100 * i + 50) + b"\x86" for i, (x, y) in enumerate(splits)]
    return b"\x80\x02" + b"".join(pairs) + b"\x87."


def test_the_classic_file_of_mnist(write):
    rng = np.random.default_rng(0)
    splits = tuple((rng.random((n, 784), np.float32), rng.integers(0, 10, n)) for n in (50, 10, 11))
    raw = py2_mnist(splits)
    same(pickle.loads(raw, encoding="latin1"), splits)  # Python agrees that this is such a pickle
    (train, train_labels), valid, test = value(write(gzip.compress(raw), "mnist.pkl.gz"))
    assert (train.shape, train.dtype, train_labels.dtype) == ((50, 784), np.float32, np.int64)
    same(((train, train_labels), valid, test), splits)
    assert not train.flags.writeable


def test_python_2_strings_are_latin_1(write):
    raw = b"\x80\x02}q\x01(U\x04nameq\x02U\x05Z\xfcricq\x03X\x02\0\0\0\xc3\xa9L12345678901234567890L\nu."
    assert value(write(raw)) == pickle.loads(raw, encoding="latin1") == {"name": "Züric", "é": 12345678901234567890}


def test_protocol_0_of_python_2(write):
    """The default format of `cPickle.dump(x, file)`: strings of bytes are written as literals."""
    array = np.arange(-3.0, 3.0, 0.25).reshape(4, 6)
    literal = repr(array.tobytes())[1:].encode()
    raw = (
        b"(dp1\nS'x'\np2\ncnumpy.core.multiarray\n_reconstruct\np3\n(cnumpy\nndarray\np4\n(I0\ntS'b'\ntRp5\n"
        b"(I1\n(I4\nI6\ntcnumpy\ndtype\np6\n(S'f8'\nI0\nI1\ntRp7\n(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS" + literal + b"\ntbs"
        b"S'name'\np8\nS'Z\\xfcrich\\n'\np9\nsS'list'\n(lp10\nI1\naL2L\naF0.5\nas."
    )
    want = {"x": array, "name": "Zürich\n", "list": [1, 2, 0.5]}
    same(pickle.loads(raw, encoding="latin1"), want)
    same(value(write(raw)), want)


def test_large_arrays_are_not_copied_many_times(write):
    splits = tuple((np.ones((n, 784), np.float32), np.zeros(n, np.int64)) for n in (2_000, 500, 500))
    path = write(gzip.compress(py2_mnist(splits), 1))
    size = sum(x.nbytes + y.nbytes for x, y in splits)
    tracemalloc.start()
    same(value(path), splits)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * size


# ------------------------------------------------------------------------------- pickles that mean harm


class Calls:
    def __init__(self, function, *arguments):
        self.arguments = function, arguments

    def __reduce__(self):
        return self.arguments


class Sub(np.ndarray):
    pass


HARM = {
    "posix.system": Calls(os.system, "touch pwned"),
    "builtins.eval": Calls(eval, "open('pwned', 'w')"),
    "builtins.exec": Calls(exec, "open('pwned', 'w')"),
    "builtins.__import__": Calls(__import__, "antigravity"),
    "builtins.getattr": Calls(getattr, [], "append"),
    f"{open.__module__}.open": Calls(open, "pwned", "w"),
    "builtins.print": print,
    "subprocess.Popen": Calls(subprocess.Popen, ["touch", "pwned"]),
    "importlib.import_module": Calls(importlib.import_module, "antigravity"),
    "numpy.load": Calls(np.load, "x"),
    "collections.OrderedDict": collections.OrderedDict(a=1),
    "collections.deque": collections.deque([1]),
    "builtins.set": {1, 2},
    "builtins.slice": slice(3),
    "numpy.matrix": Sub,
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", HARM)
def test_nothing_else_is_built_or_run(write, monkeypatch, tmp_path, protocol, name):
    if name == "builtins.set" and protocol >= 4:
        name = "EMPTY_SET"
        found = {1, 2}
    else:
        found = HARM[name]
    raw = pickle.dumps([np.eye(2), found] if name != "numpy.matrix" else None, protocol)
    if name == "numpy.matrix":
        raw = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nmatrix\n(I0\nt" + b"S'b'\ntR."
    monkeypatch.chdir(tmp_path)
    b"".decode("raw-unicode-escape")  # Python imports a codec when it is used first, by exec
    for target, attribute in [(os, "system"), (builtins, "eval"), (builtins, "exec"), (subprocess, "Popen")]:
        monkeypatch.setattr(target, attribute, lambda *_: pytest.fail("was called"))
    found = fault(write(raw))
    monkeypatch.undo()
    assert isinstance(found, FileCorrupt)
    # Protocols 0 to 2 use the module names of Python 2.
    assert found.actual in (name, f"the opcode {name}", name.replace("subprocess", "commands"))
    assert [file.name for file in tmp_path.iterdir()] == ["file.pkl"]


EXPLOIT = b"cos\nsystem\n(S'touch pwned'\ntR."
NDARRAY = b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
F4 = b"cnumpy\ndtype\n(S'f4'\nI00\nI01\ntR"


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "an empty file"),
        (b"label,pixel\n", "an intact pickle"),
        (b"\x80\x09.", "an intact pickle"),
        (b"N", "an intact pickle, got an end without STOP"),
        (b"N\xff", "an intact pickle, got b'\\xff' for an opcode"),
        (b".", "left over"),
        (b"NN.", "left over"),
        (b"(N.", "left over"),
        (b"N." + EXPLOIT, "after the end"),
        (EXPLOIT, "got os.system"),
        (b"(S'touch pwned'\nios\nsystem\n.", "the opcode INST of os.system"),
        (b"(cos\nsystem\nS'touch pwned'\no.", "got os.system"),
        (b"\x80\x02cbuiltins\nint\n)\x81.", "got builtins.int"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "got os.system"),
        (b"\x80\x04\x8c\x0enumpy.ndarray.\x8c\x06tofile\x93.", "got numpy.ndarray..tofile"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0ddtype.__new__\x93.", "got numpy.dtype.__new__"),
        (b"\x80\x02\x82\x01.", "the opcode EXT1"),
        (b"Pname\n.", "the opcode PERSID"),
        (b"\x80\x05\x97.", "the opcode NEXT_BUFFER"),
        (b"\x80\x04\x8f.", "the opcode EMPTY_SET"),
        (b"K\x01)R.", "not a function"),
        (b"cnumpy\nndarray\n)R.", "does not take"),
        (b"cnumpy\nndarray\n.", "numpy.ndarray by itself"),
        (F4 + b".", "dtype by itself"),
        (NDARRAY + b".", "an array without data"),
        (b"cnumpy\ndtype\n(S'O8'\nI00\nI01\ntR.", "an array of objects"),
        (b"cnumpy\ndtype\n(S'V8'\nI00\nI01\ntR.", "the dtype 'V8'"),
        (b"cnumpy\ndtype\n(S'f4,O'\nI00\nI01\ntR.", "the dtype 'f4,O'"),
        (b"cnumpy\ndtype\n((S'a'\nS'O'\ntI00\nI01\ntR.", "arguments that numpy.dtype does not take"),
        (F4 + b"(I3\nS'<'\nNNN}I8\nI0\ntb.", "dtype by itself"),
        (F4 + b"(I3\nS'<'\nN(S'a'\nt}I8\nI8\nI0\ntb.", "a state that an array"),
        (NDARRAY + b"(I1\n(I1000000000000\nt" + F4 + b"I00\nC\x04abcdtb.", "4 bytes of data for shape [1000000000000]"),
        (NDARRAY + b"(I1\n(I-1\nt" + F4 + b"I00\nC\x04abcdtb.", "a shape that an array"),
        (NDARRAY + b"(I1\n(I0\nL4611686018427387904L\nt" + F4 + b"I00\nC\0tb.", "lengths"),
        (NDARRAY + b"(I1\n(I1\nt" + F4 + b"I00\n]tb.", "data that are not bytes"),
        (NDARRAY + b"(I1\n(I1\nt" + F4 + b"I00\nX\x06\0\0\0\xe2\x82\xacabctb.", "an intact pickle"),
        (b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(I9\ntS'b'\ntR.", "does not take"),
        (b"c_codecs\nencode\n(S'a'\nS'idna'\ntR.", "arguments that _codecs.encode does not take"),
        (b"cbuiltins\nbytes\n(I1000000000\ntR.", "arguments that builtins.bytes does not take"),
        (b"\x80\x05\x96\0\0\0\0\1\0\0\0a.", "an intact pickle"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fa.", "an intact pickle"),
        (b"\x80\x05\x96\1\0\0\0\0\0\0\0a.", "bytearray by itself"),
        (b"Nr\xff\xff\xff\xff" + b"0h\x01.", "an intact pickle"),
        (b"}((I1\ntI2\nu.", "but a tuple"),
        (b"}F1.5\nI2\ns.", "but 1.5"),
        (b"}L2305843009213693952L\nI2\ns.", "but 2305843009213693952"),
        (b"]p0\ng0\na.", "one that holds itself"),
        (b"]" + b"(lp0\n0g0\n" * 1 + b"]" * 200 + b"a" * 201 + b".", "more than 100 deep"),
        (b"S'a\n.", "a string without its quotes"),
        (b"S'\n.", "a string without its quotes"),
        (b"S'a\\xf'\n.", "an intact pickle"),
        (b"L" + b"9" * 100_000 + b"L\n.", "an intact pickle"),
    ],
)  # fmt: skip
def test_any_other_pickle_is_a_fault_that_says_what_it_got(write, raw, says):
    tracemalloc.start()
    start = time.perf_counter()
    found = fault(write(raw))
    took, peak = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(found, FileCorrupt), found
    assert says in str(found)
    assert took < 2
    assert peak < 2_000_000


def test_a_structure_that_doubles_itself_is_a_fault_at_once(write):
    for double in (b"2\x86", b"22\x87"):  # tuples of twice, or three times, the last
        found = fault(write(b"\x80\x02K\1" + double * 90 + b"."))
        assert "repeats parts of itself" in str(found), found


def test_arrays_that_share_their_data_are_a_fault(write):
    """A few bytes per array could declare many times the size of the file."""
    shared = b"C\xc8" + bytes(200) + b"q\1" + F4.replace(b"f4", b"u1") + b"q\2"
    array = NDARRAY + b"(I1\n(I200\ntg2\nI00\ng1\ntb"
    one = shared + array + b"\x87."
    assert "by itself" in str(fault(write(one)))
    many = b"(" + shared + b"00" + array * 50 + b"t."
    assert "share their data" in str(fault(write(many)))


def test_a_text_is_encoded_once_however_often_it_is_used(write):
    text = b"X" + struct.pack("<I", 10**6) + b"a" * 10**6
    call = b"c_codecs\nencode\n(g1\nS'latin1'\ntR"
    path = write(text + b"q\0010(" + call.replace(b"g1\n", b"h\1") * 200 + b"t.")
    tracemalloc.start()
    found = value(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 200
    assert peak < 6 * 10**6


def test_the_limit_is_for_packed_bytes_and_for_objects(write):
    bomb = gzip.compress(b"N0" * 5_000_000 + b"N.")
    assert isinstance(fault(write(bomb), limit=10**6), TooLarge)
    assert isinstance(fault(write(b"(" + b"]" * 100_000 + b"t."), limit=10**6), TooLarge)
    assert len(value(write(b"(" + b"]" * 10_000 + b"t."), limit=10**6)) == 10_000


def test_a_missing_file(tmp_path):
    assert isinstance(fault(tmp_path / "nowhere.pkl"), FileMissing)


def test_nothing_is_opened_before_run(tmp_path):
    program = read_pickle(tmp_path / "late.pkl")
    (tmp_path / "late.pkl").write_bytes(pickle.dumps([1, 2]))
    assert unsafe_perform_io(program.run().unwrap()) == [1, 2]


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"hello", "the opcode BINGET without its operands"),
        (b"", "got an empty file"),
        (b"(NK\1d.", "but None"),
        (b"S'\\d'\n.", "an escape that Python 2 does not write"),
        (b"I" + b"9" * 5000 + b"\n.", "the opcode INT at byte 0 with a malformed argument"),
    ],
)
def test_messages_are_sentences(tmp_path, raw, says):
    (tmp_path / "p").write_bytes(raw)
    assert says in str(unsafe_perform_io(read_pickle(tmp_path / "p").run().failure()))
