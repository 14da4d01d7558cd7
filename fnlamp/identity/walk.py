"""The identity of a function, as a value that can be compared: its code and everything that it reads.

A compiled program keeps the values that its Python functions read while they were traced. So it may be used again only for
functions that would read equal values: `identity` inspects code, closures, defaults, bound objects, globals and the attributes
read from them. Arrays compare by their contents. Objects that it cannot inspect (of extension modules, JAX arrays of more than
a few kilobytes) compare by object identity; JAX arrays are immutable, the others must not be changed in place.
"""

from __future__ import annotations

import argparse
import contextlib
import contextvars
import dataclasses
import functools
import inspect
import operator
import os
import random
import sys
import types
import weakref
from collections import deque
from collections.abc import Hashable, Iterator, Mapping, Set
from enum import Enum
from typing import Any, Final

import jax
import numpy as np

from fnlamp.identity.code import is_library, is_library_module, is_library_type, reads
from fnlamp.identity.members import contents, instance_fields, is_data, is_method, plain_methods
from fnlamp.identity.numbers import Same, of_array, of_jax_array

BUDGET = 20_000
"""The most objects that one identity inspects; a larger value compares by object identity."""


def identity(value: Any) -> Hashable:
    """A value that is equal for functions (or trees of functions) with the same code that read equal values.

    >>> def scaled(factor):
    ...     return lambda x: factor * x
    >>> identity(scaled(2)) == identity(scaled(2)), identity(scaled(2)) == identity(scaled(3))
    (True, False)
    >>> table = {"scale": 1}
    >>> before = identity(lambda x: table["scale"] * x)
    >>> table["scale"] = 2
    >>> identity(lambda x: table["scale"] * x) == before
    False
    """
    try:
        return _Walk().of(value)
    except (_TooLargeError, RecursionError):
        return Same(value)


def draws(value: Any) -> str | None:
    """The source outside JAX from which a function draws random numbers, if any: compiled, it would draw once for all steps.

    >>> draws(lambda x: x + np.random.normal())
    'numpy.random.normal'
    """
    walk = _Walk()
    with contextlib.suppress(_TooLargeError, RecursionError):
        walk.of(value)
    return walk.draws


class _TooLargeError(Exception):
    pass


_PLAIN: Final = (bool, int, str, bytes, type(None), type(Ellipsis), types.CodeType, np.dtype, slice, range)
_ITEMS: Final = (tuple, list, dict, deque, np.ndarray)
_MISSING: Final = object()
_HARMLESS: Final = ("default_rng", "seed", "Generator", "RandomState", "Random", "SeedSequence", "PCG64")
"""Names of `numpy.random` and `random` that do not draw from the global generator."""
_FILLS: Final = ("append", "extend", "insert", "appendleft", "extendleft", "add", "update", "clear", "discard")
"""Methods of containers that only write: a function that records its calls does not depend on the record."""


