"""Do-notation and loops: programs written as generator functions."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from returns.result import Result, Success

from fnlamp.effect.effect import Effect
from fnlamp.effect.misuse import called, program
from fnlamp.effect.node import Access, Named, name_of, node_of
from fnlamp.effect.node import Do as DoNode
from fnlamp.effect.runtime import Runtime
from fnlamp.given import shown

if sys.version_info >= (3, 12):
    from typing import TypeAliasType
else:
    from typing_extensions import TypeAliasType  # `returns` depends on it

A = TypeVar("A")
B = TypeVar("B")
E = TypeVar("E")
P = ParamSpec("P")

Do = TypeAliasType("Do", Generator[Effect[Any, E], Any, A], type_params=(A, E))
"""The return annotation of a `@do` function: `Do[value, error]`."""


def do(function: Callable[P, Generator[Effect[Any, E], Any, A]]) -> Callable[P, Effect[A, E]]:
    """Turn a generator function into a function that returns a program; `x = yield from effect` runs an effect for its value.

    Each run creates a new generator, so the program can be run again. A failure leaves the block at its `yield from`;
    `finally` and `with` blocks run.

    >>> from fnlamp.effect import Do, Effect, do
    >>> @do
    ... def total(n: int) -> Do[int, str]:
    ...     x = yield from Effect.from_value(n)
    ...     y = yield from Effect.suspend(lambda: 2 * x)
    ...     return x + y
    >>> total(14).run()
    <IOResult: <Success: 42>>
    """

    called("function", function)

    @wraps(function)
    def build(*args: P.args, **kwargs: P.kwargs) -> Effect[A, E]:
        def block() -> Generator[Effect[Any, E], Any, A]:
            made = function(*args, **kwargs)
            if not isinstance(made, Generator):
                raise TypeError(f"{name_of(function)} returned {type(made).__name__}: a @do function needs a yield from in it")
            return made

        return Effect(Named(DoNode(block), name_of(function)))

    return build


def collect(effects: Iterable[Effect[A, E]]) -> Effect[tuple[A, ...], E]:
    """Run the programs in order and yield all their values; the first failure ends the run.

    >>> collect([Effect.from_value(1), Effect.from_value(2)]).run()
    <IOResult: <Success: (1, 2)>>
    """
    if isinstance(effects, Effect) or not isinstance(effects, Iterable):
        raise TypeError(f"effects is a list of programs, got {shown(effects)}")
    items = tuple(program(f"effects: item {i}", effect) for i, effect in enumerate(effects))

    @do
    def collect() -> Generator[Effect[Any, E], Any, tuple[A, ...]]:
        values: list[A] = []
        for item in items:
            values.append((yield from item))
        return tuple(values)

    return collect()


def iterate(state: A, body: Callable[[A], Effect[Result[A, B], E]]) -> Effect[B, E]:
    """A loop of any length in constant memory: `Success(state)` continues with that state, `Failure(value)` ends with a value.

    >>> from returns.result import Failure, Success
    >>> iterate(0, lambda n: Effect.from_value(Success(n + 1) if n < 10**5 else Failure(n))).run()
    <IOResult: <Success: 100000>>
    """

    called("body", body)

    @do
    def loop() -> Generator[Effect[Any, E], Any, B]:
        current = state
        while True:
            result: Result[A, B] = yield from Effect(node_of(body(current), body))
            if type(result) is not Success:
                return result.failure()
            current = result.unwrap()

    def iterate(_: Runtime) -> Effect[B, E]:  # `explain` shows this name
        return loop()

    return Effect(Access(iterate))
