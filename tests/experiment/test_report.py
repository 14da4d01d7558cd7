"""What a report says, as HTML that a browser need not run: tables, pictures, reduced curves, and nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
from made_runs import EVIL, full, made, series

from fnlamp.experiment.report import ReportRun, report
from fnlamp.experiment.report.columns import columns, differing, measured
from fnlamp.experiment.report.markup import VOID
from fnlamp.experiment.report.pack import Pack
from fnlamp.experiment.report.panels import bands
from fnlamp.experiment.report.reduce import reduced
from fnlamp.track import Histogram
from fnlamp.track.quantile import BASIS, quantiles


class Tree(HTMLParser):
    """The elements of a page; fails if one is not closed, or closed in another."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append((self.open[-1] if self.open else "", data))

    def all(self, tag, **attributes):
        return [found for name, found in self.found if name == tag and attributes.items() <= found.items()]


COMPARED = report("Compared", [made(number) for number in range(4)])
ONE = report(EVIL, [full()])


def index(page):
    return json.loads(re.search(r'<script type="application/json" id="index">(.*?)</script>', page, re.S)[1])


def arrays(page):
    content = base64.b64decode(re.search(r'id="numbers">(.*?)</script>', page, re.S)[1])
    kinds = {"f": "<f4", "d": "<f8", "i": "<i4"}
    return [np.frombuffer(content, kinds[kind], length, offset) for kind, offset, length in index(page)["arrays"]]


@pytest.mark.parametrize("page", [COMPARED, ONE, report("None", [])], ids=["several", "one", "none"])
def test_a_page_is_well_formed_and_has_no_address_outside(page):
    tree = Tree(page)
    assert "://" not in page and "@import" not in page and "url(" not in page.replace("url(#clip", "")
    for _, attributes in tree.found:
        assert not {name for name in attributes if name.startswith("on") or name == "style"}, "the policy forbids them"
        for name in ("src", "href", "action", "data", "poster", "srcset", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), attributes
    assert [attributes["id"] for _, attributes in tree.found if "id" in attributes] == list(
        dict.fromkeys(attributes["id"] for _, attributes in tree.found if "id" in attributes)
    )


def test_the_policy_allows_only_this_style_and_this_script():
    (policy,) = [each["content"] for each in Tree(COMPARED).all("meta") if "http-equiv" in each]
    script = re.findall(r"<script>(.*?)</script>", COMPARED, re.S)
    style = re.findall(r"<style>(.*?)</style>", COMPARED, re.S)
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (*style, *script)]
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )


def test_hostile_names_are_text():
    tree = Tree(ONE)
    assert all(each["src"].startswith("data:image/png;base64,") for each in tree.all("img"))
    assert not tree.all("b")
    said = [text for _, text in tree.text]
    for tag in ("h1", "title", "pre", "bdi", "td", "code"):
        assert any(EVIL in text for place, text in tree.text if place in (tag, "bdi")), tag
    assert any("a\ufffdb\ufffd" in text for text in said)
    ONE.encode()


def test_a_comparison_has_a_table_with_what_differs_first():
    tree = Tree(COMPARED)
    heads = [text for place, text in tree.text if place == "bdi"][1:8]
    assert heads == ["run", "status", "created", "learning_rate", "rule", "train.loss", "validation.loss"]
    assert len(tree.all("tr")) > 4 and len(tree.all("th", scope="row")) >= 4
    assert all("scope" in each for each in tree.all("th"))
    assert tree.all("caption") and tree.all("html", lang="en") and tree.all("main")
    found = index(COMPARED)
    assert [run[:2] for run in found["runs"]] == [[f"run {k}", f"id-{k}"] for k in range(4)]
    rates = next(values for label, _, values, *_ in found["columns"] if label == "learning_rate")
    assert rates == [1.0, 0.1, 0.01, 0.001]
    losses = next(column for column in found["columns"] if column[0] == "train.loss")
    values = [made(number).curves["train.loss"].values for number in range(4)]
    assert losses[2] == [values[0][-1], values[1][-1], "nan", values[3][-1]]
    assert losses[3] == [np.nanmin(each) for each in values] and losses[4] == [np.nanmax(each) for each in values]


def test_settings_that_all_runs_share_are_listed_once():
    runs = [made(number) for number in range(3)]
    assert differing(runs) == ["learning_rate", "rule"]
    assert COMPARED.count("<bdi>batch_size</bdi>") == 1 + 4  # and in the details of each run
    other = ReportRun("x", settings={"batch_size": (32.0, "default")})
    assert "batch_size" in differing([*runs, other]), "32 and 32.0 are not the same value"


def test_one_run_has_its_settings_with_their_sources_figures_texts_and_pictures():
    tree = Tree(ONE)
    assert any(text == "overridden by the command line" for _, text in tree.text)
    assert any(text == "101770" for _, text in tree.text)
    picture = next(each["src"] for each in tree.all("img"))
    with PIL.Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2]))) as image:
        np.testing.assert_array_equal(np.asarray(image), np.arange(64).reshape(8, 8))
    assert all(each["alt"] for each in tree.all("img"))
    bands = next(panel for panel in index(ONE)["panels"] if "bands" in panel)["bands"]
    steps, rows = arrays(ONE)[bands[0]], [arrays(ONE)[row] for row in bands[1]]
    np.testing.assert_array_equal(steps, range(0, 300, 50))
    assert bands[2] == [0, 0, 1, 0, 0, 0]
    assert all((low <= high).all() for low, high in itertools.pairwise(rows))


