"""The outside variables that a code object reads, and whether code is installed or the user's own."""

from __future__ import annotations

import dis
import functools
import os
import re
import sys
import sysconfig
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import jax
import numpy as np


class Read(NamedTuple):
    """A variable that a code object reads from outside, with the attributes that it reads."""

    kind: str  # "global", "free", "self" (its own first argument) or "module" (imported inside)
    name: str
    attributes: tuple[str, ...]


_SILENT: Final = ("CACHE", "PUSH_NULL", "RESUME", "EXTENDED_ARG")
"""Instructions that may stand between a variable and its attribute."""
_BY_TEXT: Final = {"globals", "eval", "exec", "import_module", "__import__", "modules"}
"""Names through which a function reads variables and modules that only its strings name."""


@functools.lru_cache(maxsize=4096)
def reads(code: types.CodeType) -> tuple[Read, ...]:
    """The outside reads of a code object and those nested in it. Both branches of a condition count."""
    own = code.co_varnames[0] if code.co_argcount else None
    return tuple(dict.fromkeys((*_by_instruction(code, own), *_by_super(code, own), *_by_text(code), *_by_nested(code, own))))


def _by_instruction(code: types.CodeType, own: str | None) -> Iterator[Read]:
    """The variables that instructions load, each with the attributes loaded from it right after."""
    current: Read | None = None
    module = ""
    for instruction in dis.get_instructions(code):
        name, what = instruction.opname, instruction.argval
        if name in _SILENT:
            continue
        if current is not None and name in ("LOAD_ATTR", "LOAD_METHOD"):
            current = current._replace(attributes=(*current.attributes, what))
            continue
        if current is not None:
            yield current
            current = None
        if name in ("LOAD_GLOBAL", "LOAD_NAME"):
            current = Read("global", what, ())
        elif name in ("LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF"):
            kind = "free" if what in code.co_freevars else "self" if what == own else None
            current = Read(kind, what, ()) if kind else None
        elif name == "IMPORT_NAME":
            module = what
            yield Read("module", module, ())
        elif name == "IMPORT_FROM":
            yield Read("module", module, (what,))
        elif own is not None and "FAST" in name and "LOAD" in name:
            loaded = what if isinstance(what, tuple) else (what,)  # some instructions load two variables
            if own in loaded[:-1]:
                yield Read("self", own, ())
            if own == loaded[-1]:
                current = Read("self", own, ())
    if current is not None:
        yield current


def _by_super(code: types.CodeType, own: str | None) -> Iterator[Read]:
    """The class and the first argument, which `super()` reads without naming them."""
    if "super" in code.co_names and "__class__" in code.co_freevars:
        yield Read("free", "__class__", ())
        if own:
            yield Read("self", own, ())


def _by_text(code: types.CodeType) -> Iterator[Read]:
    """The variables and modules that strings may name, if the code has a way to read them."""
    if _BY_TEXT.intersection(code.co_names):
        texts = [const for const in code.co_consts if isinstance(const, str)]
        for word in re.findall(r"[^\W\d]\w*", " ".join(texts)):
            yield Read("global", word, ())
        for text in texts:
            yield Read("module", text, ())


def _by_nested(code: types.CodeType, own: str | None) -> Iterator[Read]:
    """The reads of nested functions, as reads of this one, without its own variables."""
    for inner in code.co_consts:
        for read in reads(inner) if isinstance(inner, types.CodeType) else ():
            if read.kind == "self":  # an argument of the nested function
                continue
            if read.kind != "free" or read.name in code.co_freevars:
                yield read
            elif read.name == own:
                yield read._replace(kind="self")


@functools.cache
def _installed() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    folders = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders |= {str(Path(module.__file__).parent.parent) for module in (jax, np) if module.__file__}
    return tuple(folder + os.sep for folder in (*folders, str(Path(__file__).parents[1])))  # and fnlamp itself


@functools.lru_cache(maxsize=4096)
def is_library(file: str) -> bool:
    """Whether this file is installed, as part of Python or a package, rather than the user's own."""
    return file.startswith(("<frozen", *_installed()))


def is_library_module(name: str | None) -> bool:
    if name is None or name == "__main__" or name not in sys.modules:
        return False
    file = getattr(sys.modules[name], "__file__", None)
    return name in sys.builtin_module_names if file is None else is_library(file)


def is_library_type(kind: type) -> bool:
    return is_library_module(kind.__module__)
