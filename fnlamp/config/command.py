"""A config as a command line: a flag for each field, subcommands for options, files, and a table of all values."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from typing import Any, TypeVar, overload

from returns.result import Result, Success

from fnlamp.config.change import Draft, How, Override
from fnlamp.config.flags import ORIGIN, Default, Flags, overrides
from fnlamp.config.group import is_group, near, settings
from fnlamp.config.kind import described
from fnlamp.config.marker import MISSING
from fnlamp.config.place import Place
from fnlamp.config.resolve import overridden, resolved
from fnlamp.config.resolved import Resolved
from fnlamp.effect import Effect
from fnlamp.extra import need
from fnlamp.fault import (
    ConfigError,
    ExtraMissing,
    FaultError,
    FileCorrupt,
    FileMissing,
    MissingValue,
    NotAnOverride,
    UnknownOption,
    located,
)
from fnlamp.given import function, instance, several, shown

C = TypeVar("C")

CommandFault = ConfigError | FileMissing | FileCorrupt | ExtraMissing
"""The faults of a command line."""

OWN = ("help", "config", "preset", "show")
"""The flags that every command line has."""


@overload
def cli(
    config: type[C], *, presets: Mapping[str, Callable[[C], C]] | None = None, arguments: Sequence[str] | None = None
) -> Effect[Resolved[C], CommandFault]: ...
@overload
def cli(
    config: C, *, presets: Mapping[str, Callable[[C], C]] | None = None, arguments: Sequence[str] | None = None
) -> Effect[Resolved[C], CommandFault]: ...
def cli(config: Any, *, presets: Any = None, arguments: Any = None) -> Effect[Resolved[Any], CommandFault]:
    """The program that resolves the config with what the command line overrides; `arguments` are `sys.argv[1:]` by default.

    Each field is a flag, `--model.hidden 64`, with the text below it as help. A field of a union of groups is a choice of
    subcommands, `model:cnn`, in any order. `--config FILE` is a TOML file, `--preset NAME` one of `presets`, functions from
    config to config; presets are applied first, then files, then flags. `--help` and `--show`, a table of all values with their
    provenance, print and end the process with `SystemExit(0)`.
    Fails: `ConfigError`; `FileMissing`, `FileCorrupt`; `ExtraMissing` without the extra `cli`.

    >>> @group
    ... class Loop:
    ...     epochs: int = 10
    ...     steps: int = computed(lambda epochs: epochs * 938)
    >>> cli(Loop, arguments=["--epochs", "2"]).map(lambda resolved: resolved.config).run()
    <IOResult: <Success: Loop(epochs=2, steps=1876)>>
    """
    cls = config if isinstance(config, type) else type(config)
    if not is_group(cls):
        raise TypeError(f"cli: config is a group, a class under @group or an object of one, got {shown(config)}")
    taken = [name for name in settings(cls) if name in OWN]
    if taken:
        raise TypeError(f"cli: {cls.__name__}.{taken[0]} has the name of a flag that every command line has; rename it")
    named = dict(instance("cli: presets", {} if presets is None else presets, Mapping, "a dict from names to functions"))
    for name, preset in named.items():
        function(f"cli: presets[{name!r}]", preset, "a function from config to config")
    words = None if arguments is None else several("cli: arguments", arguments)
    program = Effect.call(lambda runtime: _run(config, named, list(sys.argv[1:] if words is None else words)))
    return program.named(f"the command line of {cls.__name__}")


def _run(config: Any, presets: Mapping[str, Any], words: list[str]) -> Result[Resolved[Any], Any]:
    tyro = need("tyro", "cli")
    own = _own(words)
    changes = [Override(_preset(presets, name), origin=f"the preset {name}") for name in own.presets]
    edited = overridden(config, changes)
    for path in own.files:
        values = _toml(path)
        with located(path):
            edited.apply(Override(values, How.TOML, path))
        changes.append(Override(values, How.TOML, path))
    changes += _flags(tyro, edited, presets, own.rest)
    result = resolved(config, changes)
    if own.show and isinstance(result, Success):
        sys.stdout.write(f"{result.unwrap()}\n")
        raise SystemExit(0)
    return result


@dataclass
class _Own:
    """The flags that every command line has, and the other arguments."""

    files: list[str] = field(default_factory=list)
    presets: list[str] = field(default_factory=list)
    show: bool = False
    rest: list[str] = field(default_factory=list)


def _own(words: list[str]) -> _Own:
    found = _Own()
    waiting = iter(words)
    for word in waiting:
        flag, equals, value = word.partition("=")
        if flag in ("--config", "--preset"):
            operand = value if equals else next(waiting, None)
            if operand is None:
                raise FaultError(NotAnOverride(word, f"{flag} {'FILE' if flag == '--config' else 'NAME'}"))
            (found.files if flag == "--config" else found.presets).append(operand)
        elif word == "--show":
            found.show = True
        else:
            found.rest.append(word)
    return found


def _preset(presets: Mapping[str, Any], name: str) -> Any:
    if name not in presets:
        raise FaultError(UnknownOption("--preset", name, tuple(presets), near(name, presets)))
    return presets[name]


def _toml(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError):
            raise FaultError(FileMissing(path, error.strerror or type(error).__name__)) from error
        raise FaultError(FileCorrupt(path, "a TOML file", str(error))) from error


def _flags(tyro: Any, edited: Draft, presets: Mapping[str, Any], words: list[str]) -> list[Override]:
    """The overrides that the arguments are.  Fails: `ConfigError` for those that are not."""
    known = set(_subcommands(edited.root))
    words = [word.replace("_", "-") if word.replace("_", "-") in known else word for word in words]
    words = [*_choices(edited.root, words), *words]
    flags = Flags(tyro, helping=not {"-h", "--help"}.isdisjoint(words))
    group = flags.group(edited.root)
    own: list[tuple[str, Any, Any]] = [
        ("config", flags.flag("FILE", "a TOML file of overrides", ""), Default("")),
        ("show", flags.flag("", "print all values, with where each is from, and end", "", 0), Default("")),
    ]
    if presets:
        own.append(("preset", flags.flag(f"{{{','.join(presets)}}}", "a group of settings", ""), Default("")))
    filled, unknown = tyro.cli(
        make_dataclass(group.__name__, own, bases=(group,), frozen=True, kw_only=True),
        args=words,
        description=group.__doc__,
        return_unknown_args=True,
        config=(tyro.conf.CascadeSubcommandArgs,),
    )
    given = list(overrides(edited.root, filled))
    if unknown:
        for each in given:
            edited.apply(each)
        raise FaultError(_unknown(edited, unknown[0]))
    return given


def _choices(place: Place, words: Sequence[str]) -> Iterator[str]:
    """The subcommands that the arguments imply: the group that a flag of its fields is for, if there may be none.

    Fails: `MissingValue` for a choice that has no default and is not made.
    """
    for child in place.children().values():
        if not child.branches:
            yield from _choices(child, words)
            continue
        flag = child.path.replace("_", "-")
        made = any(word.startswith(f"{flag}:") for word in words)
        only = child.only_branch()
        if only is not None and not made and any(word.replace("_", "-").startswith(f"--{flag}.") for word in words):
            yield f"{flag}:{only.option.replace('_', '-')}"
        elif child.value is MISSING and not made and not {"-h", "--help"}.intersection(words):
            raise FaultError(MissingValue(child.path, described(child.kind)))


def _subcommands(place: Place) -> Iterator[str]:
    """All subcommands at and below a place, as tyro names them."""
    for child in place.children().values():
        for option, kind in child.branches.items():
            yield f"{child.path}:{option}".replace("_", "-")
            yield from _subcommands(child.of(kind))
        if not child.branches:
            yield from _subcommands(child)


def _unknown(edited: Draft, word: str) -> Any:
    """The fault of an argument that tyro does not know."""
    name, _, _ = word.removeprefix("--").partition("=")
    path, colon, option = name.partition(":")
    change = {path.replace("-", "_"): (option.replace("-", "_"),) if colon else ()}
    try:
        if word.startswith("--") or colon:
            edited.apply(Override(change, How.ARGUMENTS, ORIGIN))
    except FaultError as error:
        return error.fault
    return NotAnOverride(word, f"one option of {path}" if colon else "--field value, or an option as in model:cnn")
