"""What a tracker records: entries of values by name, at a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np

from fnlamp.given import instance, several, shown, text, whole


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of numbers between edges.  Shapes: `edges` float64 `(bins + 1,)`, `counts` int64 `(bins,)`.

    NaN and infinite numbers are in no bin; `not_finite` counts them. The arrays are copied.
    """

    edges: np.ndarray[Any, Any]
    counts: np.ndarray[Any, Any]
    not_finite: int = 0

    def __post_init__(self) -> None:
        edges, counts = _array("Histogram: edges", self.edges, np.float64), _array("Histogram: counts", self.counts, np.int64)
        if len(edges) != len(counts) + 1:
            raise ValueError(f"Histogram: edges has one number more than counts, got {len(edges)} and {len(counts)}")
        _put(self, edges=edges, counts=counts, not_finite=whole("Histogram: not_finite", self.not_finite, 0))


@dataclass(frozen=True, eq=False)
class Indexed:
    """A number for each of some items, as the loss of each example.  Shapes: `indices` int64 and `values` float64 `(n,)`.

    The arrays are copied.
    """

    indices: np.ndarray[Any, Any]
    values: np.ndarray[Any, Any]

    def __post_init__(self) -> None:
        indices, values = _array("Indexed: indices", self.indices, np.int64), _array("Indexed: values", self.values, np.float64)
        if len(indices) != len(values):
            raise ValueError(f"Indexed: values has a number for each index, got {len(values)} for {len(indices)}")
        _put(self, indices=indices, values=values)


@dataclass(frozen=True, eq=False)
class Image:
    """An image.  Shapes: `pixels` uint8 `(height, width)` or `(height, width, 3)`, which is copied."""

    pixels: np.ndarray[Any, Any]

    def __post_init__(self) -> None:
        pixels = np.array(self.pixels)
        if pixels.dtype != np.uint8:
            hint = "; write (255 * x).astype(np.uint8) for numbers from 0 to 1" if pixels.dtype.kind == "f" else ""
            raise TypeError(f"Image: pixels is an array of uint8, got {shown(self.pixels)}{hint}")
        if not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)) or not pixels.size:
            raise ValueError(f"Image: pixels has the shape (height, width) or (height, width, 3), got {pixels.shape}")
        _put(self, pixels=pixels)


@dataclass(frozen=True)
class Text:
    """A text, such as a sample of a language model."""

    text: str

    def __post_init__(self) -> None:
        text("Text: text", self.text)


@dataclass(frozen=True)
class Rows:
    """Rows under the names of columns; a cell is a number, a text, a boolean or `None`."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def __post_init__(self) -> None:
        columns = several("Rows: columns", self.columns)
        rows = tuple(tuple(map(_cell, row)) for row in self.rows)
        for at, row in enumerate(rows):
            if len(row) != len(columns):
                raise ValueError(f"Rows: rows have a cell for each of {len(columns)} columns, got {len(row)} in row {at}")
        _put(self, columns=columns, rows=rows)


@dataclass(frozen=True)
class Figure:
    """A picture as a file's bytes: PNG, or SVG."""

    content: bytes
    media_type: str = "image/png"

    def __post_init__(self) -> None:
        instance("Figure: content", self.content, bytes, "the bytes of a file")
        if self.media_type not in SUFFIXES:
            raise ValueError(f"Figure: media_type is one of {sorted(SUFFIXES)}, got {self.media_type!r}")


@dataclass(frozen=True)
class Media:
    """An image or a figure that was read from a run: its file, and whether that is PNG or SVG."""

    path: str
    media_type: str = "image/png"


@dataclass(frozen=True)
class Alert:
    """A message that someone should see, such as that the loss does not fall; `level` is "info", "warning" or "error"."""

    text: str
    level: str = "warning"

    def __post_init__(self) -> None:
        text("Alert: text", self.text)
        if self.level not in LEVELS:
            raise ValueError(f"Alert: level is one of {LEVELS}, got {self.level!r}")


@dataclass(frozen=True)
class Progress:
    """How much of a named part is done, of how much if that is known. Shown while the program runs, and not stored."""

    done: float
    total: float | None = None
    unit: str = "steps"


