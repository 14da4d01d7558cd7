"""CSV: the scalars of the lines, once each, also after a resume and after a kill."""

import csv
import math

import pytest
from outcomes import value
from telling import VALUES, tracked

from fnlamp import track


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return [(row["name"], int(row["lane"]), int(row["step"]), row["value"]) for row in csv.DictReader(file)]


def of_lines(folder):
    history, found = value(track.history(folder)), []
    for lane in history.lanes:
        for name in set(history.names) - set(VALUES):
            each = history.scalars(name, lane)
            found += [(name, lane, s, repr(x)) for s, x in zip(each.steps.tolist(), each.values.tolist(), strict=True)]
    return found


def test_it_has_the_numbers_of_the_lines_once_after_resumes(tmp_path):
    steps = [track.Measured({"x": step / 3, 'b",é;': -step}, step, 1) for step in range(10)]
    others = track.Measured({"x": math.nan}, 4), track.Measured(VALUES, 3)
    value(tracked(tmp_path, *steps, *others, writers=(track.csv_file(tmp_path),)))
    assert sorted(rows(tmp_path / "metrics.csv")) == sorted(of_lines(tmp_path))
    again = [track.Started(4), track.Measured({"x": 5.5}, 5), track.Measured({"x": 6.5}, 5), track.Measured({"x": -1.0}, 2)]
    value(tracked(tmp_path, *again, writers=(track.csv_file(tmp_path),)))
    assert sorted(rows(tmp_path / "metrics.csv")) == sorted(of_lines(tmp_path))
    assert len(rows(tmp_path / "metrics.csv")) == 5 + 5 + 1


def test_a_cut_row_is_removed(tmp_path):
    path = tmp_path / "metrics.csv"
    value(track.tracked(track.measure({"x": 1.0}, step=1), track.csv_file(path)))
    with open(path, "a") as file:
        file.write("x,0,2,,1")
    value(track.tracked(track.measure({"x": 3.0}, step=3), track.csv_file(path)))
    assert rows(path) == [("x", 0, 1, "1.0"), ("x", 0, 3, "3.0")]


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "my notes"])
def test_a_file_of_something_else_stays_as_it_is(tmp_path, text):
    (tmp_path / "metrics.csv").write_text(text)
    (warning,) = value(track.tracked(track.measure({"x": 1.0}), track.csv_file(tmp_path))).warnings
    assert "stays as it is" in warning.reason
    assert (tmp_path / "metrics.csv").read_text() == text
