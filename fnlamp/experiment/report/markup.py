"""Elements of HTML from Python values: a text is escaped unless it is markup already."""

from __future__ import annotations

import html
import json
import math
import re
from typing import Any, Final

VOID: Final = {"meta", "link", "img", "input", "br", "col"}
_UNPRINTABLE: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Markup(str):
    """A text that is HTML."""

    __slots__ = ()


def element(name: str, /, *children: str, **attributes: Any) -> Markup:
    """An element. An attribute is written with `_` for `-`; True stands for its name alone, None and False for its absence.

    >>> element("td", "a < b", element("b", "!"), class_="wide", data_x=1, hidden=False)
    '<td class="wide" data-x="1">a &lt; b<b>!</b></td>'
    """
    parts = [name]
    for key, value in attributes.items():
        if value is not None and value is not False:
            label = key.rstrip("_").replace("_", "-")
            parts.append(label if value is True else f'{label}="{escaped(str(value))}"')
    start = Markup(f"<{' '.join(parts)}>")
    return start if name in VOID else Markup(f"{start}{joined(*children)}</{name}>")


def joined(*children: str) -> Markup:
    """The children, one after the other."""
    return Markup("".join(child if isinstance(child, Markup) else escaped(child) for child in children))


def escaped(text: str) -> Markup:
    """The text as HTML that shows it, and nothing else."""
    return Markup(html.escape(printable(text)))


def printable(text: str) -> str:
    """The text with a mark for each character that a page cannot hold, such as half of a surrogate pair."""
    return _UNPRINTABLE.sub("\ufffd", text)


def as_json(value: Any) -> Markup:
    """The value as JSON that can stand in a script element: numbers that are not finite are the texts "nan", "inf" and "-inf".

    >>> as_json({"a": ["</script>", float("nan"), 1.5]})
    '{"a":["\\\\u003c/script>","nan",1.5]}'
    """
    return Markup(json.dumps(_plain(value), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"))


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {printable(key): _plain(each) for key, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
        case str():
            return printable(value)
        case float() if not math.isfinite(value):
            return str(value)
    return value


def shown(number: float) -> str:
    """The number with four significant digits.

    >>> [shown(each) for each in (0.123456, 12345678.0, 1e-7, 3.0, float("nan"), -float("inf"))]
    ['0.1235', '1.235e+07', '1e-07', '3', 'NaN', '-∞']
    """
    if isinstance(number, float) and not math.isfinite(number):
        return "NaN" if math.isnan(number) else "∞" if number > 0 else "-∞"
    if isinstance(number, int) or (abs(number) < 1e6 and number == int(number)):
        return str(int(number))
    return f"{number:.4g}"
