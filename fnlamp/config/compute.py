"""Run the formulas of a config, each once, after those that it needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fnlamp.config.change import Draft
from fnlamp.config.collect import Fields, checked, collected
from fnlamp.config.group import is_group, near
from fnlamp.config.marker import Unresolved, failed
from fnlamp.config.resolved import Resolved, Setting, short
from fnlamp.fault import CyclicFields, FaultError, TypeMismatch, UnknownField, UnknownNeed
from fnlamp.given import shown


def computed_all(fields: Fields, only: Sequence[str] | None = None) -> Resolved[Any]:
    """The resolved config; with `only`, other formulas than those stay, unless these need them.  Fails: `ConfigError`."""
    needs = {path: tuple(_path_of(fields, path, name) for name in fields.formulas[path].needs) for path in fields.formulas}
    wanted = list(fields.formulas) if only is None else [leaf for path in only for leaf in _below(fields, path)]
    order = _order(fields, needs, wanted)
    values = {path: setting.value for path, setting in fields.settings.items()}
    for path in order:
        values[path] = _value(fields, path, [_built(fields, values, need) for need in needs[path]])
    around = {path: _built(fields, values, path) for path in fields.settings if path in fields.around}
    settings = {path: _described(setting, {**values, **around}[path], needs) for path, setting in fields.settings.items()}
    return Resolved(_built(fields, values, ""), settings, tuple(order))


def _described(setting: Setting, value: Any, needs: Mapping[str, tuple[str, ...]]) -> Setting:
    return replace(setting, value=value, needs=needs.get(setting.path, ()))


def _path_of(fields: Fields, path: str, name: str) -> str:
    """The path of what a formula's need names: in its own group, or the nearest around it. A formula does not see its field."""
    head, _, rest = name.partition(".")
    known: list[str] = []
    for scope in _scopes(path):
        inside = fields.inside[scope]
        if inside.get(head, path) != path:
            found = f"{inside[head]}.{rest}" if rest else inside[head]
            if found in fields:
                return found
            parent = found.rpartition(".")[0]
            known = list(fields.inside.get(parent, {}))
            break
        known += [each for each, child in inside.items() if each not in known and child != path]
    last = name.rpartition(".")[2]
    raise FaultError(UnknownNeed(path, fields.formulas[path].name, name, near(last, known), tuple(known)))


def _scopes(path: str) -> Iterator[str]:
    """The paths of the groups around a field, from its own outwards."""
    while path:
        path = path.rpartition(".")[0]
        yield path


def _below(fields: Fields, path: str) -> list[str]:
    """The computed fields at and below a path that the caller names."""
    if path not in fields:
        known = [*fields.around, *fields.leaves]
        root = type(fields.around[""].value).__name__
        raise FaultError(UnknownField(path, root, near(path, known), tuple(fields.inside[""])))
    return [leaf for leaf in fields.below(path) if leaf in fields.formulas]


def _order(fields: Fields, needs: Mapping[str, tuple[str, ...]], wanted: Sequence[str]) -> list[str]:
    """The wanted formulas and those that they need, each after its needs.  Fails: `CyclicFields`."""

    def edges(path: str) -> Iterator[str]:
        return iter([leaf for need in needs[path] for leaf in fields.below(need) if leaf in needs])

    order: dict[str, None] = {}
    for start in wanted:
        # By hand: a chain of formulas may be longer than Python's stack.
        stack = {} if start in order else {start: edges(start)}
        while stack:
            path, following = next(reversed(stack.items()))
            following_path = next(following, None)
            if following_path is None:
                order[path] = None
                del stack[path]
            elif following_path in stack:
                cycle = [*list(stack)[list(stack).index(following_path) :], following_path]
                raise FaultError(CyclicFields(tuple(cycle), tuple(fields.formulas[each].name for each in cycle[:-1])))
            elif following_path not in order:
                stack[following_path] = edges(following_path)
    return list(order)


def _built(fields: Fields, values: Mapping[str, Any], path: str) -> Any:
    """The value at a path; a group with the values of its fields."""
    if path in fields.leaves:
        return values[path]
    return fields.around[path].rebuilt({name: _built(fields, values, child) for name, child in fields.inside[path].items()})


def _value(fields: Fields, path: str, given: list[Any]) -> Any:
    """The value of a formula, of its field's type.  Fails: `FormulaFailed`, `TypeMismatch`."""
    formula = fields.formulas[path]
    try:
        value = formula.of(given)
    except Exception as error:  # any code of the user's
        named = ", ".join(f"{name}={short(value, 40)}" for name, value in zip(formula.needs, given, strict=True))
        raise FaultError(failed(path, formula.name, error, named)) from error
    if isinstance(value, Unresolved):
        raise FaultError(TypeMismatch(path, "a value", shown(value), formula.name))
    value = checked(fields.leaves[path], value, formula.name)
    if not is_group(type(value)):
        return value
    try:
        return computed_all(collected(Draft(value))).config  # a group that a formula makes may have formulas itself
    except FaultError as error:
        raise FaultError(error.fault.inside(path)) from error.__cause__
