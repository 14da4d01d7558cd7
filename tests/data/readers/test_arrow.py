"""The readers of Parquet and Arrow files against pyarrow's and pandas' writers."""

from __future__ import annotations

import datetime
import decimal
import gzip
import io
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from outcomes import fault, value
from returns.pipeline import is_successful
from returns.unsafe import unsafe_perform_io

from fnlamp.data import read_arrow, read_csv, read_parquet
from fnlamp.fault import BadCell, ExtraMissing, FileCorrupt, FileMissing, TooLarge

arrow = pytest.importorskip("pyarrow")
feather = pytest.importorskip("pyarrow.feather")
parquet = pytest.importorskip("pyarrow.parquet")


def as_parquet(table, **options):
    file = io.BytesIO()
    parquet.write_table(table, file, **options)
    return file.getvalue()


def as_feather(table, **options):
    file = io.BytesIO()
    feather.write_feather(table, file, **options)
    return file.getvalue()


def as_ipc(table, whole, rows=7, **options):
    file = io.BytesIO()
    with (arrow.ipc.new_file if whole else arrow.ipc.new_stream)(file, table.schema, **options) as writer:
        writer.write_table(table, max_chunksize=rows)
    return file.getvalue()


FORMATS = {
    "parquet": (read_parquet, as_parquet),
    "parquet, row groups, zstd": (read_parquet, lambda table: as_parquet(table, row_group_size=5, compression="zstd")),
    "feather": (read_arrow, as_feather),
    "feather, plain": (read_arrow, lambda table: as_feather(table, compression="uncompressed")),
    "file": (read_arrow, lambda table: as_ipc(table, True)),
    "stream": (read_arrow, lambda table: as_ipc(table, False)),
}


@pytest.fixture(params=FORMATS)
def form(request, tmp_path):
    """A function that writes a table, in one of the formats, and gives the program that reads it."""
    reader, writer = FORMATS[request.param]

    def read(table, **options):
        (tmp_path / "file").write_bytes(writer(arrow.table(table)))
        return reader(tmp_path / "file", **options)

    read.path = str(tmp_path / "file")
    return read


KINDS = ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"]
COLUMN = st.sampled_from(KINDS).flatmap(
    lambda kind: hnp.arrays(kind, 9, elements={"allow_nan": False, "allow_infinity": False} if kind[0] == "f" else None)
)


@pytest.mark.parametrize("name", FORMATS)
@given(st.lists(COLUMN, min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_numbers_of_every_kind_are_read(tmp_path_factory, name, columns):
    reader, writer = FORMATS[name]
    path = tmp_path_factory.mktemp("arrow") / "file"
    path.write_bytes(writer(arrow.table({f"c{i}": column for i, column in enumerate(columns)})))
    read = value(reader(path, dtype=np.float64))
    assert read.columns == tuple(f"c{i}" for i in range(len(columns)))
    np.testing.assert_array_equal(read.features, np.stack(columns, 1).astype(np.float64))


def test_the_same_table_as_csv(form, tmp_path):
    rng = np.random.default_rng(0)
    columns = {"a": rng.normal(size=20), "kind": rng.integers(0, 3, 20), "b": rng.integers(0, 256, 20)}
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    (tmp_path / "t.csv").write_text("a,kind,b\n" + "".join(",".join(map(repr, row)) + "\n" for row in rows))
    for label in ("kind", 1):
        want, got = value(read_csv(tmp_path / "t.csv", label=label)), value(form(columns, label=label))
        assert got.columns == want.columns
        assert got.features.tobytes() == want.features.tobytes()
        assert got.features.dtype == np.float32
        np.testing.assert_array_equal(got.label, want.label)
        assert got.label.dtype == np.int32


def test_only_the_selected_columns_are_checked(form):
    table = {"a": [1, 2], "name": ["x", "y"], "b": [3.5, None], "a.b": [5, 6], "kind": [0, 1]}
    read = value(form(table, columns=["a.b", "a"], label="kind"))
    assert read.columns == ("a.b", "a")
    np.testing.assert_array_equal(read.features, [[5, 1], [6, 2]])
    np.testing.assert_array_equal(read.label, [0, 1])
    assert value(form(table, columns=[], label=4)).features.shape == (2, 0)
    np.testing.assert_array_equal(value(form(table, columns=["kind"], label="kind")).features, [[0], [1]])


def test_decimals_categories_and_booleans_are_numbers(form):
    table = {
        "a": arrow.array([decimal.Decimal("1.25"), decimal.Decimal("-2.50")]),
        "b": arrow.array([7, 8]).dictionary_encode(),
        "c": arrow.array([True, False]),
    }
    np.testing.assert_array_equal(value(form(table)).features, [[1.25, 7, 1], [-2.5, 8, 0]])


@pytest.mark.parametrize(
    ("column", "row", "actual"),
    [
        ([1.5, None, None], 2, "a null"),
        ([1, 2, None], 3, "a null"),
        ([1.5, float("nan"), 0.0], 2, "nan"),
        ([float("-inf"), 1.0, 0.0], 1, "-inf"),
        (["1", "2", "3"], 1, "one of the type string"),
        ([None, "2", "3"], 1, "one of the type string"),
        ([None, None, None], 1, "one of the type null"),
        ([b"1", b"2", b"3"], 1, "one of the type binary"),
        ([[1], [2], [3]], 1, "one of the type list<"),
        ([{"x": 1}, {"x": 2}, {"x": 3}], 1, "one of the type struct<"),
        ([datetime.date(2020, 1, 2)] * 3, 1, "one of the type date32[day]"),
        ([1.0, 1e39, 2.0], 2, "a larger one"),
    ],
)
def test_a_cell_that_is_not_a_number_is_named_by_row_and_column(form, column, row, actual):
    found = fault(form({"good": [1, 2, 3], "bad": column}))
    assert isinstance(found, BadCell), found
    assert (found.path, found.row, found.column) == (form.path, row, "bad")
    assert found.actual.startswith(actual)


@pytest.mark.parametrize(("column", "row"), [([0.0, 1.5, 2.0], 2), ([0, 1, 3_000_000_000], 3)])
def test_a_label_is_a_whole_number(form, column, row):
    found = fault(form({"x": [1, 2, 3], "label": column}, label="label"))
    assert isinstance(found, BadCell)
    assert (found.row, found.column) == (row, "label")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"label": "c"}, "'c' for the labels, got the columns a, b"),
        ({"label": 2}, "2 for the labels"),
        ({"columns": ["a", "c"]}, "one column 'c', got the columns a, b"),
    ],
)
def test_a_missing_column(form, options, says):
    found = fault(form({"a": [1], "b": [2]}, **options))
    assert isinstance(found, FileCorrupt)
    assert says in str(found)


