"""What a field holds until its config is resolved: a formula, the name of an option, nothing yet."""

from __future__ import annotations

import inspect
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeVar, overload

from fnlamp.fault import FormulaFailed
from fnlamp.given import function, instance, text

T = TypeVar("T")
N = Any  # what a formula needs

Formula = (
    Callable[[], T]
    | Callable[[N], T]
    | Callable[[N, N], T]
    | Callable[[N, N, N], T]
    | Callable[[N, N, N, N], T]
    | Callable[[N, N, N, N, N], T]
    | Callable[[N, N, N, N, N, N], T]
)
"""A function of other fields. Written by their number, so that a checker gives the parameters of a lambda the type `Any`."""


@overload
def computed(formula: Formula[T], *needs: str) -> T: ...
@overload
def computed(formula: Callable[..., T], *needs: str) -> T: ...  # type: ignore[overload-cannot-match]
def computed(formula: Callable[..., T], *needs: str) -> T:
    """The default of a field that is a function of other fields, which the names of its parameters say.

    A name is that of a field of the same group, or of the nearest group around it that has one; a parameter with a default is
    not a need. `needs` are the names instead, and may be dotted: `computed(len, "loader.files")`. The formula runs when the
    config is resolved, after all overrides, at most once, and not if its own field is overridden.
    Raises: `TypeError` for parameters whose needs cannot be known.

    >>> @group
    ... class Loop:
    ...     epochs: int = 10
    ...     batches: int = 938
    ...     steps: int = computed(lambda epochs, batches: epochs * batches)
    >>> resolve(Loop, "epochs=2").unwrap().config.steps
    1876
    """
    function("computed: formula", formula, "a function of other fields")
    for name in needs:
        text("computed: needs", name)
    marker: Any = Computed(formula, *_needs(formula, needs))
    return marker  # type: ignore[no-any-return]  # a field has the type of its values


def options(named: Mapping[str, T], default: str) -> T:
    """The default of a field that chooses one of several named values, or of formulas, as `computed(...)` gives.

    Text chooses by name, as in `resolve(config, "optimizer=adam")`, at the command line, and in a file. Python gives the value
    itself: a string from Python is a value as well, and never chooses.
    Raises: `ValueError` if no value is named `default`.

    >>> @group
    ... class Model:
    ...     width: int = 64
    ...     act: str = options({"relu": "max(x, 0)", "own": computed(lambda width: f"x / {width}")}, default="relu")
    >>> resolve(Model, "act=own").unwrap().config.act
    'x / 64'
    """
    instance("options: named", named, Mapping, "a dict from names to values")
    for name in named:
        text("options: a name", name)
    if text("options: default", default) not in named:
        raise ValueError(f"options: default is one of {', '.join(named) or 'the names'}, got {default!r}")
    marker: Any = Chosen(dict(named), default)
    return marker  # type: ignore[no-any-return]  # a field has the type of its values


class Unresolved:
    """The base of what a field holds instead of a value. Using it is an error that says what to do."""

    def __getattr__(self, name: str) -> NoReturn:
        # Protocols of Python, such as copying, look for names that it must not have.
        raise AttributeError(name if name.startswith("__") else f"{self!r} has no {name}: {_HINT}")

    def __bool__(self) -> NoReturn:
        raise TypeError(f"{self!r} is neither true nor false: {_HINT}")

    def __iter__(self) -> Iterator[Any]:
        raise TypeError(f"{self!r} cannot be iterated over: {_HINT}")

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(f"{self!r} cannot be called: {_HINT}")


_HINT: Final = "it is not a value yet; resolve the config, and read the field of its result's .config"


@dataclass(frozen=True, repr=False)
class Computed(Unresolved):
    """A formula, the names of the fields that it needs, in order, and how many are given by position."""

    formula: Callable[..., Any]
    needs: tuple[str, ...]
    positional: int

    def __repr__(self) -> str:
        return f"computed({self.name})"

    @property
    def name(self) -> str:
        """The formula's name, with its file and line."""
        return name_of(self.formula)

    def of(self, values: list[Any]) -> Any:
        """The formula's value for those of its needs, in order."""
        names = dict(zip(self.needs[self.positional :], values[self.positional :], strict=True))
        return self.formula(*values[: self.positional], **names)


@dataclass(frozen=True, eq=False, repr=False)
class Chosen(Unresolved):
    """One of several named values, by its name."""

    named: Mapping[str, Any]
    option: str

    def __repr__(self) -> str:
        return f"options({', '.join(self.named)}; {self.option})"

    @property
    def value(self) -> Any:
        return self.named[self.option]


class _Missing(Unresolved):
    def __repr__(self) -> str:
        return "<no value>"


MISSING: Final = _Missing()
"""The field has no default, and no value yet."""


def chosen(value: Any) -> Any:
    """The value or formula that an option stands for."""
    while type(value) is Chosen:
        value = value.value
    return value


def name_of(function: Callable[..., Any]) -> str:
    """A function's name, with its file and line."""
    code = getattr(function, "__code__", None)
    if code is None:
        return getattr(function, "__qualname__", None) or repr(function)
    own = function.__qualname__.rpartition("<locals>.")[2]
    if own.endswith("<lambda>"):
        own = f"lambda {', '.join(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])}".rstrip()
    return f"{own} ({_line(code.co_filename, code.co_firstlineno)})"


def failed(path: str, name: str, error: Exception, given: str = "") -> FormulaFailed:
    """The fault of a function that raised, with the line that did."""
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    frames = [each for each in traceback.extract_tb(error.__traceback__) if os.path.dirname(each.filename) != _HERE]
    line = _line(frames[-1].filename, frames[-1].lineno or 0) if frames else ""
    where = f" ({line})" if line and f"({line})" not in name else ""
    return FormulaFailed(path, name, what + where, given, "".join(traceback.format_exception(error)))


def _line(file: str, number: int) -> str:
    return f"{os.path.basename(file)}:{number}"


_HERE: Final = os.path.dirname(__file__)


def _needs(formula: Callable[..., Any], named: tuple[str, ...]) -> tuple[tuple[str, ...], int]:
    """The names that a formula needs, and how many of them are given by position."""
    try:
        signature = inspect.signature(formula)
    except (TypeError, ValueError):
        if named:
            return named, len(named)
        raise TypeError(f"computed: the parameters of {formula!r} cannot be read; name its needs after it") from None
    if named:
        try:
            signature.bind(*named)
        except TypeError as error:
            raise TypeError(f"computed: the formula takes other arguments than {', '.join(named)}: {error}") from None
        return named, len(named)
    required = [each for each in signature.parameters.values() if each.default is each.empty]
    for each in required:
        if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
            raise TypeError(f"computed: the formula takes {each}, so name its needs: computed(formula, 'epochs', ...)")
    by_name = [each.name for each in required if each.kind is each.KEYWORD_ONLY]
    names = [each.name for each in required if each.kind is not each.KEYWORD_ONLY] + by_name
    return tuple(names), len(names) - len(by_name)
