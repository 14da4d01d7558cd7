"""An identity as a few letters that are the same in another process."""

from __future__ import annotations

import hashlib
import types
from collections.abc import Hashable, Iterator
from pathlib import PurePath
from typing import Any

from fnlamp.identity.code import is_library
from fnlamp.identity.numbers import Same
from fnlamp.identity.walk import identity


def digest(value: Any) -> str:
    """A short text that is equal for functions (or trees of functions) with the same code that read equal values.

    It is the same in all processes of one version of Python. Installed functions count by their names. What `identity` compares
    by object, as a large JAX array, counts by its type.

    >>> def scaled(factor):
    ...     return lambda x: factor * x
    >>> digest(scaled(2)) == digest(scaled(2)), digest(scaled(2)) == digest(scaled(3))
    (True, False)
    """
    known: dict[int, bytes] = {}

    def of(part: Hashable) -> bytes:
        if id(part) not in known:  # an identity shares its parts, and lives as long as this call
            known[id(part)] = hashlib.blake2b(b"\0".join(pieces(part)), digest_size=16).digest()
        return known[id(part)]

    def pieces(part: Any) -> Iterator[bytes]:
        yield type(part).__name__.encode()
        if isinstance(part, tuple):
            yield from map(of, part)
        elif isinstance(part, frozenset):
            yield from sorted(map(of, part))
        elif isinstance(part, types.CodeType):
            yield part.co_qualname.encode()
            if is_library(part.co_filename):
                yield PurePath(part.co_filename).name.encode()
            else:
                yield part.co_code
                yield repr((part.co_names, part.co_varnames, part.co_freevars)).encode()
                yield from map(of, part.co_consts)
        elif isinstance(part, bytes):
            yield part
        else:
            yield _named(part).encode()

    root = identity(value)
    return of(root).hex()[:12]


def _named(part: Any) -> str:
    if isinstance(part, Same):
        part = part.value
    if isinstance(part, types.ModuleType):
        return part.__name__
    if isinstance(part, type | types.FunctionType | types.BuiltinFunctionType):
        return f"{part.__module__}.{part.__qualname__}"
    text = repr(part)
    return type(part).__qualname__ if " at 0x" in text or len(text) > 10_000 else text
