"""The index of a data frame is not a feature: in Parquet and Arrow files, and as a column without a name in CSV files."""

from __future__ import annotations

import io

import numpy as np
import pytest
from outcomes import fault, value

from fnlamp.data import read_arrow, read_csv, read_parquet
from fnlamp.fault import BadCell, FileCorrupt

arrow = pytest.importorskip("pyarrow")
feather = pytest.importorskip("pyarrow.feather")
pandas = pytest.importorskip("pandas")
parquet = pytest.importorskip("pyarrow.parquet")


FRAME = pandas.DataFrame({"a": [0.5, 1.5, np.nan, 3.5], "b": [1, 2, 3, 4], "kind": [0, 1, 0, 1]})


def as_ipc(frame, path, new):
    table = arrow.Table.from_pandas(frame)
    with new(str(path), table.schema) as writer:
        writer.write_table(table)


WRITERS = {
    "parquet": (read_parquet, lambda frame, path: frame.to_parquet(path)),
    "pyarrow": (read_parquet, lambda frame, path: parquet.write_table(arrow.Table.from_pandas(frame), path)),
    "feather": (read_arrow, lambda frame, path: feather.write_feather(frame, str(path))),
    "file": (read_arrow, lambda frame, path: as_ipc(frame, path, arrow.ipc.new_file)),
    "stream": (read_arrow, lambda frame, path: as_ipc(frame, path, arrow.ipc.new_stream)),
}


@pytest.fixture(params=WRITERS)
def form(request, tmp_path):
    reader, write = WRITERS[request.param]

    def read(frame, **options):
        write(frame, tmp_path / "frame")
        return reader(tmp_path / "frame", dtype=np.float64, **options)

    return read


FRAMES = {
    "dropna": FRAME.dropna(),
    "sample": FRAME.dropna().sample(frac=1.0, random_state=1),
    "concat": pandas.concat([FRAME.dropna(), FRAME.dropna()]),
    "filter": FRAME[FRAME.b > 1].dropna(),
    "sorted": FRAME.dropna().sort_values("a", ascending=False),
    "a range": FRAME.dropna().reset_index(drop=True),
    "a range with steps": FRAME.dropna().iloc[::2],
    "a named range": FRAME.iloc[:2].rename_axis("row"),
    "named": FRAME.dropna().rename_axis("row"),
    "the name of a column": FRAME.dropna().rename_axis("a"),
    "of two levels": FRAME.dropna().set_index([pandas.Index([3, 1, 2]), pandas.Index([7, 8, 9], name="day")]),
    "text": FRAME.dropna().set_index(pandas.Index(["x", "y", "z"], name="id")),
    "times": FRAME.dropna().set_index(pandas.date_range("2024-01-01", periods=3)),
    "a column that is kept": FRAME.dropna().set_index("b", drop=False),
}


@pytest.mark.parametrize("name", FRAMES)
def test_features_are_the_columns_of_the_frame(form, name):
    frame = FRAMES[name]
    read = value(form(frame, label="kind"))
    assert read.columns == ("a", "b")
    np.testing.assert_array_equal(read.features, frame[["a", "b"]].to_numpy())
    np.testing.assert_array_equal(read.label, frame["kind"].to_numpy())
    assert value(form(frame)).columns == ("a", "b", "kind")
    assert value(form(frame, label=2)).columns == ("a", "b")  # the index is not counted


def test_a_column_that_became_the_index_is_left_out(form):
    read = value(form(FRAME.dropna().set_index("b"), label="kind"))
    assert read.columns == ("a",)
    np.testing.assert_array_equal(read.features, [[0.5], [1.5], [3.5]])


def test_a_requested_index_is_read(form):
    frame = FRAME.dropna()
    read = value(form(frame, columns=["__index_level_0__", "a"]))
    np.testing.assert_array_equal(read.features, np.stack([frame.index, frame["a"]], 1))
    named = frame.set_index(pandas.Index([7, 5, 6], name="row"))
    assert value(form(named, label="row")).label.tolist() == [7, 5, 6]
    assert value(form(named, columns=["row"])).features.tolist() == [[7.0], [5.0], [6.0]]


def test_an_index_without_metadata_is_known_by_its_name(tmp_path):
    table = arrow.Table.from_pandas(FRAME.dropna()).replace_schema_metadata(None)  # as other programs copy it
    parquet.write_table(table, tmp_path / "bare")
    assert value(read_parquet(tmp_path / "bare", label="kind")).columns == ("a", "b")


def test_an_index_in_front_is_left_out_too(tmp_path):
    table = arrow.Table.from_pandas(FRAME.dropna())  # fastparquet and Dask write it first
    parquet.write_table(table.select(["__index_level_0__", "a", "b", "kind"]), tmp_path / "front")
    read = value(read_parquet(tmp_path / "front", label=2))
    assert (read.columns, read.label.tolist()) == (("a", "b"), [0, 1, 1])
    assert isinstance(fault(read_parquet(tmp_path / "front", label=3)), FileCorrupt)


def test_metadata_of_columns_that_are_gone_does_not_matter(tmp_path):
    table = arrow.Table.from_pandas(FRAME.dropna()).drop_columns(["__index_level_0__"])
    parquet.write_table(table, tmp_path / "gone")
    assert value(read_parquet(tmp_path / "gone")).columns == ("a", "b", "kind")