def test_no_rows(form):
    assert "at least one row" in str(fault(form({"a": np.zeros(0)})))


def test_the_same_name_twice(tmp_path):
    twice = arrow.Table.from_arrays([arrow.array([1]), arrow.array([2])], names=["a", "a"])
    for reader, raw in [
        (read_parquet, as_parquet(twice)),
        (read_arrow, as_ipc(twice, True)),
        (read_arrow, as_ipc(twice, False)),
    ]:
        (tmp_path / "file").write_bytes(raw)
        assert "different names" in str(fault(reader(tmp_path / "file")))


def test_other_files_are_corrupt(tmp_path):
    path = tmp_path / "file"
    for raw, says in [(b"", "an empty file"), (b"a,b\n1,2\n", "61 2c 62 0a"), (gzip.compress(b"x"), "78")]:
        path.write_bytes(raw)
        for reader in (read_parquet, read_arrow):
            found = fault(reader(path))
            assert isinstance(found, FileCorrupt)
            assert says in str(found)
    for reader in (read_parquet, read_arrow):
        assert isinstance(fault(reader(tmp_path / "nowhere")), FileMissing)
        assert isinstance(fault(reader(tmp_path)), FileMissing)


def test_the_limit(form):
    assert isinstance(fault(form({"a": np.arange(1000.0)}, limit=3999)), TooLarge)
    assert value(form({"a": np.arange(1000.0)}, limit=10**5)).features.shape == (1000, 1)


def test_a_run_of_one_value_is_counted_by_its_rows(tmp_path):
    raw = as_parquet(arrow.table({"a": np.zeros(1_000_000)}))
    assert len(raw) < 20_000
    (tmp_path / "file").write_bytes(raw)
    assert fault(read_parquet(tmp_path / "file", limit=10**6)) == TooLarge(str(tmp_path / "file"), 10**6, 8 * 10**6)


def test_a_packed_file_is_read(tmp_path):
    for reader, writer in FORMATS.values():
        (tmp_path / "file").write_bytes(gzip.compress(writer(arrow.table({"a": [1.5, 2.5]}))))
        np.testing.assert_array_equal(value(reader(tmp_path / "file")).features, [[1.5], [2.5]])


