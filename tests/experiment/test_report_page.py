"""A report in headless Chromium: it opens, draws, reacts, stays in itself, and looks like something."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from made_runs import EVIL, decay, full, made, series

from fnlamp.experiment.report import ReportRun, report

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")]

DRIVER = Path(__file__).with_name("driver.js").read_text()
COMPARED = report("Compared", [made(number) for number in range(4)])


@pytest.fixture
def browse(tmp_path):
    """Opens a page, with a fragment and options of Chromium; returns what it writes to its output."""

    def browse(page, *options, fragment="", virtual=True):
        path = tmp_path / "page.html"
        path.write_text(page, encoding="utf-8")
        command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
        # No name is resolved: a request goes nowhere, and is in the log.
        command += ["--host-resolver-rules=MAP * ~NOTFOUND", "--disable-background-networking", "--hide-scrollbars"]
        command += ["--window-size=1400,2400"]  # panels far below the window are not drawn
        command += ["--virtual-time-budget=4000"] if virtual else []
        environment = {**os.environ, "DBUS_SESSION_BUS_ADDRESS": "disabled:"}
        started = [*command, *options, f"{path.as_uri()}{fragment}"]
        return subprocess.run(started, capture_output=True, text=True, timeout=120, check=True, env=environment).stdout

    return browse


@pytest.fixture
def driven(browse):
    """The result of steps in JavaScript, which run after the page's own script, one after the other."""

    def driven(page, *steps, **options):
        taken = ",".join(f"(result) => {{ {step} }}" for step in steps)
        code = f"{DRIVER}steps({taken});"
        assert "</" not in code
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        allowed = page.replace("script-src &#x27;", f"script-src &#x27;sha256-{digest}&#x27; &#x27;")
        assert allowed != page
        dom = browse(allowed.replace("</body>", f"<script>{code}</script></body>"), "--dump-dom", **options)
        found = re.search(r'data-result="([^"]*)"', dom)
        assert found, dom[-3000:]
        return json.loads(html.unescape(found[1]))

    return driven


def test_curves_are_drawn_with_axes_and_a_text_for_those_who_do_not_see_them(driven):
    found = driven(
        COMPARED,
        "result.ready = Number(document.documentElement.dataset.ready);"
        "result.said = $$('.plot').map((each) => each.getAttribute('aria-label'));"
        "result.lines = $$('.plot').map((each) => each.querySelectorAll('.line').length);"
        "result.ticks = $$('.plot').map((each) => each.querySelectorAll('.tick').length);"
        "result.bad = $$('[data-bad]').map((each) => each.dataset.bad);"
        "result.hidden = $$('.tools').some((each) => each.hidden);",
    )
    loss, validation = found["said"]
    assert loss.startswith("train.loss, 4 curves over step, from 1 to 1,000, values between 0.1")
    assert loss.endswith("; 1 with values that are not finite")
    assert validation.startswith("validation.loss, 4 curves over step, from 100 to 1,000")
    assert found["lines"] == [4, 4] and found["bad"] == ["2"] and min(found["ticks"]) > 4
    assert found["ready"] > 0 and not found["hidden"]


def test_the_line_is_at_the_numbers(driven):
    values = [1.0, 3.0, 2.0, np.nan, 2.5, 4.0]
    page = report("Few", [ReportRun("a", curves={"x": series(values, 1000)})])
    found = driven(
        page,
        "result.path = stroke();"
        "result.ticks = $$('.chart .tick').map((each) => [each.textContent, Number(each.getAttribute('y'))]);",
    )
    parts = [part.split("L") for part in found["path"].split("M")[1:]]
    assert [len(part) for part in parts] == [3, 2], "a gap where the value is not a number"
    x, y = np.array([list(map(float, point.split(" "))) for part in parts for point in part]).T
    places = {text: at for text, at in found["ticks"] if re.fullmatch(r"[\d.]+", text)}
    finite = np.array(values)[np.isfinite(values)]
    np.testing.assert_allclose(y, places["1"] + (finite - 1) * (places["3"] - places["1"]) / 2, atol=0.3)
    np.testing.assert_allclose(np.diff(x) / np.diff(x)[0], [1, 1, 2, 1], rtol=0.01)


def test_numbers_at_the_ends_of_floats_are_drawn(driven):
    odd = {"huge": [1.7e308, -1.7e308, 0.0], "one": [5.0], "nothing": [np.nan, np.nan], "tiny": [1e-300, 1e-310, 0.0]}
    page = report("Odd", [ReportRun("a", curves={name: series(values, 1000) for name, values in odd.items()})])
    look = (
        "result.d = $$('.plot').map((each) => [each.getAttribute('aria-label').split(',')[0],"
        "[...each.querySelectorAll('path')].map((path) => path.getAttribute('d')).join()]);"
        "result.y = $$('.tick').map((each) => each.getAttribute('y'));"
    )
    for fragment in ("", "#?log=true", "#?smooth=0.5"):
        found = driven(page, look, fragment=fragment)
        assert len(found["d"]) == 4 and not re.search("NaN|Infinity|undefined", json.dumps(found)), fragment


