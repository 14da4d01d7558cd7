"""Mutated files: each is read correctly or fails typed; none hangs, runs code, or takes much more memory than it declares.

`python tests/data/readers/test_fuzz.py 10000` tries that many in all.
"""

from __future__ import annotations

import ast
import codecs
import contextlib
import csv
import faulthandler
import gzip
import io
import math
import os
import pickle
import re
import struct
import subprocess
import sys
import tempfile
import time
import tracemalloc
import warnings
import zipfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from returns.pipeline import is_successful
from returns.unsafe import unsafe_perform_io

from fnlamp.data import (
    byte_codec,
    character_codec,
    map_npy,
    read_arrow,
    read_codec,
    read_csv,
    read_idx,
    read_image,
    read_npy,
    read_npz,
    read_parquet,
    read_pickle,
    read_safetensors,
    read_text,
    read_torch,
    save_codec,
    train_bpe,
    word_codec,
)
from fnlamp.data.readers import bulk
from fnlamp.effect import Runtime
from fnlamp.fault import BadCell, FaultError, FileCorrupt, OutOfMemory, TooLarge

RNG = np.random.default_rng(0)
LIMIT = 2**22
SLACK = 2**21
BLOCK = 2**24
"""Bytes for buffers, and for parsing one block of a table cell by cell. Neither grows with the file."""
SECONDS = 10

