"""Plots of runs: the numbers in the figures, against NumPy's quantiles."""

from __future__ import annotations

from types import SimpleNamespace

import matplotlib
import matplotlib.colors
import matplotlib.figure
import numpy as np
import outcomes
import pytest

from fnlamp import plots
from fnlamp.fault import FileUnwritable, NoDisplay, ShapeMismatch
from fnlamp.plots.spread import spread_of
from fnlamp.plots.table import scale_of
from fnlamp.track import Histogram
from fnlamp.track.quantile import BASIS

RNG = np.random.default_rng(0)


def curve(steps, values):
    return SimpleNamespace(steps=np.asarray(steps), values=np.asarray(values))


@pytest.fixture
def axes(tmp_path, monkeypatch):
    """The axes of the figure that a plot saves."""
    matplotlib.use("agg")
    figures = []
    save = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k)))

    def drawn(plot, *given, **options):
        path = tmp_path / "plot.png"
        assert outcomes.value(plot(*given, path=path, **options)) == path
        assert path.stat().st_size > 1000
        return figures.pop().axes[0]

    return drawn


def test_bands_of_seeds_are_quantiles_over_seeds_at_each_step(axes):
    steps, values = np.arange(0, 500, 10), RNG.lognormal(size=(7, 50))
    expected = np.percentile(values, [0, 6.68, 15.87, 30.85, 50, 69.15, 84.13, 93.32, 100], axis=0)
    found = axes(plots.bands, {"seeds": [curve(steps, each) for each in values]}, metric="loss", log=True)
    (median,) = found.lines
    np.testing.assert_allclose(median.get_xdata(), steps)
    np.testing.assert_allclose(median.get_ydata(), expected[4], rtol=1e-12)
    assert len(found.collections) == 4 and found.get_yscale() == "log" and found.get_ylabel() == "loss"
    for area, low, high in zip(found.collections, expected[:4], expected[:4:-1], strict=True):
        corners = {tuple(corner) for corner in area.get_paths()[0].vertices}
        assert {*zip(steps, low, strict=True), *zip(steps, high, strict=True)} <= corners


@pytest.mark.parametrize("windows", [1, 7, 100])
def test_bands_of_one_long_curve_are_quantiles_in_windows_of_steps(windows):
    steps = np.sort(RNG.choice(100_000, 3000, replace=False))
    values = RNG.standard_normal(3000)
    found = spread_of(curve(steps, values), windows, "bands")
    # Windows are equally wide in steps: assigned here by arithmetic, not by a search.
    width = (steps[-1] - steps[0]) / windows
    window = np.minimum(((steps - steps[0]) / width).astype(int), windows - 1)
    assert len(found.steps) == windows
    for place in range(windows):
        part = window == place
        np.testing.assert_allclose(found.rows[:, place], np.percentile(values[part], BASIS), rtol=1e-9)
        assert steps[part].min() <= found.steps[place] <= steps[part].max()


def test_values_that_are_not_finite_are_in_no_band_and_a_cross(axes):
    values = np.array([[1.0, np.nan, 3.0], [2.0, np.inf, 5.0]])
    found = spread_of([curve([1, 2, 3], each) for each in values], 100, "bands")
    assert found.steps.tolist() == [1, 3] and found.broken.tolist() == [2] and found.rows[8].tolist() == [2, 5]
    lines = axes(plots.bands, {"a": [curve([1, 2, 3], each) for each in values]}).lines
    assert [line.get_marker() for line in lines] == ["None", "x"] and lines[1].get_xdata().tolist() == [2]
    nothing = axes(plots.bands, {"a": curve([1, 2], [np.nan, np.nan])})
    assert nothing.lines[1].get_xdata().tolist() == [1, 2]


def test_bands_of_histograms(axes):
    edges = np.linspace(-4, 4, 401)
    draws = [RNG.normal(0, 1 + step, 20_000) / 4 for step in range(3)]
    given = [(step, Histogram(edges, np.histogram(each, edges)[0], step)) for step, each in enumerate(draws)]
    (median, cross) = axes(plots.bands, {"weights": given[::-1]}).lines
    np.testing.assert_allclose(median.get_ydata(), [np.median(each) for each in draws], atol=8 / 400)
    assert cross.get_xdata().tolist() == [1, 2], "numbers of these steps were not finite"


def test_compared_curves_are_drawn_as_they_are_with_gaps_and_crosses(axes):
    curves = {f"${number}$ {'' if number else '_{'}": curve(np.arange(5), np.arange(5.0) + number) for number in range(12)}
    curves["broken"] = curve([0, 1, 2], [1.0, np.inf, 2.0])
    found = axes(plots.compare, curves, metric="$loss")
    assert [line.get_label() for line in found.lines[:12]] == list(curves)[:12]
    np.testing.assert_array_equal(found.lines[3].get_ydata(), np.arange(5.0) + 3)
    assert found.lines[8].get_linestyle() == "--" and found.lines[8].get_color() == found.lines[0].get_color()
    np.testing.assert_array_equal(found.lines[12].get_ydata(), [1, np.nan, 2])
    assert found.lines[13].get_xdata().tolist() == [1] and found.lines[13].get_marker() == "x"


