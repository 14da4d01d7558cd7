"""A config whose fields all have values, and where each value is from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, TypeVar

C = TypeVar("C")


class Source(Enum):
    """Where a value is from: the declaration, a formula, or the caller."""

    DEFAULT = "default"
    COMPUTED = "computed"
    OVERRIDDEN = "overridden"


@dataclass(frozen=True)
class Setting:
    """A field without fields, at its dotted path, with its value and provenance; also a choice among groups.

    `option` is the name by which the value was chosen, if it has one; `formula` and `needs` are those of a computed value;
    `origin` names the file or the command line that overrode it.
    """

    path: str
    value: Any
    source: Source
    option: str = ""
    formula: str = ""
    needs: tuple[str, ...] = ()
    origin: str = ""

    def __str__(self) -> str:
        formula = "computed" + (f" from {', '.join(self.needs)}" if self.needs else "")
        if self.source is Source.COMPUTED:
            return formula
        by = f" by {self.origin}" if self.origin else ""
        return f"{self.source.value}{by}" + (f", {formula}" if self.formula else "")


@dataclass(frozen=True)
class Resolved(Generic[C]):
    """The config with all its values, the provenance of each, and the order in which formulas ran.

    `str(resolved)` is a table of all settings.

    >>> @group
    ... class Loop:
    ...     epochs: int = 10
    ...     batches: int = 938
    ...     steps: int = computed(lambda epochs, batches: epochs * batches)
    >>> resolved = resolve(Loop, "epochs=2").unwrap()
    >>> print(resolved)
    epochs   2     overridden
    batches  938   default
    steps    1876  computed from epochs, batches
    >>> resolved.config, resolved.hyperparameters, resolved.order
    (Loop(epochs=2, batches=938, steps=1876), {'epochs': 2}, ('steps',))
    """

    config: C
    settings: Mapping[str, Setting]
    order: tuple[str, ...]

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """What the caller chose: the value of each overridden setting, or the name of its option."""
        chosen = [each for each in self.settings.values() if each.source is Source.OVERRIDDEN]
        return {each.path: each.option or each.value for each in chosen}

    def __str__(self) -> str:
        rows = [(each.path, each.option or short(each.value), str(each)) for each in self.settings.values()]
        widths = [max((len(row[column]) for row in rows), default=0) for column in range(2)]
        return "\n".join(f"{path:{widths[0]}}  {value:{widths[1]}}  {source}" for path, value, source in rows)


def short(value: Any, most: int = 60) -> str:
    """A value in a line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= most else text[: most - 3] + "..."
