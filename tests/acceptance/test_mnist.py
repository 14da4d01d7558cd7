"""The documents' figures on MNIST, through the classifier example's own program."""

from __future__ import annotations

import gc
import importlib.util
import json
import re
import statistics
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from returns.pipeline import is_successful
from returns.unsafe import unsafe_perform_io

from fnlamp import data, loss, stream, track, train
from fnlamp.effect import Runtime
from fnlamp.experiment import runs
from fnlamp.fault import EmptyEpoch

pytestmark = pytest.mark.acceptance
QUIET = Runtime(log=None)


def example(name):
    """The module of that file in the examples."""
    path = Path(__file__).parents[2] / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{path.stem}_example", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def classifier():
    return example("classifier")


@pytest.fixture(scope="session")
def images(classifier, mnist_folder):
    return unsafe_perform_io(classifier.mnist(mnist_folder, None).run(QUIET).unwrap())


def value(program):
    outcome = program.run(QUIET)
    assert is_successful(outcome), outcome
    return unsafe_perform_io(outcome.unwrap())


def test_simple_reaches_the_documents_accuracy_over_five_seeds(classifier, mnist_folder, tmp_path):
    accuracies, losses = [], []
    for seed in range(5):
        out = tmp_path / f"{seed}.json"
        assert classifier.main(["--data", str(mnist_folder), "--model", "simple", "--seed", str(seed), "--json", str(out)]) == 0
        run = json.loads(out.read_text())
        assert run["parameters"] == 101_770
        assert [epoch["epoch"] for epoch in run["epochs"]] == [1, 2, 3, 4, 5]
        accuracies.append(run["epochs"][-1]["validation_accuracy"])
        losses.append(run["epochs"][-1]["train_loss"])
    print(f"accuracy {accuracies}, training loss {losses}")
    assert statistics.median(accuracies) >= 0.970
    assert min(accuracies) >= 0.964
    assert all(0.045 <= final <= 0.065 for final in losses)


def test_explain_says_the_documents_figures(classifier, images):
    plan = classifier.describe(classifier.MODELS["simple"], images, "adamw", 5, 0).explain()
    assert "101,770" in plan
    assert "1,563 steps of 32 rows, the last of 16" in plan


@pytest.mark.parametrize("optimizer", ["sgdw", "adamw"])
def test_lamp_trains_with_both_rules(classifier, images, optimizer):
    trained = value(classifier.describe(classifier.MODELS["lamp"], images, optimizer, 3, 0))
    assert sum(leaf.size for leaf in jax.tree.leaves(trained.params)) == 52_756
    print(optimizer, trained)
    assert trained.curve[-1].steps == 250
    assert trained.curve[-1].train_loss < trained.curve[0].train_loss
    assert trained.curve[-1].validation_metrics["accuracy"] > 0.93


def test_a_hundred_rows_are_an_empty_epoch_before_any_compute(classifier, mnist_folder, capsys):
    few = unsafe_perform_io(classifier.mnist(mnist_folder, 100).run(QUIET).unwrap())
    program = classifier.describe(classifier.MODELS["lamp"], few, "sgdw", 1, 0)
    fault = EmptyEpoch(rows=100, batch_size=200, drop_last=True)
    assert program.explain().fault == fault
    gc.collect()  # arrays of earlier tests, which would go in between
    before = len(jax.live_arrays())
    assert unsafe_perform_io(program.run(QUIET).failure()) == fault
    assert len(jax.live_arrays()) == before
    assert classifier.main(["--data", str(mnist_folder), "--model", "lamp", "--rows", "100"]) == 1
    assert "EmptyEpoch" in capsys.readouterr().err


def test_scratch_starts_at_ln_10_and_learns_the_last_sixteen_rows(classifier, images):
    recipe = classifier.MODELS["scratch"]
    untrained = value(classifier.describe(recipe, images, "sgdw", 0, 0))
    whole = value(
        train.evaluate(stream.minibatches(images.x, images.y, batch_size=1000), {"accuracy": loss.accuracy})(untrained)
    )
    assert abs(whole.loss - 2.30) <= 0.05
    assert abs(whole.metrics["accuracy"] - 0.10) <= 0.06
    trained = value(classifier.describe(recipe, images, "sgdw", 1, 0))
    assert trained.curve[0].steps == 782
    last = slice(50_000 - 16, 50_000)
    hits = np.asarray(trained.predict(images.x[last])).argmax(-1) == images.y[last]
    print(f"last batch: {hits.sum()} of 16, initial loss {whole.loss:.4f}")
    assert hits.sum() >= 14


