"""The last good state of a run, attached to the outcome. An exception that cannot take it is left as it is."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any, Final

from returns.result import Failure

from fnlamp.effect.node import Defect, Exit
from fnlamp.fault import Fault, FaultError, Interrupted

NOTE: Final = "the last good state is in this exception's .state"


def salvaged(exit: Exit[Any, Any], state: Any) -> Exit[Any, Any]:
    """The same outcome with the state, unless it already has one. A failure that is not a `Fault` cannot carry it."""
    match exit:
        case _ if state is None:
            return exit
        case Interrupted(state=None):
            return replace(exit, state=state)
        case Failure(Fault(state=None) as fault):
            return Failure(_holding(fault, state))
        case Defect(cause, None):
            _attach(cause, state)
            return Defect(cause, state)
        case _:
            return exit


def note(cause: BaseException, text: str) -> None:
    """Add a line to the traceback, if the exception takes one."""
    with contextlib.suppress(BaseException):  # the caller's exception class may raise anything when it is written to
        BaseException.add_note(cause, text)


def shown(value: Any) -> str:
    """`repr` of a value whose `__repr__` may raise."""
    with contextlib.suppress(BaseException):  # the caller's class may raise anything
        return repr(value)
    return f"<{type(value).__name__}, whose repr failed>"


def _holding(fault: Fault, state: Any) -> Fault:
    try:
        return replace(fault, state=state)
    except Exception:  # the caller's fault class may have another constructor
        return fault


def _attach(cause: BaseException, state: Any) -> None:
    with contextlib.suppress(BaseException):  # the caller's exception class may refuse in any way
        if isinstance(cause, FaultError):
            cause.fault = _holding(cause.fault, state)
        elif getattr(cause, "state", None) is None or NOTE in getattr(cause, "__notes__", ()):
            cause.state = state  # type: ignore[attr-defined]  # replaces an earlier run's, if raised again
        else:
            return
        if NOTE not in getattr(cause, "__notes__", ()):
            note(cause, NOTE)