def test_without_a_script_there_are_pictures_of_a_few_runs():
    tree = Tree(COMPARED)
    (first,) = [each for each in tree.all("svg", role="img") if each["aria-label"].startswith("train.loss")]
    assert "of 4 runs" in first["aria-label"]
    assert len(tree.all("path", **{"class": "line s1 d0"})) == 3  # a swatch and two curves
    assert len(tree.all("path", **{"class": "bad s2 d0"})) == 1
    assert all("hidden" in each for each in tree.all("div", **{"class": "tools"})), "controls without a script do nothing"
    many = report("Many", [made(number, 20) for number in range(13)])
    assert not Tree(many).all("svg", role="img") and "A script draws these 13 curves" in many


@pytest.mark.parametrize(("points", "buckets"), [(1, 5), (5, 5), (7, 5), (1000, 7), (10_000, 400), (0, 5)])
def test_buckets_keep_the_extremes(points, buckets):
    rng = np.random.default_rng(points)
    values = rng.standard_cauchy(points)
    values[rng.random(points) < 0.1] = np.nan
    values[rng.random(points) < 0.05] = -np.inf
    found = reduced(series(values), buckets)
    steps = np.arange(1, points + 1)
    assert len(found.low) == min(points, buckets)
    covered = np.concatenate([np.arange(a, b + 1) for a, b in zip(found.first, found.last, strict=True)] or [steps])
    np.testing.assert_array_equal(covered, steps)
    marked = {bucket for first, last, *_ in found.broken for bucket in range(first, last + 1)}
    for bucket, (first, last) in enumerate(zip(found.first, found.last, strict=True)):
        part = values[first - 1 : last]
        finite = part[np.isfinite(part)]
        assert (bucket in marked) == (len(finite) < len(part))
        if len(finite):
            assert (found.low[bucket], found.high[bucket]) == (finite.min(), finite.max())
            np.testing.assert_allclose(found.mean[bucket], finite.mean(), rtol=1e-9)
        else:
            assert np.isnan([found.low[bucket], found.high[bucket], found.mean[bucket]]).all()
    assert sum(row[2] for row in found.broken) == np.isnan(values).sum()
    assert sum(row[3] for row in found.broken) == np.isinf(values).sum()


def test_means_of_huge_values_are_between_them():
    found = reduced(series([1e308, 1e308, 1.5e308]), 1)
    assert 1e308 <= found.mean[0] <= 1.5e308


def test_epochs_and_times():
    found = reduced(series(range(6), per_epoch=3), 6, 1.7e9)
    np.testing.assert_allclose(found.epochs, [1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2])
    np.testing.assert_allclose(found.times, np.arange(1, 7) / 2)
    assert reduced(series(range(6)), 6).epochs is None


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (np.arange(5), "i"),
        (np.array([2**40]), "d"),
        (np.linspace(0.1, 2, 9), "f"),
        (np.array([np.nan, 1.5, np.inf]), "f"),
        (1.7e9 + np.arange(100.0), "d"),  # a float of 32 bits would put them on one another
        (np.array([1e300, 1.0]), "d"),
        (np.array([1e-60, 1.0]), "d"),
        (np.zeros(0), "f"),
    ],
)
def test_packed_numbers_are_the_numbers(array, kind):
    pack = Pack()
    pack.add(np.array([7]))
    assert pack.add(array) == 1
    (found, offset, length) = pack.index[1]
    content = base64.b64decode(str(pack))
    back = np.frombuffer(content, {"f": "<f4", "d": "<f8", "i": "<i4"}[found], length, offset)
    assert found == kind and offset % 8 == 0
    np.testing.assert_allclose(back.astype(np.float64), array.astype(np.float64), rtol=1e-6)


def test_the_curves_of_the_page_are_those_of_the_runs():
    found, numbers = index(COMPARED), arrays(COMPARED)
    panel = next(panel for panel in found["panels"] if panel["name"] == "train.loss")
    for curve in panel["curves"]:
        values = made(curve[0]).curves["train.loss"].values
        low, high = numbers[curve[3]], numbers[curve[4]]
        np.testing.assert_allclose([np.nanmin(low), np.nanmax(high)], [np.nanmin(values), np.nanmax(values)], rtol=1e-6)
    assert [curve[8] for curve in panel["curves"]][:2] == [[], []] and panel["curves"][2][8][0][2] == 250


