"""Curves as a still picture, for a page whose script does not run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fnlamp.experiment.report.markup import Markup, element, shown
from fnlamp.experiment.report.reduce import Reduced

Array = np.ndarray[Any, Any]
WIDTH, HEIGHT, LEFT, BOTTOM = 480, 240, 54, 24
COLOURS, DASHES = 8, 4


@dataclass(frozen=True)
class Frame:
    """The limits of a picture: from numbers to places, and its axes."""

    left: float
    right: float
    low: float
    high: float

    def across(self, steps: Array) -> Array:
        """Where steps are."""
        return LEFT + (WIDTH - LEFT - 8) * (steps - self.left) / ((self.right - self.left) or 1.0)

    def down(self, values: Array) -> Array:
        """Where values are. Halves, as a difference of large numbers may be infinite."""
        share = (values / 2 - self.low / 2) / ((self.high / 2 - self.low / 2) or 1.0)
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - 12) * share

    def around(self, what: str, *content: Markup) -> Markup:
        """The picture, with axes and a text that says what it shows."""
        foot = HEIGHT - BOTTOM
        axes = [
            element("path", class_="frame", d=f"M{LEFT} 12V{foot}H{WIDTH - 8}", fill="none"),
            element("text", shown(self.high), class_="tick", x=LEFT - 6, y=16, text_anchor="end"),
            element("text", shown(self.low), class_="tick", x=LEFT - 6, y=foot, text_anchor="end"),
            element("text", f"{self.left:,.0f}", class_="tick", x=LEFT, y=HEIGHT - 8),
            element("text", f"step {self.right:,.0f}", class_="tick", x=WIDTH - 8, y=HEIGHT - 8, text_anchor="end"),
        ]
        said = f"{what}, from step {self.left:,.0f} to {self.right:,.0f}, between {shown(self.low)} and {shown(self.high)}"
        attributes = {"viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "aria-label": said}
        return element("svg", *axes, *content, **attributes)


def picture(curves: Sequence[tuple[int, Reduced]], name: str) -> Markup:
    """The curves over steps, each as a line through the lowest and the highest value of its buckets.

    A line ends where no value is finite. A cross at the top marks values that are not.
    """
    ends = min(float(each.first[0]) for _, each in curves), max(float(each.last[-1]) for _, each in curves)
    frame = Frame(*ends, *_limits([number for _, each in curves for number in (each.low, each.high)]))
    parts = []
    for row, each in curves:
        x = frame.across((each.first + each.last) / 2)
        line = _path(x, frame.down(each.low), frame.down(each.high))
        parts.append(element("path", class_=f"line {style(row)}", d=line, fill="none"))
        if each.broken:
            parts.append(element("path", class_=f"bad {style(row)}", d=_crosses(x, each), fill="none"))
    return frame.around(f"{name} of {len(curves)} runs", *parts)


def bands_picture(row: int, steps: Array, rows: Sequence[Array], name: str) -> Markup:
    """The median over steps, with bands between the rows around it."""
    known = ~np.isnan(rows[0])
    frame = Frame(float(steps[0]), float(steps[-1]), *_limits(rows))
    x = frame.across(steps[known])
    ends = [[f"{at:.1f} {each:.1f}" for at, each in zip(x, frame.down(numbers[known]), strict=True)] for numbers in rows]
    areas = [
        element("path", class_=f"area {style(row)}", d=f"M{'L'.join([*ends[low], *ends[-1 - low][::-1]])}Z")
        for low in range(len(rows) // 2)
    ]
    median = element("path", class_=f"line {style(row)}", d=f"M{'L'.join(ends[len(rows) // 2])}", fill="none")
    return frame.around(f"distribution of {name}", *(areas if len(x) else ()), *([median] if len(x) else ()))


def _limits(numbers: Sequence[Array]) -> tuple[float, float]:
    """The lowest and the highest finite number."""
    finite = np.concatenate([each[np.isfinite(each)] for each in numbers])
    return (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)


def style(row: int) -> str:
    """The classes of a run's colour and dashes."""
    return f"s{row % COLOURS} d{row // COLOURS % DASHES}"


def _path(x: Array, low: Array, high: Array) -> str:
    parts, pen = [], "M"
    for at, one, other in zip(x.tolist(), low.tolist(), high.tolist(), strict=True):
        if one != one:
            pen = "M"
            continue
        parts.append(f"{pen}{at:.1f} {one:.1f}" + (f"V{other:.1f}" if abs(one - other) >= 0.1 else "h.1"))
        pen = "L"
    return "".join(parts)


def _crosses(x: Array, each: Reduced) -> str:
    return "".join(f"M{x[a] - 3:.1f} 3l6 6m0-6l-6 6M{x[a]:.1f} 6H{x[b]:.1f}" for a, b, *_ in each.broken)