def test_smoothing_is_the_weighted_mean_of_what_was_seen(axes):
    values = RNG.standard_normal(30)
    raw, smooth = axes(plots.compare, {"a": curve(np.arange(30), values)}, smooth=0.9).lines
    weights = 0.9 ** np.arange(30)[::-1]
    expected = [np.average(values[: k + 1], weights=weights[29 - k :]) for k in range(30)]
    np.testing.assert_allclose(smooth.get_ydata(), expected, rtol=1e-9)
    np.testing.assert_array_equal(raw.get_ydata(), values)


TABLE = {
    "rate": [1e-4, 1e-3, 1e-2, 1e-1, None],
    "rule": ["adamw", "lion", "adamw", "$\\frac", "lion"],
    "width": [64, 64, 128, 128, 256],
    "bias": [True, False, True, True, None],
    "loss": [0.5, 0.2, 0.3, float("nan"), 0.4],
}


def test_scatter_of_a_rate_is_logarithmic_and_of_a_rule_has_categories(axes):
    found = axes(plots.scatter, TABLE, "rate", "loss")
    assert (found.get_xscale(), found.get_yscale(), found.get_xlabel(), found.get_ylabel()) == ("log", "linear", "rate", "loss")
    np.testing.assert_allclose(found.collections[0].get_offsets(), [[1e-4, 0.5], [1e-3, 0.2], [1e-2, 0.3]])
    assert found.lines[0].get_xdata().tolist() == [1e-1], "a loss that is not a number is a cross"
    rules = axes(plots.scatter, TABLE, "rule", "loss", colour="width")
    assert [each.get_text() for each in rules.get_xticklabels()] == ["adamw", "lion", "$\\frac"]
    np.testing.assert_allclose(rules.collections[0].get_offsets(), [[0, 0.5], [1, 0.2], [0, 0.3], [1, 0.4]])
    assert rules.collections[0].get_array().tolist() == [64, 64, 128, 256]
    named = axes(plots.scatter, TABLE, "width", "loss", colour="rule")
    assert [len(each.get_offsets()) for each in named.collections] == [2, 2, 0]
    assert [each.get_text() for each in named.get_legend().get_texts()] == ["adamw", "lion", "$\\frac"]


def test_parallel_coordinates_go_through_the_values(axes):
    found = axes(plots.parallel_coordinates, TABLE, ["rate", "rule", "width", "bias"], "loss")
    lines = found.lines[:5]
    np.testing.assert_allclose(lines[1].get_ydata(), [1 / 3, 0.5, 0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(lines[4].get_ydata(), [np.nan, 0.5, 1, np.nan, 2 / 3], atol=1e-12)
    viridis = matplotlib.colormaps["viridis"]
    assert lines[0].get_color() == viridis(1.0) and lines[1].get_color() == viridis(0.0)
    assert (lines[3].get_color(), lines[3].get_linestyle()) == ("0.6", "--")
    assert [each.get_text() for each in found.get_xticklabels()] == ["rate", "rule", "width", "bias", "loss"]
    assert {"0.0001", "0.1", "adamw", "True"} <= {each.get_text() for each in found.texts}


@pytest.mark.parametrize(
    ("column", "log", "names"),
    [
        ([1e-3, 1.0], True, ()),
        ([0.0, 100.0], False, ()),
        ([-1.0, 100.0], False, ()),
        ([0.1, 0.3], False, ()),
        ([np.float32(1), np.int64(100)], True, ()),
        ([1, "a", None], False, ("1", "a")),
        ([True, False], False, ("True", "False")),
        ([None, None], False, ()),
        ([float("inf"), 2.0], False, ()),
    ],
)
def test_scales_of_columns(column, log, names):
    found = scale_of(column)
    assert (found.log, found.names) == (log, names)
    share = found.share()
    assert np.isnan(share[[each is None or each == float("inf") for each in column]]).all()
    assert ((share >= 0) & (share <= 1) | np.isnan(share)).all()


def test_mistakes_are_named(tmp_path):
    path = tmp_path / "a.png"
    with pytest.raises(ValueError, match="names here: 'loss'"):
        plots.scatter(TABLE, "rate", "los", path=path)
    with pytest.raises(ValueError, match="equal length"):
        plots.scatter({"a": [1], "b": [1, 2]}, "a", "b", path=path)
    with pytest.raises(TypeError, match="curves"):
        plots.compare({"a": [(1, Histogram(np.arange(2.0), np.ones(1)))]}, path=path)
    uneven = outcomes.fault(plots.bands({"a": curve([1, 2], [1.0])}, path=path))
    assert isinstance(uneven, ShapeMismatch) and uneven.where == "bands"
    assert isinstance(outcomes.fault(plots.compare({"a": curve([1], ["x"])}, path=path)), ShapeMismatch)
    assert isinstance(outcomes.fault(plots.scatter(TABLE, "rate", "loss", path=tmp_path / "none" / "a.png")), FileUnwritable)
    assert outcomes.fault(plots.bands({"a": curve([1], [1.0])})) == NoDisplay("agg")
    assert not path.exists()