@pytest.mark.slow
def test_500_runs_of_10_000_points_are_below_5_megabytes():
    long = [series(decay_of(number)) for number in range(8)]
    names = ("train.loss", "train.accuracy", "gradient_norm", "learning_rate")
    varied = [  # no two curves are equal: equal ones would be stored once
        made(number, 10, curves={name: shifted(long[(number + k) % 8], number) for k, name in enumerate(names)})
        for number in range(500)
    ]
    page = report("Sweep", varied)
    assert 2e6 < len(page.encode()) < 5e6
    assert len({curve[3] for panel in index(page)["panels"] for curve in panel["curves"]}) == 2000


def decay_of(number):
    rng = np.random.default_rng(number)
    return np.exp(-np.arange(10_000) / 2000) + 0.1 * rng.random(10_000)


def shifted(each, number):
    return SimpleNamespace(steps=each.steps, values=each.values * (1 + number / 1000), epochs=None, times=each.times + number)


def test_a_figure_with_a_curve_is_shown_once_and_fills_in_where_a_run_lacks_the_curve():
    runs = [made(0, figures={"train.loss": 9.0, "parameters": 7}), ReportRun("x", "other", figures={"train.loss": 0.5})]
    found = {column[0]: column for column in index(report("Figures", runs))["columns"]}
    assert found["train.loss"][2] == [runs[0].curves["train.loss"].values[-1], 0.5]
    assert found["parameters"][1:3] == ["figure", [7, None]]
    assert report("One", runs[:1]).count("<bdi>train.loss</bdi>") == 2


def test_runs_may_lack_anything():
    empty = series([])
    runs = [ReportRun("a"), ReportRun("b", created=float("nan"), curves={"loss": empty}), ReportRun("c", created=1e300)]
    for some in (runs, runs[:1], runs[1:2], [ReportRun("d", curves={"loss": series([np.nan, np.nan])}), ReportRun("e")]):
        Tree(report("Bare", some))
    assert [column.label for column in columns(runs, [measured(run) for run in runs])] == []


def test_bands_of_many_histograms_keep_the_extremes_and_the_count_of_what_is_not_finite():
    edges = np.linspace(0, 1, 11)
    counted = [(step, Histogram(edges, np.eye(10, dtype=int)[step % 10], int(step == 501))) for step in range(1000)]
    steps, rows, broken = bands(counted)
    assert len(steps) == 200 and rows.shape == (9, 200) and sum(broken) == broken[100] == 1
    np.testing.assert_allclose(rows[0], np.where(steps % 10 < 5, 0.0, 0.5))
    np.testing.assert_allclose(rows[8], np.where(steps % 10 < 5, 0.5, 1.0))


def test_numbers_that_fill_the_range_of_floats_are_drawn():
    page = report("Huge", [ReportRun("a", curves={"x": series([1.7e308, -1.7e308, 0.0])})])
    (path,) = [each["d"] for each in Tree(page).all("path", **{"class": "line s0 d0"})]
    assert [float(y) for y in re.findall(r" ([\d.]+)", path)] == [12.0, 216.0, 114.0]


def test_quantiles_of_a_histogram_are_those_of_numbers_spread_evenly_in_its_bins():
    rng = np.random.default_rng(0)
    edges = np.sort(rng.standard_normal(12))
    counts = rng.integers(0, 5, 11) * 4000
    spread = np.concatenate([np.linspace(a, b, n) for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)])
    np.testing.assert_allclose(quantiles(Histogram(edges, counts)), np.percentile(spread, BASIS), atol=2e-3)
    assert np.isnan(quantiles(Histogram(edges, 0 * counts))).all()


def contrast(one, other):
    light = [channels(colour) @ [0.2126, 0.7152, 0.0722] for colour in (one, other)]
    return (max(light) + 0.05) / (min(light) + 0.05)


def channels(colour):
    numbers = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    return np.where(numbers <= 0.04045, numbers / 12.92, ((numbers + 0.055) / 1.055) ** 2.4)


def lab(linear):
    """CIE 1976 L*a*b* under D65."""
    matrix = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]])
    x, y, z = np.cbrt(np.maximum(matrix @ np.clip(linear, 0, 1) / (matrix @ np.ones(3)), 0.008856))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


# Machado, Oliveira & Fernandes 2009, table 1, severity 1.
BLIND = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("blind", BLIND)
def test_colours_are_told_apart_and_stand_out(blind):
    pairs = dict(re.findall(r"--(\w+): light-dark\((#\w{6}, #\w{6})\)", COMPARED))
    for theme in (0, 1):
        card, paper = (pairs[name].split(", ")[theme] for name in ("card", "paper"))
        colours = [pairs[f"s{k}"].split(", ")[theme] for k in range(8)]
        assert min(contrast(colour, card) for colour in colours) >= 3, "WCAG 1.4.11"
        for name in ("ink", "soft", "accent", "good", "wrong"):
            assert contrast(pairs[name].split(", ")[theme], paper) >= 4.5, "WCAG 1.4.3"
        seen = [lab(np.asarray(BLIND[blind]) @ channels(colour)) for colour in colours]
        assert min(np.linalg.norm(a - b) for k, a in enumerate(seen) for b in seen[:k]) > 20


def test_only_runs_are_runs():
    with pytest.raises(TypeError, match="runs"):
        report("a", ["run"])
    with pytest.raises(TypeError, match="title"):
        report(1, [])
