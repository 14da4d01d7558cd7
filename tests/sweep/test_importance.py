"""How much settings matter, and what the command says of a sweep."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from bowls import SILENT, Settings, bowl
from outcomes import value

from fnlamp.experiment import ReportRun, report
from fnlamp.experiment.command.main import main
from fnlamp.experiment.importance import importance
from fnlamp.experiment.report.lanes import scale_of
from fnlamp.sweep import grid, sweep


class Curve:
    steps, epochs, times = np.array([1]), None, None

    def __init__(self, last: float) -> None:
        self.values = np.array([last])


def _three() -> list[ReportRun]:
    return [ReportRun(str(n), settings={"a": (n, "overridden")}, curves={"loss": Curve(float(n))}) for n in range(3)]


@pytest.mark.slow
def test_importance_is_the_share_of_the_variance():
    """Of 3 a + b, with both uniform on a grid, a explains 9/10; the third setting does nothing."""
    pytest.importorskip("optuna")
    points = [{"a": a / 5, "b": b / 5, "c": c, "same": 1} for a in range(6) for b in range(6) for c in ("x", "y")]
    found = importance(points, [3 * each["a"] + each["b"] for each in points])
    assert list(found)[:2] == ["a", "b"] and "same" not in found
    assert found["a"] == pytest.approx(0.9, abs=0.03) and found["c"] < 0.01
    assert importance(points[:3], [1.0, 2.0, 3.0]) == {} and importance(points[:9], [math.nan] * 9) == {}


@pytest.mark.slow
def test_the_command_takes_the_name_of_a_sweep_for_its_lanes(folder, tmp_path, capsys):
    space = grid({"rate": (0.01, 0.1, 0.2, 0.4), "seed": (0, 1)})
    found = value(sweep("rates", bowl, Settings, space, metric="lowest(loss)", folder=folder), SILENT)
    value(sweep("others", bowl, Settings, space[:2], metric="loss", folder=folder), SILENT)
    assert main(["runs", "compare", "rates", "--folder", folder]) == 0
    said = capsys.readouterr().out
    assert all(lane.id[-6:] in said for lane in found.lanes) and "config.rate" in said
    out = tmp_path / "report.html"
    assert main(["runs", "report", "rates", "--folder", folder, "--out", str(out)]) == 0
    page = out.read_text()
    assert "Settings and lowest(loss)" in page and page.count('class="lane ramp-') == 8
    assert page.count('class="lane ramp-0"') == 2  # the rate of 0.2, with both seeds
    assert not re.search(r'aria-label="8 runs as lines through [^"]*double', page)
    highest = report("a", [*_three()], metric="loss", highest=True)
    assert highest.index('lane ramp-4"') < highest.index('lane ramp-0"') and "Settings and loss" in highest
    if found.importance().run(SILENT):
        assert "share of the variance" in page
    assert main(["runs", "report", "others", found.lanes[0].id[-6:], "--folder", folder, "--out", str(out)]) == 0
    assert "Settings and" not in out.read_text()


def test_lines_of_a_report_hold_what_is_missing_or_hostile():
    evil = "</svg><script>"
    runs = [
        ReportRun(str(n), name=evil, settings={evil: (value, ""), "b": (n, "")}, curves={"loss": Curve(last)})
        for n, (value, last) in enumerate([(evil, 0.1), (None, math.nan), (True, 0.3)])
    ]
    page = report("a", [*runs, ReportRun("3")], metric="loss", importance={evil: 0.5})
    HTMLParser().feed(page)
    assert evil not in page and page.count("ramp-none") >= 2
    assert "Settings and" not in report("a", runs[:2], metric="loss")


@pytest.mark.parametrize(
    ("values", "places"),
    [
        ([1.0, 2.0, 3.0], (0.0, 0.5, 1.0)),
        ([1, 10, 100], (0.0, 0.5, 1.0)),
        ([-1.0, 99.0, math.nan, None], (0.0, 1.0, None, None)),
        ([5, 5], (0.5, 0.5)),
        ([0.0, 1000.0], (0.0, 1.0)),
        ([True, "a", 3], (1 / 2, 1.0, 0.0)),
    ],
)
def test_scales(values: list[Any], places: Any):
    assert scale_of(values).places == places
