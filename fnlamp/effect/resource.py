"""What must be acquired and released."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Generic, Never, TypeVar, final

from fnlamp.effect.effect import Effect
from fnlamp.effect.misuse import called, program
from fnlamp.effect.node import Bracket, Defect, Exit

A = TypeVar("A")
B = TypeVar("B")
E = TypeVar("E")
E2 = TypeVar("E2")
A_co = TypeVar("A_co", covariant=True)
E_co = TypeVar("E_co", covariant=True)


def bracket(
    acquire: Effect[A, E],
    use: Callable[[A], Effect[B, E2]],
    release: Callable[[A, Exit[B, E2]], Effect[Any, Any]],
) -> Effect[B, E | E2]:
    """Acquire, use, and release on every outcome: success, failure, interruption, bug.

    Acquiring and releasing are not interrupted. `release` is given the outcome of the use; the first failure wins.

    >>> log = []
    >>> program = bracket(
    ...     Effect.suspend(lambda: "file"),
    ...     lambda file: Effect.from_failure("unreadable"),
    ...     lambda file, exit: Effect.suspend(lambda: log.append(f"closed {file}")),
    ... )
    >>> program.run(), log
    failed: ...
    (<IOResult: <Failure: unreadable>>, ['closed file'])
    """
    return Effect(Bracket(program("acquire", acquire)._inner_value, called("use", use), called("release", release)))


@final
@dataclass(frozen=True)
class Resource(Generic[A_co, E_co]):
    """Something to acquire and release, as a value; resources compose with `bind` and are released in reverse order.

    >>> resource = Resource.make(Effect.from_value(20), lambda value, exit: Effect.suspend(lambda: print("released")))
    >>> resource.map(lambda n: n + 1).use(lambda n: Effect.from_value(2 * n)).run()
    released
    <IOResult: <Success: 42>>
    """

    _use: Callable[[Callable[[Any], Effect[Any, Any]]], Effect[Any, Any]]

    @classmethod
    def make(cls, acquire: Effect[A, E], release: Callable[[A, Exit[Any, Any]], Effect[Any, Any]]) -> Resource[A, E]:
        """A resource from the program that acquires it and the one that releases it."""
        program("acquire", acquire), called("release", release)
        return Resource(lambda body: bracket(acquire, body, release))

    @classmethod
    def from_value(cls, value: A) -> Resource[A, Never]:
        """Something that needs no release."""
        return Resource(lambda body: body(value))

    @classmethod
    def from_context(cls, make: Callable[[], AbstractContextManager[A]]) -> Resource[A, Never]:
        """A resource from a context manager, made anew at each use; it sees a bug's exception, and no failure."""

        called("make", make)

        def acquire() -> tuple[AbstractContextManager[A], A]:
            manager = make()
            return manager, manager.__enter__()

        def release(pair: tuple[AbstractContextManager[A], A], exit: Exit[Any, Any]) -> Effect[Any, Never]:
            cause = exit.cause if isinstance(exit, Defect) else None
            kind, traceback = (type(cause), cause.__traceback__) if cause else (None, None)
            return Effect.suspend(lambda: pair[0].__exit__(kind, cause, traceback))

        return Resource(lambda body: bracket(Effect.suspend(acquire), lambda pair: body(pair[1]), release))

    def use(self, body: Callable[[A_co], Effect[B, E2]]) -> Effect[B, E_co | E2]:
        """Acquire, run the program that `body` makes of it, release."""
        return self._use(called("body", body))

    def bind(self, function: Callable[[A_co], Resource[B, E2]]) -> Resource[B, E_co | E2]:
        """Acquire this, then the resource that `function` makes of it."""
        called("function", function)
        return Resource(lambda body: self._use(lambda a: function(a)._use(body)))

    def map(self, function: Callable[[A_co], B]) -> Resource[B, E_co]:
        """A plain function of what was acquired."""
        called("function", function)
        return Resource(lambda body: self._use(lambda a: body(function(a))))
