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

import jax
import numpy as np
import pytest
import safetensors.numpy
from returns.unsafe import unsafe_perform_io

from fnlamp import Eval, models, nn, track, tree
from fnlamp.effect import Runtime
from fnlamp.experiment import runs
from fnlamp.fault import ShapeMismatch

EXAMPLES = Path(__file__).parents[2] / "examples"
SLOW = pytest.mark.slow


@pytest.fixture(autouse=True)
def the_folder_of_the_script(monkeypatch):
    """Python puts a script's folder first on its path: ``gpt.py`` finds the text that ``character_model.py`` reads."""
    monkeypatch.syspath_prepend(EXAMPLES)


def example(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_graph_classifies_the_nodes_of_its_communities(tmp_path, capsys):
    module, path = example("graph"), tmp_path / "figures.json"
    assert module.main(["--seeds", "2", "--models", "gcn", "--json", str(path)]) == 0
    assert capsys.readouterr().out.startswith("communities, gcn: ")
    (row,) = json.loads(path.read_text())
    assert row["mean"] > 0.8


@pytest.mark.slow
def test_many_devices_trains_in_each_layout(tmp_path, capsys):
    module, accuracies = example("many_devices"), set()
    for layout in ("copies", "full", "tensor"):
        path = tmp_path / f"{layout}.json"
        assert module.main(["--layout", layout, "--epochs", "2", "--json", str(path)]) == 0
        figures = json.loads(path.read_text())
        assert figures["processes"] == 1
        accuracies.add(figures["accuracy"])
    assert len(accuracies) == 1
    assert "sharded over" in capsys.readouterr().out
    assert accuracies.pop() > 0.8


@SLOW
def test_graph_reaches_the_figures_of_the_papers():
    """Cora and Citeseer, in place; the means of ten seeds are in docs/how-to/graphs.md."""
    folder = os.environ.get("FNLAMP_GRAPH")
    if not folder:
        pytest.skip("FNLAMP_GRAPH names no folder with cora.npz and citeseer.npz")
    module = example("graph")
    found = unsafe_perform_io(module.table(Path(folder), ["gcn"], 3).run(Runtime(log=None)).unwrap())
    assert found[0]["mean"] > 0.8 and found[1]["mean"] > 0.68


@SLOW
def test_seq2seq_copies_unseen_sequences(tmp_path, capsys):
    """`--length 20`, its default, in a minute or two; docs/how-to/sequence-to-sequence.md decodes in the ordinary suite."""
    path = tmp_path / "figures.json"
    assert example("seq2seq").main(["--length", "6", "--rows", "4096", "--json", str(path)]) == 0
    assert [row["model"] for row in json.loads(path.read_text())] == ["gru", "transformer"]
    assert min(row["tokens"] for row in json.loads(path.read_text())) >= 0.99
    assert example("seq2seq").main(["--models", "gru", "--rows", "64"]) == 1  # one step
    assert "gru: " in capsys.readouterr().out


@SLOW
def test_digits_trains_a_vision_transformer(tmp_path, capsys):
    module, path = example("digits"), tmp_path / "figures.json"
    small = ["--epochs", "1", "--layers", "1", "--width", "8", "--heads", "1", "--rows", "64", "--json", str(path)]
    assert module.main(small) == 1  # too little training
    assert module.main([*small, "--wanted", "0"]) == 0
    assert "of 64 test images after 1 epochs" in capsys.readouterr().out
    assert set(json.loads(path.read_text())) == {"accuracy", "images", "seconds", "seed"}


def test_digits_validates_on_images_that_are_neither_trained_on_nor_tested():
    module = example("digits")
    every = module.Digits(np.arange(100)[:, None], np.arange(100))
    (given, test), (rest, validation) = module.split(every, False), module.split(every, True)
    assert len(test.y) == 20 and len(validation.y) == 16
    assert not set(test.y) & set(given.y) and not set(validation.y) & set(rest.y)
    assert set(validation.y) | set(rest.y) == set(given.y)


@pytest.mark.slow
def test_pmlb_compares_both_networks_on_the_bundled_sets(tmp_path, capsys):
    module, path = example("pmlb"), tmp_path / "figures.json"
    assert module.main(["--seeds", "1", "--without-torch", "--json", str(path)]) == 0
    assert [row["set"] for row in json.loads(path.read_text())] == ["iris", "wine", "breast_cancer"]
    assert "mean of 3 sets: fnlamp" in capsys.readouterr().out


@SLOW
def test_pmlb_has_the_accuracy_of_torch():
    pytest.importorskip("torch")
    module = example("pmlb")
    found = unsafe_perform_io(module.table(None, 2, True).run(Runtime(log=None)).unwrap())
    for row in found:  # the same parameters and batches: an example near the boundary may differ
        np.testing.assert_allclose(row["fnlamp"], row["torch"], atol=0.02)


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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mixing", *(pytest.param(name, marks=SLOW) for name in ("nodes", "attention-map"))])
def test_the_pictures_of_the_pages_are_drawn(name, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    assert example("pictures").main(["--only", name, "--rows", "64", "--out", str(tmp_path)]) == 0
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.endswith(f"drawn: {tmp_path / name}.png\n")


def test_a_picture_without_its_data_or_its_folder_is_a_failure(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    module = example("pictures")
    assert module.main(["--only", "nodes", "--data", str(tmp_path)]) == 1
    assert "cora.npz" in capsys.readouterr().err
    assert module.main(["--only", "mixing", "--out", str(tmp_path / "nowhere")]) == 1
    assert "cannot be written (No such file or directory)" in capsys.readouterr().err


@SLOW
def test_the_weights_of_attention_are_those_of_the_model(monkeypatch):
    """The rest of the decoder, in float64, makes the model's logits of them."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    module, rng = example("pictures"), np.random.default_rng(0)
    layer = models.recurrent_seq2seq(9, cell=nn.gru_cell(5), layers=1, width=4)
    source, inputs = rng.integers(0, 9, (3, 6)).astype(np.int32), rng.integers(0, 9, (3, 4)).astype(np.int32)
    made = layer.init(jax.random.key(0), (source, inputs))
    params, parts = made.params, {name: part for name, part, _ in made.parts}
    weights = module.weights(layer, params, source, inputs)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
    encoder, decoder = parts["encoder"], parts["decoder"]
    memory, _ = encoder.apply(params["encoder"], {}, source, Eval())
    (own, keys), _ = nn.sequence(**dict(decoder.chain[:2])).apply(params["decoder"], {}, (inputs, memory), Eval())
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["decoder"])
    seen = p["attention"]["seen"]
    values = (np.asarray(keys, np.float64) @ seen["memory"]["weight"] + seen["memory"]["bias"])[..., 5:]
    c = (weights @ values) @ seen["output"]["weight"] + seen["output"]["bias"]
    combined = np.tanh(np.concatenate([c, np.asarray(own)], -1) @ p["combined"]["weight"])
    wanted = combined @ p["out"]["weight"] + p["out"]["bias"]
    got, _ = layer.apply(params, {}, (source, inputs), Eval())
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


@SLOW
def test_the_convolutions_learn_the_digits(capsys):
    assert example("convolution").main([]) == 0
    out = capsys.readouterr().out
    assert float(re.findall(r"Accuracy: (\d+\.\d+)%", out)[-1]) > 93
    assert example("convolution").main(["--data", "nowhere"]) == 1
    assert "FileMissing" in capsys.readouterr().err


@SLOW
def test_the_character_model_learns_the_next_character(tmp_path, capsys):
    (tmp_path / "text").write_text("the cat sat on the mat. " * 800)
    arguments = ["--text", str(tmp_path / "text"), "--epochs", "6", "--length", "24"]
    assert example("character_model").main(arguments) == 0
    out = capsys.readouterr().out
    assert float(re.findall(r"Validation Loss: (\d+\.\d+)", out)[-1]) < 0.5  # single letters: 2.14
    assert "ln 11 = 2.40" in out
    assert len(out.rstrip("\n").rpartition("The model writes:\n\n")[2]) == 32 + 24
    assert example("character_model").main(["--text", str(tmp_path / "nothing")]) == 1
    assert "FileMissing" in capsys.readouterr().err


@SLOW
def test_gpt_learns_the_next_character(tmp_path, capsys):
    (tmp_path / "text").write_text("the cat sat on the mat. " * 400)
    figures = tmp_path / "figures.json"
    # Once through the text are 11 steps.
    arguments = ["--data", str(tmp_path / "text"), "--steps", "60", "--json", str(figures)]
    assert example("gpt").main(arguments) == 0
    assert re.search(r"66 steps in \d+ s; validation loss .* a guess has 2.40", capsys.readouterr().out)
    found = json.loads(figures.read_text())
    assert found["steps"] == 66 and found["validation_loss"] < 1.8  # single letters: 2.14
    assert [len(text) for text in found["texts"]] == [64] * 3 and all(text.startswith("the cat ") for text in found["texts"])
    assert example("gpt").main(["--data", str(tmp_path / "nothing")]) == 1
    assert "FileMissing" in capsys.readouterr().err


@SLOW
def test_bert_learns_hidden_characters_and_a_classifier(tmp_path, monkeypatch, capsys):
    """Long runs of one letter: what is hidden is what is around it, which frequencies do not say."""
    module, figures, text = example("bert"), tmp_path / "figures.json", tmp_path / "text"
    monkeypatch.setattr(module, "EVERY", 75)
    monkeypatch.setattr(module, "BATCH", 16)
    text.write_text("".join(letter * 60 for letter in "abcdefgh" * 20))
    assert module.main(["--data", str(text), "--steps", "150", "--rows", "64", "--json", str(figures)]) == 0
    assert "frequencies alone: loss 2.0" in capsys.readouterr().out  # ln 8 = 2.08
    found = json.loads(figures.read_text())
    assert set(found) == {"loss", "accuracy", "unigram", "from_encoder", "from_random"}
    assert found["loss"] < 0.7 * found["unigram"]


def test_a_text_too_short_for_bert_is_an_empty_epoch(tmp_path, capsys):
    (tmp_path / "text").write_text("the cat sat on the mat. ")
    assert example("bert").main(["--data", str(tmp_path / "text")]) == 1
    assert "EmptyEpoch" in capsys.readouterr().err


def test_berts_typing_errors_are_where_the_labels_say():
    module = example("bert")
    text = module.parts("the cat sat on the mat, and the dog lay on the log. " * 40)
    x, y = module.typed(text.codec, text.learned, 200, seed=0)
    pieces = np.lib.stride_tricks.sliding_window_view(text.learned, module.BLOCK)
    correct = {piece.tobytes() for piece in pieces.astype(x.dtype)}
    assert [row[1:].tobytes() not in correct for row in x] == y.astype(bool).tolist()
    assert 0.3 < y.mean() < 0.6 and (x[:, 0] == text.codec.id_of("[CLS]")).all()
    windows = {np.sort(piece).tobytes() for piece in pieces.astype(x.dtype)}
    assert all(np.sort(row[1:]).tobytes() in windows for row in x)  # characters are exchanged, not replaced


@SLOW
def test_segmentation_finds_digits(tmp_path, capsys):
    module, figures, picture = example("segmentation"), tmp_path / "figures.json", tmp_path / "scenes.png"
    assert module.main(["--rows", "64", "--epochs", "2", "--json", str(figures), "--plot", str(picture)]) == 0
    assert "by a limit of brightness" in capsys.readouterr().out
    found = json.loads(figures.read_text())
    assert len(found["classes"]) == 11 and found["mean"] == pytest.approx(np.mean(found["classes"]))
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_overlap_of_segmentation_is_scikit_learns():
    from sklearn.metrics import confusion_matrix, jaccard_score

    module, rng = example("segmentation"), np.random.default_rng(0)
    scene = module.scenes(module.digits()["test"], 8, seed=0)
    assert scene.x.shape == (8, 24, 24, 1) and scene.y.max() <= 10
    guess = np.where(rng.random(scene.y.shape) < 0.3, rng.integers(0, 11, scene.y.shape), scene.y)
    table = confusion_matrix(scene.y.ravel(), guess.ravel(), labels=range(11))
    wanted = jaccard_score(scene.y.ravel(), guess.ravel(), labels=range(11), average=None)
    np.testing.assert_allclose(module.overlaps(table), wanted, rtol=1e-12)
    bright = scene.x[..., 0] > 0.4
    assert module.by_brightness(*scene, 0.4) == pytest.approx(jaccard_score(scene.y.ravel() > 0, bright.ravel()), rel=1e-12)


def test_weights_are_the_same_in_torch_and_in_fnlamp(tmp_path, capsys):
    pytest.importorskip("torch")
    module = example("weights")
    assert module.main(["--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "back.safetensors: the same bits" in out and "between the outputs of torch and of fnlamp: " in out
    assert module.main(["--data", str(tmp_path / "back.safetensors"), "--out", str(tmp_path / "other")]) == 0
    assert module.main(["--data", str(tmp_path / "missing.pt"), "--out", str(tmp_path)]) == 1
    assert "FileMissing" in capsys.readouterr().err


def test_weights_without_torch_reads_a_file_or_says_what_is_missing(tmp_path, monkeypatch, capsys):
    module = example("weights")
    made = module.LAYER.init(jax.random.key(0), module.SPEC)
    file = tmp_path / "module.safetensors"
    safetensors.numpy.save_file(models.weights.of_layer(module.LAYER, module.SPEC).write(made.params, made.state), file)
    find = module.find_spec
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "torch" else find(name))
    assert module.main(["--data", str(file), "--out", str(tmp_path)]) == 0
    assert "the same bits" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="not installed: torch .*--data FILE"):
        module.main([])


@pytest.mark.slow
def test_the_character_model_finds_a_text_in_python(capsys):
    assert example("character_model").main(["--characters", "12000", "--epochs", "1", "--length", "1"]) == 0
    assert "Validation Loss" in capsys.readouterr().out


@pytest.mark.slow
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


@pytest.mark.slow
def test_lab_mnist_records_a_run_and_a_sweep_of_the_documents_kernels(tmp_path, capsys):
    lab = example("lab_mnist")
    assert lab.main(["--epochs", "2", "--log-interval", "10"], tmp_path) == 0
    out = capsys.readouterr().out
    assert re.search(r"431,080 parameters, \d\d\.\d\d% of the test images; fnlamp runs show \w{6}", out)
    (run,) = runs(tmp_path).run_or_raise()
    assert (run.status, run.config["loop_count"]) == ("completed", 44)
    folder = Path(run.folder)
    histories = [track.history(folder / name).run_or_raise() for name in ("metrics.jsonl", "metrics.db")]
    for name in ("step.loss", "train.loss", "validation.accuracy", "gradient_norm", "parameters.conv_1.weight.std"):
        one, other = (history.scalars(name) for history in histories)
        np.testing.assert_array_equal(one.steps, other.steps)
        np.testing.assert_array_equal(one.values, other.values)
    assert histories[0].scalars("validation.accuracy").steps.tolist() == [22, 44]
    assert list((folder / "tensorboard").iterdir())

    assert lab.main(["--epochs", "1", "--log-parameters", "False", "--sweep", "kernels"], tmp_path) == 0
    assert "best: " in capsys.readouterr().out
    found = runs(tmp_path, name="kernels").run_or_raise()
    kernels = list(zip(found.config("model.first_kernel"), found.config("model.second_kernel"), strict=True))
    spec = jax.ShapeDtypeStruct((1, 28, 28, 1), np.uint8)
    assert kernels == [(3, 3), (3, 5), (5, 3), (5, 5)]
    made = [lab.network(*each, 500).init(jax.random.key(0), spec) for each in kernels]
    sizes = [tree.count(each.params) for each in made]
    assert sizes == [639_760, 430_760, 640_080, 431_080]
