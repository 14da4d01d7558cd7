"""The benchmark in a small form: its figures, and that all contestants train the same model."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.delenv("FNLAMP_MNIST", raising=False)
    yield importlib.import_module
    for name in ("cases", "race", "growth", "handwritten", "torch_peers", "training"):
        sys.modules.pop(name, None)


SMALL = {"logistic": 0.01, "simple": 0.02, "lamp": 0.02, "wide": 0.1, "cnn": 0.1, "lstm": 0.2, "gpt": 1.0}


SLOW = dict.fromkeys(("logistic", "simple", "lamp", "wide", "cnn", "lstm", "gpt"), pytest.mark.slow)


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW.get(name, ())) for name in SMALL])
def test_all_contestants_train_the_same_model(benchmarks, name):
    race, cases = benchmarks("race"), benchmarks("cases")
    ran = race.race(cases.CASES[name], rounds=1, scale=SMALL[name], dtype="uint8", folder=None, with_torch=False)
    assert set(ran.seconds) == {"fnlamp", "hand-written"}
    # The masks of dropout differ, and so do the orders of summation.
    close = 0.2 if name == "lamp" else 2e-3
    for losses in (ran.first_loss, ran.last_loss):
        assert losses["hand-written"] == pytest.approx(losses["fnlamp"], rel=close)
    assert ran.last_loss["fnlamp"] < ran.first_loss["fnlamp"]


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW.get(name, ())) for name in ("simple", "cnn", "lstm", "gpt")])
def test_torch_trains_the_same_model(benchmarks, name):
    pytest.importorskip("torch")
    race, cases, peers = benchmarks("race"), benchmarks("cases"), benchmarks("torch_peers")
    peers.modes = lambda case: ["torch eager"]
    ran = race.race(cases.CASES[name], rounds=1, scale=SMALL[name], dtype="uint8", folder=None, with_torch=True)
    assert ran.last_loss["torch eager"] == pytest.approx(ran.last_loss["fnlamp"], rel=5e-3)


@pytest.mark.slow
def test_the_figures_are_written(benchmarks, tmp_path, monkeypatch, capsys):
    training, out = benchmarks("training"), tmp_path / "figures.json"
    monkeypatch.setattr(training.fnlamp, "keep_memory", lambda: False)  # do not keep the memory of other tests
    small = ["--models", "simple", "--rounds", "2", "--scale", "0.02", "--no-torch", "--no-processes", "--json", str(out)]
    monkeypatch.setattr(sys, "argv", ["training.py", *small])
    training.main()
    found = json.loads(out.read_text())["models"]["simple"]
    assert set(found["ratio_to_handwritten"]) == {"median", "low", "high"}
    assert 0 < found["share_of_product_peak"] < 1.5
    assert found["samples_per_second"]["fnlamp"] > 0
    assert "simple: batch 32, uint8 pixels" in capsys.readouterr().out


@pytest.mark.slow
def test_the_growth_of_the_leaves_is_measured(benchmarks):
    growth = benchmarks("growth")
    point = growth.measure(growth.wide_tree(3), 256, 32)
    assert point["us"] > 0 < point["us_by_hand"]
