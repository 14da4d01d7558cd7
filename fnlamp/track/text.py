"""An entry as a line of strict JSON, and back; docs/reference/metrics-files.md is the schema."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import numpy as np

from fnlamp.track.entry import SUFFIXES, Alert, Entry, Figure, Histogram, Image, Indexed, Media, Progress, Resumed, Rows, Text
from fnlamp.track.media import is_kept

SCHEMA: Final = 1
HEADER: Final = f'{{"schema":{SCHEMA}}}\n'

Keep = Callable[[Image | Figure], str]
"""Stores a picture and returns its path."""

_name: Final = lru_cache(65536)(json.dumps)
_encode: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def line_of(entry: Entry, keep: Keep) -> str:
    """The line of an entry, or nothing if it has only progress.

    >>> line_of(Entry({"loss": 0.25, "rate": float("inf")}, step=50, time=1.5), keep=str)
    '{"step":50,"time":1.5,"values":{"loss":0.25,"rate":"inf"}}\\n'
    """
    parts = []
    for name, value in entry.values.items():
        if type(value) is float:
            text = repr(value) if value - value == 0.0 else f'"{value!r}"'
        elif type(value) is Progress:
            continue
        else:
            text = value_text(value, keep)
        parts.append(f"{_name(name)}:{text}")
    if not parts:
        return ""
    epoch = "" if entry.epoch is None else f'"epoch":{int(entry.epoch)},'
    lane = "" if not entry.lane else f'"lane":{int(entry.lane)},'
    return f'{{"step":{entry.step},{epoch}{lane}"time":{entry.time!r},"values":{{{",".join(parts)}}}}}\n'


def value_text(value: Any, keep: Keep) -> str:
    """The JSON of a value that is not a scalar: an object whose only member names its kind."""
    return _encode(_tagged(value, keep))


def _tagged(value: Any, keep: Keep) -> Any:
    match value:
        case Histogram(edges, counts, not_finite):
            return {"histogram": {"edges": _numbers(edges), "counts": counts.tolist(), "not_finite": not_finite}}
        case Indexed(indices, values):
            return {"indexed": {"indices": indices.tolist(), "values": _numbers(values)}}
        case Text(text):
            return {"text": text}
        case Rows(columns, rows):
            return {"rows": {"columns": columns, "rows": [[_cell(cell) for cell in row] for row in rows]}}
        case Image():
            return {"image": {"path": keep(value)}}
        case Figure(_, media_type):
            return {"figure": {"path": keep(value), "type": media_type}}
        case Alert(text, level):
            return {"alert": {"text": text, "level": level}}
        case Resumed():
            return {"resumed": True}
    raise TypeError(f"no such value is stored: {value!r}")


def _numbers(array: np.ndarray[Any, Any]) -> list[Any]:
    numbers = array.tolist()
    return numbers if np.isfinite(array).all() else [x if x - x == 0.0 else repr(x) for x in numbers]


def _cell(cell: Any) -> Any:
    """A number that JSON has no form for is an object, so that it differs from a text."""
    return {"number": repr(cell)} if isinstance(cell, float) and cell - cell != 0.0 else cell


# ---- back

_NOT_FINITE: Final = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}


def number_in(found: Any) -> float:
    """The number.  Raises: `ValueError` for anything else."""
    if type(found) is float or type(found) is int:
        return float(found)
    if isinstance(found, str) and found in _NOT_FINITE:
        return _NOT_FINITE[found]
    raise ValueError("a number")


def value_in(found: Any, folder: str) -> Any:
    """The value that is not a scalar; pictures are in this folder.  Raises: `ValueError`, `TypeError`, `KeyError`."""
    if not isinstance(found, dict) or len(found) != 1:
        raise ValueError("a value")
    ((kind, content),) = found.items()
    match kind:
        case "histogram":
            edges = np.array([number_in(x) for x in content["edges"]])
            return Histogram(edges, np.array(content["counts"], np.int64), content["not_finite"])
        case "indexed":
            values = np.array([number_in(x) for x in content["values"]], np.float64)
            return Indexed(np.array(content["indices"], np.int64), values)
        case "text":
            return Text(content)
        case "rows":
            return Rows(tuple(content["columns"]), tuple(tuple(map(_cell_in, row)) for row in content["rows"]))
        case "image" | "figure":
            path, media_type = content["path"], content.get("type", "image/png")
            if not is_kept(path) or media_type not in SUFFIXES:
                raise ValueError("a path in the folder of media")
            return Media(os.path.join(folder, path), media_type)
        case "alert":
            return Alert(content["text"], content["level"])
        case "resumed":
            return Resumed()
    raise ValueError("a value of a kind of this schema")


def _cell_in(found: Any) -> Any:
    return number_in(found["number"]) if isinstance(found, dict) else found
