"""The contents of objects and classes: their fields, slots, methods and closure cells, as plain values."""

from __future__ import annotations

import functools
import inspect
import types
from typing import Any

import numpy as np


def is_method(member: Any) -> bool:
    return isinstance(member, types.FunctionType | staticmethod | classmethod)


def plain_methods(members: dict[str, Any]) -> dict[str, Any]:
    """The members of a class as plain functions and values."""
    plain: dict[str, Any] = {}
    for name, member in members.items():
        if isinstance(member, staticmethod | classmethod):
            member = member.__func__
        elif isinstance(member, property):
            member = member.fget
        elif isinstance(member, functools.cached_property):
            member = member.func
        if not inspect.isdatadescriptor(member):
            plain[name] = member
    return plain


def instance_fields(value: Any) -> dict[str, Any]:
    fields = dict(getattr(value, "__dict__", {}))
    fields.pop("__wrapped__", None)
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                fields[name] = getattr(value, name)
    return fields


def is_data(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(is_data, value))
    return value is None or isinstance(value, bool | int | float | complex | str | bytes | np.ndarray | np.generic | np.dtype)


def contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return "<empty>"
