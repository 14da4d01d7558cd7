"""Steps that call other steps: one loop makes the calls, so that long chains of combinators do not exhaust Python's stack."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from typing import Any, Final, Generic, TypeAlias, TypeVar, final

from fnlamp import tree
from fnlamp.stream.step import Emit, End, Fail, Skip, Step

A = TypeVar("A")
Stepper: TypeAlias = Callable[[Any], Step]
Asks: TypeAlias = Generator[tuple[Stepper, Any], Step, A]
"""A generator that yields each step to call with its state, receives the result, and returns an `A`."""


class Nested(ABC):
    """A step that calls others. It is called like any step; inside another nested step, the same loop runs both."""

    __slots__ = ()

    @abstractmethod
    def asks(self, state: Any) -> Asks[Step]: ...

    def __call__(self, state: Any) -> Step:
        stack, answer = [self.asks(state)], None
        while True:
            try:
                step, inner = stack[-1].send(answer)  # type: ignore[arg-type]  # a generator is started with None
            except StopIteration as done:
                stack.pop()
                answer = done.value
                if not stack:
                    return answer  # type: ignore[no-any-return]
                continue
            if isinstance(step, Nested):
                stack.append(step.asks(inner))
                answer = None
            else:
                answer = step(inner)


@final
class _Function(Nested):
    __slots__ = ("function",)

    def __init__(self, function: Callable[[Any], Asks[Step]]) -> None:
        self.function = function

    def asks(self, state: Any) -> Asks[Step]:
        return self.function(state)


def nested(function: Callable[[Any], Asks[Step]]) -> Stepper:
    """The step that a generator function describes."""
    return _Function(function)


def pulls(step: Stepper, state: Any) -> Asks[Emit | End | Fail]:
    """`yield from` this for the next batch; skips are passed over."""
    while isinstance(got := (yield step, state), Skip):
        state = got.state
    return got


def pull(step: Stepper, state: Any) -> Emit | End | Fail:
    """The next batch; skips are passed over."""
    while isinstance(got := step(state), Skip):
        state = got.state
    return got


@final
class Last(Generic[A]):
    """The last result, for repeated requests of the same state."""

    __slots__ = ("kept",)

    def __init__(self) -> None:
        self.kept: tuple[Any, A] | None = None  # one assignment, so that threads need no lock

    def of(self, state: Any) -> A | None:
        kept = self.kept
        return kept[1] if kept is not None and same(kept[0], state, _LOOKS) else None

    def keep(self, state: Any, result: A) -> A:
        self.kept = state, result
        return result


_LOOKS: Final = 100


def same(a: Any, b: Any, looks: int | None = None) -> bool:
    """Whether two states are equal, without recursion; after `looks` comparisons they count as different."""
    pairs = [(a, b)]
    while pairs and looks != 0:
        looks = None if looks is None else looks - 1
        a, b = pairs.pop()
        if a is b:
            continue
        if isinstance(a, tuple) and isinstance(b, tuple):
            if len(a) != len(b):
                return False
            pairs.extend(zip(a, b, strict=True))
        elif not tree.equal(a, b):
            return False
    return not pairs
