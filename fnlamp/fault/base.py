"""What all faults are, and the exception that carries one."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Self


@dataclass(frozen=True)
class Fault:
    """What every fault has: a place (`where`, a path through the model or the program) and a message (`str(fault)`).

    `state` is the last good state of the run that failed, such as a `Trained`; `None` where there is none.
    """

    where: str = field(default="", kw_only=True)
    state: Any = field(default=None, compare=False, kw_only=True, repr=False)  # arrays have no one answer to ==

    def __getstate__(self) -> dict[str, Any]:
        """For pickle: functions cannot be stored, so of a `Trained` its `TrainState` is."""
        return {**vars(self), "state": getattr(self.state, "state", self.state)}

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def inside(self, name: str) -> Self:
        """The same fault, seen from one level further out."""
        return replace(self, where=f"{name}/{self.where}" if self.where else name)

    def _say(self, message: str) -> str:
        return printable(f"{self.where}: {message}" if self.where else message)


def printable(text: str) -> str:
    """The text with escapes for what a terminal cannot show, or obeys: halves of surrogate pairs and control characters.

    File names that are not UTF-8 have the former in Python; both can be in any file.

    >>> print(printable("caf\\udce9 \\x1b[31mred"))
    caf\\udce9 \\x1b[31mred
    """
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class FaultError(Exception):
    """Carries a fault out of a pure function; `Effect.checked` makes a `Failure` of it."""

    __module__ = "fnlamp.fault"  # what a traceback shows is what can be imported

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
    """Prefix the place of a fault raised inside with `name`."""
    try:
        yield
    except FaultError as error:
        raise FaultError(error.fault.inside(name)) from error.__cause__
