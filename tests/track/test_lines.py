"""Lines of JSON, and the history read from them."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from outcomes import fault, value
from telling import VALUES, tracked

from fnlamp import track
from fnlamp.effect import Effect
from fnlamp.fault import FileCorrupt, FileMissing
from fnlamp.track.text import line_of


def recorded(folder, *events):
    """The history of events that a tracker with lines received, one run."""
    return value(tracked(folder, *events).then(track.history(folder)))


def test_lines_are_strict_json_with_the_schema_first(tmp_path):
    recorded(tmp_path, track.Measured({"loss": 0.25, "x": math.nan, "y": -math.inf, 'a"\\b/é.c': 1}, 50, 1, 2))
    first, second = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(first) == {"schema": 1}
    strict = json.loads(second, parse_constant=lambda constant: pytest.fail(constant))
    del strict["time"]
    values = {"loss": 0.25, "x": "nan", "y": "-inf", 'a"\\b/é.c': 1.0}
    assert strict == {"step": 50, "epoch": 1, "lane": 2, "values": values}


def test_numbers_come_back_with_their_bits(tmp_path):
    numbers = np.random.default_rng(0).integers(0, 2**63, 500).view(np.float64)
    numbers = np.append(numbers, [0.0, -0.0, 5e-324, 1.7976931348623157e308, np.nan, np.inf, -np.inf])
    history = recorded(tmp_path, *(track.Measured({"x": x}, step) for step, x in enumerate(numbers)))
    found = history.scalars("x")
    assert np.array_equal(found.steps, np.arange(len(numbers)))
    finite = np.isfinite(numbers)
    assert found.values[finite].tobytes() == numbers[finite].tobytes()
    assert np.array_equal(found.values, numbers, equal_nan=True)
    assert set(found.epochs) == {-1}


def test_every_kind_comes_back(tmp_path):
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    pictures = {"image": track.Image(pixels), "figure": track.Figure(b"<svg/>", "image/svg+xml")}
    history = recorded(tmp_path, track.Measured({**VALUES, **pictures}, 3))
    found = {name: history.values(name)[0].value for name in (*VALUES, *pictures)}
    for name in ("text", "alert"):
        assert found[name] == VALUES[name]
    assert repr(found["rows"]) == repr(VALUES["rows"])
    for name, fields in {"histogram": ("edges", "counts", "not_finite"), "indexed": ("indices", "values")}.items():
        for field in fields:
            assert np.array_equal(getattr(found[name], field), getattr(VALUES[name], field), equal_nan=True)
    assert Path(found["figure"].path).read_bytes() == b"<svg/>"
    image = pytest.importorskip("PIL.Image")
    with image.open(found["image"].path) as file:
        decoded = np.asarray(file)
    assert np.array_equal(decoded, pixels)
    assert [each.name for each in history.alerts] == ["alert"]


def test_what_a_resume_cancels_does_not_count(tmp_path):
    def step(at, x):
        return track.Measured({"x": x}, at)

    recorded(tmp_path, track.Started(0), *(step(at, at) for at in range(1, 31)), track.Alerted("late", track.Alert("a"), 25))
    history = recorded(tmp_path, track.Started(20), step(21, -21), step(24, -24), step(24, -25), step(2, -2))
    found = history.scalars("x")
    assert found.steps.tolist() == [*range(1, 22), 24]
    assert found.values.tolist() == [1, -2, *range(3, 21), -21, -25]
    assert history.last == {"x": -25}
    assert not history.alerts
    assert history.at(23) == {"x": -21}


def test_a_resume_within_a_prefix_cancels_only_that(tmp_path):
    events = [track.Measured({"a.x": 1, "b.x": 1}, 9), track.Started(4, "b."), track.Measured({"b.x": 2}, 5)]
    assert recorded(tmp_path, *events).last == {"a.x": 1, "b.x": 2}


def test_one_name_may_be_of_two_kinds(tmp_path):
    history = recorded(tmp_path, track.Measured({"w": 1.0}, 1), track.Measured({"w": track.Text("a")}, 2))
    assert history.last == {"w": 1.0}
    assert history.values("w")[0].value == track.Text("a")
    assert history.at(1) == {"w": 1.0}
    assert history.at(2) == {"w": track.Text("a")}


@pytest.mark.parametrize("rest", ['{"step":2,"ti', '{"step":2,"time":0.0,"values":{"x":2.0}}', "\0" * 70_000])
def test_a_cut_last_line_is_left_out_and_ended_by_the_next_writer(tmp_path, rest):
    recorded(tmp_path, track.Measured({"x": 1}, 1))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write(rest)
    assert value(track.history(tmp_path)).last == {"x": 1}
    assert recorded(tmp_path, track.Measured({"y": 3}, 3)).last == {"x": 1, "y": 3} | ({"x": 2} if rest.endswith("}") else {})


SOMETHING_ELSE = [
    "[]",
    "1",
    "{",
    "1,2",
    "[" * 10**5,
    '{"schema":2}',
    '{"step":1}',
    '{"step":1.5,"values":{}}',
    '{"step":true,"values":{"x":1.0}}',
    '{"step":99999999999999999999,"values":{"x":1.0}}',
    '{"step":1,"lane":"a","values":{"x":1.0}}',
    '{"step":1,"values":{"x":NaN}}',
    '{"step":1,"values":{"x":"1"}}',
    '{"step":1,"values":{"x":{"image":{"path":"../../etc/passwd"}}}}',
]


@pytest.mark.parametrize("line", SOMETHING_ELSE, ids=range(len(SOMETHING_ELSE)))
def test_a_file_of_something_else_is_a_fault(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text(f'{{"schema":1}}\n{line}\n')
    assert isinstance(fault(track.history(tmp_path)), FileCorrupt)


def test_a_missing_file_is_a_fault(tmp_path):
    assert isinstance(fault(track.history(tmp_path)), FileMissing)
    assert isinstance(fault(track.history(tmp_path / "a.jsonl")), FileMissing)


def test_a_file_that_is_not_a_trackers_stays_as_it_is(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text("my notes")
    (warning,) = value(track.tracked(track.measure({"x": 1}), track.lines(path))).warnings
    assert "stays as it is" in warning.reason
    assert warning.lost == 1
    assert path.read_text() == "my notes"


def test_two_trackers_on_one_file(tmp_path):
    inner = tracked(tmp_path, track.Measured({"x": 1}, 1))
    both = track.tracked(inner, track.lines(tmp_path))
    outcome = value(both)
    (warning,) = (*outcome.warnings, *outcome.value.warnings)  # whichever thread is second
    assert "another tracker" in warning.reason
    assert value(track.history(tmp_path)).last == {"x": 1}


def test_a_missing_name_is_named_with_near_ones(tmp_path):
    history = recorded(tmp_path, track.Measured({"train.loss": 1}, 1))
    with pytest.raises(KeyError, match=r"train\.los.*train\.loss"):
        history.scalars("train.los")
    with pytest.raises(KeyError, match="lane 1"):
        history.scalars("train.loss", lane=1)


def test_progress_is_not_stored():
    assert line_of(track.Entry({"train": track.Progress(1, 2)}, 1), keep=str) == ""


def test_a_million_scalars_are_read_in_seconds(tmp_path):
    import time

    values = {f"m{at}": 0.1234567 for at in range(10)}
    line = line_of(track.Entry(values, 1, time=1.5), keep=str)
    lines = (line.replace('"step":1', f'"step":{at}', 1) for at in range(10_000))
    (tmp_path / "metrics.jsonl").write_text('{"schema":1}\n' + "".join(lines))
    start = time.perf_counter()
    history = value(track.history(tmp_path))
    assert time.perf_counter() - start < 1.5  # 10^5 here; 0.1 s on an idle machine
    assert sum(len(history.scalars(name)) for name in history.names) == 10**5


def test_the_folder_is_removed_during_the_run(tmp_path):
    import shutil

    def remove():
        lines = tmp_path / "run" / "metrics.jsonl"
        while not (lines.exists() and '"x"' in lines.read_text()):
            pass
        shutil.rmtree(tmp_path / "run")

    program = track.measure({"x": 1}, step=1).then(Effect.suspend(remove)).then(track.measure({"y": 2}, step=2))
    assert not value(track.tracked(program, track.lines(tmp_path / "run"))).warnings
    assert value(track.history(tmp_path / "run")).last["y"] == 2


def test_paths_are_those_of_the_time_of_the_call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    writer = track.lines("run")
    os.mkdir("elsewhere")
    monkeypatch.chdir("elsewhere")
    value(track.tracked(track.measure({"x": 1}), writer))
    assert (tmp_path / "run" / "metrics.jsonl").exists()
