"""A limit bounds the memory of reading, whatever a file claims: four times the limit, plus 64 MiB."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from outcomes import fault
from returns.unsafe import unsafe_perform_io

from fnlamp import data
from fnlamp.fault import FileCorrupt, OutOfMemory, TooLarge

for package in ("PIL.Image", "pyarrow", "safetensors", "tokenizers"):
    pytest.importorskip(package)
if not os.path.exists("/proc/self/clear_refs"):
    pytest.skip("the peak of a process is read from /proc", allow_module_level=True)

HERE = Path(__file__).parent
MIB = 2**20
QUICK = [
    *(
        "npy subarray",
        "npz many members",
        "csv mixed",
        "pickle short strings",
        "pickle memo",
        "safetensors many arrays",
        "torch many axes",
    ),
    *("codec lists", "tokenizer of a huge id", "text, one emoji", "parquet lying page", "parquet empty structs", "arrow zeros"),
    *("png to grey", "png bomb"),
]


def check(limit, scale, names, seconds):
    command = [sys.executable, str(HERE / "hostile.py"), str(limit), str(scale), *names]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(HERE.parents[1])})
    assert done.returncode == 0, done.stderr[-4000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found and len(found) >= len(names)
    bad = [one for one in found if "ended" in one or one["peak"] > 4 * limit + 64 * MIB or one["seconds"] > seconds]
    assert not bad, (bad, done.stderr[-4000:])
    return found


@pytest.mark.slow
def test_memory_stays_within_four_times_the_limit():
    check(4 * MIB, 1, QUICK, 10)


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "scale"), [(4 * MIB, 1), (32 * MIB, 8)])
def test_memory_stays_within_four_times_any_limit(limit, scale):
    assert len(check(limit, scale, [], 30)) > 60


# ------------------------------------------------------------------------------- no memory left


def full(*arguments, **options):
    raise MemoryError


@pytest.mark.parametrize(
    ("reader", "raw", "where"),
    [
        (data.read_csv, b"a\n1\n", "fnlamp.data.readers.csv.np.concatenate"),
        (data.read_csv, b"a\n1\n", "fnlamp.data.readers.csv.parse"),
        (data.read_text, b"a", "fnlamp.data.text.store.read_all"),
        (data.read_codec, b"[]", "fnlamp.data.text.store.json.loads"),
        (data.read_pickle, b"\x80\x04N.", "fnlamp.data.readers.pickle.Machine"),
        (data.read_pickle, b"\x80\x04N.", "fnlamp.data.readers.machine._Values.value"),
        (data.read_safetensors, b"\2\0\0\0\0\0\0\0{}", "safetensors.deserialize"),
        (data.read_image, b"P5 2 1 255 ab", "PIL.Image.open"),
        (data.read_image, b"P5 2 1 255 ab", "fnlamp.data.readers.decode._pixels"),
        (data.read_idx, b"\0\0\x08\x01\0\0\0\1a", "numpy.empty"),
        (data.map_npy, "npy", "numpy.memmap"),
        (data.read_parquet, "parquet", "pyarrow.parquet.ParquetFile"),
    ],
)
def test_running_out_of_memory_is_a_fault(tmp_path, monkeypatch, reader, raw, where):
    path = tmp_path / "file"
    if raw == "parquet":
        data_frame = pytest.importorskip("pyarrow").table({"a": [1.0]})
        pytest.importorskip("pyarrow.parquet").write_table(data_frame, path)
    elif raw == "npy":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    else:
        path.write_bytes(raw)
    monkeypatch.setattr(where, full)
    found = fault(reader(path))
    assert isinstance(found, OutOfMemory) and found.path == str(path) and "memory" in str(found)


# ------------------------------------------------------------------------------- shapes of NPY files


def npy(descr, shape, raw):
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + raw


@pytest.mark.parametrize("descr", ["(2,3)<f4", "(3,)u1", ("<f4", (2, 3)), "(1,2)<f8", "(2,2,2)<c8"])
@pytest.mark.parametrize("reader", [data.read_npy, data.map_npy])
def test_a_dtype_with_its_own_shape_is_refused(tmp_path, descr, reader):
    size = np.dtype(descr).itemsize
    (tmp_path / "a.npy").write_bytes(npy(descr, "(5,)", bytes(5 * size)))
    with pytest.raises(ValueError):  # as NumPy does
        np.load(tmp_path / "a.npy")
    found = fault(reader(tmp_path / "a.npy"))
    assert isinstance(found, FileCorrupt) and "dtype" in str(found)


def test_a_field_with_its_own_shape_is_read_as_numpy_reads_it(tmp_path):
    records = np.zeros(3, [("x", "<i2"), ("y", ">f4", (2, 3)), ("z", [("w", "u1", (2,))])])
    records["y"] = np.arange(18).reshape(3, 2, 3)
    np.save(tmp_path / "a.npy", records)
    found = unsafe_perform_io(data.read_npy(tmp_path / "a.npy").run().unwrap())
    assert found.dtype.shape == () and found["y"].shape == (3, 2, 3)
    np.testing.assert_array_equal(found["y"], np.load(tmp_path / "a.npy")["y"])


def test_many_small_pages_and_columns_are_read_correctly(tmp_path):
    parquet, arrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    rng = np.random.default_rng(0)
    columns = {f"c{i}": rng.normal(size=2_000) for i in range(20)} | {"k": rng.integers(0, 5, 2_000)}
    for version in ("1.0", "2.0"):
        for compression in ("none", "snappy", "gzip", "zstd", "lz4", "brotli"):
            options = {"compression": compression, "data_page_version": version, "data_page_size": 512, "row_group_size": 300}
            parquet.write_table(arrow.table(columns), tmp_path / "t", **options)
            program = data.read_parquet(tmp_path / "t", columns=["c3", "c19", "c0"], label="k", dtype=np.float64, limit=10**6)
            table = unsafe_perform_io(program.run().unwrap())
            np.testing.assert_array_equal(table.features, np.stack([columns[name] for name in ("c3", "c19", "c0")], 1))
            np.testing.assert_array_equal(table.label, columns["k"])


def test_a_schema_that_repeats_itself_is_too_large(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    schema = arrow.schema([(str(i), arrow.float64()) for i in range(40_000)])
    with arrow.ipc.new_stream(str(tmp_path / "s"), schema):
        pass
    assert isinstance(fault(data.read_arrow(tmp_path / "s", limit=2**20)), TooLarge)


@pytest.mark.parametrize("failing", [10**9, 1, 2])
def test_a_table_is_read_if_no_thread_can_be_started(tmp_path, monkeypatch, failing):
    """Never, or only later."""
    (tmp_path / "a.csv").write_text("a\n" + "".join(f"{i}\n" for i in range(200_000)))
    start, tries = threading.Thread.start, []

    def none_left(thread):
        tries.append(thread)
        if len(tries) <= failing:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr("threading.Thread.start", none_left)
    table = unsafe_perform_io(data.read_csv(tmp_path / "a.csv", dtype=np.float64).run().unwrap())
    np.testing.assert_array_equal(table.features[:, 0], np.arange(200_000.0))
    assert tries