FORBIDDEN = ["os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "exec", "pickle.find_class"]
seen: list[str] | None = None


def _watch(event, arguments):
    if seen is not None and (event in FORBIDDEN or (event == "open" and isinstance(arguments[1], str) and "w" in arguments[1])):
        seen.append(event)


sys.addaudithook(_watch)

# ------------------------------------------------------------------------------- good files


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(save, **arrays):
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def idx(array, code):
    return bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def table(rows):
    return "".join(",".join(row) + "\n" for row in [["label", *"abcdef"], *rows]).encode()


IMAGES, LABELS = RNG.integers(0, 256, (30, 28, 28), np.uint8), RNG.integers(0, 10, 30)
FLOATS = RNG.normal(size=(40, 7))
MNIST = tuple((RNG.random((n, 49), np.float32), RNG.integers(0, 10, n)) for n in (20, 5, 5))
EXPLOIT = b"cos\nsystem\n(S'touch pwned'\ntR0"

SEEDS = {
    "idx": [
        idx(IMAGES, 8),
        idx(LABELS.astype(np.uint8), 8),
        idx(RNG.integers(-9, 9, (3, 4, 5)).astype(">i4"), 0x0C),
        idx(FLOATS.astype(">f8"), 0x0E),
        gzip.compress(idx(IMAGES, 8)),
        gzip.compress(idx(np.zeros((100, 28, 28), np.uint8), 8)),
    ],
    "csv": [
        table([[str(n) for n in RNG.integers(0, 256, 7)] for _ in range(60)]),
        table([[str(i % 3), *map(repr, row)] for i, row in enumerate(FLOATS[:, :6].tolist())]),
        table([[str(i % 3), *(f'"{x:.3e}"' for x in row)] for i, row in enumerate(FLOATS[:, :6].tolist())]),
        table([["1", "-2", "+3", "4.", ".5", "6e7", "-0"]] * 5).replace(b"\n", b"\r\n"),
        gzip.compress(table([["1"] * 7] * 4000)),
    ],
    "npy": [
        npy(FLOATS),
        npy(np.asfortranarray(FLOATS.astype(np.float32))),
        npy(IMAGES),
        npy(np.array(3.5)),
        npy(FLOATS.astype(">f4")),
        npy(np.array([(1, 2.5, b"ab")], [("x", "<i4"), ("y", "<f8", (2,)), ("z", "S3")])),
        npy(np.array(["alpha", "beta"])),
        npy(np.array([True, False, True])),
        gzip.compress(npy(np.zeros((50, 50)))),
    ],
    "npz": [
        npz(np.savez, images=IMAGES, labels=LABELS),
        npz(np.savez_compressed, images=IMAGES, labels=LABELS, zeros=np.zeros((50, 50))),
        npz(np.savez_compressed, a=np.array(1.5), b=np.array(["x", "yz"])),
    ],
    "pickle": [
        *(pickle.dumps(MNIST, protocol) for protocol in range(6)),
        *(pickle.dumps({"a": [1, 2.5], "b": (np.float32(2), "text", b"bytes", 10**30), "c": FLOATS.T}, n) for n in (2, 5)),
        gzip.compress(pickle.dumps(MNIST, 2)),
        pickle.dumps([FLOATS, "x"], 2).replace(b"numpy._core", b"numpy.core"),
    ],
    "safetensors": [],
}  # fmt: skip
with contextlib.suppress(ImportError):
    from safetensors.numpy import load, save

    SEEDS["safetensors"] = [
        save({"weight": FLOATS.astype(np.float32), "bias": np.arange(7), "mask": np.array([True, False])}, {"by": "nobody"}),
        save({"images": IMAGES}),
        gzip.compress(save({"zeros": np.zeros((50, 50))})),
    ]

SEEDS["torch"] = []
with contextlib.suppress(ImportError):
    import torch

    for contents in [
        {"model": torch.nn.LSTM(3, 4).state_dict(), "epoch": 3, "best": torch.tensor(0.5)},
        [torch.arange(24).to(kind).reshape(4, 6).T[::2] for kind in (torch.bfloat16, torch.int64, torch.uint16)],
        {"mask": torch.tensor([True, False]), "c": torch.nn.Parameter(torch.ones(2, 1).expand(2, 9)), "none": torch.ones(0, 3)},
    ]:
        file = io.BytesIO()
        torch.save(contents, file)
        SEEDS["torch"].append(file.getvalue())

SEEDS["parquet"], SEEDS["arrow"] = [], []
with contextlib.suppress(ImportError):
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    COLUMNS = arrow.table(
        {
            "a": FLOATS[:, 0],
            "b": np.arange(40),
            "c": arrow.array([1, 2] * 20).dictionary_encode(),
            "d": arrow.array([True, False] * 20),
            "e": ["x", None] * 20,
        }
    )
    for packing in ("none", "snappy", "zstd", "gzip"):
        file = io.BytesIO()
        parquet.write_table(COLUMNS, file, compression=packing)
        SEEDS["parquet"].append(file.getvalue())
    for packing in (None, "lz4", "zstd"):
        for make in (arrow.ipc.new_file, arrow.ipc.new_stream):
            file = io.BytesIO()
            with make(file, COLUMNS.schema, options=arrow.ipc.IpcWriteOptions(compression=packing)) as writer:
                writer.write_table(COLUMNS, max_chunksize=25)
            SEEDS["arrow"].append(file.getvalue())

SEEDS["text"] = ["Grüße, 世界 🙂\n".encode() * 20, gzip.compress(b"\xef\xbb\xbfabc\n" * 50)]
SEEDS["codec"], SEEDS["image"] = [], []
with tempfile.TemporaryDirectory() as folder:
    CODECS = [character_codec("to be or not é"), word_codec("to be or not to be"), byte_codec(special=["[é]"])]
    with contextlib.suppress(ImportError):
        import tokenizers  # noqa: F401

        CODECS.append(train_bpe(["to be, or not to be é"] * 5, 270, special=["[CLS]", "«é»"]))
    for codec in CODECS:
        save_codec(codec, Path(folder, "codec")).run()
        SEEDS["codec"].append(Path(folder, "codec").read_bytes())
with contextlib.suppress(ImportError):
    import PIL.Image

    SMOOTH = PIL.Image.fromarray(np.add.outer(np.arange(0, 120, 5), np.arange(0, 108, 3)).astype(np.uint8)).convert("RGB")
    for format, mode, options in [
        *(("PNG", "RGB", {}), ("PNG", "P", {}), ("PNG", "RGBA", {}), ("PNG", "I;16", {}), ("JPEG", "RGB", {})),
        *(("JPEG", "L", {"progressive": True}), ("GIF", "P", {}), ("WEBP", "RGB", {}), ("BMP", "RGB", {}), ("PPM", "RGB", {})),
        *(("TIFF", "RGB", {"compression": packing}) for packing in ("raw", "tiff_lzw", "jpeg", "packbits")),
        ("TIFF", "L", {"compression": "tiff_deflate", "big_tiff": True}),
    ]:
        file = io.BytesIO()
        SMOOTH.convert("L").convert(mode).save(file, format, **options) if mode == "I;16" else SMOOTH.convert(mode).save(
            file, format, **options
        )
        SEEDS["image"].append(file.getvalue())

# ------------------------------------------------------------------------------- mutations

WORDS = [
    *(b"\0", b"\xff", b"\x7f", b"\x80", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\xc3"),
    *(
        b"0",
        b"1",
        b"2",
        b"9",
        b"-1",
        b"999999999999",
        b"2**60",
        b"e400",
        b"nan",
        b'"',
        b"\n",
        b",",
        b"(",
        b"[",
        b"}",
        b"]",
        b")",
    ),
    *(
        b"'O'",
        b"|O",
        b"S'O8'\n",
        b"q\1",
        b"h\1",
        EXPLOIT,
        b"\x8c\x02os\x8c\x06system\x93",
        b"__import__('os').system('touch pwned')",
    ),
]


def mutated(rng, raw, others):
    raw = bytearray(raw)
    for _ in range(1 if rng.random() < 0.6 else rng.integers(2, 6)):
        size = max(len(raw), 1)
        # Half of the time near the beginning, where the headers are.
        at = int(rng.integers(size if rng.random() < 0.5 else min(size, 130)))
        length = int(min(size, 2 ** rng.uniform(0, 9)))
        word = WORDS[rng.integers(len(WORDS))]
        match rng.integers(9):
            case 0 if raw:
                raw[at] ^= 1 << int(rng.integers(8))
            case 1 if raw:
                raw[at] = rng.integers(256)
            case 2:
                del raw[at:]
            case 3:
                del raw[at : at + length]
            case 4:
                raw[at:at] = raw[at : at + length]
            case 5:
                raw[at:at] = rng.bytes(length)
            case 6:
                raw[at : at + len(word)] = word
            case 7:
                raw[at:at] = word
            case _:
                other = others[rng.integers(len(others))]
                start = int(rng.integers(len(other)))
                raw[at : at + length] = other[start : start + length]
    return bytes(raw)


def mutant(rng, form):
    """A mutated file; a packed one is mutated in its packed form, or unpacked, mutated and packed again."""
    seeds = SEEDS[form]
    raw = seeds[rng.integers(len(seeds))]
    inside = rng.random() < 0.6
    if inside and raw[:2] == b"\x1f\x8b":
        return gzip.compress(mutated(rng, gzip.decompress(raw), seeds), 1)
    if inside and form == "npz":
        file = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                new.writestr(name, mutated(rng, old.read(name), SEEDS["npy"]) if rng.random() < 0.7 else old.read(name))
        return file.getvalue()
    if inside and form == "torch":
        file = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(file, "w") as new:
            pickles = [name for name in old.namelist() if name.endswith("data.pkl")]
            for name in old.namelist():
                new.writestr(name, mutated(rng, old.read(name), [old.read(pickles[0])]) if name in pickles else old.read(name))
        return file.getvalue()
    return mutated(rng, raw, seeds)


# ------------------------------------------------------------------------------- what is right, and how much is declared


def unpacked(raw):
    """As many bytes as there are, without a check of the rest."""
    if raw[:2] != b"\x1f\x8b":
        return raw
    with contextlib.suppress(zlib.error):
        return zlib.decompressobj(31).decompress(raw)
    return b""


def idx_declared(raw):
    if len(raw) < 4 or len(raw) < 4 + 4 * raw[3]:
        return 0
    return math.prod(struct.unpack(f">{raw[3]}I", raw[4 : 4 + 4 * raw[3]])) * 8


def npy_declared(raw):
    found = re.search(rb"'shape': *(\([0-9, ]*\))", raw[:20_000])
    kind = re.search(rb"'descr': *'([^']*)'", raw[:20_000])
    try:
        return math.prod(ast.literal_eval(found[1].decode())) * np.dtype(kind[1].decode()).itemsize
    except Exception:
        return 0


def npz_declared(raw):
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            return sum(max(npy_declared(archive.open(member).read(20_000)), member.file_size) for member in archive.infolist())
    except Exception:
        return 0


def npy_right(raw, found):
    want = np.load(io.BytesIO(raw), allow_pickle=False)
    np.testing.assert_array_equal(found, want)
    assert found.dtype == want.dtype.newbyteorder("=")


def npz_right(raw, found):
    with np.load(io.BytesIO(raw), allow_pickle=False) as want:
        assert sorted(want.files) == sorted(found)
        for name in want.files:
            np.testing.assert_array_equal(found[name], want[name])


def idx_right(raw, found):
    kind = np.dtype({8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}[raw[2]])
    assert found.shape == struct.unpack(f">{raw[3]}I", raw[4 : 4 + 4 * raw[3]])
    assert found.astype(kind).tobytes() == raw[4 + 4 * raw[3] :]


def csv_right(raw, found):
    rows = list(csv.reader(io.StringIO(raw.decode().removeprefix("\ufeff").rstrip("\r\n"), newline="\n"), strict=True))
    numbers = np.array([[float(cell) for cell in row] for row in rows[1:]])
    assert found.columns == tuple(rows[0][1:])
    np.testing.assert_array_equal(found.features, numbers[:, 1:].astype(np.float32))
    np.testing.assert_array_equal(found.label, numbers[:, 0])


NAMES = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy._core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,
    ("numpy._core.multiarray", "scalar"): np._core.multiarray.scalar,
    ("numpy._core.numeric", "_frombuffer"): np._core.numeric._frombuffer,
    ("_codecs", "encode"): codecs.encode,
    ("builtins", "bytes"): bytes,
    ("builtins", "complex"): complex,
}


class Reference(pickle._Unpickler):
    """Python's own unpickler, written in Python, of the few names that arrays need."""

    def find_class(self, module, name):
        module = module.replace("numpy.core.", "numpy._core.").replace("__builtin__", "builtins")
        return NAMES[module, name]


def pickle_right(raw, found):
    try:
        want = Reference(io.BytesIO(raw), encoding="latin1").load()
    except Exception as error:  # read_pickle may accept pickles that Python refuses: there is no value to compare
        REFUSED[f"{type(error).__name__}: {error}"[:80]] += 1
        return
    same(found, want)


REFUSED = Counter()


def same(found, want):
    match want:
        case tuple() | list() | dict():
            assert type(found) is type(want) and len(found) == len(want)
            if isinstance(want, dict):
                same(list(found.keys()), list(want.keys()))
                found, want = found.values(), want.values()
            for one, other in zip(found, want, strict=True):
                same(one, other)
        case np.ndarray():
            assert type(found) is np.ndarray and found.dtype == want.dtype.newbyteorder("="), (found, want)
            assert found.shape == want.shape
            assert found.tobytes() == want.astype(want.dtype.newbyteorder("=")).tobytes(), (found, want)
        case bytearray():  # arrays of protocol 5 have one inside; by itself it is read as bytes
            assert bytes(found) == bytes(want)
        case _:
            assert type(found) is type(want), (found, want)
            assert found == want or (found != found and want != want), (found, want)


def safetensors_right(raw, found):
    want = load(raw)
    assert want.keys() == found.keys()
    for name, array in want.items():
        assert (array.dtype, array.shape) == (found[name].dtype, found[name].shape)
        assert array.tobytes() == found[name].tobytes()


def torch_right(raw, found):
    try:
        want = torch.load(io.BytesIO(raw), weights_only=True)
    except Exception as error:  # read_torch accepts arrays of NumPy, and more opcodes
        REFUSED[f"{type(error).__name__}: {error}"[:80]] += 1
        return
    same_tensors(found, want)


def same_tensors(found, want):
    match want:
        case torch.Tensor():
            assert f"torch.{found.dtype}" == str(want.dtype) and found.shape == tuple(want.shape), (found, want)
            flat = torch.empty(want.numel(), dtype=want.dtype).copy_(want.detach().reshape(-1))
            assert found.tobytes() == flat.view(torch.uint8).numpy().tobytes(), (found, want)
        case tuple() | list() | dict():
            assert isinstance(want, type(found)) and len(found) == len(want)
            if isinstance(want, dict):
                same(list(found.keys()), list(want.keys()))
                found, want = found.values(), want.values()
            for one, other in zip(found, want, strict=True):
                same_tensors(one, other)
        case _:
            same(found, want)


WANTED = ["a", "b", "c", "d"]


def of_table(table):
    """The columns as float32, by pyarrow and NumPy."""
    columns = []
    for name in WANTED:
        column = table.column(name)
        if arrow.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        columns.append(np.array([float(x) for x in column.to_pylist()], np.float64).astype(np.float32))
    return np.stack(columns, 1)


def parquet_right(raw, found):
    assert found.columns == tuple(WANTED) and found.features.dtype == np.float32 and len(found.features)
    want = parquet.ParquetFile(arrow.BufferReader(raw)).read(WANTED, use_threads=False)
    np.testing.assert_array_equal(found.features, of_table(want))


def arrow_right(raw, found):
    assert found.columns == tuple(WANTED) and found.features.dtype == np.float32 and len(found.features)
    make = arrow.ipc.open_file if raw[:6] == b"ARROW1" else arrow.ipc.open_stream
    options = arrow.ipc.IpcReadOptions(included_fields=[0, 1, 2, 3], use_threads=False)
    try:
        with make(arrow.BufferReader(raw), options=options) as source:
            want = source.read_all()
    except (arrow.ArrowException, OSError) as error:
        REFUSED[f"{type(error).__name__}: {error}"[:80]] += 1
        return
    assert want.schema.names == WANTED
    np.testing.assert_array_equal(found.features, of_table(want))


def text_right(raw, found):
    assert found == raw.decode("utf-8-sig")


def codec_right(raw, found):
    """The result can be used, or fails typed."""
    for act in (
        lambda: found.encode("to be, or not to be é"),
        lambda: found.decode([0, 1, found.size - 1]),
        lambda: repr(found),
    ):
        with contextlib.suppress(FaultError):
            act()


def image_right(raw, found):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want = PIL.Image.open(io.BytesIO(raw))
        assert found.dtype == np.uint8 and found.ndim == 3 and found.shape[2] == 3
        assert found.shape[0] * found.shape[1] == want.width * want.height


FORMS = {
    "idx": (lambda path: read_idx(path, limit=LIMIT), idx_right, idx_declared),
    "csv": (lambda path: read_csv(path, label=0, limit=LIMIT), csv_right, len),
    "npy": (lambda path: read_npy(path, limit=LIMIT), npy_right, npy_declared),
    "npz": (lambda path: read_npz(path, limit=LIMIT), npz_right, npz_declared),
    "pickle": (lambda path: read_pickle(path, limit=LIMIT), pickle_right, lambda raw: 64 * len(raw)),
    "safetensors": (lambda path: read_safetensors(path, limit=LIMIT), safetensors_right, len),
    "torch": (lambda path: read_torch(path, limit=LIMIT), torch_right, lambda raw: 64 * len(raw)),
    "parquet": (lambda path: read_parquet(path, columns=WANTED, limit=LIMIT), parquet_right, len),
    "arrow": (lambda path: read_arrow(path, columns=WANTED, limit=LIMIT), arrow_right, len),
    "text": (lambda path: read_text(path, limit=LIMIT), text_right, len),
    "codec": (lambda path: read_codec(path, limit=LIMIT), codec_right, lambda raw: 64 * len(raw)),
    "image": (lambda path: read_image(path, limit=LIMIT), image_right, lambda raw: LIMIT),
}


def status(name):
    """A figure of this process, in bytes; 0 if the system does not report it."""
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(name))
    return 0


