"""All fields of a config by path, with the provenance of each and their types checked; nothing is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fnlamp.config.change import Draft, same
from fnlamp.config.group import draft, is_group
from fnlamp.config.kind import Misfit, accepted, described
from fnlamp.config.marker import MISSING, Chosen, Computed
from fnlamp.config.place import Place
from fnlamp.config.resolved import Setting, Source
from fnlamp.fault import FaultError, MissingValue, TypeMismatch
from fnlamp.given import shown


@dataclass
class Fields:
    """The fields of a config by path, in the order of declaration: `around` are groups and tuples, `leaves` all others."""

    around: dict[str, Place] = field(default_factory=dict)
    inside: dict[str, dict[str, str]] = field(default_factory=dict)
    """The paths of the fields of each of `around`, by name."""
    leaves: dict[str, Place] = field(default_factory=dict)
    settings: dict[str, Setting] = field(default_factory=dict)
    formulas: dict[str, Computed] = field(default_factory=dict)

    def __contains__(self, path: str) -> bool:
        return path in self.around or path in self.leaves

    def below(self, path: str) -> list[str]:
        """The fields without fields at and below the path."""
        if path in self.leaves:
            return [path]
        return [leaf for child in self.inside[path].values() for leaf in self.below(child)]


def collected(edited: Draft) -> Fields:
    """The fields of an overridden config.  Fails: `TypeMismatch`, `MissingValue`."""
    found = Fields()
    _collect(edited.root, edited.root.holding(draft(type(edited.config))), edited.origins, found)
    return found


def _collect(place: Place, base: Place, origins: Mapping[str, str], found: Fields) -> None:
    """Add the place and those below it; `base` is the same place with the defaults."""
    children, defaults = place.children(), base.children()
    if not (children or is_group(type(place.value))):
        found.leaves[place.path] = place
        overridden = place.path in origins or not same(place.value, base.value)
        _add(place, Source.OVERRIDDEN if overridden else Source.DEFAULT, origins, found)
        return
    found.around[place.path] = place
    found.inside[place.path] = {name: child.path for name, child in children.items()}
    alike = type(base.value) is type(place.value) and len(defaults) == len(children)
    if place.branches or type(place.held) is Chosen or not alike:
        as_declared = place.path not in origins and alike and (type(place.held) is not Chosen or same(place.value, base.value))
        source = Source.DEFAULT if as_declared else Source.OVERRIDDEN
        found.settings[place.path] = _setting(place, source, origins)
    if not alike and is_group(type(place.value)):
        defaults = place.holding(draft(type(place.value))).children()  # another group was chosen: its own defaults
    for name, child in children.items():
        _collect(child, defaults.get(name, child.holding(MISSING)), origins, found)


def _setting(place: Place, source: Source, origins: Mapping[str, str]) -> Setting:
    return Setting(place.path, place.value, source, place.option, origin=origins.get(place.path, ""))


def _add(place: Place, source: Source, origins: Mapping[str, str], found: Fields) -> None:
    setting, value = _setting(place, source, origins), place.value
    if isinstance(value, Computed):
        found.formulas[place.path] = value
        source = Source.COMPUTED if source is Source.DEFAULT else source
        found.settings[place.path] = replace(setting, source=source, formula=value.name, needs=value.needs)
        return
    if value is MISSING:
        raise FaultError(MissingValue(place.path, described(place.kind)))
    found.settings[place.path] = replace(setting, value=checked(place, value))


def checked(place: Place, value: Any, formula: str = "") -> Any:
    """The value, of the place's type.  Fails: `TypeMismatch`."""
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | set | frozenset) else ()
    if any(is_group(type(each)) for each in inside):
        raise FaultError(TypeMismatch(place.path, "a tuple, if groups are inside", f"a {type(value).__name__}", formula))
    try:
        return accepted(place.kind, value)
    except Misfit:
        raise FaultError(TypeMismatch(place.path, described(place.kind), shown(value), formula)) from None
