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
    for name in ("cases", "decisions", "paired", "race", "growth", "handwritten", "rules", "saving", "torch_peers", "training"):
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


@pytest.mark.slow
def test_rules_are_counted_in_steps_to_a_loss(benchmarks, tmp_path, monkeypatch, capsys):
    rules, out, text = benchmarks("rules"), tmp_path / "figures.json", tmp_path / "text.txt"
    text.write_text("to be, or not to be; " * 200)
    monkeypatch.setattr(rules.fnlamp, "keep_memory", lambda: False)
    sizes = {"layers": 1, "width": 8, "heads": 2, "block": 8, "batch": 8, "every": 10, "most": 60, "windows": 8, "target": 1.7}
    options = [f"--{name}={size}" for name, size in sizes.items()]
    command = ["rules.py", "--data", str(text), "--rules", "muon", "--grid", "1e-4", "30", "--seeds", "2"]
    monkeypatch.setattr(sys, "argv", [*command, *options, "--json", str(out)])
    rules.main()
    found = json.loads(out.read_text())["rules"]["muon"]
    assert [each["steps"] is None for each in found["grid"]] == [True, False]  # the first rate is much too low
    assert len(found["steps"]) == 2
    assert all(steps in range(10, 61, 10) for steps in found["steps"])
    assert "muon " in capsys.readouterr().out


def test_each_rule_of_the_count_is_described(benchmarks):
    """And tuning picks the rate with the fewest steps, whatever order the grid has; a rate that never arrives is none."""
    rules = benchmarks("rules")
    for name in rules.FIRST:
        assert rules.rule(name, 1.0).init({}, {}) is not None
    steps = iter([(None, 0.1), (300, 0.1), (200, 0.1), (250, 0.1), (150, 0.1)])
    found = rules.tuned(None, "adamw", [0.3, 1.0, 3.0], 3, count=lambda *_: next(steps))
    assert (found["rate"], found["steps"], found["mean"]) == (3.0 * rules.FIRST["adamw"], [200, 250, 150], 200)
    assert "0.50" in rules.line("adamw", found, 400.0)
    assert "mean" not in rules.tuned(None, "adamw", [1.0], 3, count=lambda *_: (None, 0.1))


@pytest.mark.slow
def test_decisions_are_measured_in_a_small_form(benchmarks, tmp_path, monkeypatch, capsys):
    decisions, out = benchmarks("decisions"), tmp_path / "figures.json"
    monkeypatch.setattr(decisions.fnlamp, "keep_memory", lambda: False)
    monkeypatch.setattr(sys, "argv", ["decisions.py", "--rounds", "2", "--scale", "0.02", "--json", str(out)])
    decisions.main()
    figures, printed = json.loads(out.read_text()), capsys.readouterr().out
    assert all(figure["median"] > 0 for figure in figures)
    assert "wanted at most 1.05" in printed and "a save after each epoch" in printed


def test_saving_is_measured_in_a_small_form(benchmarks, tmp_path, monkeypatch, capsys):
    saving, out = benchmarks("saving"), tmp_path / "figures.json"
    arguments = ["--size", "0.001", "--rounds", "2", "--folder", str(tmp_path), "--json", str(out)]
    monkeypatch.setattr(sys, "argv", ["saving.py", *arguments])
    saving.main()
    figures = json.loads(out.read_text())
    assert len(figures["rounds"]) == 2 and figures["medians"]["cold GB/s"] > 0
    assert "seconds beyond the copy" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]
