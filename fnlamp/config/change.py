"""Overrides: by a text with a dotted path, by a mapping, by a function from config to config; before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, TypeVar

from fnlamp.config.group import is_group, near, settings
from fnlamp.config.kind import Misfit, all_parsed, described, parsed, plain
from fnlamp.config.marker import Chosen, Computed, failed, name_of
from fnlamp.config.place import Place
from fnlamp.fault import FaultError, NotAnOverride, TypeMismatch, UnknownField, UnknownOption
from fnlamp.given import shown

C = TypeVar("C")

Change = str | Mapping[str, Any] | Callable[[C], C]
"""A text `path=value`, parsed by the field's type; a mapping from paths to values; or a function from config to config."""


class How(Enum):
    """How a value is given: as itself, as TOML has it, as text, as the arguments after a flag."""

    VALUE = auto()
    TOML = auto()
    TEXT = auto()
    ARGUMENTS = auto()


@dataclass(frozen=True)
class Override:
    """A change with its origin, for provenance, and how its values are given."""

    change: Any
    how: How = How.VALUE
    origin: str = ""


@dataclass
class Draft:
    """A config while it is overridden, and the origins of the fields that were."""

    config: Any
    origins: dict[str, str] = field(default_factory=dict)

    @property
    def root(self) -> Place:
        return Place("", type(self.config), self.config)

    def apply(self, override: Override) -> None:
        """Apply a change.  Fails: `ConfigError`."""
        match override.change:
            case str() as text:
                path, equals, value = text.partition("=")
                if not (equals and path.strip()):
                    raise FaultError(NotAnOverride(text, "path=value, such as model.hidden=64"))
                self._put_all({path.strip(): value}, How.TEXT, override.origin)
            case Mapping() as values:
                self._put_all(values, override.how, override.origin)
            case function:
                self._call(function, override.origin)

    def _put_all(self, values: Mapping[str, Any], how: How, origin: str) -> None:
        for path, value in values.items():
            if not isinstance(path, str):
                raise FaultError(NotAnOverride(repr(path), "a mapping from dotted paths, such as {'model.hidden': 64}"))
            self.config = self._put(self.root, path.split("."), value, how, origin)

    def _call(self, function: Callable[[Any], Any], origin: str) -> None:
        before, kind, place = leaves(self.root), type(self.config), f"the change {name_of(function)}"
        try:
            self.config = function(self.config)
        except Exception as error:  # any code of the user's
            raise FaultError(failed(place, "", error)) from error
        if type(self.config) is not kind:
            raise FaultError(TypeMismatch(place, kind.__name__, shown(self.config)))
        changed = [path for path, value in leaves(self.root).items() if path in before and not same(value, before[path])]
        self.origins.update(dict.fromkeys(changed, origin))

    def _put(self, place: Place, names: Sequence[str], value: Any, how: How, origin: str) -> Any:
        """What the place holds once the value is put at the names below it."""
        if not names:
            return self._held(place, value, how, origin)
        name, *rest = names
        children = place.children()
        if name in children:
            held = {each: child.held for each, child in children.items()}
            return place.rebuilt({**held, name: self._put(children[name], rest, value, how, origin)})
        if name in place.branches:
            branch = place.of(place.branches[name])
            self._mark(place, branch.value, origin)
            if not rest and isinstance(value, Mapping):
                return self._held(branch, value, how, origin)
            if rest:
                return self._put(branch, rest, value, how, origin)
        if (only := place.only_branch()) is not None:
            self._mark(place, only.value, origin)
            return self._put(only, names, value, how, origin)
        raise FaultError(_unknown(place, name))

    def _held(self, place: Place, value: Any, how: How, origin: str) -> Any:
        """What the place holds once it is set to the value."""
        if isinstance(value, Mapping) and (place.children() or is_group(place.kind) or place.branches):
            for path, each in value.items():
                place = place.holding(self._put(place, str(path).split("."), each, how, origin))
            return place.held
        text = _text_of(value, how)
        if text is not None and place.options:
            held: Any = Chosen(place.options, _option(place, text, place.options))
        elif text is not None and place.branches:
            held = place.of(place.branches[_option(place, text, place.branches)]).value
            self._mark(place, held, origin)
            return held
        else:
            held = _converted(place, value, how)
        self._forget(place.path)
        self.origins[place.path] = origin
        return held

    def _mark(self, place: Place, held: Any, origin: str) -> None:
        """Another group was chosen at the place: what was set in the one before it counts no more."""
        if type(place.value) is not type(held):
            self._forget(place.path)
        self.origins[place.path] = origin

    def _forget(self, path: str) -> None:
        self.origins = {each: origin for each, origin in self.origins.items() if not f"{each}.".startswith(f"{path}.")}


def leaves(place: Place) -> dict[str, Any]:
    """What every field without fields holds, by path."""
    children = place.children()
    if not children:
        return {place.path: place.value}
    return {path: value for child in children.values() for path, value in leaves(child).items()}


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal and of one type; values that cannot be compared are the same only if they are one."""
    if one is other:
        return True
    try:
        return type(one) is type(other) and bool(one == other)
    except Exception:  # `==` of arrays, and any code of the user's
        return False


def _converted(place: Place, value: Any, how: How) -> Any:
    convert: Any = {How.TEXT: parsed, How.ARGUMENTS: all_parsed, How.TOML: plain}.get(how)
    if convert is None:
        return value  # its type is checked with those of all other values
    try:
        return convert(place.kind, value)
    except Misfit as misfit:
        text = _text_of(value, how)
        if text is not None and misfit.options:
            raise FaultError(UnknownOption(place.path, text, misfit.options, near(text, misfit.options))) from None
        actual = shown(value) if text is None or how is How.TOML else f"{text!r} (text)" if value != () else "no value"
        hint = "" if isinstance(value, Mapping) or not is_group(place.kind) else ", whose fields are set one by one"
        raise FaultError(TypeMismatch(place.path, described(place.kind) + hint, actual)) from None


def _text_of(value: Any, how: How) -> str | None:
    """The text that may name an option; a string that Python gives is a value."""
    if how is How.ARGUMENTS:
        return " ".join(value)
    return value if isinstance(value, str) and how is not How.VALUE else None


def _option(place: Place, text: str, known: Mapping[str, Any]) -> str:
    if text not in known:
        raise FaultError(UnknownOption(place.path, text, tuple(known), near(text, known)))
    return text


def _unknown(place: Place, name: str) -> UnknownField:
    known, hint = tuple(place.children()), ""
    if type(place.value) is Computed:
        hint = f"{place.path} is computed as a whole, by {place.value.name}"
    for option, one in place.branches.items():
        if name == option:
            hint = f"{name} is an option of {place.path}, not a field"
        elif is_group(one) and name in settings(one):
            hint = f"{name} is a field of the option {option} of {place.path}: choose that first"
    elsewhere = tuple(path for path in leaves(place) if path.rpartition(".")[2] == name)
    return UnknownField(place.at(name), place.group, near(name, (*known, *place.branches)) or elsewhere[:3], known, hint)
