"""Steps that ask other steps: a loop asks in their place, so that no chain of combinators is too deep for Python's stack."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from typing import Any, Final, Generic, TypeAlias, TypeVar, final

from fnlamp import tree
from fnlamp.stream.step import Emit, End, Fail, Skip, Step

A = TypeVar("A")
Stepper: TypeAlias = Callable[[Any], Step]
Asks: TypeAlias = Generator[tuple[Stepper, Any], Step, A]
"""What yields a step and its state wherever it needs a batch, is sent what comes of it, and returns an `A`."""


class Nested(ABC):
    """A step that needs others. It is called like any step; inside of another one, the same loop runs both."""

    __slots__ = ()

    @abstractmethod
    def asks(self, state: Any) -> Asks[Step]: ...

    def __call__(self, state: Any) -> Step:
        stack, answer = [self.asks(state)], None
        while True:
            try:
                step, inner = stack[-1].send(answer)  # type: ignore[arg-type]  # the first is None, as Python wants it
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
    """The step of a generator function."""
    return _Function(function)


def pulls(step: Stepper, state: Any) -> Asks[Emit | End | Fail]:
    """`yield from` this for the next batch, whatever is skipped before it."""
    while isinstance(got := (yield step, state), Skip):
        state = got.state
    return got


def pull(step: Stepper, state: Any) -> Emit | End | Fail:
    """The next batch, whatever is skipped before it."""
    while isinstance(got := step(state), Skip):
        state = got.state
    return got


@final
class Last(Generic[A]):
    """The last result, for a state that is asked for again at once."""

    __slots__ = ("kept",)

    def __init__(self) -> None:
        self.kept: tuple[Any, A] | None = None  # assigned as one, so that threads need no lock

    def of(self, state: Any) -> A | None:
        kept = self.kept
        return kept[1] if kept is not None and same(kept[0], state, _LOOKS) else None

    def keep(self, state: Any, result: A) -> A:
        self.kept = state, result
        return result


_LOOKS: Final = 100


def same(a: Any, b: Any, looks: int | None = None) -> bool:
    """Whether two states are equal, without recursion; those that so many looks do not show to be equal are not."""
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
