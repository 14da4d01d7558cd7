"""A config as the arguments of a command line: a class for tyro, in which each field is a flag and each group an option."""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import operator
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, make_dataclass
from enum import Enum
from typing import Annotated, Any, get_args, get_origin

from fnlamp.config.change import How, Override
from fnlamp.config.group import is_group
from fnlamp.config.kind import SEQUENCES, described, members, names
from fnlamp.config.marker import MISSING, Computed
from fnlamp.config.place import Place
from fnlamp.config.resolved import short

ORIGIN = "the command line"


@dataclass(frozen=True)
class Default:
    """The flag was not given; `text` is what help shows instead of its value."""

    text: str


@dataclass(frozen=True)
class Given:
    """The arguments after a flag."""

    texts: tuple[str, ...]


@dataclass(frozen=True)
class Flags:
    """Builds the class that tyro fills."""

    tyro: Any
    helping: bool
    """Whether help is asked for: only then sources are read."""

    def flag(self, metavar: str, help: str, hint: str, nargs: Any = (0, 1)) -> Any:
        """The type of a field for a flag, whose arguments stay text: the config parses them, and reports what is wrong."""
        spec = self.tyro.constructors.PrimitiveConstructorSpec(
            nargs=nargs,
            metavar=metavar,
            instance_from_str=lambda texts: Given(tuple(texts)),
            is_instance=lambda value: isinstance(value, Default | Given),
            str_from_instance=lambda value: [value.text],
        )
        return Annotated[Default | Given, spec, self.tyro.conf.arg(help=help, help_behavior_hint=hint)]

    def group(self, place: Place) -> Any:
        """The class for a group, or a tuple of groups, and all below it; its defaults are what the config holds."""
        help = helps(type(place.value)) if self.helping and is_group(type(place.value)) else {}
        fields = [each for name, child in place.children().items() for each in self._fields(name, child, help.get(name, ""))]
        made = make_dataclass(type(place.value).__name__, fields, frozen=True, kw_only=True)
        made.__doc__ = _doc(type(place.value))
        return made

    def _fields(self, name: str, child: Place, help: str) -> Iterator[tuple[str, Any, Any]]:
        if child.options and child.children():  # a named group: its name, and its fields
            hint = f"(default: {child.option})" if child.option else ""
            flag = self.flag(_metavar(child, False), help, hint)
            yield f"{name}__option", Annotated[flag, self.tyro.conf.arg(name=name)], Default(hint)
        yield self._field(name, child, help)

    def _field(self, name: str, child: Place, help: str) -> tuple[str, Any, Any]:
        # The number of an element is not a name in Python.
        own = name if name.isidentifier() else f"element_{name}"
        rename = self.tyro.conf.arg(name=name)
        if child.branches:
            kinds = {option: self.group(child.of(kind)) for option, kind in child.branches.items()}
            subcommands = [
                Annotated[kind, self.tyro.conf.subcommand(option, default=kind(), description=kind.__doc__ or help)]
                for option, kind in kinds.items()
            ]
            chosen: Any = kinds[child.option]() if child.option else self.tyro.MISSING
            return own, Annotated[functools.reduce(operator.or_, subcommands), rename], chosen
        if child.children():
            kind = self.group(child)
            return own, Annotated[kind, rename], kind()
        sequence = any((get_origin(one) or one) in SEQUENCES for one in members(child.kind))
        return own, self.flag(_metavar(child, sequence), help, _hint(child), "*" if sequence else (0, 1)), Default(_hint(child))


def overrides(place: Place, filled: Any) -> Iterator[Override]:
    """What the command line gave, each group before its fields."""
    for name, child in place.children().items():
        value = getattr(filled, name if name.isidentifier() else f"element_{name}")
        named = getattr(filled, f"{name}__option", None)
        if isinstance(named, Given):
            yield Override({child.path: named.texts}, How.ARGUMENTS, ORIGIN)
        if isinstance(value, Given):
            yield Override({child.path: value.texts}, How.ARGUMENTS, ORIGIN)
        elif not isinstance(value, Default):
            for option, kind in child.branches.items():
                branch = child.of(kind)
                if type(branch.value).__name__ == type(value).__name__ and option != child.option:
                    yield Override({child.path: (option,)}, How.ARGUMENTS, ORIGIN)
                if type(branch.value).__name__ == type(value).__name__:
                    child = branch
                    break
            yield from overrides(child, value)


def helps(cls: type[Any]) -> dict[str, str]:
    """The text below each field of a group, where its source can be read."""
    found: dict[str, str] = {}
    for base in reversed([base for base in cls.__mro__ if is_group(base)]):
        try:
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        except (OSError, TypeError, SyntaxError, ValueError):
            continue
        for node, below in itertools.pairwise(getattr(tree, "body", [])):
            if isinstance(node, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                found[ast.unparse(node.target)] = inspect.cleandoc(str(below.value.value))
    return found


def _doc(cls: type[Any]) -> str:
    """The docstring; not the signature that a dataclass has without one, and not a built-in type's."""
    text = vars(cls).get("__doc__") or ""
    return "" if text.startswith(f"{cls.__name__}(") or not is_group(cls) else inspect.cleandoc(text)


def _metavar(place: Place, sequence: bool) -> str:
    known = place.options or names(place.kind)
    if known:
        return f"{{{','.join(known)}}}"
    if sequence:
        element = next((described(arg) for one in members(place.kind) for arg in get_args(one)), "value").upper()
        return f"[{element} [{element} ...]]"
    return described(place.kind).replace(" ", "").upper()


def _hint(place: Place) -> str:
    if isinstance(place.value, Computed):
        return f"(computed from {', '.join(place.value.needs)})" if place.value.needs else "(computed)"
    return "(required)" if place.value is MISSING else f"(default: {place.option or _written(place.value)})"


def _written(value: Any) -> str:
    """A value as an argument."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | Enum):
        return value.name if isinstance(value, Enum) else value
    return " ".join(map(_written, value)) if isinstance(value, tuple | list) else short(value)