def test_logistic_reaches_ninety_percent_of_its_training_rows(classifier, images):
    trained = value(classifier.describe(classifier.MODELS["logistic"], images, "sgdw", 2, 0))
    assert sum(leaf.size for leaf in jax.tree.leaves(trained.params)) == 7_850
    rows = stream.minibatches(images.x, images.y, batch_size=1000)
    accuracy = value(train.evaluate(rows, {"accuracy": loss.accuracy})(trained)).metrics["accuracy"]
    print(f"accuracy on all rows {accuracy}")
    assert accuracy >= 0.90
    first = np.asarray(trained.predict(images.x[:64])).argmax(-1) == images.y[:64]
    assert first.mean() >= 0.90


@pytest.mark.parametrize("model", ["simple", "lamp"])
def test_executors_are_bit_identical(classifier, images, model):
    program = classifier.describe(classifier.MODELS[model], images, "adamw", 1, 0)
    runs = []
    for executor in (train.Stepwise(), train.Fused(chunk=1), train.Fused(chunk=7), train.Fused(chunk=50), train.Fused()):
        outcome = program.run(Runtime(log=None, executor=executor))
        runs.append(unsafe_perform_io(outcome.unwrap()))
    for run in runs[1:]:
        for a, b in zip(jax.tree.leaves(runs[0].state), jax.tree.leaves(run.state), strict=True):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
        assert run.curve[0].train_loss == runs[0].curve[0].train_loss
        assert run.curve[0].validation_loss == runs[0].curve[0].validation_loss


def test_the_convolutions_reach_98_8_percent_of_the_test_images_within_five_epochs(mnist_folder, capsys):
    assert example("convolution").main(["--data", str(mnist_folder)]) == 0
    out = capsys.readouterr().out
    assert "431,080" in out
    accuracies = [float(found) for found in re.findall(r"Accuracy: (\d+\.\d+)%", out)]
    print(f"test accuracy after each epoch: {accuracies}")
    assert len(accuracies) == 5
    assert accuracies[-1] >= 98.8


@pytest.mark.slow
def test_two_epochs_reach_99_percent_of_the_test_images(mnist_folder, capsys):
    assert example("mnist_fast").main(["--data", str(mnist_folder), "--seeds", "1"]) == 0
    out = capsys.readouterr().out
    print(out)
    assert float(re.findall(r"mean of 1 seeds: (\d+\.\d+)%", out)[0]) >= 99.0


@pytest.mark.slow
def test_half_precision_is_as_accurate_as_float32_over_three_seeds(mnist_folder):
    cases = example("benchmarks/cases")
    case, rows = cases.CASES["simple"], cases.digits(mnist_folder)
    names = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")
    images, labels = (value(data.read_idx(mnist_folder / name)) for name in names)
    measure = train.evaluate(
        stream.minibatches(images.reshape(len(images), -1), labels, batch_size=1000), {"accuracy": loss.accuracy}
    )

    def accuracy(precision, seed):
        program = train.epochs(
            model=train.supervised(case.layer, loss.cross_entropy(), precision=precision),
            optimizer=case.optimizer,
            train_batches=lambda context: stream.minibatches(*rows, batch_size=case.batch, seed=context.seed),
            epochs=3,
            seed=seed,
        )
        return 100 * value(program.bind(measure)).metrics["accuracy"]

    found = {str(p): [accuracy(p, seed) for seed in range(3)] for p in (train.float32, train.bfloat16, train.float16)}
    print(f"accuracy in percent {found}")
    plain, *half = (statistics.mean(each) for each in found.values())
    assert plain > 96.5
    assert all(abs(mean - plain) <= 0.3 for mean in half)


def test_lab_mnist_reaches_98_percent_in_two_epochs_with_everything_recorded(mnist_folder, tmp_path):
    assert example("lab_mnist").main(["--data", str(mnist_folder), "--epochs", "2"], tmp_path) == 0
    (run,) = runs(tmp_path).run_or_raise(QUIET)
    history = track.history(run.folder).run_or_raise(QUIET)
    assert history.last["validation.accuracy"] >= 0.98
    assert history.scalars("step.loss").steps.tolist() == list(range(50, 1877, 50))
