"""The loading benchmark in a small form: its data and arithmetic; every case runs, and its correctness checks pass."""

from __future__ import annotations

import gzip
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "benchmarks"
MODULES = {path.stem for path in FOLDER.glob("*.py")}


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.delenv("FNLAMP_MNIST", raising=False)
    yield importlib.import_module
    for name in MODULES:
        sys.modules.pop(name, None)


def test_contestants_alternate_and_the_first_round_is_not_counted(benchmarks):
    paired, order = benchmarks("paired"), []

    def contestant(name):
        return lambda number: order.append((number, name))

    seconds = paired.take_turns({name: contestant(name) for name in "abc"}, 3)
    assert [name for _, name in order] == [*"abc", *"bca", *"cab", *"abc"]
    assert [number for number, _ in order] == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert {name: len(taken) for name, taken in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_the_time_of_a_contestant_is_measured_without_the_pause(benchmarks):
    seconds = benchmarks("paired").take_turns({"quick": lambda n: None, "slow": lambda n: time.sleep(0.02)}, 2, pause=0.01)
    assert min(seconds["slow"]) >= 0.02
    assert min(seconds["quick"]) < 0.005


def test_the_interval_of_a_median(benchmarks):
    paired = benchmarks("paired")
    assert paired.interval([2.0] * 15) == {"median": 2.0, "low": 2.0, "high": 2.0}
    values = np.random.default_rng(1).normal(5, 1, 400)
    found = paired.interval(list(values))
    assert found["median"] == pytest.approx(np.median(values))
    half = 1.96 * 1.2533 / 20  # the median's standard error is sqrt(pi / 2) of the mean's
    assert found["high"] - found["low"] == pytest.approx(2 * half, rel=0.35)
    assert found["low"] < 5 < found["high"]


@pytest.mark.parametrize(
    ("at_least", "target", "passed"), [(True, 2.0, True), (True, 2.1, False), (False, 2.0, True), (False, 1.9, False)]
)
def test_a_finding_is_on_the_right_side_of_its_target(benchmarks, at_least, target, passed):
    finding = benchmarks("paired").Finding.of("speed", "times", [1.0, 2.0, 3.0], target, at_least=at_least)
    assert finding.passed is passed
    assert str(finding).startswith("pass" if passed else "FAIL")
    assert finding.as_json()["passed"] is passed


def test_generated_files_have_the_formats_and_sizes_of_real_ones(benchmarks, tmp_path):
    generated = benchmarks("generated")
    files, origin = generated.mnist_files(None, tmp_path, 0.001)
    assert origin.startswith("generated")
    raw = gzip.decompress(files["train-images-idx3-ubyte.gz"].read_bytes())
    assert raw[:16] == bytes([0, 0, 8, 3, 0, 0, 0, 60, 0, 0, 0, 28, 0, 0, 0, 28])
    assert len(raw) == 16 + 60 * 784
    path, _ = generated.csv_file(None, tmp_path, 0.01)
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    assert len(lines) == 101
    assert {line.count(",") for line in lines} == {784}
    first = path.read_bytes()
    path.unlink()
    assert generated.csv_file(None, tmp_path, 0.01)[0].read_bytes()[10:] == first[10:]  # except gzip's time stamp


def test_a_folder_with_the_real_files_is_used(benchmarks, tmp_path):
    generated = benchmarks("generated")
    for name in (*generated.IDX, generated.CSV):
        (tmp_path / name).touch()
    files, origin = generated.mnist_files(tmp_path, tmp_path / "work", 1.0)
    assert (files["t10k-labels-idx1-ubyte.gz"].parent, origin) == (tmp_path, "MNIST")
    assert generated.csv_file(tmp_path, tmp_path / "work", 1.0) == (tmp_path / generated.CSV, "MNIST")


def test_the_mapped_file_is_an_npy_file(benchmarks, tmp_path):
    features, labels = benchmarks("generated").mapped_file(tmp_path, 0.002)
    x, y = np.load(features, mmap_mode="r"), np.load(labels)
    assert (x.shape, x.dtype, y.dtype) == ((637, 784), np.float32, np.int32)
    np.testing.assert_array_equal(y, x[:, :10].argmax(axis=1))


def test_images_are_made_once_and_compress_as_photographs_do(benchmarks, tmp_path):
    image = pytest.importorskip("PIL.Image")
    root = benchmarks("generated").jpeg_folder(tmp_path, 20, 64)
    files = sorted(root.glob("*/*.jpg"))
    assert len(files) == 20
    assert {path.parent.name for path in files} == {f"class-{i}" for i in range(10)}
    with image.open(files[0]) as opened:
        assert (opened.size, opened.mode) == ((64, 64), "RGB")
        assert np.array(opened).std() > 20
    assert 0.1 < np.mean([path.stat().st_size for path in files]) / (64 * 64 * 3) < 0.3
    assert benchmarks("generated").jpeg_folder(tmp_path, 20, 64) == root


def test_a_package_can_be_hidden_for_a_while(benchmarks):
    pytest.importorskip("pyarrow.csv")
    with benchmarks("reading").without("pyarrow"):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("pyarrow.csv")
        assert importlib.util.find_spec("pyarrow") is None
    assert importlib.import_module("pyarrow.csv").read_csv


def test_processes_that_a_case_leaves_behind_are_counted_and_killed(benchmarks, monkeypatch):
    loading = benchmarks("loading")
    monkeypatch.setattr(loading, "GRACE", 0.2)
    with subprocess.Popen(["sh", "-c", "sleep 60 & sleep 60 & exit 0"], start_new_session=True) as process:
        process.wait()
        assert len(list(loading._of_session(process.pid))) == 2
        assert loading._left(process) == 2
        end = time.monotonic() + 5
        while list(loading._of_session(process.pid)) and time.monotonic() < end:
            time.sleep(0.01)
        assert not list(loading._of_session(process.pid))


def test_a_case_that_hangs_is_ended_and_fails(benchmarks, monkeypatch, tmp_path, capsys):
    loading = benchmarks("loading")
    slow = ["--only", "mapped", "--quick", "--deadline", "0.05", "--work", str(tmp_path), "--json", str(tmp_path / "out.json")]
    loading.main(slow)
    case = json.loads((tmp_path / "out.json").read_text())["cases"]["mapped"]
    assert (case["passed"], case["problem"]) == (False, "had not ended after 0.05 s")
    assert "mapped: FAIL" in capsys.readouterr().out


NEVER_FAILS = {"mapped", "kills", "resume"}


SLOW = [
    pytest.param(name, marks=pytest.mark.slow) for name in ("mapped", "csv", "memory", "jpeg64", "overlap", "kills", "resume")
]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["idx", *SLOW])
def test_every_case_runs(benchmarks, tmp_path, name):
    for package in {"csv": ["pandas", "pyarrow"], "memory": ["torch"], "jpeg64": ["torch"]}.get(name, []):
        pytest.importorskip(package)
    out = tmp_path / "figures.json"
    benchmarks("loading").main(
        ["--quick", "--rounds", "1", "--no-grain", "--only", name, "--work", str(tmp_path), "--json", str(out)]
    )
    found = json.loads(out.read_text())
    assert {"processor", "cores", "python", "fnlamp", "numpy"} <= set(found["machine"])
    case = found["cases"][name]
    assert case["problem"] == ""
    assert all(finding["median"] > 0 for finding in case["findings"] if finding["at_least"])
    assert case["findings"][-1]["what"] == "processes left behind"
    assert case["findings"][-1]["median"] == 0
    if name in NEVER_FAILS:  # the speeds of such a small run mean nothing
        assert case["passed"], case["findings"]
