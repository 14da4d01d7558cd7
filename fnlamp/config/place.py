"""A field in a config: where it is, its type, and what it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fnlamp.config.group import branches, draft, is_group, made, settings
from fnlamp.config.kind import described, members
from fnlamp.config.marker import MISSING, Chosen, chosen


@dataclass(frozen=True)
class Place:
    """The field at a dotted path, or the whole config at the empty path. An option counts as what it stands for."""

    path: str
    kind: Any
    held: Any
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def value(self) -> Any:
        return chosen(self.held)

    @property
    def option(self) -> str:
        """The name by which the value was chosen, if it was."""
        if type(self.held) is Chosen:
            return self.held.option
        if is_group(type(self.value)) or self.value is None:
            return next((name for name, one in branches(self.kind).items() if isinstance(self.value, one)), "")
        return next((name for name, one in self.options.items() if chosen(one) is self.value), "")

    @property
    def group(self) -> str:
        """What the value is, for a message."""
        return type(self.value).__name__ if self.children() else f"{described(self.kind)}, which has no fields"

    @property
    def branches(self) -> dict[str, Any]:
        return branches(self.kind)

    def at(self, name: str) -> str:
        """The path of a field inside."""
        return f"{self.path}.{name}" if self.path else name

    def holding(self, value: Any) -> Place:
        return replace(self, held=value)

    def children(self) -> dict[str, Place]:
        """The fields of a group, or the elements of a tuple with groups in it; nothing for any other value."""
        value = self.value
        if is_group(type(value)):
            own = settings(type(value))
            return {name: Place(self.at(name), each.kind, getattr(value, name), each.options) for name, each in own.items()}
        if isinstance(value, tuple) and any(is_group(type(chosen(each))) for each in value):
            kinds = [argument for one in members(self.kind) for argument in getattr(one, "__args__", ())]
            fixed = len(kinds) == len(value) and kinds[-1] is not ...
            return {
                str(n): Place(self.at(str(n)), kinds[n] if fixed else (kinds or [Any])[0], each) for n, each in enumerate(value)
            }
        return {}

    def rebuilt(self, children: Mapping[str, Any]) -> Any:
        """The value with these in place of all its children."""
        return made(type(self.value), children) if is_group(type(self.value)) else tuple(children.values())

    def of(self, kind: Any) -> Place:
        """The same place with a group of this type: the one it holds, or that type's defaults."""
        if kind is type(self.value) or kind is type(None):
            return self.holding(None if kind is type(None) else self.value)
        return self.holding(draft(kind))

    def only_branch(self) -> Place | None:
        """The place with the only group that its type allows, if it holds none."""
        groups = [one for one in members(self.kind) if is_group(one)]
        return self.of(groups[0]) if len(groups) == 1 and (self.value is None or self.value is MISSING) else None
