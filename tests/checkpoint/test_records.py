"""Files of records, and loading what fits."""

from __future__ import annotations

import json
import math
import threading

import jax.numpy as jnp
import numpy as np
import pytest
from outcomes import fault, value

from fnlamp.checkpoint import append, partial
from fnlamp.fault import FileCorrupt, FileUnwritable


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_record_is_there_once(tmp_path):
    path = tmp_path / "r.jsonl"
    assert value(append(path, {"epoch": 1, "loss": np.float32(0.5), "all": jnp.arange(2)}))
    assert value(append(path, {"epoch": np.int64(2)}))
    assert not value(append(path, {"epoch": 1, "loss": 9.0}))
    assert value(append(path, {"step": 1}, key="step"))
    assert lines(path) == [{"epoch": 1, "loss": 0.5, "all": [0, 1]}, {"epoch": 2}, {"step": 1}]


@pytest.mark.parametrize("cut", range(1, 16))
def test_a_cut_line_is_removed(tmp_path, cut):
    path = tmp_path / "r.jsonl"
    value(append(path, {"epoch": 1}))
    value(append(path, {"epoch": 2, "x": 1}))
    raw = path.read_bytes()
    path.write_bytes(raw[:-cut])
    assert value(append(path, {"epoch": 2, "x": 1})) == True  # noqa: E712
    assert path.read_bytes() == raw


def test_zeros_after_a_loss_of_power(tmp_path):
    path = tmp_path / "r.jsonl"
    for damage in (bytes(100), b'{"epoch"' + bytes(50) + b"}\n"):
        path.write_bytes(b'{"epoch": 1}\n' + damage)
        assert value(append(path, {"epoch": 2}))
        assert lines(path) == [{"epoch": 1}, {"epoch": 2}]


@pytest.mark.parametrize(
    "content", [b"a,b\n1,2\n", b"text", b"[1]\n", b'{"epoch": 1}\ntext', b"\xff\n", b"[" * 100_000 + b"\n"]
)
def test_another_file_stays_as_it_is(tmp_path, content):
    path = tmp_path / "r.jsonl"
    path.write_bytes(content)
    assert isinstance(fault(append(path, {"epoch": 2})), FileCorrupt)
    assert path.read_bytes() == content


def test_paths_that_cannot_be_written(tmp_path):
    for path in (tmp_path, tmp_path / "no" / "r.jsonl", tmp_path / "\ud800", "\0"):
        assert isinstance(fault(append(path, {"epoch": 2})), FileUnwritable)


def test_records_are_checked_at_the_call(tmp_path):
    with pytest.raises(ValueError, match="epoch"):
        append(tmp_path / "r", {"step": 1})
    with pytest.raises(TypeError, match="record"):
        append(tmp_path / "r", {"epoch": 1, "x": object()})
    value(append(tmp_path / "r", {"epoch": 1, "x": math.nan}))
    assert math.isnan(lines(tmp_path / "r")[0]["x"])


def test_threads_append_whole_lines(tmp_path):
    path = tmp_path / "r.jsonl"
    threads = [threading.Thread(target=lambda n=n: value(append(path, {"epoch": n % 5}))) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(record["epoch"] for record in lines(path)) == [0, 1, 2, 3, 4]


def test_what_fits_is_loaded():
    into = {"a": {"w": np.zeros((2, 3), np.float32), "b": np.zeros(3, np.float32)}, "n": 1, "new": np.zeros(1)}
    saved = {"old": {"w": np.ones((2, 3), ">f4"), "b": np.ones(3)}, "n": 2, "gone": np.zeros(1)}
    found = partial(into, saved, rename={"old": "a"})
    assert found.loaded == ("a/w", "n")
    assert found.missing == ("new",)
    assert found.extra == ("gone",)
    assert found.differing == ("a/b: expected float32[3], got float64[3]",)
    assert found.tree["a"]["w"].sum() == 6 and found.tree["n"] == 2 and found.tree["a"]["b"].sum() == 0
    assert into["n"] == 1


def test_renaming_is_by_whole_components_and_the_longest_wins():
    saved = {"layer": {"w": 1, "sub": {"w": 2}}, "layers": 3}
    into = {"x": {"w": 0}, "y": {"w": 0}, "layers": 0}
    assert partial({"net": saved}, saved, rename={"": "net"}).tree == {"net": saved}
    assert partial({"a": 0, "net": {"b": 0}}, {"a": 1, "b": 2}, rename={"": "net", "a": "a"}).tree == {"a": 1, "net": {"b": 2}}
    found = partial(into, saved, rename={"layer": "x", "layer/sub": "y"})
    assert found.tree == {"x": {"w": 1}, "y": {"w": 2}, "layers": 3}


def test_mistakes_in_renaming_are_errors():
    with pytest.raises(ValueError, match="no saved leaf is at 'c'"):
        partial({"a": 1}, {"b": 1}, rename={"c": "a"})
    with pytest.raises(ValueError, match="become 'a'"):
        partial({"a": 1}, {"a": 1, "b": 2}, rename={"b": "a"})
    with pytest.raises(ValueError, match="two leaves"):
        partial({"a": 1}, {"a/b": 1, "a": {"b": 2}})