def test_the_table_sorts_and_filters_and_hides(driven):
    found = driven(
        COMPARED,
        "result.fresh = names(); head('learning_rate').firstChild.click();",
        "result.rates = names(); result.sorted = head('learning_rate').ariaSort; head('train.loss').firstChild.click();",
        "result.up = names(); head('train.loss').firstChild.click();",
        "result.down = names(); type($('#filter'), 'sgdw config.learning_rate>=0.01');",
        "result.filtered = names(); result.count = $('#count').textContent;"
        "result.drawn = $$('.plot')[0].querySelectorAll('.line').length;"
        "type($('#filter'), 'no_column<3');",
        "result.unknown = [$('#count').textContent, names()]; type($('#filter'), ''); type($('#value'), 'high', 'change');",
        "result.cell = $('[data-row=\"2\"]').cells[head('train.loss').cellIndex].textContent; $('#table tbody input').click();",
        "result.left = plot.querySelectorAll('.line').length; result.hash = location.hash;",
    )
    last = [made(k).curves["train.loss"].values[-1] for k in range(4)]
    order = [f"run {k}" for k in sorted((0, 1, 3), key=lambda k: last[k])]
    assert found["fresh"] == [f"run {k}" for k in range(4)] == found["rates"][::-1] and found["sorted"] == "ascending"
    assert found["up"] == [*order, "run 2"] and found["down"] == [*order[::-1], "run 2"], "NaN is at the end either way"
    assert found["filtered"] == ["run 1"] and found["drawn"] == 1 and found["count"] == "1 of 4 listed, 1 drawn"
    assert found["unknown"] == ["No column is named no_column.", []]
    assert found["cell"] == f"{np.nanmax(made(2).curves['train.loss'].values):.4g}"
    assert found["left"] == 3 and "hidden=" in found["hash"]


def test_dragging_zooms_and_keys_read_values(driven):
    found = driven(
        COMPARED,
        "fire('pointerdown', {x: 150}); fire('pointermove', {x: 250}); result.marked = !!plot.querySelector('.select');"
        "fire('pointerup', {x: 250});",
        "result.zoomed = $$('.plot').map((each) => each.getAttribute('aria-label')); result.disabled = $('#reset').disabled;"
        "fire('pointermove', {x: 200}); result.tip = plot.querySelector('.tip').textContent; $('#reset').click();",
        "result.back = said(); plot.focus(); fire('keydown', {key: 'ArrowRight'}); fire('keydown', {key: 'End'});"
        "result.spoken = $('#said').textContent; fire('keydown', {key: '+'});",
        "result.keyed = said();",
    )
    limits = [re.search(r"from ([\d,]+) to ([\d,]+)", each).groups() for each in found["zoomed"]]
    left, right = (int(each.replace(",", "")) for each in limits[0])
    assert found["marked"] and limits[0] == limits[1] and 0 < left < right < 600, "all panels zoom together"
    assert not found["disabled"] and "from 1 to 1,000" in found["back"] and "from 1 to 1,000" not in found["keyed"]
    assert re.match(r"Steps \d+ to \d+", found["tip"]) and all(f"run {k}" in found["tip"] for k in range(4))
    assert found["spoken"].startswith("train.loss, Steps 998 to 1,000: ") and "run 2 NaN" in found["spoken"]


def test_axes_smoothing_log_and_colours(driven):
    found = driven(
        COMPARED,
        "result.plain = stroke(); $$('input[name=x]')[1].click();",
        "result.epoch = said(); $$('input[name=x]')[2].click();",
        "result.time = said(); $$('input[name=x]')[0].click(); $('#log').click();",
        "result.log = stroke(); result.ticks = $$('.tick').map((each) => each.textContent);"
        "$('#log').click(); type($('#smooth'), '0.9');",
        "result.smooth = stroke(); result.raw = plot.querySelectorAll('.raw').length; type($('#colour'), '4', 'change');",
        "result.colours = [...plot.querySelectorAll('.line.by')].map((each) => each.getAttribute('stroke'));"
        "result.legend = $('#legend').textContent; type($('#metric'), 'validation');",
        "result.shown = $$('.panel').filter((each) => !each.hidden).map((each) => each.dataset.name);",
    )
    assert "over epoch, from 0.01 to 9.99," in found["epoch"], "the middles of the first and the last bucket"
    assert "over time since the first value, from 0 s to 8.317 min," in found["time"]
    assert found["plain"] not in (found["log"], found["smooth"]) and {"0.2", "0.5", "1"} <= set(found["ticks"])
    assert found["raw"] == 4 and len(set(found["colours"])) == 4 and found["legend"] == "0.0011"
    assert found["shown"] == ["validation.loss"]