def test_a_frame_of_nothing_but_an_index_is_a_fault(form):
    found = fault(form(FRAME.dropna()[["a"]].set_index("a")))
    assert isinstance(found, FileCorrupt | BadCell)


@pytest.mark.parametrize("written", [b"{", b"[]", b'{"index_columns": 3}', b"\xff", b'{"index_columns": ' + b"[" * 100_000])
def test_metadata_that_cannot_be_read_is_a_fault_unless_columns_are_named(tmp_path, written):
    table = arrow.table({"a": [1.0], "b": [2]}).replace_schema_metadata({b"pandas": written})
    parquet.write_table(table, tmp_path / "odd")
    found = fault(read_parquet(tmp_path / "odd"))
    assert isinstance(found, FileCorrupt) and "columns=" in str(found)
    assert value(read_parquet(tmp_path / "odd", columns=["b"])).features.tolist() == [[2.0]]


# ------------------------------------------------------------------------------- CSV


def csv_of(frame, **options):
    file = io.StringIO()
    frame.to_csv(file, **options)
    return file.getvalue()


UNNAMED = {
    "pandas": csv_of(FRAME.dropna()),
    "pandas, twice": csv_of(pandas.read_csv(io.StringIO(csv_of(FRAME.dropna()))), index=False),
    "two levels": csv_of(FRAMES["of two levels"].rename_axis([None, None])),
    "R": '"","a","b","kind"\n"1",0.5,1,0\n"2",1.5,2,1\n',
    "readr": "...1,a,b,kind\n1,0.5,1,0\n",
    "blank": " ,a,b,kind\n1,0.5,1,0\n",
    "at the end": "a,b,kind,\n0.5,1,0,1\n",
}


@pytest.mark.parametrize("name", UNNAMED)
def test_a_column_without_a_name_is_a_fault_that_names_it(tmp_path, name):
    (tmp_path / "t.csv").write_text(UNNAMED[name])
    found = fault(read_csv(tmp_path / "t.csv", label="kind"))
    assert isinstance(found, FileCorrupt)
    assert "columns=['a', 'b', 'kind']" in str(found) and "index=False" in str(found) and "\n" not in str(found)
    read = value(read_csv(tmp_path / "t.csv", columns=["a", "b"], label="kind", rows=1))
    assert (read.features.tolist(), read.label.tolist()) == ([[0.5, 1.0]], [0])


@pytest.mark.parametrize("name", sorted(UNNAMED.keys() - {"at the end"}))
def test_row_numbers_are_not_labels(tmp_path, name):
    (tmp_path / "t.csv").write_text(UNNAMED[name])
    for columns in (None, ["a"]):
        found = fault(read_csv(tmp_path / "t.csv", label=0, columns=columns))
        assert isinstance(found, FileCorrupt) and "row numbers" in str(found)


def test_without_an_index_there_is_no_fault(tmp_path):
    frame = FRAME.dropna()
    (tmp_path / "t.csv").write_text(csv_of(frame, index=False))
    np.testing.assert_array_equal(value(read_csv(tmp_path / "t.csv", dtype=np.float64)).features, frame.to_numpy())


# ------------------------------------------------------------------------------- another separator than the comma


@pytest.mark.parametrize("mark", ["\t", ";", "|", " "])
@pytest.mark.parametrize("options", [{}, {"label": "kind"}, {"columns": ["a"]}, {"label": 2}])
def test_another_separator_is_named(tmp_path, mark, options):
    frame = FRAME.dropna()
    (tmp_path / "t.csv").write_text(csv_of(frame, sep=mark, index=False))
    found = fault(read_csv(tmp_path / "t.csv", **options))
    assert isinstance(found, FileCorrupt) and f"separator={mark!r}" in str(found) and "\n" not in str(found)
    read = value(read_csv(tmp_path / "t.csv", separator=mark, label="kind", dtype=np.float64))
    np.testing.assert_array_equal(read.features, frame[["a", "b"]].to_numpy())


def test_a_comma_is_named_too(tmp_path):
    (tmp_path / "t.tsv").write_text("a,b\n1,2\n")
    assert "separator=','" in str(fault(read_csv(tmp_path / "t.tsv", separator="\t")))


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("1;2\n3;4\n", {"header": False}, "separator=';'"),
        ("1\t2\n3\t4\n", {"header": False}, r"separator='\t'"),
        ("1,5;2,5\n3,5;4,25\n", {"header": False}, "separator=';'"),
        ("a;b\n1,5;2,5\n", {}, "separator=';'"),
        ("a;b\n1,5;2,5\n", {"separator": ";"}, "decimal comma"),
        ("a,b\n1;2,3\n", {}, "separator=';'"),
    ],
)
def test_the_message_says_what_to_write(tmp_path, text, options, says):
    (tmp_path / "t.csv").write_text(text)
    assert says in str(fault(read_csv(tmp_path / "t.csv", **options)))


@pytest.mark.parametrize("text", ["length in cm\n1\n2\n", " a\n 1\n 2\n", "a;b\n1\n2\n", "a\t\n1\t\n2\t\n"])
def test_one_column_is_one_column(tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    assert value(read_csv(tmp_path / "t.csv")).features[:2].tolist() == [[1.0], [2.0]]
