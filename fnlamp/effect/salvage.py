"""The last good state of a run, put into what ended it. An exception that resists does not get in the way."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any, Final

from returns.result import Failure

from fnlamp.effect.node import Defect, Exit
from fnlamp.fault import Fault, FaultError, Interrupted

NOTE: Final = "the last good state is in this exception's .state"


def salvaged(exit: Exit[Any, Any], state: Any) -> Exit[Any, Any]:
    """The same end with the state in it, if it has none of its own yet. One that is not a `Fault` has no place for it."""
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
    """A line for the traceback, if the exception takes one; a class of the caller's may do anything when it is written to."""
    with contextlib.suppress(BaseException):
        BaseException.add_note(cause, text)


def shown(value: Any) -> str:
    """`repr`, of a value whose own may raise."""
    with contextlib.suppress(BaseException):
        return repr(value)
    return f"<{type(value).__name__}, whose repr failed>"


def _holding(fault: Fault, state: Any) -> Fault:
    try:
        return replace(fault, state=state)
    except Exception:  # a fault of the caller's, which is not made of its fields
        return fault


def _attach(cause: BaseException, state: Any) -> None:
    with contextlib.suppress(BaseException):  # the class of an exception of the caller's may refuse, in any way
        if isinstance(cause, FaultError):
            cause.fault = _holding(cause.fault, state)
        elif getattr(cause, "state", None) is None or NOTE in getattr(cause, "__notes__", ()):
            cause.state = state  # type: ignore[attr-defined]  # in place of that of an earlier run, if it is raised again
        else:
            return
        if NOTE not in getattr(cause, "__notes__", ()):
            note(cause, NOTE)
