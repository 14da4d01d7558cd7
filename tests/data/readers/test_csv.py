"""The CSV reader against literals and Python's own csv module."""

from __future__ import annotations

import csv as standard
import gzip
import io
import os
import tracemalloc
from pathlib import Path

import numpy as np
import outcomes
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from returns.pipeline import is_successful
from returns.unsafe import unsafe_perform_io

from fnlamp.data import read_csv, read_idx
from fnlamp.data.readers import bulk
from fnlamp.fault import BadCell, FileCorrupt, FileMissing, TooLarge


@pytest.fixture(params=["numpy", "pyarrow"], autouse=True)
def engine(request, monkeypatch):
    """With pyarrow also for the smallest table, and without it."""
    monkeypatch.setattr(bulk, "_MANY", 0)
    if request.param == "numpy":
        monkeypatch.setattr(bulk, "_arrow", lambda lines, count: None)


@pytest.fixture
def write(tmp_path):
    def write(raw, name="table.csv"):
        path = tmp_path / name
        path.write_bytes(raw if isinstance(raw, bytes) else raw.encode())
        return path

    return write


def table(path, **options):
    return outcomes.value(read_csv(path, **options))


def fault(path, **options):
    return outcomes.fault(read_csv(path, **options))


def test_header_label_and_numbers(write):
    read = table(write("a,label,b\n1,7,2.5\n-3e2,0,.5\n"), label="label")
    assert read.columns == ("a", "b")
    np.testing.assert_array_equal(read.features, np.array([[1, 2.5], [-300, 0.5]], np.float32))
    assert read.features.dtype == np.float32
    np.testing.assert_array_equal(read.label, [7, 0])
    assert read.label.dtype == np.int32
    assert repr(read) == "<Table: 2 rows of 2 float32 columns, labelled>"


def test_without_header_the_label_has_a_position(write):
    read = table(write("7,1,2\n8,3,4\n"), header=False, label=0, dtype=np.float64)
    assert (read.columns, read.features.dtype) == (("1", "2"), np.float64)
    np.testing.assert_array_equal(read.features, [[1, 2], [3, 4]])
    np.testing.assert_array_equal(read.label, [7, 8])


@pytest.mark.parametrize(
    "raw",
    [
        "a,b\n1,2\n3,4\n",
        "a,b\n1,2\n3,4",
        "a,b\r\n1,2\r\n3,4\r\n",
        "\ufeffa,b\n1,2\n3,4\n\n\n",
        '"a","b"\n"1","2"\n3,4\n',
        "a,b\n 1, 2\n3 ,4\n",
        "a,b\n1.0,2e0\n+3,0.4e1\n",
    ],
)
def test_one_table_in_many_spellings(write, raw):
    read = table(write(raw))
    assert read.columns == ("a", "b")
    np.testing.assert_array_equal(read.features, [[1, 2], [3, 4]])


def test_a_packed_file_and_tabs(write):
    read = table(write(gzip.compress(b"a\ttarget\n1\t0\n2\t1\n"), "table.tsv.gz"), separator="\t", label="target")
    np.testing.assert_array_equal(read.features, [[1], [2]])


def test_a_row_limit_reads_no_further(write):
    path = write("a,b\n1,2\n3,4\nnot,read\n")
    np.testing.assert_array_equal(table(path, rows=2).features, [[1, 2], [3, 4]])
    np.testing.assert_array_equal(table(write("1,2\n3,4\nx"), header=False, rows=1).features, [[1, 2]])
    assert len(table(write("a\n1\n"), rows=100).features) == 1


