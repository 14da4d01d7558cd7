"""Resources: values that are acquired, used and released."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Never, TypeAlias, TypeVar, final

from fnlamp.effect.effect import Effect
from fnlamp.effect.misuse import called, program
from fnlamp.effect.node import Bracket, Defect, Exit, name_of

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

    Acquisition and release are not interrupted. `release` receives the outcome of `use`; the first failure wins.

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

    _base: Callable[[Callable[[Any], Effect[Any, Any]]], Effect[Any, Any]] | _Given
    _then: _Chain = None  # the bound and mapped functions, last one first

    @classmethod
    def make(cls, acquire: Effect[A, E], release: Callable[[A, Exit[Any, Any]], Effect[Any, Any]]) -> Resource[A, E]:
        """A resource from a program that acquires it and a function that releases it."""
        program("acquire", acquire), called("release", release)
        return Resource(lambda body: bracket(acquire, body, release))

    @classmethod
    def from_value(cls, value: A) -> Resource[A, Never]:
        """A value that needs no release."""
        return Resource(_Given(value))

    @classmethod
    def from_context(cls, make: Callable[[], AbstractContextManager[A]]) -> Resource[A, Never]:
        """A resource from a context manager, created again for each use; it sees a bug's exception, but no failure."""

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
        """Acquire, run the program `body(value)`, release."""
        return _used(self, None, called("body", body))

    def bind(self, function: Callable[[A_co], Resource[B, E2]]) -> Resource[B, E_co | E2]:
        """Acquire this, then the resource `function(value)`."""
        called("function", function)
        return Resource(self._base, (self._then, _Step(function, makes_resource=True)))

    def map(self, function: Callable[[A_co], B]) -> Resource[B, E_co]:
        """Apply a plain function to the acquired value."""
        called("function", function)
        return Resource(self._base, (self._then, _Step(function, makes_resource=False)))


@dataclass(frozen=True, eq=False)
class _Given:
    value: Any


@dataclass(frozen=True, eq=False)
class _Step:
    function: Callable[[Any], Any]
    makes_resource: bool


_Chain: TypeAlias = tuple[Any, _Step] | None  # the rest of the chain, and a step


def _used(resource: Resource[Any, Any], rest: _Chain, body: Callable[[Any], Effect[Any, Any]]) -> Effect[Any, Any]:
    """Use the resource, then the steps of `rest` in order, then the body; without recursion, for any number of steps."""
    while True:
        base, chain = resource._base, resource._then
        while chain is not None:
            chain, rest = chain[0], (rest, chain[1])
        if not isinstance(base, _Given):
            return base(body if rest is None else partial(_resume, rest, body))
        value = base.value
        while rest is not None:
            rest, step = rest
            value = step.function(value)
            if step.makes_resource:
                resource = _resource(value, step.function)
                break
        else:
            return body(value)


def _resume(rest: _Chain, body: Callable[[Any], Effect[Any, Any]], value: Any) -> Effect[Any, Any]:
    return _used(Resource(_Given(value)), rest, body)


def _resource(value: Any, function: Any) -> Resource[Any, Any]:
    if not isinstance(value, Resource):
        raise TypeError(f"{name_of(function)} returned {type(value).__name__}, expected Resource (map takes plain functions)")
    return value
