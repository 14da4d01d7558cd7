"""Arrays in one text, each of them once, for a script that looks at them without a copy."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class Pack:
    """Arrays as bytes, one after the other; equal arrays share theirs.

    >>> pack = Pack()
    >>> pack.add(np.array([0.5, 1.0])), pack.add(np.array([0.5, 1.0])), pack.add(np.arange(3))
    (0, 0, 1)
    >>> pack.index
    [['f', 0, 2], ['i', 8, 3]]
    """

    def __init__(self) -> None:
        self.index: list[list[Any]] = []
        """The kind of number, the offset in bytes and the length of each array: `f` and `d` are floats, `i` integers."""
        self._content = bytearray()
        self._known: dict[tuple[str, bytes], int] = {}

    def add(self, array: Array) -> int:
        """The number of the array, which is stored if it is new."""
        kind = _kind(array)
        content = array.astype({"f": "<f4", "d": "<f8", "i": "<i4"}[kind]).tobytes()
        if (kind, content) not in self._known:
            self._known[kind, content] = len(self.index)
            self.index.append([kind, len(self._content), len(array)])
            self._content += content + bytes(-len(content) % 8)  # the script needs the alignment
        return self._known[kind, content]

    def __str__(self) -> str:
        return base64.b64encode(self._content).decode()


def _kind(array: Array) -> str:
    """The shortest kind that nobody can tell from the numbers themselves on a chart."""
    if array.dtype.kind in "iub":
        return "i" if not len(array) or (array.min() >= -(2**31) and array.max() < 2**31) else "d"
    finite = array[np.isfinite(array)]
    if not len(finite):
        return "f"
    with np.errstate(over="ignore"):
        short = finite.astype(np.float32)
    width = max(float(finite.max()) - float(finite.min()), 1e-3 * float(np.abs(finite).max()))
    near = np.abs(finite - short) <= np.minimum(1e-5 * width, 1e-6 * np.abs(finite))
    return "f" if bool(near.all()) else "d"
