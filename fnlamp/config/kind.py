"""Which values a type admits, and how text and the values of TOML become one."""

from __future__ import annotations

import collections.abc as abc
import inspect
import os
import tomllib
import types
import typing
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any, Final

SEQUENCES: Final[dict[Any, Any]] = {
    **dict.fromkeys((tuple, abc.Sequence, abc.Iterable, abc.Collection), tuple),
    **dict.fromkeys((list, abc.MutableSequence), list),
    **dict.fromkeys((frozenset, abc.Set), frozenset),
    **dict.fromkeys((set, abc.MutableSet), set),
}
"""The types of collections, with the type that text becomes."""

MAPPINGS: Final = (dict, abc.Mapping, abc.MutableMapping)
WORDS: Final = {"true": True, "false": False}


class Misfit(Exception):  # noqa: N818
    """A value is not of a type; `options` are the names that text could have been."""

    def __init__(self, options: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.options = options


def bare(kind: Any) -> Any:
    """The type inside `Annotated`, `Final`, `NewType` and named aliases."""
    while True:
        if typing.get_origin(kind) is typing.Annotated or typing.get_origin(kind) is typing.Final:
            kind = typing.get_args(kind)[0]
        elif hasattr(kind, "__supertype__"):
            kind = kind.__supertype__
        elif hasattr(kind, "__value__"):
            kind = kind.__value__
        else:
            return type(None) if kind is None else kind


def members(kind: Any) -> tuple[Any, ...]:
    """The types of a union, or the type itself."""
    kind = bare(kind)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return tuple(one for member in typing.get_args(kind) for one in members(member))
    return (kind,)


def accepted(kind: Any, value: Any) -> Any:
    """The value, of this type: an `int` for `float` and a scalar of NumPy are converted.  Raises: `Misfit`."""
    kind = bare(kind)
    origin, args = typing.get_origin(kind) or kind, typing.get_args(kind)
    if len(members(kind)) > 1:
        return _among(members(kind), value, accepted)
    if origin is typing.Literal:
        return _required(value, any(type(each) is type(value) and each == value for each in args))
    if origin in (bool, int, float, complex):
        return _number(origin, value)
    if origin in SEQUENCES or origin in MAPPINGS:
        return _elements(origin, args, value, accepted)
    if origin is abc.Callable:
        return _required(value, callable(value))
    if origin is type:
        return _required(value, isinstance(value, type) and (not args or _of(value, args[0], issubclass)))
    return _required(value, _of(value, origin, isinstance))


def parsed(kind: Any, text: str) -> Any:
    """The value of this type that the text stands for.  Raises: `Misfit`."""
    kind = bare(kind)
    origin, args = typing.get_origin(kind) or kind, typing.get_args(kind)
    if len(members(kind)) > 1:
        if type(None) in members(kind) and text in ("None", "none"):
            return None
        # Any text is a string, so a string is the last that it may be.
        others = [one for one in members(kind) if one is not type(None)]
        return _among(sorted(others, key=lambda one: one is str), text, parsed)
    if named := names(kind):
        by_lower = {name.lower(): value for name, value in named.items()}
        try:
            return named[text] if text in named else by_lower[text.lower()]
        except KeyError:
            raise Misfit(tuple(named)) from None
    if origin in (int, float, complex):
        try:
            return origin(text)
        except ValueError:
            raise Misfit from None
    if origin in SEQUENCES:
        if text.startswith("["):
            return plain(kind, _toml(text))
        return _elements(origin, args, [part.strip() for part in text.split(",")] if text else [], parsed)
    if origin in MAPPINGS:
        return plain(kind, _toml(text))
    if inspect.isclass(origin) and issubclass(origin, os.PathLike):
        path: Any = Path if inspect.isabstract(origin) else origin
        return path(text)
    if origin in (str, Any, object):
        return text
    raise Misfit


def plain(kind: Any, value: Any) -> Any:
    """The value of this type that a value of TOML stands for.  Raises: `Misfit`."""
    kind = bare(kind)
    origin, args = typing.get_origin(kind) or kind, typing.get_args(kind)
    if len(members(kind)) > 1:
        absent = type(None) in members(kind) and str not in members(kind) and value in ("None", "none")
        return None if absent else _among(members(kind), value, plain)
    if (isinstance(value, list) and origin in SEQUENCES) or (isinstance(value, dict) and origin in MAPPINGS):
        return _elements(origin, args, value, plain)
    textual = (inspect.isclass(origin) and issubclass(origin, os.PathLike | Enum)) or origin is typing.Literal
    return parsed(kind, value) if isinstance(value, str) and textual else accepted(kind, value)


def all_parsed(kind: Any, texts: tuple[str, ...]) -> Any:
    """The value of several texts, such as the arguments after a flag; none is true for a `bool`.  Raises: `Misfit`."""
    if len(texts) == 1:
        return parsed(kind, texts[0])
    sequences = [one for one in members(kind) if (typing.get_origin(one) or one) in SEQUENCES]
    if sequences:
        return _elements(typing.get_origin(sequences[0]) or sequences[0], typing.get_args(sequences[0]), list(texts), parsed)
    if not texts and bool in members(kind):
        return True
    raise Misfit


def names(kind: Any) -> dict[str, Any]:
    """The values of a type that has names for them: `bool`, an `Enum`, a `Literal`."""
    kind = bare(kind)
    if kind is bool:
        return WORDS
    if typing.get_origin(kind) is typing.Literal:
        return {each.name if isinstance(each, Enum) else str(each): each for each in typing.get_args(kind)}
    return dict(kind.__members__) if inspect.isclass(kind) and issubclass(kind, Enum) else {}


def described(kind: Any) -> str:
    """The type as it is written.

    >>> described(tuple[int, ...] | None), described(dict[str, float])
    ('tuple[int, ...] | None', 'dict[str, float]')
    """
    kind = bare(kind)
    if len(members(kind)) > 1:
        return " | ".join(map(described, members(kind)))
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return f"one of {', '.join(map(repr, args))}"
    if origin is not None:
        inside = ", ".join("..." if one is ... or isinstance(one, list) else described(one) for one in args)
        return f"{getattr(origin, '__name__', origin)}[{inside}]"
    return "None" if kind is type(None) else getattr(kind, "__name__", str(kind))


def _required(value: Any, holds: bool) -> Any:
    if not holds:
        raise Misfit
    return value


def _of(value: Any, kind: Any, test: Callable[[Any, Any], bool]) -> bool:
    """Whether the value is of the type; also true where that cannot be known, as for a protocol."""
    try:
        return kind in (Any, object) or test(value, kind)
    except TypeError:
        return True


def _number(kind: Any, value: Any) -> Any:
    """A number; `True` is not one, and a scalar of NumPy becomes Python's."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    allowed = {bool: bool, int: int, float: int | float, complex: int | float | complex}[kind]
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        raise Misfit
    try:
        return kind(value)
    except OverflowError:
        raise Misfit from None


def _among(kinds: typing.Iterable[Any], value: Any, convert: Callable[[Any, Any], Any]) -> Any:
    """The value as the first of the types that it fits, its own type before all others."""
    kinds = list(kinds)
    options: tuple[str, ...] = ()
    for kind in sorted(kinds, key=lambda kind: type(value) is not kind or convert is parsed):
        try:
            return convert(kind, value)
        except Misfit as misfit:
            options += misfit.options
    raise Misfit(options if len(kinds) == 1 else ())


def _elements(origin: Any, args: tuple[Any, ...], value: Any, convert: Callable[[Any, Any], Any]) -> Any:
    """A collection with each of its elements converted."""
    if origin in MAPPINGS:
        _required(value, isinstance(value, abc.Mapping))
        if type(value) is not dict or not args:
            return value
        return {accepted(args[0], key): convert(args[1], each) for key, each in value.items()}
    target = type(value) if convert is accepted else SEQUENCES[origin]
    _required(value, not isinstance(value, str | bytes) and (convert is not accepted or isinstance(value, origin)))
    if not args or type(value) not in (list, tuple, set, frozenset):
        return value if convert is accepted else target(value)
    if origin is tuple and args[-1] is not ...:
        _required(value, len(value) == len(args))
        return tuple(convert(kind, each) for kind, each in zip(args, value, strict=True))
    return target(convert(args[0], each) for each in value)


def _toml(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        raise Misfit from None