@pytest.mark.parametrize(
    ("raw", "row", "column", "actual"),
    [
        ("a,b\n1,2\n3\n", 3, None, "1"),
        ("a,b\n1,2,3\n4\n", 2, None, "3"),  # as many cells as two correct rows
        ("a,b\n1,2\n\n3,4\n", 3, None, "0"),
        ("a,b\n1,x\n", 2, "b", "'x'"),
        ("a,b\n1,\n", 2, "b", "an empty cell"),
        ("a,b\n,1\n", 2, "a", "an empty cell"),
        ("a,b\n1,2\n3,nan\n", 3, "b", "'nan'"),
        ("a,b\n1,inf\n", 2, "b", "'inf'"),
        ("a,b\n1,1e999\n", 2, "b", "'1e999'"),
        ("a,b\n1,1_000\n", 2, "b", "'1_000'"),
        ("a,b\n1,0x10\n", 2, "b", "'0x10'"),
        ("a,b\n1,2 3\n", 2, "b", "'2 3'"),
        ("a,b\n1,1-2\n", 2, "b", "'1-2'"),
        ("a,b\n1,1.2.3\n", 2, "b", "'1.2.3'"),
        ("a,b\n1,\u0663\n", 2, "b", "'\u0663'"),
        ("a,b\n1,1e39\n", 2, "b", "a larger one"),
    ],
)
def test_a_bad_cell_is_named_by_row_and_column(write, raw, row, column, actual):
    path = write(raw)
    found = fault(path)
    assert isinstance(found, BadCell), found
    assert (found.path, found.row, found.column, found.actual) == (str(path), row, column, actual)


def test_without_header_rows_and_columns_count_from_one(write):
    found = fault(write("1,2\n3,x\n"), header=False)
    assert (found.row, found.column) == (2, 2)


@pytest.mark.parametrize("cell", ["1.5", "3e9"])
def test_a_label_is_a_whole_number(write, cell):
    found = fault(write(f"label,a\n0,1\n{cell},1\n"), label="label")
    assert isinstance(found, BadCell)
    assert (found.row, found.column) == (3, "label")


@pytest.mark.parametrize(
    ("raw", "options", "says"),
    [
        ("", {}, "an empty file"),
        ("a,b\n", {}, "a header only"),
        ("a,b\n1,2\n", {"label": "c"}, "'c' for the labels, got the columns a, b"),
        ("a,a\n1,2\n", {"label": "a"}, "one column 'a' for the labels, got 2 of them"),
        ("1,2\n", {"label": 2, "header": False}, "2 for the labels"),
        (b"a,b\n1,\xff\n", {}, "the byte 0xff in"),
        (
            'a,b"\n1,"2"\n3,4\n5,6\n',
            {},
            "a quote inside an unquoted name",
        ),  # its first row would be read as a part of the names
        ('a,b"\n1,2\n3,4\n', {}, "RFC 4180"),
        (gzip.compress(b"a,b\n1,2\n", mtime=0)[:-5], {}, "gzip"),
    ],
)
def test_a_file_that_is_not_a_table_is_corrupt(write, raw, options, says):
    found = fault(write(raw), **options)
    assert isinstance(found, FileCorrupt), found
    assert says in str(found)


def test_a_missing_file(tmp_path):
    assert isinstance(fault(tmp_path / "nowhere.csv"), FileMissing)


def test_wrong_arguments_are_bugs():
    with pytest.raises(ValueError, match="rows"):
        read_csv("x", rows=0)
    with pytest.raises(ValueError, match="separator"):
        read_csv("x", separator="..")


NUMBERS = st.lists(
    st.lists(st.floats(-1e30, 1e30) | st.integers(-(10**9), 10**9), min_size=3, max_size=3), min_size=1, max_size=8
)


@given(NUMBERS, st.sampled_from([standard.QUOTE_MINIMAL, standard.QUOTE_ALL]), st.sampled_from(["\n", "\r\n"]))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_the_standard_library_writes_is_read(tmp_path_factory, numbers, quoting, end):
    text = io.StringIO()
    standard.writer(text, quoting=quoting, lineterminator=end).writerows([["a", "b", "c"], *numbers])
    path = tmp_path_factory.mktemp("csv") / "table.csv"
    path.write_bytes(text.getvalue().encode())
    np.testing.assert_array_equal(table(path, dtype=np.float64).features, np.array(numbers, np.float64))


