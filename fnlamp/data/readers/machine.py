"""The stack machine of pickles, restricted to opcodes that build data; nothing that a pickle names is imported or called."""

from __future__ import annotations

import io
import math
import re
import sys
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import numpy as np

from fnlamp.data.readers.file import decoding, text_size, within
from fnlamp.data.readers.opcodes import opcodes
from fnlamp.data.readers.pickled import EXPECTED, KNOWN, Array, Dtype, Global, extend, kind_of, lengths, update
from fnlamp.fault import FaultError, FileCorrupt


def contents(machine: Machine, raw: bytes, limit: int | None) -> Any:
    """The value that the pickle `raw` builds by the machine.  Fails: `FileCorrupt`, `TooLarge`."""
    name = machine.path
    with decoding(name, "an intact pickle"):
        if not (size := len(raw)):
            raise FaultError(FileCorrupt(name, machine.expected, "an empty file"))
        for opcode, argument in opcodes(raw, file := io.BytesIO(raw), lambda text: within(name, limit, text_size(text))):
            machine.spent += _SIZES.get(opcode, _OBJECT) + (sys.getsizeof(argument) if opcode in _LITERALS else 0)
            within(name, limit, machine.spent - size - _FREE)  # the file's own bytes do not count
            try:
                machine.step(opcode, argument)
            except LookupError as error:
                raise ValueError(f"the opcode {opcode} without its operands") from error
        if file.tell() != size or len(machine.stack) != 1 or machine.below:
            raise ValueError("bytes after the end, or objects left over")
        file.close()
        del raw  # before arrays are copied
        return _Values(name, size, machine.expected).value(machine.stack[0])


_OBJECT: Final = 64
"""Bytes counted for each object, whatever its size in the file."""
_SIZES: Final = dict.fromkeys(("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"), 160)
"""Bytes counted for an entry of the memo."""
_FREE: Final = 2**20


_MARKS: Final = ("TUPLE", "LIST", "DICT", "APPENDS", "SETITEMS", "POP_MARK")
_NUMBERS: Final = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
_STRINGS: Final = ("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8")
_BYTES: Final = ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")
_BITS: Final = 8192
_LITERALS: Final = frozenset(_NUMBERS + _STRINGS + _BYTES)


