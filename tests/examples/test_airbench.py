"""The benchmark on CIFAR-10 in a tiny form: its network, its first layer, and that it learns."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from fnlamp import train, tree
from fnlamp.arrays import array_spec
from fnlamp.data import cifar10
from fnlamp.effect import Runtime
from fnlamp.fault import ChecksumMismatch, FaultError

FOLDER = Path(__file__).parents[2] / "examples" / "benchmarks"
RNG = np.random.default_rng(0)
LABELS = (np.arange(96) % 3).astype(np.int32)


@pytest.fixture
def airbench(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.delenv("FNLAMP_CIFAR", raising=False)
    yield importlib.import_module("airbench")
    sys.modules.pop("airbench", None)


def coloured():
    """Noise, brighter in the channel of the label."""
    x = RNG.integers(0, 160, (96, 32, 32, 3))
    x[np.arange(96), :, :, LABELS] += 90
    return x.astype(np.uint8)


def test_the_first_layer_whitens_patches(airbench):
    x = coloured()
    weights = airbench.whitening(x).astype(np.float64)
    pixels = (x / 255 - np.array(airbench.MEAN)) / np.array(airbench.STD)
    patches = np.stack([pixels[:, i : 31 + i, j : 31 + j] for i in range(2) for j in range(2)], axis=3)  # (..., 4, 3)
    outputs = patches.reshape(-1, 12) @ weights.reshape(12, 24)
    moments = outputs.T @ outputs / len(outputs)
    np.testing.assert_allclose(moments[:12, :12], np.eye(12), atol=5e-3)  # but for the 5e-4 added to each eigenvalue
    np.testing.assert_array_equal(weights[..., 12:], -weights[..., :12])


def test_the_network_has_the_published_number_of_parameters(airbench):
    layer = airbench.network(airbench.whitening(coloured()))
    made = jax.eval_shape(lambda: layer.init(jax.random.key(0), array_spec((2, 32, 32, 3), np.uint8)).params)
    paths = {path: int(np.prod(leaf.shape)) for path, leaf in tree.paths(made).items()}
    assert sum(count for path, count in paths.items() if not path.endswith("scale")) == 1_971_640


def test_convolutions_begin_as_the_identity(airbench):
    w = np.asarray(airbench.passing(jax.random.key(0), (3, 3, 2, 5), np.float32))
    x = RNG.standard_normal((1, 4, 4, 2)).astype(np.float32)
    y = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_array_equal(y[..., :2], x)
    assert 0 < np.abs(w[..., 2:]).max() <= 18**-0.5


def test_each_image_is_mirrored_in_every_other_epoch(airbench):
    x = coloured()
    first, second = airbench.alternating(x, seed=0)
    turned = [(each != x).any((1, 2, 3)) for each in (first, second)]
    assert (turned[0] ^ turned[1]).all() and 30 < turned[0].sum() < 66
    np.testing.assert_array_equal(first[:, :, ::-1], second)


def test_the_learning_rate_is_a_triangle(airbench):
    factors = [float(airbench.triangle(100)(step)) for step in (0, 23, 100)]
    np.testing.assert_allclose(factors, [0.2, 1.0, 0.07], rtol=1e-6)


def test_translations_are_by_up_to_two_pixels(airbench):
    x = np.arange(2 * 8 * 8).reshape(2, 8, 8, 1).astype(np.uint8)
    moved = np.asarray(airbench.translated(jax.random.key(1), x))
    around = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    places = [(i, j) for i in range(5) for j in range(5)]
    for image, padded in zip(moved, around, strict=True):
        assert sum((image == padded[i : i + 8, j : j + 8]).all() for i, j in places) == 1


@pytest.mark.slow
def test_a_tiny_network_learns_colours_and_keeps_what_is_fixed(airbench):
    x, options = coloured(), {"batch": 16, "widths": (4, 8, 8), "precision": train.float32}
    program = airbench.training(x, LABELS, 0, 16, **options)
    trained = program.run_or_raise(Runtime(log=None))
    assert np.mean(airbench.averaged(trained, x).argmax(1) == LABELS) > 0.9
    np.testing.assert_array_equal(trained.params["whiten"]["weight"], airbench.whitening(x))
    scales = [np.asarray(leaf) for path, leaf in tree.paths(trained.params).items() if path.endswith("scale")]
    assert len(scales) == 6 and all((scale == 1).all() for scale in scales)
    assert trained.params["whiten"]["bias"].any()


def test_without_data_it_says_so_and_damaged_data_are_a_fault(airbench, tmp_path, capsys):
    assert "FNLAMP_CIFAR" in airbench.figures(None, 1)["skipped"]
    assert "skipped" in capsys.readouterr().out
    for number in range(1, 6):
        (tmp_path / f"data_batch_{number}.bin").write_bytes(bytes(30_730_000))
    with pytest.raises(FaultError) as caught:
        cifar10(tmp_path, "train", download=False).run_or_raise(Runtime(log=None))
    assert isinstance(caught.value.fault, ChecksumMismatch)
