"""Groups of settings: frozen dataclasses whose fields may be computed."""

from __future__ import annotations

import inspect
import re
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, InitVar, dataclass, field, fields
from difflib import get_close_matches
from functools import wraps
from typing import Any, TypeVar, dataclass_transform

from fnlamp.config.kind import members
from fnlamp.config.marker import MISSING, Chosen, failed, name_of
from fnlamp.fault import FaultError, UnknownField
from fnlamp.given import shown

C = TypeVar("C")


@dataclass(frozen=True)
class Declared:
    """A field as its group declares it: its type, how its default is made, the named values that it chooses among, if any."""

    kind: Any
    default: Callable[[], Any]
    options: Mapping[str, Any]


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def group(cls: type[C]) -> type[C]:
    """Make a class a group of settings: a frozen dataclass whose arguments are named, and whose fields may be `computed`.

    Groups nest and inherit; a subclass is decorated as well. Every other class is a plain value, dataclasses too.
    Raises: `TypeError` for an attribute without a type, which would not be a field, and for what computes fields by hand.

    >>> @group
    ... class Loop:
    ...     epochs: int = 10
    >>> Loop(epochs=20)
    Loop(epochs=20)
    >>> Loop(epoch=20)
    Traceback (most recent call last):
    TypeError: Loop.epoch: expected a field of Loop, got none of that name; near names: epochs
    """
    if not inspect.isclass(cls):
        raise TypeError(f"group: cls is a class, got {shown(cls)}")
    if _OWN in vars(cls):
        return cls
    _check(cls)
    frame = sys._getframe(1)  # the names of a class inside a function are found only there
    kinds = {name: each.kind for base in reversed(cls.__mro__[1:]) for name, each in vars(base).get(_OWN, {}).items()}
    kinds |= _kinds(cls, frame.f_globals, frame.f_locals)
    made_here: Any = dataclass(frozen=True, kw_only=True)(cls)
    for each in fields(made_here):
        if each.name not in kinds:
            raise TypeError(f"{cls.__name__}: its base class that has {each.name} is not a group: write @group above it")
        if not each.init:
            raise TypeError(f"{cls.__name__}.{each.name}: every field can be given; for one that follows others, use computed")
    declared = {each.name: _declared(each, kinds[each.name]) for each in fields(made_here)}
    setattr(made_here, _OWN, declared)
    made_here.__init__ = _checked(made_here.__init__, cls.__name__, tuple(declared))
    return made_here  # type: ignore[no-any-return]


_OWN = "__settings__"


def settings(cls: type[Any]) -> Mapping[str, Declared]:
    """The fields of a group.  Raises: `TypeError` for a subclass of a group that is not decorated."""
    own = vars(cls).get(_OWN)
    if own is None:
        raise TypeError(f"{cls.__name__} is a subclass of a group, and not one itself: write @group above it")
    return own  # type: ignore[no-any-return]


def is_group(cls: Any) -> bool:
    """Whether it is a class that `group` made, or a subclass of one."""
    return inspect.isclass(cls) and hasattr(cls, _OWN)


def draft(cls: type[C]) -> C:
    """The group with all its defaults; fields without one hold `MISSING`."""
    return made(cls, {name: each.default() for name, each in settings(cls).items()})


def made(cls: type[C], values: Mapping[str, Any]) -> C:
    """A group with these values, which may be formulas or missing."""
    config = object.__new__(cls)
    for name, value in values.items():
        object.__setattr__(config, name, value)
    return config


def branches(kind: Any) -> dict[str, Any]:
    """The groups, and perhaps `None`, that a field of a union type chooses among, by name; none for any other type.

    >>> @group
    ... class DeepNet: ...
    >>> list(branches(DeepNet | None)), branches(DeepNet)
    (['deep_net', 'none'], {})
    """
    kinds = members(kind)
    if len(kinds) == 1 or not any(map(is_group, kinds)):
        return {}
    return {_name(one): one for one in kinds if is_group(one) or one is types.NoneType}


def near(name: str, known: Any) -> tuple[str, ...]:
    """The up to three names that are most like this one."""
    return tuple(get_close_matches(name, list(known), n=3, cutoff=0.65))


def _name(cls: Any) -> str:
    return "none" if cls is types.NoneType else re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()


def _check(cls: type[Any]) -> None:
    for name in ("__init__", "__post_init__"):
        if name in vars(cls):
            raise TypeError(
                f"group: cls is a class without its own {name}, got {cls.__name__}: overrides come later than such code; "
                "write computed(...) fields"
            )
    own = inspect.get_annotations(cls)
    for name, value in vars(cls).items():
        plain = isinstance(value, types.FunctionType | type | property | classmethod | staticmethod)
        if name not in own and not name.startswith("_") and not plain:
            raise TypeError(f"{cls.__name__}.{name} = {value!r} has no type, so it is not a field; write {name}: type = ...")


def _kinds(cls: type[Any], names: Mapping[str, Any], local: Mapping[str, Any]) -> dict[str, Any]:
    """The types of the class's own fields."""
    try:
        kinds = inspect.get_annotations(cls, globals=dict(names), locals=dict(local), eval_str=True)
    except (NameError, AttributeError, SyntaxError, TypeError) as error:
        raise TypeError(f"{cls.__name__}: the type of a field is unknown when the class is made: {error}") from None
    for name, kind in kinds.items():
        if isinstance(kind, InitVar):
            raise TypeError(f"{cls.__name__}.{name}: every argument of a group is a field, got an InitVar")
        groups = [one for one in members(kind) if is_group(one)]
        if len({_name(one) for one in groups}) < len(groups):
            raise TypeError(f"{cls.__name__}.{name}: groups that a field chooses among have different names")
    return kinds


def _declared(each: Field[Any], kind: Any) -> Declared:
    default = each.default
    if default is not NO_DEFAULT:
        return Declared(kind, lambda: default, default.named if type(default) is Chosen else {})
    if each.default_factory is not NO_DEFAULT:
        return Declared(kind, _caught(each.name, each.default_factory), {})
    # A nested group without a default begins with its own.
    return Declared(kind, (lambda: draft(kind)) if is_group(kind) else (lambda: MISSING), {})


def _caught(name: str, factory: Callable[[], Any]) -> Callable[[], Any]:
    def made_default() -> Any:
        try:
            return factory()
        except Exception as error:  # any code of the user's
            raise FaultError(failed(name, name_of(factory), error)) from error

    return made_default


def _checked(init: Callable[..., None], name: str, known: tuple[str, ...]) -> Callable[..., None]:
    """`__init__`, with near names in its error for a field that does not exist."""

    @wraps(init)
    def checked(self: Any, /, *args: Any, **values: Any) -> None:
        for each in values:
            if each not in known:
                raise TypeError(str(UnknownField(f"{name}.{each}", name, near(each, known), known)))
        init(self, *args, **values)

    return checked