def test_the_address_holds_the_view(driven):
    found = driven(
        COMPARED,
        "result.said = said(); result.names = names(); result.theme = document.documentElement.dataset.theme;",
        fragment="#?x=epoch&zoom=2+4&sort=-1&theme=dark&smooth=x&colour=99&hidden=3",
    )
    assert "3 curves over epoch, from 2 to 4" in found["said"] and found["theme"] == "dark"
    assert found["names"] == ["run 3", "run 2", "run 1", "run 0"]


@pytest.mark.parametrize("several", [False, True], ids=["one", "several"])
def test_hostile_names_run_nothing(driven, several):
    found = driven(
        report(EVIL, [full(), full(1)] if several else [full()]),
        "for (const each of $$('details')) each.open = true;"
        "for (const each of $$('#colour option')) type($('#colour'), each.value, 'change');"
        "plot.focus(); fire('keydown', {key: 'End'}); result.tip = plot.querySelector('.tip').textContent;"
        "result.spoken = $('#said').textContent;",
        "result.images = $$('img').map((each) => [each.src.slice(0, 15), each.naturalWidth]);"
        "result.bold = $$('b').length; result.broken = window.broken ?? 0; result.title = document.title;"
        "result.alerts = $$('.alert title').map((each) => each.textContent);",
    )
    assert found["bold"] == 0 and found["broken"] == 0 and found["title"] == EVIL
    assert found["images"] == [["data:image/png;", 8]] * (2 if several else 1)
    assert EVIL in found["spoken"] and (several or EVIL in found["tip"]) and all(EVIL in each for each in found["alerts"])
    assert found["alerts"]


def requests(log):
    """The addresses that pages asked for, not those that Chromium asks for itself."""
    text = log.read_text()
    events = json.loads(text if text.rstrip().endswith("}") else text.rstrip().rstrip(",") + "]}")["events"]
    with_url = [event["params"] for event in events if "url" in event.get("params", {})]
    return [each["url"] for each in with_url if each.get("initiator") not in (None, "not an origin")]


def test_nothing_is_requested(browse, tmp_path):
    log = tmp_path / "net.json"
    browse('<!doctype html><img src="http://example.invalid/x.png">', f"--log-net-log={log}", "--dump-dom")
    assert requests(log) == ["http://example.invalid/x.png"], "the log shows a request if there is one"
    browse(report(EVIL, [full(), full(1)]), f"--log-net-log={log}", "--dump-dom")
    assert requests(log) == []


def test_500_runs_open_within_2_seconds(browse):
    def varied(number):
        curve = series(decay(10_000, number % 50) * (1 + number / 1000), 1, 1000)
        return made(number, curves={"train.loss": curve, "gradient_norm": replace(curve, values=curve.values**2)})

    page = report("Sweep", [varied(number) for number in range(500)])
    assert len(page.encode()) < 5e6
    taken: list[tuple[int, float]] = []
    while len(taken) < 8 and not any(ready < 2000 for ready, _ in taken):  # other programs may take the processor
        began = time.perf_counter()
        dom = browse(page, "--dump-dom", virtual=False)
        taken.append((int(re.search(r'data-ready="(\d+)"', dom)[1]), time.perf_counter() - began))
    print("milliseconds until drawn, seconds with Chromium's own start:", taken)
    assert dom.count('data-run="') >= 1000
    assert min(ready for ready, _ in taken) < 2000


@pytest.mark.parametrize(("width", "height"), [(1400, 1200), (500, 1400)])
def test_it_can_be_seen_in_light_and_dark(browse, tmp_path, width, height):
    shots: list[Any] = []
    for theme in ("light", "dark"):
        path = tmp_path / f"{theme}.png"
        browse(COMPARED, f"--screenshot={path}", f"--window-size={width},{height}", fragment=f"#?theme={theme}")
        with PIL.Image.open(path) as image:
            shots.append(np.asarray(image.convert("RGB"), np.float64))
    light, dark = shots
    assert light.shape == dark.shape and light.shape[:2] == (height, width)
    assert light.mean() > 220 and dark.mean() < 60
    for shot in shots:
        colourful = np.ptp(shot, axis=2) > 80  # lines, badges, buttons; text and paper are grey
        assert 0.002 < colourful.mean() < 0.2
