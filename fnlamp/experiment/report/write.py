"""The page as one text."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Final

from fnlamp.experiment.report.columns import Column, columns, measured, metrics
from fnlamp.experiment.report.lanes import section_of
from fnlamp.experiment.report.markup import Markup, as_json, element, joined
from fnlamp.experiment.report.pack import Pack
from fnlamp.experiment.report.panels import panels
from fnlamp.experiment.report.parts import details, figures_table, header, runs_table, section, shared_settings
from fnlamp.experiment.report.reduce import Extent
from fnlamp.experiment.report.run import ReportRun, told_apart
from fnlamp.given import flag, instance, text

SCRIPTS: Final = ("data.js", "scale.js", "panel.js", "point.js", "table.js", "page.js")
"""The files of the script, in the order in which they are joined."""


def report(
    title: str,
    runs: Sequence[ReportRun],
    *,
    metric: str = "",
    highest: bool = False,
    importance: Mapping[str, float] = MappingProxyType({}),
) -> str:
    """One HTML page about a run, or a comparison of several: tables, curves, distributions, images and texts.

    It has everything in itself and asks for nothing from anywhere: a policy in it forbids that. Its script draws the curves,
    which are reduced to some hundred buckets each; a bucket keeps its lowest and highest value, and values that are not finite
    are gaps with a mark. Without a script there are tables, and pictures of the curves of a few runs. The order of `runs` gives
    them their colours. With a `metric`, such as that of a sweep, lines lead through the settings of each run to its value, dark
    for low values, or with `highest=True` for high ones. `importance` says how much each setting matters.

    >>> from types import SimpleNamespace
    >>> curve = SimpleNamespace(steps=np.arange(100), values=np.geomspace(2.0, 0.1, 100), epochs=None, times=None)
    >>> page = report("Two rates", [ReportRun("a", curves={"train.loss": curve}), ReportRun("b", status="crashed")])
    >>> page.startswith("<!doctype html>"), "://" in page
    (True, False)
    """
    text("report: title", title), text("report: metric", metric), flag("report: highest", highest)
    instance("report: importance", importance, Mapping, "a dict from settings to shares")
    runs = instance("report: runs", runs, (list, tuple), "a list of ReportRun")
    for run in runs:
        instance("report: runs", run, ReportRun, "a list of ReportRun")
    runs = told_apart(runs)
    extents = [measured(run) for run in runs]
    pack, table = Pack(), columns(runs, extents)
    data, figures = panels(runs, extents, pack)
    index = {
        "runs": [
            [run.title, run.id, [[step, name, alert.level, alert.text] for step, name, alert in run.alerts]] for run in runs
        ],
        "columns": [[each.label, each.kind, each.values, each.low, each.high] for each in table],
        "panels": data,
        "arrays": pack.index,
    }
    tools = Markup(_file("tools.html"))
    first = _first(runs, extents, table)
    curves = section("metrics", "Curves", joined(tools, element("div", figures, class_="panels")) if figures else "")
    lanes = section_of(runs, extents, metric, highest, importance) if metric else Markup("")
    main = element("main", first, lanes, curves, shared_settings(runs), details(runs))
    scripts = [
        element("script", as_json(index), type="application/json", id="index"),
        element("script", Markup(pack), type="text/plain", id="numbers"),
        element("script", Markup(_script())),
    ]
    said = element("div", id="said", class_="unseen", role="status", aria_live="polite")
    skip = element("a", "Skip to the curves", href="#metrics", class_="skip")
    body = element("body", skip, header(title, runs), main, said, *scripts)
    return f"<!doctype html>\n{element('html', _head(title), body, lang='en')}\n"


def _first(runs: Sequence[ReportRun], extents: Sequence[Mapping[str, Extent]], table: Sequence[Column]) -> Markup:
    """The figures of one run, or the table of several."""
    if len(runs) == 1:
        shown = extents[0] or runs[0].figures
        return section("figures", "Figures", figures_table(extents[0], runs[0].figures, metrics(runs)) if shown else "")
    if not runs:
        return section("runs", "Runs", "There are no runs.")
    return section("runs", "Runs", Markup(_file("filter.html")), runs_table(runs, table))


def _head(title: str) -> Markup:
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(_style())}'; script-src '{_digest(_script())}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        element("link", rel="icon", href="data:,"),
        element("style", Markup(_style())),
    )


@cache
def _file(name: str) -> str:
    return files("fnlamp.experiment.report").joinpath("page", name).read_text("utf-8")


@cache
def _script() -> str:
    return '"use strict";\n(() => {\n' + "\n".join(_file(name) for name in SCRIPTS) + "})();\n"


@cache
def _style() -> str:
    return _file("report.css")


def _digest(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