BOMBS = {
    "feather": (read_arrow, as_feather, np.zeros(8_000_000)),
    "stream": (
        read_arrow,
        lambda table: as_ipc(table, False, rows=10**6, options=arrow.ipc.IpcWriteOptions(compression="zstd")),
        np.zeros(8_000_000),
    ),
    "strings": (
        read_parquet,
        lambda table: as_parquet(table, compression="zstd", store_schema=False),
        arrow.DictionaryArray.from_arrays(arrow.array([0] * 64), arrow.array(["x" * 1_000_000])),
    ),
    "dictionary of Arrow": (
        read_arrow,
        lambda table: as_ipc(table, True, options=arrow.ipc.IpcWriteOptions(compression="zstd")),
        arrow.DictionaryArray.from_arrays(arrow.array([0, 1]), arrow.array(np.zeros(4_000_000))),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_more_than_the_limit_is_refused_before_it_is_unpacked(tmp_path, name):
    reader, writer, column = BOMBS[name]
    (tmp_path / "file").write_bytes(writer(arrow.table({"a": column, "b": np.zeros(len(column))})))
    value(reader(tmp_path / "file", columns=["b"], limit=None))
    code = f"""
import pyarrow
from fnlamp import data
before = pyarrow.default_memory_pool().max_memory() or 0
print(data.{reader.__name__}({str(tmp_path / "file")!r}, columns=["a"], limit=10**6).run().failure())
assert pyarrow.default_memory_pool().max_memory() - before < 3 * 10**6, pyarrow.default_memory_pool().max_memory()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ("one of the type string" if name == "strings" else "at most 1,000,000 bytes") in done.stdout


@pytest.mark.slow
def test_other_columns_of_an_arrow_file_are_not_unpacked(tmp_path):
    columns = {"a": np.zeros(4_000_000), "b": np.arange(4e6, dtype=np.float32)}
    feather.write_feather(arrow.table(columns), tmp_path / "file", compression="zstd")
    before = arrow.default_memory_pool().bytes_allocated()
    code = f"""
import pyarrow
from fnlamp import data
print(data.read_arrow({str(tmp_path / "file")!r}, columns=["b"]).run().unwrap())
assert pyarrow.default_memory_pool().max_memory() < 40_000_000, pyarrow.default_memory_pool().max_memory()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert before == arrow.default_memory_pool().bytes_allocated()


def test_a_file_whose_list_of_batches_differs_is_corrupt(tmp_path):
    raw = as_ipc(arrow.table({"a": np.arange(20.0)}), True)
    assert raw.count(b"\xff\xff\xff\xff\0\0\0\0") == 1
    at = raw.index(b"\xff\xff\xff\xff", raw.index(b"\xff\xff\xff\xff", 300) + 4)
    (tmp_path / "file").write_bytes(raw[:at] + b"\xff\xff\xff\xff\0\0\0\0" + raw[at + 8 :])  # the stream ends early
    assert "its end lists" in str(fault(read_arrow(tmp_path / "file")))


@pytest.mark.parametrize("label", [1, np.int64(1), np.array(1)])
def test_a_position_is_any_integer(form, label):
    np.testing.assert_array_equal(value(form({"a": [1, 2], "b": [3, 4]}, label=label)).label, [3, 4])


@pytest.mark.parametrize("name", FORMATS)
def test_a_mutated_file_reads_or_fails_typed(tmp_path, name):
    reader, writer = FORMATS[name]
    good = writer(arrow.table({"a": np.arange(20.0), "b": np.arange(20) % 3}))
    rng = np.random.default_rng(0)
    kinds = set()
    for _ in range(60):
        raw = bytearray(good)
        for _ in range(rng.integers(1, 4)):
            raw[rng.integers(len(raw))] = rng.integers(256)
        (tmp_path / "file").write_bytes(raw[: rng.integers(len(raw))] if rng.random() < 0.3 else raw)
        outcome = reader(tmp_path / "file", label="b", limit=10**6).run()
        if is_successful(outcome):
            assert unsafe_perform_io(outcome.unwrap()).features.shape == (20, 1)
        else:
            found = unsafe_perform_io(outcome.failure())
            assert isinstance(found, FileCorrupt | BadCell | TooLarge)
            kinds.add(type(found))
    assert FileCorrupt in kinds


def test_wrong_options_are_bugs_and_a_missing_package_is_a_fault(form, monkeypatch):
    with pytest.raises(TypeError):
        form({"a": [1]}, dtype=np.int32)
    with pytest.raises(TypeError):
        form({"a": [1]}, label=True)
    with pytest.raises(TypeError, match=r"give \['length'\]"):
        form({"length": [1]}, columns="length")
    program = form({"a": [1]})
    for module in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, module, None)
    assert fault(program) == ExtraMissing("pyarrow", "tables")
