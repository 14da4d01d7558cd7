"""Spaces: what goes wrong elsewhere is right, or an error that says what is wrong."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from fnlamp.sweep import Space, choice, grid, halton, integers, listed, log_uniform, sample, sobol, uniform

AXES = {"a": uniform(-1.0, 1.0), "b": log_uniform(1e-4, 1.0), "c": integers(3, 5), "d": choice(["x", "y", "z"])}


def test_a_grid_has_each_combination_and_the_last_path_changes_fastest():
    found = grid({"a": (1, 2), "b": ["x", "y"]})
    assert list(map(dict, found)) == [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"}]
    assert found.axes == {"a": (1, 2), "b": ("x", "y")}


@pytest.mark.parametrize("array", [np.geomspace(1e-3, 1e-1, 3), jnp.arange(1, 4) / 8, [np.float32(0.5), np.float64(0.1)]])
def test_values_of_an_array_are_those_of_python(array):
    found = grid({"rate": array})
    assert [type(point["rate"]) for point in found] == [float] * len(array)
    assert [point["rate"] for point in found] == [float(each) for each in array]


def test_numbers_that_print_alike_are_two_points():
    near = np.nextafter(0.1, 1)
    assert [point["rate"] for point in grid({"rate": (0.1, near)})] == [0.1, near]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: grid({"a": ()}), "grid: a: expected at least one value, got none"),
        (lambda: grid({}), "at least one path"),
        (lambda: grid({"a": (1, 2, 1)}), "grid: a: 1 is there twice"),
        (lambda: grid({"a": np.ones((2, 2))}), r"in one dimension, got an array of shape \(2, 2\)"),
        (lambda: grid({"a": "sgd"}), "grid: a is a sequence of values"),
        (lambda: grid({"a": 3}), "grid: a is a sequence of values"),
        (lambda: grid({"a": (1,)}) * grid({"a": (2,)}), "a is in both factors"),
        (lambda: sample({"a": (1, 2)}, trials=1), "sample: a is a distribution"),
        (lambda: sample(AXES, trials=0), "trials must be at least 1"),
        (lambda: log_uniform(0, 1), "log_uniform: low is a number above 0"),
        (lambda: uniform(1, 1), "low is below high"),
    ],
)
def test_a_wrong_space_is_an_error_that_names_the_path(make, said):
    with pytest.raises((TypeError, ValueError), match=said):
        make()


def test_spaces_compose():
    rates, seeds = grid({"rate": (0.1, 0.2)}), grid({"seed": range(3)})
    both = rates * seeds
    assert len(both) == 6 and len(both.where(lambda point: point["seed"] != point["rate"] * 10)) == 4
    assert both[:2] + listed([{"seed": 9}]) == Space((*both.points[:2], {"seed": 9}))


@pytest.mark.parametrize("draw", [sample, halton, sobol])
def test_a_point_is_a_function_of_the_seed_and_its_trial(draw):
    few, many = draw(AXES, trials=5, seed=3), draw(AXES, trials=64, seed=3)
    assert many[:5] == few and few != draw(AXES, trials=5, seed=4)
    values = many.axes
    assert -1 <= min(values["a"]) < max(values["a"]) <= 1 and 1e-4 <= min(values["b"]) <= max(values["b"]) <= 1
    assert set(values["c"]) == {3, 4, 5} and set(values["d"]) == {"x", "y", "z"}


def test_another_path_does_not_change_the_values_of_a_sample():
    both, one = sample(AXES, trials=9), sample({"b": AXES["b"]}, trials=9)
    assert [point["b"] for point in both] == [point["b"] for point in one]


def test_samples_have_their_distribution():
    points = sample(AXES, trials=2000)
    logs = [np.log(point["b"]) for point in points]
    assert stats.kstest(logs, stats.uniform(np.log(1e-4), -np.log(1e-4)).cdf).pvalue > 0.01
    counts = [sum(point["c"] == n for point in points) for n in (3, 4, 5)]
    assert stats.chisquare(counts).pvalue > 0.01
    pairs = np.array([[point["a"], np.log(point["b"])] for point in points])
    assert abs(np.corrcoef(pairs.T)[0, 1]) < 0.06


def test_quasi_random_points_are_more_even_than_random_ones():
    def gaps(space: Space) -> float:
        return float(np.diff(np.sort([point["a"] for point in space])).max())

    axes = {"a": uniform(0, 1), "b": uniform(0, 1)}
    assert gaps(sobol(axes, trials=64)) < 2 / 64
    assert gaps(halton(axes, trials=64)) < 3 / 64 < gaps(sample(axes, trials=64))
