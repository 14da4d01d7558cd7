"""The curves of each metric, and the bands of each histogram: what the script draws, and a picture for pages without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from fnlamp.experiment.report.columns import metrics
from fnlamp.experiment.report.markup import Markup, element, joined, shown
from fnlamp.experiment.report.pack import Pack
from fnlamp.experiment.report.reduce import Extent, Reduced, reduced
from fnlamp.experiment.report.run import ReportRun
from fnlamp.experiment.report.static import bands_picture, picture
from fnlamp.track.quantile import quantiles

Array = np.ndarray[Any, Any]
CURVES_BYTES: Final = 2_600_000
"""Room for the numbers of all curves, before base64. It decides how many buckets a curve has."""
FEWEST, MOST, BANDS = 24, 400, 200
FEW_RUNS: Final = 12
"""Up to so many runs, a page has still pictures, tables of figures, histograms, images and texts of each run."""


def panels(runs: Sequence[ReportRun], extents: Sequence[Mapping[str, Extent]], pack: Pack) -> tuple[list[Any], Markup]:
    """What the script draws, as plain values, and the elements to draw in."""
    names = metrics(runs)
    buckets = affordable([found.points for each in extents for found in each.values()])
    data: list[Any] = []
    figures: list[Markup] = []
    for name in names:
        curves = [
            (row, reduced(run.curves[name], buckets, started(run)), found[name])
            for row, (run, found) in enumerate(zip(runs, extents, strict=True))
            if name in found
        ]
        still = picture([(row, each) for row, each, _ in curves], name) if len(runs) <= FEW_RUNS else _no_picture(len(curves))
        table = numbers_table(name, [(runs[row], numbers) for row, _, numbers in curves]) if len(runs) <= FEW_RUNS else None
        figures.append(_figure(len(data), name, "", still, table))
        data.append({"name": name, "curves": [[row, *packed(each, pack), *_numbers(found)] for row, each, found in curves]})
    for row, run in enumerate(runs if len(runs) <= FEW_RUNS else ()):
        for name, values in run.histograms.items():
            if values:
                steps, rows, broken = bands(values)
                kind = f"distribution, {run.title}" if len(runs) > 1 else "distribution"
                figures.append(_figure(len(data), name, kind, bands_picture(row, steps, list(rows), name)))
                numbers = [pack.add(steps), [pack.add(each) for each in rows], broken]
                data.append({"name": name, "run": row, "bands": numbers})
    return data, joined(*figures)


def affordable(points: Sequence[int]) -> int:
    """How many buckets curves of so many points may have: three numbers and a time in each, of four bytes."""
    sizes = np.minimum.outer(np.asarray(points, np.int64), np.arange(MOST, FEWEST, -4)).sum(axis=0) * 16
    fitting = np.flatnonzero(sizes <= CURVES_BYTES)
    return MOST - 4 * int(fitting[0]) if len(fitting) else FEWEST


def started(run: ReportRun) -> float:
    """When the first value of the run was recorded, in seconds since 1970."""
    times = [float(curve.times[0]) for curve in run.curves.values() if curve.times is not None and len(curve.times)]
    return min(times, default=0.0)


def packed(each: Reduced, pack: Pack) -> list[Any]:
    """The arrays of a curve by number: first and last step, low, high, mean, epochs, times; -1 for what it lacks."""
    whole = bool(np.array_equal(each.first, each.last))
    single = whole and np.array_equal(each.low, each.high, equal_nan=True)
    timed = each.times is not None and bool(each.times.any())
    first, low = pack.add(each.first), pack.add(each.low)
    return [
        first,
        first if whole else pack.add(each.last),
        low,
        low if single else pack.add(each.high),
        low if single else pack.add(each.mean),
        -1 if each.epochs is None else pack.add(each.epochs),
        pack.add(each.times) if timed and each.times is not None else -1,
        [list(row) for row in each.broken],
    ]


def _numbers(found: Extent) -> list[Any]:
    broken = found.nans + found.infinities
    return [[found.points, found.last, found.low, found.low_step, found.high, found.high_step, broken]]


def bands(values: Sequence[tuple[int, Any]]) -> tuple[Array, Array, list[int]]:
    """The steps, the values at each basis point over steps, and how many numbers were not finite.

    Of many histograms, some are left out; the outermost band and the counts have those, too.

    Shapes: `(n,)`, `(9, n)`, `(n,)`.
    """
    every = max(1, -(-len(values) // BANDS))
    ordered = sorted(values, key=lambda pair: pair[0])
    groups = [ordered[start : start + every] for start in range(0, len(ordered), every)]
    columns = []
    for group in groups:
        each = np.stack([quantiles(histogram) for _, histogram in group])
        known = each[~np.isnan(each[:, 0])]
        inside = known[0, 1:-1] if len(known) else each[0, 1:-1]
        ends = (known[:, 0].min(), known[:, -1].max()) if len(known) else (np.nan, np.nan)
        columns.append(np.concatenate([ends[:1], inside, ends[1:]]))
    broken = [sum(int(histogram.not_finite) for _, histogram in group) for group in groups]
    return np.array([group[0][0] for group in groups]), np.stack(columns, axis=1), broken


def _figure(number: int, name: str, kind: str, still: Markup | None = None, table: Markup | None = None) -> Markup:
    label = f"panel-{number}"
    note = element("span", kind, class_="kind") if kind else Markup("")
    caption = element("figcaption", element("h3", element("bdi", name), id=label), note)
    area = element("div", still or Markup(""), class_="plot", data_panel=number)
    details = element("details", element("summary", "Figures"), table or element("div", class_="numbers"), class_="figures")
    return element("figure", caption, area, details, class_="panel", aria_labelledby=label, data_name=name)


def _no_picture(count: int) -> Markup:
    return element("noscript", element("p", f"A script draws these {count:,} curves; the table of runs has their last values."))


def numbers_table(name: str, rows: Sequence[tuple[ReportRun, Extent]]) -> Markup:
    """The numbers of the curves of a metric: what they say to those who do not see them."""
    head = element(
        "tr", *(element("th", each, scope="col") for each in ("Run", "Points", "Last", "Lowest", "Highest", "Not finite"))
    )
    body = [
        element(
            "tr",
            element("th", element("bdi", run.title), scope="row"),
            *(element("td", each) for each in _said(found)),
        )
        for run, found in rows
    ]
    caption = element("caption", f"Figures of {name}", class_="unseen")
    return element("div", element("table", caption, element("thead", head), element("tbody", *body)), class_="numbers")


def _said(found: Extent) -> tuple[str, ...]:
    low = f"{shown(found.low)} at {found.low_step:,}"
    high = f"{shown(found.high)} at {found.high_step:,}"
    return f"{found.points:,}", shown(found.last), low, high, f"{found.nans + found.infinities:,}"
