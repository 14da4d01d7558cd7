"""Filters of runs, such as `config.learning_rate<0.1`: a name, a comparison, a value; nothing is ever evaluated as code."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Any, Final

from fnlamp.experiment.folder import RunRecord
from fnlamp.fault import FaultError, NotAFilter, UnknownColumn

MISSING: Final = object()
FIELDS: Final = (
    *("id", "name", "status", "created", "ended", "seconds", "tags", "note", "problem", "step", "epoch", "folder"),
    *("parent", "lane"),
)
_FIGURES: Final = ("last", "lowest", "highest")
_FORM: Final = re.compile(
    r"""\s*(?:(?P<kind>last|lowest|highest)\(\s*(?P<inner>[^()]+?)\s*\)|"(?P<quoted>[^"]+)"|(?P<plain>[^\s<>=!~"()]+))"""
    r"""\s*(?P<sign><=|>=|!=|==|=|<|>|~)\s*(?P<value>.*?)\s*""",
    re.DOTALL,
)


@dataclass(frozen=True)
class Column:
    """A value of each run: a field such as `status`, a setting such as `config.rate`, or a figure of a metric.

    >>> column("lowest(validation.loss)")
    Column(name='validation.loss', kind='lowest')
    """

    name: str
    kind: str

    def of(self, record: RunRecord) -> Any:
        """The value, or `MISSING`."""
        if self.kind == "field":
            return getattr(record, self.name)
        values: Mapping[str, Any] = getattr(record, self.kind)
        return values.get(self.name, MISSING)

    def __str__(self) -> str:
        text = self.name if self.kind in ("field", "last") else f"{self.kind}({self.name})"
        return f"config.{self.name}" if self.kind == "config" else text


def column(text: str) -> Column:
    """The column of that name. A field comes before a metric of the same name, which `last(...)` names."""
    found = re.fullmatch(r"\s*(last|lowest|highest)\(\s*(.+?)\s*\)\s*", text)
    if found:
        return Column(found[2], found[1])
    name = text.strip()
    if name.startswith("config."):
        return Column(name.removeprefix("config."), "config")
    return Column(name, "field" if name in FIELDS else "last")


@dataclass(frozen=True)
class Where:
    """One comparison. A run without the value does not match, whatever the comparison."""

    column: Column
    sign: str
    value: Any
    text: str

    def __call__(self, record: RunRecord) -> bool:
        found = self.column.of(record)
        if found is MISSING or (found is None and self.value is not None):
            return False
        if isinstance(found, tuple):
            return bool((self.value in found) != (self.sign == "!="))
        return bool(_SIGNS[self.sign](found, self.value))


def parsed(text: str) -> Where:
    """The comparison in a text.  Fails: `NotAFilter`.

    The signs are `<`, `<=`, `>`, `>=`, `=`, `!=`, and `~` for a text that contains another. A value is a number, `true`,
    `false`, `none`, `nan`, or a text, in quotes if need be; of `created` and `ended` it is a date in UTC, such as 2026-05-02.

    >>> parsed("validation.accuracy > 0.9").value
    0.9
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise FaultError(NotAFilter(text, "another text"))
    name, kind = found["inner"] or found["quoted"] or found["plain"], found["kind"]
    chosen = Column(name, kind) if kind else Column(name, "last") if found["quoted"] else column(name)
    sign, value = found["sign"].replace("==", "="), _value(found["value"])
    if not found["value"]:
        raise FaultError(NotAFilter(text, "no value"))
    if chosen.kind == "field" and chosen.name in ("created", "ended") and not isinstance(value, int | float):
        value = _date(text, str(value))
    if sign in ("<", "<=", ">", ">=") and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise FaultError(NotAFilter(text, f"{found['value']}, which is not a number, to the right of {sign}"))
    if sign == "~":
        value = str(found["value"]).strip("\"'")
    return Where(chosen, sign, value, text)


def _value(text: str) -> Any:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    if re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf(inity)?|nan", text, re.IGNORECASE):
        return float(text)
    return text


def _date(text: str, value: str) -> float:
    try:
        date = datetime.fromisoformat(value)
    except ValueError:
        raise FaultError(NotAFilter(text, f"{value!r}, which is not a date such as 2026-05-02")) from None
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


def _same(found: Any, value: Any) -> bool:
    if isinstance(found, str) and isinstance(value, float) and not math.isfinite(value):  # as a config's nan is stored
        return found == str(value)
    if isinstance(found, list | dict):
        return bool(json.dumps(found) == value)
    if isinstance(found, bool) or isinstance(value, bool) or not isinstance(found, int | float):
        return type(found) is type(value) and bool(found == value)
    return isinstance(value, int | float) and bool(found == value or (found != found and value != value))


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    return lambda found, value: isinstance(found, int | float) and not isinstance(found, bool) and compare(found, value)


_SIGNS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "=": _same,
    "!=": lambda found, value: not _same(found, value),
    "<": _ordered(lambda a, b: a < b),
    "<=": _ordered(lambda a, b: a <= b),
    ">": _ordered(lambda a, b: a > b),
    ">=": _ordered(lambda a, b: a >= b),
    "~": lambda found, value: str(value).lower() in str(found).lower(),
}


def selected(
    records: Sequence[RunRecord], where: Iterable[str] = (), *, tags: Iterable[str] = (), statuses: Iterable[str] = ()
) -> list[RunRecord]:
    """The runs that match everything.  Fails: `NotAFilter`; `UnknownColumn` for a name that no run has."""
    filters = [parsed(each) for each in where]
    for each in filters:
        check(records, each.column)
    wanted, among = set(tags), set(statuses)
    return [
        each
        for each in records
        if wanted <= set(each.tags) and (not among or each.status in among) and all(matches(each) for matches in filters)
    ]


def check(records: Sequence[RunRecord], column: Column) -> None:
    """Fails: `UnknownColumn`, if there are runs and none has that column."""
    if column.kind == "field" or not records or any(column.of(each) is not MISSING for each in records):
        return
    settings = {f"config.{name}" for each in records for name in each.config}
    known = {*FIELDS, *settings, *(name for each in records for name in each.last)}
    plain = str(Column(column.name, "last")) if column.kind in _FIGURES else str(column)
    inside = [name for name in sorted(settings) if name.endswith(f".{plain}")]  # a setting without `config.`
    raise FaultError(UnknownColumn(str(column), tuple(inside or get_close_matches(plain, sorted(known), 3, 0.6))))


def in_order(records: Sequence[RunRecord], by: str, *, reverse: bool = False) -> list[RunRecord]:
    """The runs sorted by a column: numbers before texts, and last, either way, those without a value or with NaN."""
    chosen = column(by)
    check(records, chosen)

    def key(record: RunRecord) -> tuple[int, Any]:
        value = chosen.of(record)
        if isinstance(value, bool | int | float):
            return 0, float(value)
        return 1, str(value)

    def known(record: RunRecord) -> bool:
        value = chosen.of(record)
        return value is not MISSING and value is not None and value == value

    first = sorted(filter(known, records), key=key, reverse=reverse)
    return [*first, *(each for each in records if not known(each))]
