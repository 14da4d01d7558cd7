"""Bulk parsing: the text of a table's rows as one array, bit for bit as `float` reads every cell, or not at all."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np

from fnlamp.extra import need
from fnlamp.fault import FaultError

Numbers: TypeAlias = np.ndarray[Any, Any]

_NUMERIC: Final = b"0123456789+-.eE"
_EXACT: Final = 2**53
_POWERS: Final = 10.0 ** np.arange(23)
"""The powers of ten that float64 holds exactly."""
_MANY: Final = 2**14
"""Bytes above which pyarrow pays off."""


def parse(rows: bytes, width: int, separator: bytes) -> Numbers | None:
    """All cells of the rows, float64 or integers (then within 2**53), or `None` if any is not a plain number.

    `rows` ends with a line feed. The result equals that of `float` for every cell, bit for bit; blanks, quotes, empty cells,
    rows of another width and numbers that float64 cannot hold give `None`. Shapes: `(rows, width)`.

    >>> parse(b"1,2.5\\n-3e2,.5\\n", 2, b",")
    array([[   1. ,    2.5],
           [-300. ,    0.5]])
    """
    count = rows.count(b"\n")
    cells = _digits(rows, count, width, separator)
    if cells is not None:
        return cells
    # Without the characters of numbers, only the separators and line feeds of the table's shape may remain.
    if rows.translate(None, _NUMERIC) != (separator * (width - 1) + b"\n") * count:
        return None
    cells = _arrow(rows.replace(separator, b"\n"), count * width) if len(rows) >= _MANY else None
    if cells is not None:
        return cells.reshape(count, width)
    text = rows.translate(bytes.maketrans(separator + b"\n", b",,"))
    cells = _whole(text, count * width) if not any(mark in text for mark in (b".", b"e", b"E", b"-0")) else None
    if cells is None:
        cells = _decimal(text)
    return None if cells is None else cells.reshape(count, width)


def _arrow(lines: bytes, count: int) -> Numbers | None:
    """One number per line, as pyarrow reads it, rounded as `float` rounds; `None` without pyarrow, or if one is malformed."""
    try:
        arrow, csv = need("pyarrow", "tables"), need("pyarrow.csv", "tables")
    except FaultError:
        return None
    try:
        table = csv.read_csv(
            arrow.BufferReader(lines),
            csv.ReadOptions(column_names=["number"], use_threads=False, block_size=len(lines) + 1),
            csv.ParseOptions(quote_char=False, ignore_empty_lines=False),
            csv.ConvertOptions(column_types={"number": arrow.float64()}, null_values=[]),
        )
    except arrow.ArrowInvalid:
        return None
    return _finite(table.column(0).to_numpy()) if table.num_rows == count else None


def _digits(rows: bytes, count: int, width: int, separator: bytes) -> Numbers | None:
    """Rows of short runs of digits only, as small integers: one pass over the cells for each decimal place."""
    if any(mark in rows for mark in (b".", b"-", b"e", b"E")):
        return None  # the checks below would find this too, more slowly
    code = np.frombuffer(rows, np.uint8)
    digit = code - np.uint8(ord("0"))  # characters below "0" wrap around, far above 9
    stop = np.flatnonzero(digit > 9)
    if len(stop) != count * width:
        return None
    marks = code[stop].reshape(count, width)
    length = np.diff(stop, prepend=-1) - 1
    longest = int(length.max())
    if not (longest <= 9 and length.min() and (marks[:, :-1] == ord(separator)).all() and (marks[:, -1] == ord("\n")).all()):
        return None
    whole: Any = np.uint8 if longest <= 2 else np.uint16 if longest <= 4 else np.uint32
    values: Numbers = digit[stop - 1].astype(whole)
    cells = np.flatnonzero(length > 1)
    for place in range(1, longest):
        values[cells] += digit[stop[cells] - 1 - place] * whole(10**place)
        cells = cells[length[cells] > place + 1]
    return values.reshape(count, width)


def _whole(text: bytes, count: int) -> Numbers | None:
    numbers = _scan(text, count, np.int64)
    return numbers if numbers is not None and (abs(numbers) <= _EXACT).all() and numbers.min() > -_EXACT else None


def _decimal(text: bytes) -> Numbers | None:
    """`-12.345` is -12345 / 10**3, rounded once; the few cells for which that may be inexact go through `float`."""
    code = np.frombuffer(text, np.uint8)
    stop = np.flatnonzero(code == ord(","))
    start = np.concatenate(([0], stop[:-1] + 1))
    power = np.flatnonzero((code | 32) == ord("e"))
    slow = np.unique(np.searchsorted(stop, power))  # cells with an exponent
    if len(slow) > len(stop) // 4:
        return _finite(_scan(text, len(stop), np.float64))
    plain = _blanked(text, start[slow], stop[slow]) if len(slow) else text
    shape = np.frombuffer(plain.translate(None, b"0123456789+-"), np.uint8)
    dot = np.flatnonzero(shape == ord("."))
    owner = dot - np.arange(len(dot))  # the cell of a dot: the number of separators before it
    if b".-" in plain or b".+" in plain or (owner[1:] == owner[:-1]).any():
        return None
    whole = _scan(plain.translate(None, b"."), len(stop), np.int64)
    if whole is None:
        return None
    places = np.zeros(len(stop), np.int64)
    places[owner] = stop[owner] - np.flatnonzero(np.frombuffer(plain, np.uint8) == ord(".")) - 1
    known = (places < len(_POWERS)) & (whole < 2**62) & (whole > -(2**62))
    known[slow] = False
    known &= (whole != 0) | (code[start] != ord("-"))  # an integer has no -0
    values, certain = _quotient(np.where(known, whole, 0), _POWERS[np.where(known, places, 0)])
    rest = np.flatnonzero(~(known & certain))
    try:
        values[rest] = [float(text[a:b]) for a, b in zip(start[rest].tolist(), stop[rest].tolist(), strict=True)]
    except ValueError:
        return None
    return _finite(values)


def _quotient(whole: Numbers, power: Numbers) -> tuple[Numbers, Numbers]:
    """`whole / power` rounded to nearest, and where that is certain.  Dekker 1971, "A floating-point technique ..."."""
    high = whole.astype(np.float64)
    low = (whole - high.astype(np.int64)).astype(np.float64)
    first = high / power
    product = first * power
    a, b = _halves(first), _halves(power)
    error = ((a[0] * b[0] - product) + a[0] * b[1] + a[1] * b[0]) + a[1] * b[1]  # first * power == product + error
    second = ((high - product) - error + low) / power
    # `second` has a relative error of some 2**-50: if that cannot move the sum across a rounding boundary, the sum is right.
    slack = second * 2.0**-40
    value = first + second
    return value, (first + (second - slack) == value) & (first + (second + slack) == value)


def _halves(x: Numbers) -> tuple[Numbers, Numbers]:
    wide = x * 134217729.0  # 2**27 + 1, Veltkamp's splitting
    upper = wide - (wide - x)
    return upper, x - upper


def _blanked(text: bytes, start: Numbers, stop: Numbers) -> bytes:
    """The text with zeros in the given cells."""
    plain = bytearray(text)
    for a, b in zip(start.tolist(), stop.tolist(), strict=True):
        plain[a:b] = b"0" * (b - a)
    return bytes(plain)


def _scan(text: bytes, count: int, dtype: Any) -> Numbers | None:
    """`count` numbers, each followed by a comma; `None` if one is malformed."""
    if b"-," in text or b"+," in text:
        return None  # NumPy's integer scanner reads a lone sign as 0
    try:
        # The last number is a sentinel: before NumPy 2.3 a malformed cell only ends the scan, with a warning.
        numbers = np.fromstring(text + b"0", dtype, sep=",")
    except (ValueError, DeprecationWarning):
        return None
    return numbers[:-1] if len(numbers) == count + 1 else None


def _finite(values: Numbers | None) -> Numbers | None:
    return values if values is not None and np.isfinite(values).all() else None
