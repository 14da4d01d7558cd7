"""Printing: JSON, tables, and values in a line. Text of runs is printed without control characters, which a terminal obeys."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from fnlamp.experiment.folder import RunRecord
from fnlamp.experiment.where import FIELDS
from fnlamp.extra import need
from fnlamp.fault import printable

DASH = "-"
WHOLE = 3
"""Columns, from the left, that are not cut in a narrow terminal."""


def say(text: str) -> None:
    """Print lines, whatever the encoding of the terminal."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(f"{printable(text)}\n".encode(encoding, "replace").decode(encoding))


def say_json(value: Any) -> None:
    """Print strict JSON: NaN and infinity are strings."""
    sys.stdout.write(json.dumps(strict(value), allow_nan=False) + "\n")


def strict(value: Any) -> Any:
    """The value with strings in place of NaN and infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(name): strict(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [strict(each) for each in value]
    if isinstance(value, bytes):
        return value.hex()
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def record_json(record: RunRecord) -> dict[str, Any]:
    """A run as JSON: its fields, `config` by path, and `metrics` with `last`, `lowest` and `highest`."""
    metrics = {name: {kind: getattr(record, kind).get(name) for kind in ("last", "lowest", "highest")} for name in record.last}
    return {**{name: getattr(record, name) for name in FIELDS}, "config": dict(record.config), "metrics": metrics}


def short_ids(records: Sequence[RunRecord]) -> list[str]:
    """The ends of the ids, which every verb takes as ids; whole ids where an end is there twice."""
    ends = [each.id[-6:] for each in records]
    return [end if ends.count(end) == 1 else each.id for end, each in zip(ends, records, strict=True)]


def cell(value: Any) -> str:
    """A value in a table."""
    if value is None or value == "" or value == ():
        return DASH
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(cell, value))
    text = json.dumps(value) if isinstance(value, dict) else str(value)
    line = " ".join(printable(text).split())
    return line if len(line) <= 60 else line[:57] + "..."


def moment(seconds: float | None) -> str:
    """A time in the zone of this machine."""
    if seconds is None:
        return DASH
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
    except (ValueError, OverflowError, OSError):
        return cell(float(seconds))


def duration(seconds: float | None) -> str:
    """A duration as 0:00:12."""
    if seconds is None:
        return DASH
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def say_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[str] = ()) -> None:
    """Print a table: by rich in a terminal, if it is installed, else in aligned columns."""
    rows, right = [[" ".join(printable(each).split()) for each in row] for row in rows], set(right)
    if sys.stdout.isatty() and find_spec("rich") is not None:
        _say_rich(columns, rows, right)
        return
    widths = [max(map(len, (name, *(row[at] for row in rows)))) for at, name in enumerate(columns)]
    for row in [list(columns), *rows]:
        cells = [each.rjust(w) if name in right else each.ljust(w) for each, w, name in zip(row, widths, columns, strict=True)]
        say("  ".join(cells).rstrip())


def _say_rich(columns: Sequence[str], rows: Sequence[Sequence[str]], right: set[str]) -> None:
    text = need("rich.text", "rich").Text
    table = need("rich.table", "rich").Table(box=None, pad_edge=False, header_style="bold")
    for at, name in enumerate(columns):
        side = "right" if name in right else "left"
        least = max(map(len, (name, *(row[at] for row in rows)))) if at < WHOLE else None
        table.add_column(text(name), justify=side, no_wrap=True, overflow="ellipsis", min_width=least)
    for row in rows:
        table.add_row(*(text(each, style=_STYLES.get(each, "")) for each in row))
    need("rich.console", "rich").Console().print(table)


_STYLES = {"running": "cyan", "completed": "green", "failed": "red", "defect": "red", "crashed": "red", "unreadable": "red"}
