"""The parts of a report besides curves: the table of runs, settings, texts, tables, images and alerts."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fnlamp.experiment.report.columns import Column, cell, common, exact, moment, written
from fnlamp.experiment.report.markup import Markup, element, joined
from fnlamp.experiment.report.panels import FEW_RUNS
from fnlamp.experiment.report.reduce import Extent
from fnlamp.experiment.report.run import ReportRun
from fnlamp.experiment.report.static import style
from fnlamp.track.entry import Figure, Rows
from fnlamp.track.media import png

TEXT_LENGTH = 200_000
"""Characters of a text that a report shows; the rest stays in the folder of the run."""


def header(title: str, runs: Sequence[ReportRun]) -> Markup:
    """The title, and what there is."""
    counts = Counter(run.status for run in runs if run.status)
    states = [joined(f"{count:,} ", badge(status)) for status, count in counts.most_common()] if len(runs) > 1 else []
    many = element("span", f"{len(runs):,} runs") if len(runs) != 1 else Markup("")
    facts = [many, *(element("span", each) for each in states)]
    if len(runs) == 1:
        facts = [element("span", each) for each in _facts(runs[0])]
    button = element("button", "Dark", type="button", id="theme", hidden=True)
    return element("header", element("div", element("h1", element("bdi", title)), element("p", *facts, class_="facts")), button)


def _facts(run: ReportRun) -> list[Markup]:
    tags = [element("span", each, class_="tag") for each in run.tags]
    given = (badge(run.status) if run.status else None, element("code", run.id), moment(run.created), *tags, run.note or None)
    return [joined(each) for each in given if each is not None]


def badge(status: str) -> Markup:
    """The status, with a mark that does not depend on colour."""
    marks = {"completed": "✓", "running": "▶", "failed": "✕", "crashed": "✕", "defect": "✕", "interrupted": "‖", "stopped": "‖"}
    kind = {"✓": "good", "▶": "busy", "✕": "wrong"}.get(marks.get(status, ""), "other")
    return element("span", element("span", marks.get(status, "·"), aria_hidden="true"), f" {status}", class_=f"badge {kind}")


def runs_table(runs: Sequence[ReportRun], table: Sequence[Column]) -> Markup:
    """A row for each run: a box that shows or hides it, its name, and the columns."""
    groups = [element("th", element("span", "Shown", class_="unseen"), scope="col", class_="pick"), _head("run", "run", 0)]
    groups += [_head(column.label, column.kind, number) for number, column in enumerate(table, 1)]
    body = [element("tr", *_row(run, row, table), data_row=row) for row, run in enumerate(runs)]
    caption = element("caption", "Runs, their settings that differ, and the last value of each metric", class_="unseen")
    rows = element("table", caption, element("thead", element("tr", *groups)), element("tbody", *body), id="table")
    return element("div", rows, class_="scroll", tabindex=0, role="region", aria_label="Table of runs")


def _head(label: str, kind: str, number: int) -> Markup:
    return element("th", element("bdi", label), scope="col", class_=f"of-{kind}", data_column=number)


def _row(run: ReportRun, row: int, table: Sequence[Column]) -> list[Markup]:
    name = element("a", element("bdi", run.title), href=f"#run-{row}") if row < FEW_RUNS else element("bdi", run.title)
    swatch = Markup(
        f'<svg class="swatch" viewBox="0 0 22 8" aria-hidden="true"><path class="line {style(row)}" d="M1 4H21"></path></svg>'
    )
    cells = [element("td", class_="pick"), element("th", swatch, name, scope="row", title=run.id)]
    return cells + [_cell(column, row) for column in table]


def _cell(column: Column, row: int) -> Markup:
    value = column.values[row]
    if column.label == "status" and column.kind == "run":
        return element("td", badge(str(value)) if value else "")
    chosen = bool(column.sources) and column.sources[row].startswith("overridden")
    classes = " ".join(["n"] * (not isinstance(value, str)) + ["chosen"] * chosen)
    text = f"{value:.6g}" if column.kind == "setting" and isinstance(value, float) else written(value)
    return element("td", short(text), class_=classes or None)


def short(text: str, most: int = 80) -> str:
    """The text, cut where it is long."""
    return text if len(text) <= most else text[: most - 1] + "…"


def figures_table(extents: Mapping[str, Extent], figures: Mapping[str, float], names: Sequence[str]) -> Markup:
    """The numbers of a single run: the last, lowest and highest value of each metric."""
    rows = []
    for name in names:
        each = extents[name]
        ends = ((each.low, each.low_step), (each.high, each.high_step))
        bounds = [joined(written(value), element("small", f" at {step:,}")) for value, step in ends]
        broken = each.nans + each.infinities
        cells = [written(each.last), *bounds, f"{each.points:,}", f"{broken:,}" if broken else ""]
        rows.append(_line(name, cells, "n"))
    rows += [_line(name, [written(value), "", "", "", ""], "n") for name, value in figures.items() if name not in names]
    return _table("Figures", ("Metric", "Last", "Lowest", "Highest", "Points", "Not finite"), rows, "plain results")


def settings_table(settings: Mapping[str, tuple[Any, str]], caption: str) -> Markup:
    """The settings with where each value is from."""
    rows = [
        _line(path, [element("code", exact(cell(value))), element("span", source, class_="source")], None, chosen(source))
        for path, (value, source) in settings.items()
    ]
    return _table(caption, ("Setting", "Value", "Source"), rows)


def chosen(source: str) -> str | None:
    return "chosen" if source.startswith("overridden") else None


def _line(name: str, cells: Sequence[str], kind: str | None, row: str | None = None) -> Markup:
    head = element("th", element("bdi", name), scope="row")
    return element("tr", head, *(element("td", each, class_=kind) for each in cells), class_=row)


def _table(caption: str, heads: Sequence[str], rows: Sequence[Markup], kind: str = "plain") -> Markup:
    head = element("tr", *(element("th", each, scope="col") for each in heads))
    table = element(
        "table", element("caption", caption, class_="unseen"), element("thead", head), element("tbody", *rows), class_=kind
    )
    return element("div", table, class_="scroll", tabindex=0, role="region", aria_label=caption)


def section(label: str, title: str, *content: str) -> Markup:
    """A part with its heading; empty content makes none."""
    filled = [each for each in content if each]
    return element("section", element("h2", title, id=label), *filled, aria_labelledby=label) if filled else Markup("")


def details(runs: Sequence[ReportRun]) -> Markup:
    """What belongs to one run: its settings in a comparison, alerts, images, tables and texts."""
    if len(runs) > FEW_RUNS:
        note = f"Texts, images and histograms of single runs are in reports of at most {FEW_RUNS} runs."
        extra = any(run.texts or run.images or run.histograms or run.tables for run in runs)
        return section("details", "Details", element("p", note, class_="hint")) if extra else Markup("")
    if len(runs) == 1:
        return joined(*_of(runs[0], level="h2"))
    blocks = [
        element(
            "details",
            element("summary", element("bdi", run.title)),
            _about(run),
            *_of(run, "h3"),
            class_="run",
            id=f"run-{row}",
        )
        for row, run in enumerate(runs)
    ]
    return section("details", "Each run", *blocks)


def _about(run: ReportRun) -> Markup:
    return joined(
        element("p", *(element("span", each) for each in _facts(run)), class_="facts"), settings_table(run.settings, "Settings")
    )


def _of(run: ReportRun, level: str) -> list[Markup]:
    parts = []
    if run.alerts:
        rows = [_line(name, [f"{step:,}", alert.level, alert.text], None) for step, name, alert in run.alerts]
        parts.append(joined(element(level, "Alerts"), _table("Alerts", ("Name", "Step", "Level", "Text"), rows)))
    for name, values in run.images.items():
        shots = [
            element("figure", _image(value, f"{name} at step {step:,}"), element("figcaption", f"step {step:,}"))
            for step, value in values
        ]
        parts.append(joined(element(level, element("bdi", name)), element("div", *shots, class_="images")))
    for name, table in run.tables.items():
        parts.append(joined(element(level, element("bdi", name)), _rows(name, table)))
    for name, text in run.texts.items():
        cut = f"\n… {len(text) - TEXT_LENGTH:,} more characters" if len(text) > TEXT_LENGTH else ""
        block = element("pre", text[:TEXT_LENGTH] + cut, tabindex=0)
        parts.append(element("details", element("summary", element("bdi", name)), block, class_="text", open=len(text) < 4000))
    return parts


def _image(value: Any, said: str) -> Markup:
    content, kind = (
        (value.content, value.media_type) if isinstance(value, Figure) else (png(np.asarray(value.pixels)), "image/png")
    )
    return element("img", src=f"data:{kind};base64,{base64.b64encode(content).decode()}", alt=said, loading="lazy")


def _rows(name: str, table: Rows) -> Markup:
    lines = [
        element("tr", *(element("td", short(written(None if each is None else cell(each)))) for each in row))
        for row in table.rows
    ]
    return _table(name, table.columns, lines)


def shared_settings(runs: Sequence[ReportRun]) -> Markup:
    """Settings of a single run; in a comparison those that all runs share."""
    settings = common(runs)
    if not settings:
        return Markup("")
    if len(runs) == 1:
        return section("settings", "Settings", settings_table(settings, "Settings"))
    table = element("details", element("summary", f"{len(settings):,} settings"), settings_table(settings, "Equal in all runs"))
    return section("settings", "Equal in all runs", table)
