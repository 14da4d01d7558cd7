"""`explain` of a composed program shows fnlamp's own programs, the steps that depend on shapes alone, and why it stops."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fnlamp import data, loss, nn, optim, stream, train
from fnlamp.effect import Effect, Outline, Standing, Unknown


def classify(images: Any) -> Effect[Any, Any]:
    return train.epochs(
        model=train.supervised(nn.flatten >> nn.rescale(1 / 255) >> nn.linear(len(images.classes)), loss.cross_entropy()),
        optimizer=optim.adamw(1e-3),
        train_batches=lambda context: stream.minibatches(*images.arrays, batch_size=100, seed=context.seed),
        epochs=2,
    )


def narrow(images: Any) -> Effect[Any, Any]:
    """A target of another shape than the prediction's."""
    return train.epochs(
        model=train.supervised(nn.flatten >> nn.rescale(1 / 255) >> nn.linear(3), loss.mse()),
        optimizer=optim.adamw(1e-3),
        train_batches=lambda context: stream.minibatches(*images.arrays, batch_size=100, seed=context.seed),
        epochs=2,
    )


def looks_at_labels(images: Any) -> Effect[Any, Any]:
    return Effect.from_value(images.of_the_user)


READERS: dict[str, Any] = {
    "read_csv": data.read_csv,
    "read_npy": data.read_npy,
    "read_npz": data.read_npz,
    "read_idx": data.read_idx,
    "read_pickle": data.read_pickle,
    "read_parquet": data.read_parquet,
    "read_safetensors": data.read_safetensors,
    "read_text": data.read_text,
    "read_torch": data.read_torch,
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
def test_a_reader_is_shown_with_its_path_and_the_next_step_with_the_reason_why_not(read: Any) -> None:
    explanation = read("nowhere/x.bin").bind(classify).explain()
    assert explanation.splitlines() == [
        "read nowhere/x.bin",
        "then classify, not looked into: the contents of the file are unknown until it is read",
    ]
    assert explanation.fault is None


@pytest.mark.parametrize(
    ("program", "rows"),
    [
        (data.mnist("nowhere", "train"), "60,000 images of 28x28x1"),
        (data.fashion_mnist("nowhere", "test"), "10,000 images of 28x28x1"),
        (data.kmnist("nowhere", "test", download=False), "10,000 images of 28x28x1"),
        (data.cifar10("nowhere", "train"), "50,000 images of 32x32x3"),
        (data.digits("train"), "1,437 images of 8x8x1"),
    ],
    ids=["mnist", "fashion_mnist", "kmnist", "cifar10", "digits"],
)
def test_a_named_data_set_has_a_known_shape_and_the_training_on_it_is_planned(program: Any, rows: str) -> None:
    explanation = program.bind(classify).explain()
    lines = explanation.splitlines()
    assert rows in lines[0]
    assert lines[1] == "then classify:"
    assert lines[2].startswith("epochs: ")
    assert any("parameters: " in line for line in lines)
    assert explanation.fault is None
    steps = int(rows.split()[0].replace(",", "")) // 100
    assert f"{steps:,} steps" in explanation or f"{steps + 1:,} steps" in explanation


def test_nothing_is_read_and_no_memory_is_taken(tmp_path: Path) -> None:
    tracemalloc.start()
    images = data.cifar10(tmp_path, "train").explain()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "50,000 images" in images
    assert peak < 2**20
    assert list(tmp_path.iterdir()) == []


def test_a_fault_of_shapes_is_found_before_anything_is_read() -> None:
    explanation = data.mnist("nowhere", "train").bind(narrow).explain()
    assert explanation.fault is not None
    assert "this run would fail: " in explanation


def test_a_function_that_needs_more_than_the_shapes_is_reported() -> None:
    explanation = data.digits("test").bind(looks_at_labels).explain()
    line = "then looks_at_labels, not looked into: applied to the shapes alone, it raises AttributeError"
    assert explanation.splitlines()[-1] == line


def test_a_function_of_the_value_is_not_called() -> None:
    def scaled(images: Any) -> Any:
        raise AssertionError("explain ran map")

    explanation = data.digits("test").map(scaled).bind(classify).explain()
    assert "then test_a_function_of" not in explanation
    assert "scaled, not looked into: a function of the value itself" in explanation
    assert explanation.splitlines()[-1] == "then classify"


@pytest.mark.slow
def test_a_run_does_what_was_explained() -> None:
    explanation = data.digits("train").bind(classify).explain()
    planned = next(line for line in explanation.splitlines() if "parameters: " in line)
    trained = data.digits("train").bind(classify).run_or_raise()
    count = sum(np.size(leaf) for part in trained.params.values() for leaf in part.values())
    assert f"{count:,}" in planned
    assert trained.curve[0].steps == 15


def test_the_pieces() -> None:
    def made(value: Any) -> Effect[Any, Any]:
        return Effect.from_value(0).outlined(lambda: Outline(("first",), value))

    def second(value: Any) -> Effect[Any, Any]:
        return Effect.suspend(lambda: value).named(f"second of {value}")

    assert made(Standing(3)).bind(second).explain().splitlines()[:3] == ["first", "then second:", "second of 3:"]
    assert "not looked into: because" in made(Unknown("because")).bind(second).explain()
    assert repr(Unknown("because")) == "unknown"