@dataclass(slots=True)
class Machine:
    """The stack machine of pickles, restricted to the opcodes that build data."""

    expected: ClassVar[str] = EXPECTED
    known: ClassVar[frozenset[str]] = KNOWN
    path: str
    stack: list[Any] = field(default_factory=list)
    below: list[list[Any]] = field(default_factory=list)  # the stacks under the marks
    memo: dict[int, Any] = field(default_factory=dict)
    encoded: dict[int, tuple[str, bytes]] = field(default_factory=dict)
    spent: int = 0  # bytes counted for the objects that it built

    def step(self, opcode: str, argument: Any) -> None:
        """Run one opcode.  Raises: `LookupError`, `ValueError` without its operands."""
        stack = self.stack
        match opcode:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                self.below.append(stack)
                self.stack = []
            case "POP":
                stack.pop()
            case "APPEND":
                extend(stack[-2], self._popped(1))
            case "SETITEM":
                update(stack[-3], self._popped(2))
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "BUILD":
                (state,) = self._popped(1)
                self.build(stack[-1], state)
            case _ if opcode in _MARKS:
                items, self.stack = stack, self.below.pop()
                self._marked(opcode, items)
            case _:
                stack.append(self._pushed(opcode, argument))

    def _pushed(self, opcode: str, argument: Any) -> Any:
        """The object that an opcode puts on the stack."""
        match opcode:
            case "DUP":
                return self.stack[-1]
            case "NONE":
                return None
            case "NEWTRUE" | "NEWFALSE":
                return opcode == "NEWTRUE"
            case "EMPTY_TUPLE":
                return ()
            case "EMPTY_LIST":
                return []
            case "EMPTY_DICT":
                return {}
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                return tuple(self._popped(int(opcode[-1])))
            case "GET" | "BINGET" | "LONG_BINGET":
                return self.memo[argument]
            case "GLOBAL":
                return self._named(argument)
            case "STACK_GLOBAL":
                return self._named(" ".join(self._popped(2)))
            case "REDUCE":
                function, arguments = self._popped(2)
                if type(function) is not Global or type(arguments) is not tuple:
                    raise ValueError("a call of something that is not a function")
                return self.called(function, arguments)
            case "BINPERSID":
                return self.stored(self._popped(1)[0])
            case _ if opcode in _LITERALS:
                if type(argument) is int and argument.bit_length() > _BITS:  # Python itself refuses to print these
                    raise ValueError(f"an integer of {argument.bit_length():,} bits")
                return argument
        actual = f"the opcode {opcode}" + (f" of {argument.replace(' ', '.')}" if opcode == "INST" else "")
        raise FaultError(FileCorrupt(self.path, self.expected, actual))

    def _popped(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise ValueError("an opcode without its operands")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def _marked(self, opcode: str, items: list[Any]) -> None:
        if opcode == "TUPLE":
            self.stack.append(tuple(items))
        elif opcode == "LIST":
            self.stack.append(items)
        elif opcode == "DICT":
            self.stack.append({})
            update(self.stack[-1], items)
        elif opcode == "APPENDS":
            extend(self.stack[-1], items)
        elif opcode == "SETITEMS":
            update(self.stack[-1], items)

    def _named(self, spelled: str) -> Global:
        module, _, name = spelled.partition(" ")
        module = module.replace("numpy.core.", "numpy._core.").replace("__builtin__", "builtins")
        if f"{module}.{name}" not in self.known:
            shown = f"{module}.{name}"
            raise FaultError(FileCorrupt(self.path, self.expected, shown if len(shown) <= 200 else shown[:197] + "..."))
        return Global(f"{module}.{name}")

    def stored(self, key: Any) -> Any:
        """The object that the pickle keeps outside itself."""
        raise FaultError(FileCorrupt(self.path, self.expected, "an object outside the pickle"))

    def called(self, function: Global, arguments: tuple[Any, ...]) -> Any:
        """The result that NumPy's or Python's function of that name would return for these arguments, which are checked."""
        match function.name, arguments:
            case "numpy._core.multiarray._reconstruct", (Global("numpy.ndarray"), *_):
                return Array()
            case "numpy._core.numeric._frombuffer", (data, Dtype() as dtype, tuple(shape), "C" | "F" as order):
                return Array(dtype, lengths(shape), order == "F", self._bytes(data))
            case "numpy._core.multiarray.scalar", (Dtype() as dtype, data):
                kind, raw = dtype.resolved(), self._bytes(data)
                if len(raw) != kind.itemsize:
                    raise ValueError(f"{len(raw)} bytes for a number of {kind.itemsize}")
                return np.frombuffer(raw, kind)[0] if raw else kind.type()
            case "numpy.dtype", (str(code), *_):
                if code.startswith("O"):
                    raise FaultError(FileCorrupt(self.path, self.expected, "an array of objects"))
                if not re.fullmatch("[biufc][0-9]{1,2}|[SU][0-9]{1,9}", code):
                    raise FaultError(FileCorrupt(self.path, self.expected, f"the dtype {code[:40]!r}"))
                return Dtype(code)
            case "_codecs.encode", (str(text), "latin1" | "latin-1"):
                return self._bytes(text)
            case "builtins.bytes", ():
                return b""
            case "builtins.complex", (float(real), float(imaginary)):
                return complex(real, imaginary)
        raise ValueError(f"arguments that {function.name} does not take")

    def build(self, target: Any, state: Any) -> None:
        match target, state:
            case Array(), (1, tuple(shape), Dtype() as dtype, bool() | 0 | 1 as fortran, data):
                target.dtype, target.shape, target.fortran = dtype, lengths(shape), bool(fortran)
                target.data = self._bytes(data)
            case Dtype(), (3, "<" | ">" | "=" | "|" as order, None, None, None, *_):
                target.order = order
            case _:
                raise ValueError("a state that an array of numbers cannot have")

    def _bytes(self, data: Any) -> bytes | bytearray:
        """The bytes, which Python 2 and protocols 0 to 2 write as text; each text is encoded once, however often it is used."""
        if type(data) is bytes or type(data) is bytearray:
            return data
        if type(data) is not str:
            raise ValueError("data that are not bytes")
        if id(data) not in self.encoded:
            self.encoded[id(data)] = (data, data.encode("latin-1"))
        return self.encoded[id(data)][1]


@dataclass(slots=True)
class _Values:
    """Converts the machine's objects to the caller's; `room` is how many bytes remain for arrays."""

    path: str
    room: int
    expected: str
    nodes: int = 0
    done: dict[int, tuple[Any, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.nodes = self.room + 10**6

    def value(self, root: Any) -> Any:
        return self._value(root, 0)[0]

    def _value(self, x: Any, depth: int) -> tuple[Any, int]:
        """The value, and the number of objects in it, counting one as often as it occurs."""
        if x is None or type(x) in (bool, int, float, complex, str, bytes) or isinstance(x, np.generic | np.ndarray):
            return x, 1
        if id(x) not in self.done:
            if depth > 100:
                raise ValueError("a structure more than 100 deep, or one that holds itself")
            self.done[id(x)] = self._made(x, depth)
        return self.done[id(x)]

    def _made(self, x: Any, depth: int) -> tuple[Any, int]:
        if type(x) is Array:
            return self._array(x), 1
        if type(x) not in (tuple, list, dict):
            raise FaultError(FileCorrupt(self.path, self.expected, f"{kind_of(x)} by itself"))
        parts = [self._value(part, depth + 1) for part in (x.values() if type(x) is dict else x)]
        size = 1 + sum(count for _, count in parts)
        if size > self.nodes:  # a few hundred bytes can describe more than any memory holds
            raise ValueError(f"a structure that repeats parts of itself {size:,} times")
        values = [part for part, _ in parts]
        return (dict(zip(x, values, strict=True)) if type(x) is dict else type(x)(values)), size

    def _array(self, x: Array) -> np.ndarray[Any, Any]:
        if x.dtype is None:
            raise ValueError("an array without data")
        dtype, shape, data = x.dtype.resolved(), x.shape, x.data
        wanted = math.prod(shape) * dtype.itemsize
        if wanted != len(data):
            raise ValueError(f"{len(data):,} bytes of data for shape {list(shape)} of {dtype}")
        if math.prod(max(n, 1) for n in shape) * dtype.itemsize > sys.maxsize:
            raise ValueError(f"lengths {list(shape)}")
        self.room -= wanted
        if self.room < 0:
            raise ValueError("arrays that share their data")
        flat = np.frombuffer(data, dtype) if wanted else np.zeros(0, dtype)
        if dtype.kind == "b" and wanted and flat.view(np.uint8).max() > 1:
            raise ValueError("booleans that are neither 0 nor 1")
        array = flat.astype(dtype.newbyteorder("="), copy=False).reshape(shape, order="F" if x.fortran else "C")
        array.flags.writeable = False
        return array