def reset_peak():
    """The memory in use now; the peak is reset to it."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "wb", buffering=0) as file:
        file.write(b"5")
    return status("VmRSS")


def try_one(form, raw, path):
    """The outcome of reading the file: `"read"`, or the name of a fault."""
    global seen
    program, right, declared = FORMS[form]
    path.write_bytes(raw)
    plain = unpacked(raw)
    most = min(max(declared(plain), len(plain)), LIMIT)
    resident = reset_peak()
    start, seen = time.perf_counter(), []
    tracemalloc.start()
    outcome = program(path).run(Runtime(log=None))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    took, ran, seen = time.perf_counter() - start, seen, None
    assert took < SECONDS, f"{took:.1f} seconds"
    grown = status("VmHWM") - resident
    assert grown <= 4 * LIMIT + 2**26, f"{grown:,} bytes where the limit is {LIMIT:,}"
    slack = BLOCK if form == "csv" else SLACK
    assert peak <= 4 * most + slack, f"{peak:,} bytes where {most:,} are declared"
    assert not ran, ran
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    if form == "npy" and raw[:2] != b"\x1f\x8b":
        mapped = map_npy(path).run(Runtime(log=None))
        assert is_successful(mapped) or isinstance(unsafe_perform_io(mapped.failure()), FileCorrupt)
    if is_successful(outcome):
        found = unsafe_perform_io(outcome.unwrap())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            right(plain if raw[:2] != b"\x1f\x8b" else gzip.decompress(raw), found)
        return "read"
    fault = unsafe_perform_io(outcome.failure())
    assert isinstance(fault, FileCorrupt | BadCell | TooLarge | OutOfMemory), fault
    assert str(path) in str(fault)
    str(fault).encode()
    assert len(str(fault)) < 2_000, len(str(fault))
    return type(fault).__name__


def try_many(form, count, folder, seed=0):
    path = folder / "mutated"
    bulk._arrow(b"1\n", 1)
    for name in ("cp437", "raw_unicode_escape", "unicode_escape", "latin_1", "ascii"):  # Python imports codecs on use
        codecs.lookup(name)
    for raw in SEEDS[form]:
        path.write_bytes(raw)
        FORMS[form][0](path).run()  # import now what reading would import
        assert try_one(form, raw, path) == "read"
    counts = Counter()
    for i in range(count):
        raw = mutant(np.random.default_rng([seed, *form.encode(), i]), form)
        try:
            counts[try_one(form, raw, path)] += 1
        except BaseException as error:
            error.add_note(f"{form}, seed {seed}, number {i}: {len(raw):,} bytes, {raw[:200]!r}...")
            raise
    return counts


APART = ("parquet", "arrow", "codec", "image")
"""Formats read by a library in C++ or Rust, which may end the process."""


def try_apart(form, count, seed=0):
    """As `try_many`, in a separate process, whose abort is a failure here."""
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run([sys.executable, __file__, str(count), str(seed), form], capture_output=True, text=True, env=here)
    if done.returncode:
        raise AssertionError(f"ended with status {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}")
    return Counter(ast.literal_eval(done.stdout.partition(" ")[2]))


def check(form, count, folder, seed=0):
    if not SEEDS[form]:
        pytest.skip("its extra is not installed")
    counts = try_apart(form, count, seed) if form in APART else try_many(form, count, folder, seed)
    assert counts["read"] < count
    assert counts["FileCorrupt"] + counts["BadCell"] > 0


@pytest.mark.broad
@pytest.mark.parametrize("form", FORMS)
def test_a_mutated_file_is_read_correctly_or_fails_typed(tmp_path, form):
    check(form, 50, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_thousands_of_mutated_files_are_read_correctly_or_fail_typed(tmp_path, form):
    check(form, 2_000, tmp_path, seed=1)


if __name__ == "__main__":
    total = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    faulthandler.enable()
    alone = sys.argv[3:]
    with tempfile.TemporaryDirectory() as folder:
        for form in alone or [form for form in FORMS if SEEDS[form]]:
            faulthandler.dump_traceback_later(3600, exit=True)
            each = total if alone else -(-total // len(FORMS))
            counts = try_apart(form, each, seed) if form in APART and not alone else try_many(form, each, Path(folder), seed)
            print(form, dict(counts), flush=True)
            if REFUSED:
                print("  of these, the reference refuses", dict(REFUSED), file=sys.stderr, flush=True)