class _Walk:
    """A walk through everything that a value reads: each object once, in a fixed order; equal values give equal results."""

    def __init__(self) -> None:
        self.left = BUDGET
        self.inside: dict[Any, int] = {}  # objects being inspected, with their depth
        self.done: dict[Any, tuple[Any, Hashable]] = {}  # keeps the object, so that its id is not used again
        self.draws: str | None = None

    def of(self, value: Any, bound: Any = _MISSING) -> Hashable:
        """The identity of a value; a function is inspected as a method of `bound`, if given."""
        self.left -= 1
        if self.left < 0:
            raise _TooLargeError
        kind = type(value)
        if kind in _PLAIN:  # 1, 1.0 and True are equal and yet trace differently
            return (kind, value) if kind is not slice else (kind, repr(value))
        if kind is float or kind is complex:  # 0.0 and -0.0 are equal, and NaN is not equal to itself
            return (kind, repr(value))
        key = (id(value), None if bound is _MISSING else id(bound))
        if key in self.inside:
            return ("recursive", self.inside[key])
        if key not in self.done:
            self.inside[key] = len(self.inside)
            self.done[key] = value, self.look(value, bound)
            del self.inside[key]
        return self.done[key][1]

    def look(self, value: Any, bound: Any) -> Hashable:
        if isinstance(value, types.FunctionType):
            return self.function(value, bound)
        if isinstance(value, types.MethodType):
            return ("method", self.of(value.__func__, value.__self__))
        if isinstance(value, types.BuiltinMethodType):
            owner = value.__self__
            free = owner is None or isinstance(owner, types.ModuleType | type)
            return Same(value) if free else (value.__name__, self.of(owner))
        if isinstance(value, functools.partial | functools.partialmethod):
            return ("partial", self.of(value.func), self.of(value.args), self.of(value.keywords))
        if isinstance(value, operator.itemgetter | operator.attrgetter | operator.methodcaller):
            return self.of(value.__reduce__())
        if isinstance(value, types.ModuleType):
            return self.module(value)
        if isinstance(value, type):
            return self.kind(value)
        if isinstance(value, weakref.ref):
            return ("weak", self.of(value()))
        if isinstance(value, contextvars.ContextVar):
            with contextlib.suppress(LookupError):
                return (Same(value), self.of(value.get()))
            return Same(value)
        return self.data(value)

    def data(self, value: Any) -> Hashable:
        if isinstance(value, np.ndarray | np.generic):
            return self.array(value)
        if isinstance(value, jax.Array):
            return of_jax_array(value)
        if isinstance(value, tuple | list | deque):
            return (type(value), *self.items(value), *self.besides(value))
        if isinstance(value, Mapping):
            return (type(value), *((self.of(k), self.of(v)) for k, v in value.items()), *self.besides(value))
        if isinstance(value, Set):
            return (type(value), frozenset(self.of(item) for item in value))
        if isinstance(value, bytearray | memoryview):
            return (type(value), bytes(value))
        if isinstance(value, Enum):
            return (type(value), value.name, self.of(value.value))
        if isinstance(value, np.random.Generator | np.random.RandomState | random.Random):
            self.draws = self.draws or f"a {type(value).__name__}"
            return Same(value)
        return self.instance(value)

    def besides(self, value: Any) -> tuple[Hashable, ...]:
        """The attributes of an object of a subclass, besides the items or numbers of its base class."""
        fields = {} if type(value) in _ITEMS else instance_fields(value)
        return (self.of(fields),) if fields else ()

    def items(self, values: Any) -> Iterator[Hashable]:
        types_of = set(map(type, values))
        if types_of <= {int, str, bytes, bool, type(None)} and len(types_of) <= 1:  # in C, for any length
            return iter((*types_of, *values))
        if types_of == {float}:
            return iter((np.asarray(values, np.float64).tobytes(),))
        return (self.of(item) for item in values)

    # ---- functions

    def function(self, function: Any, bound: Any) -> Hashable:
        code = function.__code__
        cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
        defaults = (self.of(function.__defaults__ or ()), self.of(function.__kwdefaults__ or {}))
        library = is_library(code.co_filename)  # its globals do not change; its closure may be the caller's
        read: list[Hashable] = []
        for kind, name, attributes in reads(code) if cells or not library else ():
            if kind == "free":
                root = contents(cells[name])
            elif library:
                continue
            elif kind == "global":
                root = function.__globals__.get(name, _MISSING)
            elif kind == "module":
                root = sys.modules.get(name, _MISSING)
            else:
                root = bound
            read.append(() if root is _MISSING else self.follow(root, attributes))
        own = (bound is _MISSING or self.of(bound),) if library else ()
        return (code, tuple(read), defaults, *own)

    def follow(self, value: Any, attributes: tuple[str, ...]) -> Hashable:
        """The identity of `value.attribute.attribute...`, without inspecting the rest of the objects on the way."""
        for at, name in enumerate(attributes):
            if isinstance(value, types.ModuleType):
                if is_library_module(value.__name__):
                    return self.library(value, attributes[at:])
                if name == "__dict__":
                    return self.of(value)
                value = vars(value).get(name, _MISSING)
                if value is _MISSING:
                    return ("missing", name)
                continue
            if name in _FILLS and isinstance(value, list | dict | set | deque):
                return ("fills", type(value))
            stored = name in getattr(value, "__dict__", ())
            if not stored and is_library_type(value if isinstance(value, type) else type(value)):
                return self.of(value)
            found = inspect.getattr_static(value, name, _MISSING)
            if found is _MISSING or isinstance(type(value).__getattribute__, types.FunctionType):  # a hook computes it
                return (self.of(type(value)), self.of(value))
            if isinstance(found, staticmethod):
                value = found.__func__
            elif isinstance(found, types.MemberDescriptorType):
                value = getattr(value, name, None)
            elif computed := self.computed(value, found, stored):
                return (*computed, attributes[at + 1 :])
            else:
                value = found
        return self.of(value)

    def computed(self, value: Any, found: Any, stored: bool) -> tuple[Hashable, ...]:
        """The identity of an attribute that a method, property or other descriptor computes; empty for a plain value."""
        on_class = isinstance(value, type)
        if isinstance(found, classmethod):
            return ("method", self.of(found.__func__, value if on_class else type(value)))
        if isinstance(found, property):
            return ("property", self.of(found.fget, value))
        if isinstance(found, functools.cached_property):
            return ("property", self.of(found.func, value))
        if isinstance(found, types.FunctionType):
            return () if on_class or stored else ("method", self.of(found, value))
        if hasattr(type(found), "__get__") and not on_class:
            return ("descriptor", self.of(found), self.of(value))
        return ()

    def library(self, module: Any, attributes: tuple[str, ...]) -> Hashable:
        """A read from an installed module, which does not change, except for its random numbers and settings."""
        path = [module.__name__]
        value: Any = module
        for name in attributes:
            value = getattr(value, name, None)
            path.append(name)
            if not isinstance(value, types.ModuleType):
                break
            path = [value.__name__]
        full = ".".join(path)
        if full.startswith(("numpy.random.", "random.")) and callable(value) and full.rpartition(".")[2] not in _HARMLESS:
            self.draws = self.draws or full
        if full in ("os.getenv", "posix.getenv"):
            value = os.environ
        # The environment and sys.argv are containers that a program may change.
        return ("library", full, self.of(value) if isinstance(value, Mapping | list) and value is not sys.modules else ())

    # ---- objects

    def module(self, module: types.ModuleType) -> Hashable:
        if module is os or module is sys:  # imported and read inside a function
            return (Same(module), self.of(os.environ), self.of(sys.argv))
        if is_library_module(module.__name__):
            return Same(module)
        plain = {
            k: v for k, v in vars(module).items() if not k.startswith("__") and not callable(v) and not inspect.ismodule(v)
        }
        return (module.__name__, self.of(plain))

    def kind(self, kind: type) -> Hashable:
        if is_library_type(kind):
            return Same(kind)
        own = {k: v for k, v in vars(kind).items() if not (k.startswith("__") and k.endswith("__")) or is_method(v)}
        return (Same(kind), *(self.of(base) for base in kind.__bases__), self.of(plain_methods(own)))

    def instance(self, value: Any) -> Hashable:
        kind = type(value)
        if dataclasses.is_dataclass(kind):
            fields = {f.name: getattr(value, f.name, None) for f in dataclasses.fields(kind)}
            return (self.of(kind), self.of(fields))
        if hasattr(value, "__wrapped__") and callable(value):  # such as jax.jit, custom_vjp, lru_cache
            if is_library_module(getattr(value, "__module__", None)):
                return Same(value)
            return (kind, self.of(value.__wrapped__), self.of(instance_fields(value)))
        if not is_library_type(kind):
            if callable(value):
                return (Same(kind), self.of(kind.__call__, value))
            return (self.of(kind), self.of(instance_fields(value)))
        fields = instance_fields(value)
        if fields and (isinstance(value, types.SimpleNamespace | argparse.Namespace) or all(map(is_data, fields.values()))):
            return (kind, self.of(fields))
        return self.foreign(value)

    def foreign(self, value: Any) -> Hashable:
        """An object of another library: a tensor, a table or an `array.array` compares by its numbers."""
        try:
            kind: Any = type(value)
            if hasattr(value, "__array__"):
                names = [self.array(np.asarray(axis)) for axis in getattr(value, "axes", ())]  # the labels of a table
                return (kind, *names, self.array(np.asarray(value.detach() if hasattr(value, "detach") else value)))
            return (kind, memoryview(value).tobytes())
        except Exception:  # another library may raise anything
            return Same(value)

    def array(self, array: Any) -> Hashable:
        plain = np.asarray(array)
        numbers: Any = (str(plain.dtype), plain.shape, self.of(plain.tolist())) if plain.dtype.hasobject else of_array(plain)
        return (*numbers, *self.besides(array)) if isinstance(array, np.ndarray) else numbers
