"""Every example runs in a small form, and prints its documented output."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from returns.unsafe import unsafe_perform_io

from fnlamp.effect import Runtime
from fnlamp.fault import ShapeMismatch

EXAMPLES = Path(__file__).parents[2] / "examples"
SLOW = pytest.mark.slow


def example(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested():
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    source = Path(__file__).read_text()
    assert names == {name for name in names if f'example("{name}")' in source}


@pytest.mark.slow
def test_the_classifier_learns_the_digits(tmp_path, capsys):
    curve, picture = tmp_path / "curve.json", tmp_path / "digits.png"
    assert example("classifier").main(["--json", str(curve), "--plot", str(picture)]) == 0
    run = json.loads(curve.read_text())
    assert set(run) == {"model", "seed", "parameters", "epochs"}
    assert set(run["epochs"][0]) == {"epoch", "train_loss", "validation_loss", "validation_accuracy", "seconds"}
    assert (run["model"], run["seed"], run["parameters"]) == ("simple", 0, 64 * 128 + 128 + 128 * 10 + 10)
    assert run["epochs"][-1]["validation_accuracy"] >= 0.94
    assert run["epochs"][-1]["train_loss"] < 0.12
    assert picture.read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    assert "9,610" in out
    line = r"Epoch 20/20, Training Loss: 0\.\d{4}, Validation Loss: 0\.\d{4}, Validation Accuracy: \d\d\.\d\d%"
    assert re.fullmatch(line, out.splitlines()[-1])


@pytest.mark.parametrize(
    ("model", "optimizer"),
    [
        ("logistic", "sgdw"),
        pytest.param("logistic", "adamw", marks=SLOW),
        *(pytest.param(model, rule, marks=SLOW) for model in ("scratch", "lamp") for rule in ("sgdw", "adamw")),
    ],
)
def test_every_model_trains_with_both_rules(model, optimizer, tmp_path):
    curve = tmp_path / "curve.json"
    arguments = ["--model", model, "--optimizer", optimizer, "--epochs", "15", "--seed", "1", "--json", str(curve)]
    assert example("classifier").main(arguments) == 0
    epochs = json.loads(curve.read_text())["epochs"]
    assert epochs[-1]["validation_loss"] < epochs[0]["validation_loss"]
    assert epochs[-1]["validation_accuracy"] > 0.85


def test_too_few_rows_are_an_empty_epoch(capsys):
    assert example("classifier").main(["--model", "lamp", "--rows", "100"]) == 1
    captured = capsys.readouterr()
    assert "this run would fail: EmptyEpoch" in captured.out
    assert "100 rows in batches of 200 with drop_last" in captured.err


def test_a_folder_without_mnist_is_a_typed_failure(tmp_path, capsys):
    assert example("classifier").main(["--data", str(tmp_path)]) == 1
    assert "FileMissing" in capsys.readouterr().err


def test_from_scratch_learns(capsys):
    module = example("from_scratch")
    module.main()
    accuracy = float(re.findall(r"Accuracy: (\d+\.\d+)%", capsys.readouterr().out)[-1])
    assert accuracy > 94


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=SLOW) for seed in range(1, 5))])
def test_the_regression_falls_by_one_percent_each_time(seed):
    trained = unsafe_perform_io(example("regression").describe(seed).run(Runtime(log=None)).unwrap())
    losses = np.array([report.train_loss for report in trained.curve])
    ratios = losses[1:] / losses[:-1]
    assert len(losses) == 10
    assert ((0.9894 <= ratios) & (ratios <= 0.9923)).all(), ratios


def test_the_regression_without_squeeze_is_a_shape_fault(capsys):
    module = example("regression")
    fault = unsafe_perform_io(module.describe(squeezed=False).run(Runtime(log=None)).failure())
    assert isinstance(fault, ShapeMismatch)
    assert "squeeze the prediction" in str(fault)
    module.main()
    assert "Without the squeeze: mse: expected" in capsys.readouterr().out


@pytest.mark.slow
def test_lamps_guide_prints_probabilities(tmp_path, capsys):
    module = example("lamp_guide")
    module.main([])
    out = capsys.readouterr().out
    row = json.loads(re.findall(r"ones: (\[\[.*\]\])", out)[-1])[0]
    assert len(row) == 10
    assert abs(sum(row) - 1) < 0.01
    table = tmp_path / "small.csv"
    table.write_text("label,a,b\n" + "1,2,3\n0,4,5\n" * 200)
    module.main([str(table)])
    assert "Class probabilities" in capsys.readouterr().out


@pytest.mark.slow
def test_the_learning_curve_is_drawn(tmp_path, capsys):
    picture = tmp_path / "curve.png"
    assert example("learning_curve").main(["--epochs", "2", "--picture", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.endswith(f"drawn: {picture}\n")
    assert example("learning_curve").main(["--epochs", "1", "--picture", str(tmp_path / "nowhere" / "curve.png")]) == 1
    assert "cannot be written (No such file or directory)" in capsys.readouterr().err


@SLOW
def test_the_convolutions_learn_the_digits(capsys):
    assert example("convolution").main([]) == 0
    out = capsys.readouterr().out
    assert float(re.findall(r"Accuracy: (\d+\.\d+)%", out)[-1]) > 93
    assert example("convolution").main(["--data", "nowhere"]) == 1
    assert "FileMissing" in capsys.readouterr().err


@SLOW
@pytest.mark.parametrize(("model", "epochs", "most"), [("lstm", 6, 0.5), ("gpt", 4, 1.5)])  # single letters: 2.14
def test_the_character_model_learns_the_next_character(model, epochs, most, tmp_path, capsys):
    (tmp_path / "text").write_text("the cat sat on the mat. " * 800)
    arguments = ["--text", str(tmp_path / "text"), "--model", model, "--epochs", str(epochs), "--length", "24"]
    assert example("character_model").main(arguments) == 0
    out = capsys.readouterr().out
    assert float(re.findall(r"Validation Loss: (\d+\.\d+)", out)[-1]) < most
    assert "ln 11 = 2.40" in out
    assert len(out.rstrip("\n").rpartition("The model writes:\n\n")[2]) == 32 + 24
    assert example("character_model").main(["--text", str(tmp_path / "nothing")]) == 1
    assert "FileMissing" in capsys.readouterr().err


@pytest.mark.slow
def test_the_character_model_finds_a_text_in_python(capsys):
    assert example("character_model").main(["--characters", "12000", "--epochs", "1", "--length", "1"]) == 0
    assert "Validation Loss" in capsys.readouterr().out


def test_an_example_keeps_its_programs(tmp_path):
    environment = {**os.environ, "FNLAMP_CACHE": str(tmp_path / "programs"), "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, str(EXAMPLES / "regression.py")], env=environment, check=True, capture_output=True)
    assert any((tmp_path / "programs").iterdir())


@pytest.mark.slow
def test_mnist_fast_says_what_each_seed_reached(tmp_path, capsys):
    module, rng = example("mnist_fast"), np.random.default_rng(0)
    labels = rng.integers(0, 10, 768).astype(np.uint8)
    images = rng.integers(0, 50, (768, 28, 28)).astype(np.uint8)
    for at, label in enumerate(labels):  # a bright bar whose place is the digit
        images[at, 2 * label + 3 : 2 * label + 7, 4:24] = 200
    for name, rows in (("train", slice(0, 512)), ("t10k", slice(512, 768))):
        for kind, array in (("images-idx3", images[rows]), ("labels-idx1", labels[rows])):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
            (tmp_path / f"{name}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes(), 1))
    assert module.main(["--data", str(tmp_path), "--seeds", "2", "--epochs", "2"]) == 0
    out = capsys.readouterr().out
    assert "215,194 parameters" in out
    assert "with compilation" in re.findall("seed 0: .*", out)[0]
    assert re.fullmatch(r"mean of 2 seeds: \d+\.\d\d% \(from .* to .*\), \d+\.\d s per seed, .*", out.splitlines()[-1])
    assert module.main(["--data", "nowhere"]) == 1
    assert "FileMissing" in capsys.readouterr().err
