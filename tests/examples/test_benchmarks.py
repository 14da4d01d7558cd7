"""The benchmark in a small form: its figures, and that all contestants train the same model."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from fnlamp.mode import Eval

FOLDER = Path(__file__).parents[2] / "examples" / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.delenv("FNLAMP_MNIST", raising=False)
    yield importlib.import_module
    for name in (
        "airbench",
        "cases",
        "collectives",
        "decisions",
        "gpu",
        "paired",
        "race",
        "resnet",
        "growth",
        "handwritten",
        "layers",
        "models",
        "rules",
        "saving",
        "sweep",
        "torch_peers",
        "tracking",
        "training",
        "watching",
    ):
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
    steps, allowed = iter([(300, 0.1), (None, 0.1), (200, 0.1), (250, 0.1), (150, 0.1)]), []

    def count(task, *_):
        allowed.append(task.most)
        return next(steps)

    task = rules.Task(None, None, 65)
    found = rules.tuned(task, "adamw", [0.3, 1.0, 3.0], 3, count=count)
    assert (found["rate"], found["steps"], found["mean"]) == (0.3 * rules.FIRST["adamw"], [200, 250, 150], 200)
    assert allowed == [4000, 300, 300, 4000, 4000]  # a rate is given up where it needs more steps than the best
    assert "0.50" in rules.line("adamw", found, 400.0)
    assert "mean" not in rules.tuned(task, "adamw", [1.0], 3, count=lambda *_: (None, 0.1))


@pytest.mark.slow
def test_watching_is_measured_in_a_small_form(benchmarks, tmp_path, monkeypatch, capsys):
    watching, out = benchmarks("watching"), tmp_path / "figures.json"
    monkeypatch.setattr("fnlamp.keep_memory", lambda: False)
    monkeypatch.setattr(sys, "argv", ["watching.py", "--rounds", "2", "--scale", "0.05", "--json", str(out)])
    watching.main()
    figures = json.loads(out.read_text())
    assert [figure["what"] for figure in figures][-1] == "everything each 50 steps, with lines, SQLite, TensorBoard and console"
    assert all(figure["median"] > 0 for figure in figures)


@pytest.mark.slow
def test_decisions_are_measured_in_a_small_form(benchmarks, tmp_path, monkeypatch, capsys):
    decisions, out = benchmarks("decisions"), tmp_path / "figures.json"
    monkeypatch.setattr("fnlamp.keep_memory", lambda: False)
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


@pytest.mark.slow
def test_attention_is_measured_in_a_small_form(benchmarks, tmp_path, monkeypatch, capsys):
    attention, out = benchmarks("attention"), tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["attention.py", "--scale", "0.1", "--rounds", "2", "--json", str(out)])
    attention.main()
    found = json.loads(out.read_text())
    assert found["long"]["blocks"]["peak_mib"] > 0
    assert set(found["head"]["seconds"]) == {"parts", "held"}
    assert found["compile"]["48 scanned to 12"] > 0
    assert "dropout" in capsys.readouterr().out


@pytest.mark.slow
def test_tracking_is_measured(benchmarks, tmp_path, monkeypatch, capsys):
    pytest.importorskip("tensorboardX")
    tracking, out = benchmarks("tracking"), tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["tracking.py", "--entries", "2000", "--rounds", "1", "--stall", "1", "--json", str(out)])
    tracking.main()
    found = json.loads(out.read_text())
    assert set(found["entries_a_second"]) == {*tracking.MAKERS, "history, read"}
    assert found["call"]["median_us"] < 1000
    assert found["stalled"]["share_written_meanwhile"] == 1.0
    assert "end_s" in capsys.readouterr().out


@pytest.mark.slow
def test_a_sweep_costs_as_much_as_its_lanes(benchmarks, tmp_path, monkeypatch, capsys):
    sweep, out = benchmarks("sweep"), tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["sweep.py", *("--rounds", "1", "--lanes", "2", "--rows", "256", "--json", str(out))])
    sweep.main()
    found = json.loads(out.read_text())
    assert found["in_one_process"]["bitwise_equal"] and found["in_one_process"]["processor_ratio"] > 0
    steps = found["side_by_side"]["lane_steps"]
    assert steps["taken"] + steps["filling_up"] < steps["all_to_the_end"] and found["side_by_side"]["ratio"] > 0
    by_lanes = found["processes"]["by_lanes"]
    assert len({by_lanes[lanes]["compilations"] for lanes in by_lanes}) == 1
    assert by_lanes["8"]["peak_mb"] < 1.1 * by_lanes["1"]["peak_mb"]
    assert "bitwise: True" in capsys.readouterr().out


@pytest.mark.slow
def test_layers_are_measured(benchmarks, tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    layers, out = benchmarks("layers"), tmp_path / "figures.json"
    monkeypatch.setattr("fnlamp.keep_memory", lambda: False)
    monkeypatch.setattr("training.product_peak", lambda: 1e9)
    small = ["--cases", "12x12", "depthwise", "--rounds", "1", "--seconds", "0.001", "--batch", "1", "--before"]
    monkeypatch.setattr(sys, "argv", ["layers.py", *small, "--json", str(out)])
    layers.main()
    found = json.loads(out.read_text())
    assert set(found["cases"]) == {"12x12, 20 to 50, 5x5", "32x32, depthwise of 128"}
    for case in found["cases"].values():
        assert set(case["ms"]) == {"fnlamp", "before", "torch", "torch channels-last"}
        assert case["ratio to torch"]["median"] > 0 < case["ratio to before"]["median"]
    assert found["ratio to torch"]["lowest"] > 0
    assert "depthwise" in capsys.readouterr().out


@pytest.mark.slow
def test_resnet_is_measured(benchmarks, tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    resnet, out = benchmarks("resnet"), tmp_path / "figures.json"
    monkeypatch.setattr("fnlamp.keep_memory", lambda: False)
    monkeypatch.setattr("training.product_peak", lambda: 1e9)
    small = ["--rounds", "1", "--steps", "2", "--batch", "4", "--widths", "8", "16"]
    monkeypatch.setattr(sys, "argv", ["resnet.py", *small, "--json", str(out)])
    resnet.main()
    found = json.loads(out.read_text())
    for name in ("fnlamp", "torch"):
        assert found[name]["images a second"] > 0 < found[name]["peak MiB"]
    assert "ResNet-18, speed by torch's" in capsys.readouterr().out


@pytest.mark.slow
def test_resnet_is_torchs(benchmarks):
    """The same numbers of parameters, and the loss of both falls."""
    pytest.importorskip("torch")
    resnet = benchmarks("resnet")
    given = SimpleNamespace(batch=8, widths=[8, 16])
    layer = resnet.resnet18((8, 16))
    params = layer.init(jax.random.key(0), jax.ShapeDtypeStruct((2, 32, 32, 3), "float32")).params
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == sum(
        p.numel() for p in resnet.torch_resnet18((8, 16)).parameters()
    )
    for run in (resnet.ours(given), resnet.theirs(given)):
        assert run(1) > 1.2 * run(20)


@pytest.mark.slow
def test_models_are_measured(benchmarks, tmp_path, monkeypatch, capsys):
    """All contestants train the same model: their first losses agree."""
    pytest.importorskip("torch")
    models, path = benchmarks("models"), tmp_path / "figures.json"
    monkeypatch.setattr("fnlamp.keep_memory", lambda: False)
    monkeypatch.setattr("training.product_peak", lambda: 1e9)
    monkeypatch.setattr(models, "machine", lambda: {})
    models.CONTESTS["ResNet-18"] = lambda: models.of_images(4, (8, 16))
    models.CONTESTS["GCN"] = lambda: models.of_graph(nodes=40, edges=60, features=50, classes=2, steps=2)
    monkeypatch.setattr(models, "MODES", ("torch",))
    models.main(["--rounds", "1", "--json", str(path)])
    found = json.loads(path.read_text())["models"]
    assert list(found) == ["GPT", "LSTM language model", "ResNet-18", "GCN"]
    for one in found.values():
        losses = one["loss of the first step"]
        assert losses["torch"] == pytest.approx(losses["fnlamp"], rel=1e-3)
        assert one["steps a second"]["fnlamp"] > 0 < one["fnlamp's speed by"]["torch"]["median"]
    out, network = capsys.readouterr().out, found["GCN"]
    assert "GCN: steps a second fnlamp" in out
    if "PyTorch Geometric" in network["failed"]:
        assert "PyTorch Geometric is left out: " in out and importlib.util.find_spec("torch_geometric") is None
    else:
        losses = network["loss of the first step"]
        assert losses["PyTorch Geometric"] == pytest.approx(losses["fnlamp"], rel=1e-3)


@pytest.mark.slow
def test_the_earlier_form_of_a_layer_computes_the_same(benchmarks):
    layers = benchmarks("layers")
    for case in layers.CASES[5::8]:
        shape = (1, *case.shape[1:])
        made = case.layer.init(jax.random.key(0), jax.ShapeDtypeStruct(shape, "float32"))
        x = np.random.default_rng(0).standard_normal(shape, np.float32)
        now, before = (layer.apply(made.params, {}, x, Eval())[0] for layer in (case.layer, case.before))
        np.testing.assert_allclose(now, before, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_a_gpu_s_table_is_made_in_a_tiny_form(benchmarks, tmp_path, monkeypatch, capsys):
    gpu, out = benchmarks("gpu"), tmp_path / "figures.json"
    monkeypatch.setattr("fnlamp.keep_memory", lambda: False)
    arguments = ["--models", "logistic", "--scale", "0.01", "--rounds", "1", "--json", str(out)]
    ran = benchmarks("race").race
    monkeypatch.setattr(benchmarks("training"), "race", lambda case, **options: ran(case, **{**options, "with_torch": False}))
    monkeypatch.setattr(sys, "argv", ["gpu.py", *arguments])
    gpu.main()
    figures, printed = json.loads(out.read_text()), capsys.readouterr().out
    gpt, losses = figures["gpt"], figures["gpt"]["loss of first round"]
    assert gpt["parameters"] == 29_568 and 0 < gpt["share of the peak"]["fnlamp"] < 1
    assert figures["peak"]["from"].startswith("measured") and "GPT of 29,568 parameters" in printed
    assert figures["deterministic"]["cost"] > 0 and figures["models"]["logistic"]["samples_per_second"]["fnlamp"] > 0
    if "torch fused" in losses:  # from the same parameters, over the same batches, both in bfloat16
        assert losses["torch fused"] == pytest.approx(losses["fnlamp"], rel=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), [("processes", 2), ("devices", 2)])
def test_collectives_are_measured_and_right(benchmarks, kind, count):
    found = benchmarks("collectives").run(kind, count, [4_096], rounds=1)
    assert found.keys() == {"all-reduce", "all-gather", "reduce-scatter"}
    assert all(sizes["4096"]["least"] > 0 for sizes in found.values())
