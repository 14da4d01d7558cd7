"""Continuations that keep the name of the function that they wrap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, Never, TypeVar

from returns import iterables
from returns.result import Failure, Result, Success

from fnlamp.effect.explain import Outline
from fnlamp.effect.node import Always, Bind, Exit, Handle, Node, Pure, name_of, node_of
from fnlamp.effect.runtime import Runtime
from fnlamp.fault import FaultError, Interrupted

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
E = TypeVar("E")


@dataclass(frozen=True, slots=True)
class Suspended(Generic[A]):
    func: Callable[[], A]

    def __call__(self, runtime: Runtime) -> Result[A, Never]:
        return Success(self.func())


@dataclass(frozen=True, slots=True)
class Checked(Generic[A, E]):
    """A function that raises faults: the fault in a `FaultError` becomes the failure."""

    func: Callable[[Runtime], Result[A, E] | Interrupted]

    def __call__(self, runtime: Runtime) -> Result[A, E] | Interrupted:
        try:
            return self.func(runtime)
        except FaultError as error:
            return Failure(error.fault)  # type: ignore[arg-type]  # a checker cannot follow the type of an exception's fault


@dataclass(frozen=True, slots=True)
class Attempted(Generic[A, E]):
    func: Callable[[], A]
    catch: type[Any] | tuple[type[Any], ...]
    error: Callable[[Any], E]

    def __call__(self, runtime: Runtime) -> Result[A, E]:
        try:
            return Success(self.func())
        except self.catch as exception:
            return Failure(self.error(exception))


@dataclass(frozen=True, slots=True)
class Composed(Generic[A, B, C]):
    func: Callable[[A], B]
    after: Callable[[B], C]

    def __call__(self, value: A) -> C:
        return self.after(self.func(value))


@dataclass(frozen=True, slots=True)
class Tapped(Generic[A]):
    func: Callable[[A], Any]

    def __call__(self, value: A) -> Node:
        return Bind(node_of(self.func(value), self.func), Always(Pure(value)))

    def outline(self, value: Any) -> Outline:
        inner: Callable[[Any], Outline] | None = getattr(self.func, "outline", None)
        if inner is not None:
            return replace(inner(value), value=value)
        return Outline((f"then, on the side, {name_of(self.func)}",), value)


@dataclass(frozen=True, slots=True)
class Applied:
    container: Any

    def __call__(self, value: Any) -> Any:
        return self.container.map(lambda function: function(value))


@dataclass(frozen=True, slots=True)
class Kept:
    """`Applied`, or the value itself if the container fails."""

    container: Any

    def __call__(self, value: Any) -> Node:
        return Handle(node_of(Applied(self.container)(value), self), Lashed(Always(Pure(value))))


# `Fold.collect_all` writes each step as `so_far.apply(item).lash(lambda _: so_far)`, which keeps the value of `so_far` if the
# item fails. But a description that appears twice runs twice, which is 2^k runs for k failures; `Kept` runs it once.
COLLECT_ALL: Final = next((c for c in iterables._concat_failable_safely.__code__.co_consts if hasattr(c, "co_code")), None)


@dataclass(frozen=True, slots=True)
class Lashed(Generic[E]):
    func: Callable[[E], Any]

    def __call__(self, result: Result[Any, E]) -> Any:
        return Pure(result._inner_value) if type(result) is Success else self.func(result.failure())


@dataclass(frozen=True, slots=True)
class Finalized(Generic[A, E]):
    func: Callable[[Exit[A, E]], Any]

    def __call__(self, resource: None, exit: Exit[A, E]) -> Any:
        return self.func(exit)