TABLE = b"label,a\n" + b"".join(b"%d,%d.5\n" % (i, 3 * i) for i in range(9))


@given(st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_mutated_file_reads_or_fails_typed(tmp_path_factory, data):
    raw = bytearray(data.draw(st.sampled_from([TABLE, gzip.compress(TABLE, mtime=0)])))
    for _ in range(data.draw(st.integers(0, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("csv") / "mutated"
    path.write_bytes(bytes(raw[: data.draw(st.integers(0, len(raw)))]))
    outcome = read_csv(path, label=0).run()
    assert is_successful(outcome) or isinstance(unsafe_perform_io(outcome.failure()), FileCorrupt | BadCell)


def test_nothing_is_opened_before_run(tmp_path):
    path = tmp_path / "late.csv"
    program = read_csv(path)
    path.write_bytes(TABLE)
    assert unsafe_perform_io(program.run().unwrap()).features.shape == (9, 2)


FLOWERS = "id,length,width,name,kind\nx1,5.1,3.5,a rose,1\nx2,4.9,,a lily,0\n,1e400,2.5,,1\n"


def test_only_the_selected_columns_are_checked(write):
    read = table(write(FLOWERS), columns=["width"], label="kind", rows=1)
    assert (read.columns, read.features.tolist(), read.label.tolist()) == (("width",), [[3.5]], [1])
    assert table(write(FLOWERS), columns=["kind"], label=4).features.tolist() == [[1], [0], [1]]
    assert table(write(FLOWERS), columns=[], label="kind").features.shape == (3, 0)
    for columns, row, column in [(["width"], 3, "width"), (["kind", "length"], 4, "length"), (["id"], 2, "id")]:
        found = fault(write(FLOWERS), columns=columns)
        assert isinstance(found, BadCell)
        assert (found.row, found.column) == (row, column)


@pytest.mark.slow
@pytest.mark.parametrize("before", [0, 3, 100_000])
@pytest.mark.parametrize("after", [0, 3])
def test_a_cell_that_spans_lines_is_a_fault_wherever_it_is(write, before, after):
    path = write("n,a\n" + "w,1\n" * before + '"x\ny",2\n' + "z,3\n" * after)
    found = fault(path, columns=["a"])
    assert isinstance(found, BadCell)
    assert found.row == 2 + before
    assert "a quote that is closed on its line" in str(found)
    assert before == 0 or table(path, columns=["a"], rows=before).features.sum() == before


@pytest.mark.slow
def test_other_columns_are_not_kept(write):
    numbers = np.arange(2_000_000).reshape(20_000, 100)
    path = write("\n".join([",".join(f"c{i}" for i in range(100)), *(",".join(map(str, row)) for row in numbers.tolist()), ""]))
    tracemalloc.start()
    read = table(path, columns=["c7"], label="c3")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(read.features[:, 0], numbers[:, 7])
    np.testing.assert_array_equal(read.label, numbers[:, 3])
    assert peak < numbers.nbytes / 2


def test_columns_are_in_the_requested_order(write):
    numbers = np.arange(60).reshape(10, 6)
    raw = "\n".join([",".join("abcdef"), *(",".join(map(str, row)) for row in numbers), ""])
    for columns in ("abcdef", "fedcba", "bcd", "efab", "d", "aca"):
        read = table(write(raw), columns=list(columns), label="b")
        assert read.columns == tuple(columns)
        np.testing.assert_array_equal(read.features, numbers[:, ["abcdef".index(c) for c in columns]])
        np.testing.assert_array_equal(read.label, numbers[:, 1])
    plain = write(raw.split("\n", 1)[1], "plain.csv")
    np.testing.assert_array_equal(table(plain, columns=["5", "0"], header=False).features, numbers[:, [5, 0]])


def test_a_number_too_large_is_named_by_its_column_in_the_file(write):
    found = fault(write("a,b,c\n1,2,3\n1,2,1e39\n"), columns=["c", "a"])
    assert (found.row, found.column) == (3, "c")
    found = fault(write("1,2,3\n1,2,1e39\n"), columns=["2", "0"], header=False)
    assert (found.row, found.column) == (2, 3)


@pytest.mark.parametrize(
    ("columns", "says"), [(["d"], "one column 'd', got the columns a, b, a"), (["a"], "one column 'a', got 2 of them")]
)
def test_a_missing_or_repeated_column_is_a_fault(write, columns, says):
    assert says in str(fault(write("a,b,a\n1,2,3\n"), columns=columns))
    assert table(write("a,b,a\n1,2,3\n"), columns=["b"]).features.tolist() == [[2]]


@pytest.mark.parametrize("blocks", [1, 3])
def test_one_strange_row_in_a_long_file_changes_no_other(write, blocks):
    rows = [[i, i / 8, -i] for i in range(40_000)]  # some 700 kB: several blocks
    lines = [",".join(map(repr, row)) for row in rows]
    plain = table(write("\n".join(["a,b,c", *lines])), dtype=np.float64)
    np.testing.assert_array_equal(plain.features, np.array(rows))
    for at in range(0, 40_000, 40_000 // blocks):
        lines[at] = '"{}", {} ,{}'.format(*lines[at].split(","))
    strange = table(write("\n".join(["a,b,c", *lines])), dtype=np.float64)
    np.testing.assert_array_equal(strange.features, plain.features)
    lines[39_998] = "1,2,x"
    found = fault(write("\n".join(["a,b,c", *lines])))
    assert (found.row, found.column) == (40_000, "c")


def test_a_quoted_header_may_span_lines(write):
    read = table(write('"a\nb","c ""d"""\r\n1,2\r\n3,4\r\nx'), rows=2)
    assert read.columns == ("a\nb", 'c "d"')
    np.testing.assert_array_equal(read.features, [[1, 2], [3, 4]])


@pytest.mark.parametrize("mark", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\0", "\xa0"])
def test_only_a_line_feed_ends_a_row(write, mark):
    assert isinstance(fault(write(f"a,b\n1,2{mark}3,4\n")), BadCell)
    assert isinstance(fault(write(f"a,b\n1,2{mark}\n")), BadCell)


def test_a_carriage_return_alone_does_not_end_a_row(write):
    found = fault(write("a,b\n1,2\r3,4\n"))
    assert str(found).endswith("row 2: expected rows that end with a line feed, got a carriage return by itself")


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ('a,b\n1,2\n1,"2\n', "row 3: expected a quote that is closed on its line, got one that is not"),
        ('a,b\n1,2\n"1\n",2\n', "row 3: expected a quote that is closed on its line, got one that is not"),
        ('a,b\n1,2\n"1\n",2\n3,4\n', "row 3: expected a quote that is closed on its line, got one that is not"),
        ('a,b\n1,2\n"1"2,3\n', "row 3: expected a separator after a closing quote, got something else"),
        ("a\n" + "1" * 140_000 + "\n", "row 2: expected a cell of at most 131,072 characters, got a longer one"),
        ("a,b\r1,2\r", "row 1: expected rows that end with a line feed, got a carriage return by itself"),
    ],
)
def test_malformed_quotes_and_line_ends_are_named_by_their_row(write, raw, says):
    found = fault(write(raw))
    assert isinstance(found, BadCell)
    assert str(found).endswith(says)


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("raw", [b'"' + b"a\n" * 2_000_000, b"1," * 2_000_000 + b"1\n", b"a\n" + b"12," * 1_300_000 + b"1\n"])
def test_a_table_of_another_form_takes_at_most_four_times_its_bytes(write, raw, header):
    path = write(gzip.compress(raw, 1))
    tracemalloc.start()
    found = fault(path, header=header)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(found, BadCell | FileCorrupt)
    assert peak < 4 * len(raw) + 2**20, f"{peak:,}"


def test_a_wide_table_is_read(write):
    read = table(write(",".join(["12"] * 200_000) + "\n"), header=False)
    assert read.features.shape == (1, 200_000) and read.columns[-1] == "199999"


@pytest.mark.parametrize("label", [1, np.int64(1), np.array(1)])
def test_a_position_is_any_integer(write, label):
    np.testing.assert_array_equal(table(write("a,b\n1,2\n"), label=label).label, [2])


def test_a_blank_first_line_is_named(write):
    found = fault(write("\n1,2\n"))
    assert (found.row, found.actual) == (1, "a blank line")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"dtype": np.int8}, TypeError),  # 300 would become 44
        ({"dtype": str}, TypeError),
        ({"label": True}, TypeError),
        ({"separator": "\u00a7"}, ValueError),
        ({"separator": "-"}, ValueError),
    ],
)
def test_options_that_could_make_wrong_numbers_are_bugs(options, error):
    with pytest.raises(error):
        read_csv("x", **options)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_both_engines_give_the_same_bits(write, monkeypatch, dtype):
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(2_000, 7)) * 10.0 ** rng.integers(-300, 30, (2_000, 7)) * rng.integers(0, 2, (2_000, 7))
    path = write("\n".join(["a,b,c,d,e,f,g", *(",".join(map(repr, row)) for row in numbers.tolist())]))
    one = table(path, dtype=dtype).features
    monkeypatch.setattr(bulk, "_arrow", lambda lines, count: None)
    other = table(path, dtype=dtype).features
    assert one.tobytes() == other.tobytes() == numbers.astype(dtype).tobytes()


