"""What a code object reads from outside, and whether code is installed or the user's own."""

from __future__ import annotations

import dis
import functools
import re
import sys
import sysconfig
import types
from pathlib import Path
from typing import Final, NamedTuple

import jax
import numpy as np


class Read(NamedTuple):
    """A variable that a code object reads from outside, with the attributes that it reads."""

    kind: str  # "global", "free", "self" (its own first argument) or "module" (imported inside)
    name: str
    attributes: tuple[str, ...]


_BY_TEXT: Final = {"globals", "eval", "exec", "import_module", "__import__", "modules"}
"""Names through which a function reads variables and modules that only its strings name."""


@functools.lru_cache(maxsize=4096)
def reads(code: types.CodeType) -> tuple[Read, ...]:
    """The outside reads of a code object and those nested in it. Both branches of a condition count."""
    own = code.co_varnames[0] if code.co_argcount else None
    found: dict[Read, None] = {}
    current: Read | None = None

    def add(read: Read | None) -> None:
        if read is not None:
            found[read] = None

    for instruction in dis.get_instructions(code):
        name, what = instruction.opname, instruction.argval
        if current is not None and name in ("LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM"):
            current = current._replace(attributes=(*current.attributes, what))
            if name == "IMPORT_FROM":  # the module stays for the next name
                add(current)
                current = current._replace(attributes=())
            continue
        if name in ("CACHE", "PUSH_NULL", "RESUME", "EXTENDED_ARG"):
            continue
        if current is not None and not (current.kind == "module" and name.startswith("STORE")):
            add(current)
            current = None
        if name in ("LOAD_GLOBAL", "LOAD_NAME"):
            current = Read("global", what, ())
        elif name in ("LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF"):
            kind = "free" if what in code.co_freevars else "self" if what == own else None
            current = Read(kind, what, ()) if kind else None
        elif name == "IMPORT_NAME":
            current = Read("module", what, ())
        elif (
            own is not None and (what == own or (isinstance(what, tuple) and own in what)) and "FAST" in name and "LOAD" in name
        ):
            last = what == own or what[-1] == own
            current = Read("self", own, ())
            if not last:
                add(current)
                current = None
    add(current)
    if "super" in code.co_names and "__class__" in code.co_freevars:  # super() reads both without naming them
        add(Read("free", "__class__", ()))
        add(Read("self", own, ()) if own else None)
    if _BY_TEXT.intersection(code.co_names):
        texts = [const for const in code.co_consts if isinstance(const, str)]
        for word in re.findall(r"[^\W\d]\w*", " ".join(texts)):
            add(Read("global", word, ()))
        for text in texts:
            add(Read("module", text, ()))
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            for read in reads(inner):
                if read.kind == "free" and read.name not in code.co_freevars:
                    if read.name != own:
                        continue  # a variable of this function
                    read = read._replace(kind="self")
                elif read.kind == "self":
                    continue  # an argument of the inner function
                add(read)
    return tuple(found)


@functools.cache
def _installed() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    folders = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders |= {str(Path(module.__file__).parent.parent) for module in (jax, np) if module.__file__}
    return (*folders, str(Path(__file__).parent))


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
