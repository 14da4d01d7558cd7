"""Error messages for an `Effect` that is used as if it were its value."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dis import opmap
from typing import Any, Final

from fnlamp.given import function, shown

RUN: Final = (
    "it is only a description of a program, which has not run; run it, value = program.run_or_raise(), "
    "or use the value inside of it, program.map(lambda value: ...)"
)

_USES: Final = {
    "has no length": "__len__",
    "has no items": "__getitem__ __setitem__ __delitem__ __contains__ __reversed__",
    "is not an iterator": "__next__",
    "cannot be awaited": "__await__ __aiter__ __anext__ __aenter__ __aexit__",
    "is not a context manager": "__enter__ __exit__",
    "cannot be compared": "__lt__ __le__ __gt__ __ge__",
    "is not a number": "__int__ __float__ __complex__ __index__ __round__ __neg__ __pos__ __abs__ __invert__",
    "is not an array": "__array__",
    "has no value to compute with": (
        "__add__ __sub__ __mul__ __matmul__ __truediv__ __floordiv__ __mod__ __divmod__ __pow__ __lshift__ __rshift__ __and__ "
        "__or__ __xor__ __radd__ __rsub__ __rmul__ __rmatmul__ __rtruediv__ __rfloordiv__ __rmod__ __rpow__ __rrshift__"
    ),
}


class Undone:
    """The base class of `Effect`; its methods say that the program must be run first."""

    __slots__ = ()

    def __bool__(self) -> Any:
        raise TypeError(f"an Effect is neither true nor false: {RUN}")

    def __format__(self, spec: str) -> str:
        if spec:
            raise TypeError(f"an Effect is not formatted by {spec!r}: {RUN}")
        return str(self)


def called(name: str, given: Any) -> Any:
    """Check the function that a program is built from.  Raises: `TypeError` if it is not one, such as another program."""
    if isinstance(given, Undone):
        raise TypeError(f"{name} is a function that makes a program, got a program; to run it next, write .then(program)")
    return function(name, given, "a function")


def program(name: str, given: Any) -> Any:
    """Check the program that another is built from.  Raises: `TypeError` if it is not one."""
    if not isinstance(given, Undone):
        hint = "a function of the value has .map and .bind" if callable(given) else "a value is one as Effect.from_value(value)"
        raise TypeError(f"{name} is an Effect, got {shown(given)}; {hint}")
    return given


def _getattr(self: Undone, name: str) -> Any:
    if name.startswith("_"):  # copying, pickling and notebooks probe for these and can do without
        raise AttributeError(f"'Effect' object has no attribute {name!r}")
    raise AttributeError(
        f"'Effect' object has no attribute {name!r}: it is only a description of a program, which has not run; run it, "
        f"value = program.run_or_raise(), and then value.{name}, or program.map(lambda value: value.{name})",
        name=name,
        obj=self,
    )


def _misused(what: str) -> Callable[..., Any]:
    def misused(self: Undone, *_: Any, **__: Any) -> Any:
        raise TypeError(f"an Effect {what}: {RUN}")

    return misused


# Set at runtime, so that type checkers still reject these uses.
Undone.__getattr__ = _getattr  # type: ignore[attr-defined]
for _what, _names in _USES.items():
    for _name in _names.split():
        setattr(Undone, _name, _misused(_what))


def check_delegated(depth: int = 2) -> None:
    """Raises: `TypeError` unless the frame `depth` calls up, which asks for an iterator, is at a `yield from`."""
    frame = sys._getframe(depth)
    if frame.f_code.co_code[frame.f_lasti] != _YIELD_FROM:
        raise TypeError(f"an Effect cannot be iterated over or unpacked: {RUN}; in a @do function: value = yield from program")


_YIELD_FROM: Final = opmap["GET_YIELD_FROM_ITER"]


def caught(catch: Any) -> Any:
    """Raises: `TypeError` unless `catch` is an exception type or a tuple of them."""
    for kind in catch if isinstance(catch, tuple) else (catch,):
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise TypeError(f"catch is an exception type, such as ValueError, or a tuple of them, got {kind!r}")
    return catch