def test_a_bomb_is_unpacked_no_further_than_the_limit(write):
    for head in (b"a,b\n", b"a,", b'"'):  # many rows; a header without end; one in quotes
        path = write(gzip.compress(head + b"1,2\n" * 500_000 if head != b"a," else head + b"b" * 2_000_000))
        tracemalloc.start()
        found = fault(path, limit=100_000)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert isinstance(found, TooLarge), found
        assert found.limit == 100_000 < found.size < 300_000
        assert peak < 3_000_000
    assert table(write(gzip.compress(b"a,b\n" + b"1,2\n" * 500_000)), limit=None).features.shape == (500_000, 2)
    assert len(table(write("a\n" + "1\n" * 500_000), rows=10, limit=200_000).features) == 10


def test_blocks_of_other_widths_of_numbers_are_one_table(write):
    """Blocks of digits are kept small; one of decimals or long integers among them changes no other."""
    rows = [[i % 7, i % 300] for i in range(60_000)]
    rows[30_000][1], rows[59_999][0] = 123456789012, 0.25
    path = write("\n".join(["a,b", *(f"{a!r},{b!r}" for a, b in rows)]))
    np.testing.assert_array_equal(table(path, dtype=np.float64).features, np.array(rows, np.float64))


def test_half_precision_names_what_it_cannot_hold(write):
    found = fault(write("a,label,b\n1,0,2\n3,1,65520\n"), label="label", dtype=np.float16)
    assert (found.row, found.column) == (3, "b")
    assert fault(write("1,0,2\n3,1,65520\n"), label=1, header=False, dtype=np.float16).column == 3


@pytest.mark.acceptance
def test_the_csv_and_the_idx_files_of_mnist_hold_the_same_images():
    if not (folder := os.environ.get("FNLAMP_MNIST")):
        pytest.skip("FNLAMP_MNIST names no folder")
    if not (path := Path(folder, "mnist_test.csv.gz")).exists():
        pytest.skip("FNLAMP_MNIST has no mnist_test.csv.gz")
    read = table(path, label="label")
    images, labels = (
        unsafe_perform_io(read_idx(Path(folder, f"t10k-{name}-ubyte.gz")).run().unwrap())
        for name in ("images-idx3", "labels-idx1")
    )
    np.testing.assert_array_equal(read.features, images.reshape(10_000, 784))
    np.testing.assert_array_equal(read.label, labels)
