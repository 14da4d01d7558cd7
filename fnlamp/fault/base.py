"""The base class of all faults, and the exception that carries one."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Self


@dataclass(frozen=True)
class Fault:
    """The base of every fault: a place (`where`, a path through the model or the program) and a message (`str(fault)`).

    `state` is the last good state of the run that failed, such as a `Trained`, or `None`.
    """

    where: str = field(default="", kw_only=True)
    state: Any = field(default=None, compare=False, kw_only=True, repr=False)  # == of arrays is an array

    def __getstate__(self) -> dict[str, Any]:
        """For pickle: functions cannot be stored, so a `Trained` is reduced to its `TrainState`."""
        return {**vars(self), "state": getattr(self.state, "state", self.state)}

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def inside(self, name: str) -> Self:
        """The same fault, one level further out."""
        return replace(self, where=f"{name}/{self.where}" if self.where else name)

    def _say(self, message: str) -> str:
        return printable(f"{self.where}: {message}" if self.where else message)


def printable(text: str) -> str:
    """The text with lone surrogates and control characters escaped, which a terminal cannot show, or obeys.

    In Python, file names that are not UTF-8 contain lone surrogates; any file may contain both.

    >>> print(printable("caf\\udce9 \\x1b[31mred"))
    caf\\udce9 \\x1b[31mred
    """
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class FaultError(Exception):
    """Carries a fault out of a pure function; `Effect.checked` turns it into a `Failure`."""

    __module__ = "fnlamp.fault"  # a traceback shows the name that can be imported

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        self.fault = fault

    @property
    def state(self) -> Any:
        """The last good state of the run that failed, or `None`."""
        return self.fault.state

    def __str__(self) -> str:
        return printable(f"{type(self.fault).__name__}: {self.fault}")


@contextlib.contextmanager
def located(name: str) -> Iterator[None]:
    """Prefix `name` to the place of a fault raised inside."""
    try:
        yield
    except FaultError as error:
        raise FaultError(error.fault.inside(name)) from error.__cause__
