"""How a failed run is reported: as a log line, as an exception, and when it is unwrapped."""

from __future__ import annotations

from typing import Any, Never, Self, TypeVar

from returns.io import IO, IOFailure, IOResult
from returns.primitives.exceptions import UnwrapFailedError
from returns.result import Failure, Result

from fnlamp.effect.salvage import shown
from fnlamp.fault import Fault, FaultError, Interrupted

A = TypeVar("A")
E = TypeVar("E")
E2 = TypeVar("E2")


class FailureError(Exception):
    """The exception for a failure that is not a `Fault`: `failure` is the value, `state` the last good state of its run.

    >>> Effect.from_failure("no space left").run_or_raise()
    Traceback (most recent call last):
    fnlamp.effect.failed.FailureError: no space left
    """

    def __init__(self, failure: Any, state: Any = None) -> None:
        super().__init__(failure, state)
        self.failure, self.state = failure, state

    def __str__(self) -> str:
        return text_of(self.failure)


def exception_of(failure: Any, state: Any = None) -> FaultError | FailureError:
    """The exception that `run_or_raise` raises."""
    if isinstance(failure, Fault):
        return FaultError(failure)
    error = FailureError(failure, state)
    error.__cause__ = failure if isinstance(failure, BaseException) else None
    return error


def text_of(failure: Any) -> str:
    """A failure as text."""
    if isinstance(failure, str):
        return failure
    if not isinstance(failure, Fault | BaseException):
        return shown(failure)
    try:
        return f"{type(failure).__name__}: {failure}"
    except Exception:  # the caller's class may have a `__str__` that raises
        return shown(failure)


def line_of(failure: Any) -> str:
    """The log line of a run that failed or was interrupted."""
    if isinstance(failure, Interrupted):
        return str(failure)
    text = f"failed: {text_of(failure)}"
    held = isinstance(failure, Fault) and failure.state is not None and ".state" not in text
    return f"{text}\nthe last good state is in the failure's .state" if held else text


class FailedRunError(UnwrapFailedError):
    """A failed run was unwrapped. The message is the failure's."""

    def __str__(self) -> str:
        return f"the run failed: {text_of(self.halted_container.failure())}"


class FailedRun(IOFailure[E]):  # type: ignore[misc]  # final for type checkers only; at runtime this is an `IOFailure`
    """The `IOFailure` that a run returns; unwrapping it says what failed."""

    __slots__ = ()

    @classmethod
    def from_result(cls, inner_value: Result[A, E2]) -> IOResult[A, E2]:  # type: ignore[override]  # as returns itself does
        """The constructor that `map` and the like use."""
        return FailedRun(inner_value.failure()) if isinstance(inner_value, Failure) else IOResult.from_result(inner_value)

    def unwrap(self) -> Never:
        """Raises: `FailedRunError`."""
        raise FailedRunError(self._inner_value) from exception_of(self._inner_value.failure())

    def value_or(self, default_value: A) -> IO[A]:
        """The default."""
        return IO(default_value)

    def equals(self, other: object) -> bool:
        """Whether the other is an `IOFailure` of an equal value."""
        return self == other

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IOFailure) and bool(self._inner_value == other._inner_value)

    def __hash__(self) -> int:
        return hash(self._inner_value)

    def __reduce__(self) -> tuple[Any, ...]:
        return IOFailure, (self._inner_value.failure(),)

    def __copy__(self) -> Self:
        return self
