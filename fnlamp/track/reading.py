"""Reading lines."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from fnlamp.effect.runtime import polled
from fnlamp.fault import FaultError, FileCorrupt, FileMissing
from fnlamp.track.curves import Builder, History, Recorded
from fnlamp.track.entry import Resumed
from fnlamp.track.text import SCHEMA, number_in, value_in

BLOCK: Final = 2**16
"""Bytes of lines that are parsed at once, and between two looks for Ctrl-C."""


def of_lines(path: str) -> History:
    """What a file of lines says.  Fails: `FileMissing`, `FileCorrupt`."""
    builder, number = Builder(), 1
    try:
        with open(path, "rb") as file:
            for lines, _ in blocks(path, file):
                entries(builder, path, os.path.dirname(path), lines, number)
                number += len(lines)
    except OSError as error:
        raise FaultError(FileMissing(path, error.strerror or str(error))) from error
    return builder.history()


def blocks(path: str, file: BinaryIO) -> Iterator[tuple[list[Any], int]]:
    """The objects of whole lines, some at a time, and the place after them.  Fails: `FileCorrupt`."""
    end, number, rest = file.tell(), 1, b""  # the number is right if the file is read from its start
    while block := file.read(BLOCK):
        polled.check()
        whole, newline, rest = (rest + block).rpartition(b"\n")
        if newline:
            lines = _objects(path, whole, number)
            number += len(lines)
            end += len(whole) + 1
            yield lines, end


def _objects(path: str, whole: bytes, number: int) -> list[Any]:
    """The objects of some lines; one call of the parser takes half the time of one for each line."""
    lines = whole.split(b"\n")
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(b"[%b]" % b",".join(lines), parse_constant=_refused)
        if len(found) == len(lines):
            return found  # type: ignore[no-any-return]
    for at, line in enumerate(lines, number):
        try:
            json.loads(line, parse_constant=_refused)
        except (ValueError, RecursionError):
            raise corrupt(path, f"line {at:,}") from None
    return [json.loads(line) for line in lines]


def _refused(constant: str) -> Any:
    raise ValueError(constant)


NOT_LINES: Final = (ValueError, TypeError, KeyError, AttributeError, OverflowError)
"""What reading raises for JSON that is not an entry."""


def corrupt(path: str, place: str) -> FaultError:
    """The fault of a file of lines with something else in it."""
    expected = 'a JSON object in each line, such as {"step":1,"time":0.0,"values":{"loss":0.5}}'
    return FaultError(FileCorrupt(path, expected, f"something else in {place}"))


def entries(builder: Builder, path: str, folder: str, lines: list[Any], first: int) -> None:
    """Give the builder the entries of these lines, of which the first has this number.  Fails: `FileCorrupt`."""
    number = first - 1
    try:
        for line in lines:
            number += 1
            if "schema" in line:
                _check_schema(path, line["schema"])
                continue
            step, epoch, lane, time = line["step"], line.get("epoch"), line.get("lane", 0), line.get("time", 0.0)
            if type(step) is not int or type(lane) is not int:
                raise TypeError
            at = builder.entry(step, epoch, lane, time)
            columns = builder.lane
            for name, value in line["values"].items():
                if type(value) is dict:
                    _other(builder, Recorded(name, value_in(value, folder), step, epoch, lane, time))
                    continue
                column = columns.get(name) or builder.column(name, lane)
                column.values.append(value if type(value) is float else number_in(value))
                column.entries.append(at)
    except NOT_LINES:
        raise corrupt(path, f"line {number:,}") from None


def _other(builder: Builder, each: Recorded) -> None:
    if isinstance(each.value, Resumed):
        builder.resumed(each.step, each.name.removesuffix("run"))
    else:
        builder.other(each)


def _check_schema(path: str, schema: Any) -> None:
    if schema != SCHEMA:
        raise FaultError(FileCorrupt(path, f"lines of schema {SCHEMA}", f"schema {schema!r}; another fnlamp reads them"))
