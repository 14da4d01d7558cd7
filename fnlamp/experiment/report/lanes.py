"""Runs as lines through their settings to a metric, and how much each setting matters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fnlamp.experiment.report.columns import cell, differing
from fnlamp.experiment.report.markup import Markup, element, joined, shown
from fnlamp.experiment.report.parts import section
from fnlamp.experiment.report.reduce import Extent
from fnlamp.experiment.report.run import ReportRun
from fnlamp.experiment.where import column

HEIGHT, TOP, BOTTOM, STEP, LEFT = 300, 40, 16, 170, 60
MOST_AXES: Final = 8
MOST_RUNS: Final = 2000
SHADES: Final = 5


@dataclass(frozen=True)
class Scale:
    """Where values lie on an axis, from 0 to 1: numbers, by their logarithms if they span two decades, or categories."""

    labels: tuple[str, ...]
    places: tuple[float | None, ...]


def scale_of(values: Sequence[Any]) -> Scale:
    """The scale of a column; a value that is missing or not finite has no place.

    >>> scale_of([1e-4, 1e-3, 1e-2]).places, scale_of(["b", "a", None])
    ((0.0, 0.5, 1.0), Scale(labels=('a', 'b'), places=(1.0, 0.0, None)))
    """
    numbers = [value for value in values if type(value) in (int, float) and math.isfinite(value)]
    if all(value is None or type(value) in (int, float) for value in values) and numbers:
        low, high = min(numbers), max(numbers)
        log = low > 0 and high >= 100 * low
        start, span = (math.log(low), math.log(high / low)) if log else (low, high - low)

        def place(value: Any) -> float | None:
            if type(value) not in (int, float) or not math.isfinite(value):
                return None
            return round(((math.log(value) if log else value) - start) / span, 6) if span else 0.5

        return Scale((shown(low), shown(high)) if span else (shown(low),), tuple(map(place, values)))
    names = sorted({str(value) for value in values if value is not None})
    at = {name: n / (len(names) - 1) if len(names) > 1 else 0.5 for n, name in enumerate(names)}
    return Scale(tuple(names), tuple(None if value is None else at[str(value)] for value in values))


def lines(runs: Sequence[ReportRun], metric: str, values: Sequence[float | None], highest: bool) -> Markup | None:
    """The picture, with no axis for formulas and dark lines for good values; `None` for fewer than three runs."""
    paths = [path for path in differing(runs) if any(not _computed(run, path) for run in runs)][:MOST_AXES]
    if len(runs) < 3 or not paths or all(value is None for value in values):
        return None
    settings = [[cell(run.settings[path][0]) if path in run.settings else None for run in runs] for path in paths]
    scales = [scale_of(column) for column in settings] + [scale_of(list(values))]
    drawn = [_line([each.places[n] for each in scales], runs[n].title, highest) for n in range(min(len(runs), MOST_RUNS))]
    axes = [_axis(number, name, scale) for number, (name, scale) in enumerate(zip([*paths, metric], scales, strict=True))]
    said = f"{len(runs)} runs as lines through {', '.join(paths)} to {metric}"
    box = f"0 0 {LEFT + STEP * len(paths) + 110} {HEIGHT}"
    return element("svg", *drawn, *axes, viewBox=box, role="img", class_="lanes", **{"aria-label": said})


def _computed(run: ReportRun, path: str) -> bool:
    return path not in run.settings or run.settings[path][1].startswith("computed")


def _line(places: Sequence[float | None], title: str, highest: bool) -> Markup:
    """A line with a gap where there is no value."""
    parts, pen = [], "M"
    for axis, place in enumerate(places):
        if place is None:
            pen = "M"
            continue
        parts.append(f"{pen}{LEFT + STEP * axis} {_down(place):.1f}")
        pen = "L"
    last = places[-1]
    shade = "none" if last is None else str(min(int((1 - last if highest else last) * SHADES), SHADES - 1))
    return element("path", element("title", title), d="".join(parts), class_=f"lane ramp-{shade}", fill="none")


def _down(place: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - place)


def _axis(number: int, name: str, scale: Scale) -> Markup:
    x, count = LEFT + STEP * number, len(scale.labels)
    label = name if len(name) < 24 else f"...{name[-21:]}"
    shown_labels = scale.labels if count <= 12 else (scale.labels[0], scale.labels[-1])
    at = [n / (len(shown_labels) - 1) if len(shown_labels) > 1 else 0.5 for n in range(len(shown_labels))]
    return joined(
        element("path", class_="frame", d=f"M{x} {TOP}V{HEIGHT - BOTTOM}", fill="none"),
        element("text", label, class_="tick", x=x, y=TOP - 20, text_anchor="middle"),
        *(
            element("text", text[:16], class_="tick", x=x + 5, y=round(_down(place) + 4, 1))
            for text, place in zip(shown_labels, at, strict=True)
        ),
    )


def shares(importance: Mapping[str, float]) -> Markup:
    """A table of how much each setting matters."""
    rows = [
        element("tr", element("td", path), element("td", f"{100 * share:.1f} %", class_="number"))
        for path, share in importance.items()
    ]
    head = element("tr", element("th", "setting", scope="col"), element("th", "share of the variance", scope="col"))
    return element("table", element("thead", head), element("tbody", *rows))


def section_of(
    runs: Sequence[ReportRun],
    extents: Sequence[Mapping[str, Extent]],
    metric: str,
    highest: bool,
    importance: Mapping[str, float],
) -> Markup:
    """Which settings have which value of a metric, such as `lowest(validation.loss)`, as far as there are any."""
    chosen = column(metric)
    kind = {"lowest": "low", "highest": "high"}.get(chosen.kind, "last")
    values = [getattr(each[chosen.name], kind) if chosen.name in each else None for each in extents]
    picture = lines(runs, metric, values, highest)
    table = shares(importance) if importance else ""
    return section("settings", f"Settings and {metric}", element("div", picture, class_="card") if picture else "", table)
