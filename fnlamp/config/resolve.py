"""Override, then compute: from a config with formulas to one with values, purely."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, overload

from returns.result import Failure, Result, Success

from fnlamp.config.change import Change, Draft, Override
from fnlamp.config.collect import collected
from fnlamp.config.compute import computed_all
from fnlamp.config.group import draft, is_group
from fnlamp.config.resolved import Resolved
from fnlamp.fault import ConfigError, FaultError
from fnlamp.given import several, shown

C = TypeVar("C")


@overload
def resolve(config: type[C], *changes: Change[C], only: Iterable[str] | None = None) -> Result[Resolved[C], ConfigError]: ...
@overload
def resolve(config: C, *changes: Change[C], only: Iterable[str] | None = None) -> Result[Resolved[C], ConfigError]: ...
def resolve(config: Any, *changes: Change[Any], only: Iterable[str] | None = None) -> Result[Resolved[Any], ConfigError]:
    """Apply the changes in order, then compute every field that is a formula: the config, or a group's class for its defaults.

    Pure: the same config and changes give the same result. A formula runs at most once, after those that it needs, and not if
    its field is overridden. `only` names the fields to compute, and what these need; others stay formulas.
    Fails: `ConfigError`, one of its faults; nothing is raised for a wrong config.

    >>> @group
    ... class Loop:
    ...     epochs: int = 10
    ...     batches: int = 938
    ...     steps: int = computed(lambda epochs, batches: epochs * batches)
    >>> resolve(Loop(epochs=3), {"batches": 100}).unwrap().config
    Loop(epochs=3, batches=100, steps=300)
    >>> resolve(Loop, "epoch=3")
    <Failure: epoch: expected a field of Loop, got none of that name; near names: epochs>
    """
    for change in changes:
        if not (isinstance(change, str | Mapping) or callable(change)):
            raise TypeError(f"resolve: a change is a text path=value, a mapping or a function, got {shown(change)}")
    wanted = None if only is None else several("resolve: only", only)
    return resolved(config, [Override(change) for change in changes], wanted)


def resolved(
    config: Any, overrides: Iterable[Override], only: tuple[str, ...] | None = None
) -> Result[Resolved[Any], ConfigError]:
    """`resolve` for changes that have an origin."""
    try:
        edited = overridden(config, overrides)
        return Success(computed_all(collected(edited), only))
    except FaultError as error:
        fault: Any = error.fault
        return Failure(fault)


def overridden(config: Any, overrides: Iterable[Override]) -> Draft:
    """The config with the overrides applied.  Fails: `ConfigError`."""
    if not is_group(config if isinstance(config, type) else type(config)):
        raise TypeError(f"resolve: config is a group, a class under @group or an object of one, got {shown(config)}")
    edited = Draft(draft(config) if isinstance(config, type) else config)
    for override in overrides:
        edited.apply(override)
    return edited