@dataclass(frozen=True)
class Resumed:
    """The run starts from a save at the step of this entry: what earlier entries say of later steps does not count.

    Under the name `run` that holds for all names, and under `pretrain.run` for those that start with `pretrain.`.
    """


Value: TypeAlias = float | Histogram | Indexed | Image | Text | Rows | Figure | Alert | Progress | Resumed
"""A float is a scalar; NaN and infinity stay what they are."""

LEVELS: Final = ("info", "warning", "error")
SUFFIXES: Final = {"image/png": ".png", "image/svg+xml": ".svg"}
KINDS: Final = (Histogram, Indexed, Image, Text, Rows, Figure, Alert, Progress, Resumed)
"""The values that are not scalars."""


@dataclass(frozen=True)
class Entry:
    """Values by name at a step: what a program reports, and what a writer writes.

    `step` counts updates of the parameters since the start of training, and `lane` the programs that run side by side in one.
    `time` is in seconds since 1970. Of two values of one name, lane and step, the later one counts.
    """

    values: Mapping[str, Value]
    step: int
    epoch: int | None = None
    lane: int = 0
    time: float = 0.0


def shown_only(entry: Entry) -> bool:
    """Whether an entry is progress, which is shown and not stored."""
    return all(type(value) is Progress for value in entry.values.values())


def cancelled(entry: Entry) -> str | None:
    """If this entry says that the run resumes at its step: the start of the names whose later values do not count."""
    for name, value in entry.values.items():
        if type(value) is Resumed:
            return name.removesuffix("run")
    return None


def value_of(name: str, given: Any) -> Value:
    """A value to record: a number of Python, NumPy or JAX becomes a float64.  Raises: `TypeError`, `ValueError`, which name it.

    `True` is 1; a whole number beyond 2^53 is rounded.

    >>> value_of("loss", np.float32(0.5))
    0.5
    >>> value_of("loss", np.ones(2))
    Traceback (most recent call last):
    TypeError: loss is a number, or a value such as track.Text or track.Histogram, got float64[2] (ndarray)
    """
    if type(given) is float or isinstance(given, KINDS):
        return given
    if isinstance(given, str | bytes) or getattr(given, "shape", ()) != () or isinstance(given, complex | np.complexfloating):
        hint = "; write track.Text(...)" if isinstance(given, str) else ""
        raise TypeError(f"{name} {_EXPECTED}, got {shown(given)}{hint}")
    try:
        return float(given)
    except OverflowError:
        raise ValueError(f"{name} is a number that a float64 can hold, got one of {len(str(given))} digits") from None
    except (TypeError, ValueError):
        raise TypeError(f"{name} {_EXPECTED}, got {shown(given)}") from None


def checked_name(name: Any) -> str:
    """The name of a value.  Raises: `TypeError` or `ValueError`, for anything but printable text that is not empty."""
    if not isinstance(name, str):
        raise TypeError(f"the name of a value is a text such as 'train.loss', got {shown(name)}")
    if not name or not name.isprintable():  # control characters, and surrogates that UTF-8 cannot encode
        raise ValueError(f"the name of a value is a printable text such as 'train.loss', got {name!r}")
    return name


_EXPECTED: Final = "is a number, or a value such as track.Text or track.Histogram"


def _array(name: str, given: Any, dtype: Any) -> np.ndarray[Any, Any]:
    found = np.array(given)
    if found.ndim != 1 or found.dtype.kind not in "iufb":
        raise TypeError(f"{name} is a one-dimensional array of numbers, got {shown(given)}")
    whole_numbers = dtype is np.int64
    if whole_numbers and found.dtype.kind == "f" and not np.array_equal(found, np.trunc(found)):
        raise TypeError(f"{name} is an array of whole numbers, got {shown(given)}")
    return found.astype(dtype)


def _cell(given: Any) -> Any:
    if given is None or isinstance(given, str | bool | int):
        return given
    if getattr(given, "shape", None) == () and hasattr(given, "tolist"):
        given = given.tolist()  # a scalar of NumPy or JAX
    if not isinstance(given, str | bool | int | float):
        raise TypeError(f"Rows: rows: a cell is a number, a text, a boolean or None, got {shown(given)}")
    return given


def _put(value: Any, **fields: Any) -> None:
    for name, content in fields.items():
        object.__setattr__(value, name, content)
