"""The opcodes of a pickle as data: names and arguments; nothing is imported or called."""

from __future__ import annotations

import codecs
import io
import pickletools
import re
from collections.abc import Callable, Iterator
from typing import Any, Final


def opcodes(raw: bytes, file: io.BytesIO, check: Callable[[Any], None]) -> Iterator[tuple[str, Any]]:
    """Names and arguments up to STOP, by the readers of `pickletools`, which check lengths and import nothing.

    `check` receives the bytes of each long text before it is decoded, which can take four times the memory.
    """
    opcode = ""
    while opcode != "STOP":
        code = file.read(1)
        known = _OPCODES.get(code.decode("latin-1"))
        if known is None:
            raise ValueError(f"{code!r} for an opcode" if code else "an end without STOP")
        opcode = known.name
        if opcode == "STRING":  # pickletools reads it as ASCII; Python 2 kept the bytes of arrays in it
            yield opcode, _string(file.readline())
            continue
        at = file.tell()
        if opcode in _TEXTS:
            length = int.from_bytes(file.read(_TEXTS[opcode]), "little")
            start = file.tell()
            if length > len(raw) - start:
                raise ValueError(f"the opcode {opcode} at byte {at - 1:,} of a text longer than its file")
            check(memoryview(raw)[start : start + length])
            file.seek(at)
        try:
            argument = known.arg.reader(file) if known.arg else None
        except Exception as error:  # pickletools raises several types for a malformed argument
            raise ValueError(f"the opcode {opcode} at byte {at - 1:,} with a malformed argument") from error
        yield opcode, argument


def _string(line: bytes) -> str:
    """A string as Python 2 wrote it, on its own line."""
    inside = memoryview(line)[1:-2]  # a view: the line may be an array of many megabytes
    if len(line) < 3 or line[:1] not in b"'\"" or line[:1] != line[-2:-1] or line[-1:] != b"\n":
        raise ValueError("a string without its quotes")
    if not _ESCAPES.fullmatch(inside):
        raise ValueError("a string with an escape that Python 2 does not write")
    return codecs.escape_decode(inside)[0].decode("latin-1")


_TEXTS: Final = {"SHORT_BINUNICODE": 1, "BINUNICODE": 4, "BINUNICODE8": 8}


_ESCAPES: Final = re.compile(rb"""(?:[^\\]|\\(?:[\\'"abfnrtv]|x[0-9a-fA-F]{2}|[0-3]?[0-7]{1,2}))*""", re.DOTALL)
_OPCODES: Final = {opcode.code: opcode for opcode in pickletools.opcodes}
