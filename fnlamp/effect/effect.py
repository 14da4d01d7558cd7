"""`Effect[A, E]`: a program as an immutable value, lazily built, a lawful `returns` container."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import Any, Never, TypeVar, final

from returns.context import RequiresContextIOResult
from returns.interfaces.specific.ioresult import IOResultLike2
from returns.interfaces.specific.reader import Contextable
from returns.io import IO, IOResult
from returns.primitives.container import BaseContainer
from returns.primitives.hkt import Kind2, SupportsKind2
from returns.result import Failure, Result, Success
from returns.unsafe import unsafe_perform_io

from fnlamp.effect.explain import Explanation, Outline, explain
from fnlamp.effect.failed import FailedRun, exception_of, line_of
from fnlamp.effect.interpret import interpret, outcome
from fnlamp.effect.misuse import RUN, Undone, called, caught, check_delegated, program
from fnlamp.effect.node import (
    Access,
    Always,
    Bind,
    Bracket,
    Call,
    Defect,
    Exit,
    Failed,
    Handle,
    Local,
    Named,
    Node,
    Outlined,
    Pure,
    Salvaged,
    label_of,
)
from fnlamp.effect.runtime import Runtime
from fnlamp.effect.then import COLLECT_ALL, Applied, Attempted, Checked, Composed, Finalized, Kept, Lashed, Suspended, Tapped
from fnlamp.fault import FaultError, Interrupted
from fnlamp.given import function, instance, number, text, whole

A = TypeVar("A")
B = TypeVar("B")
E = TypeVar("E")
E2 = TypeVar("E2")
X = TypeVar("X", bound=BaseException)
A_co = TypeVar("A_co", covariant=True)
E_co = TypeVar("E_co", covariant=True)


@final
class Effect(  # type: ignore[type-var]  # returns declares its variables invariant; an immutable value is covariant
    Undone,
    BaseContainer,
    SupportsKind2["Effect[Any, Any]", A_co, E_co],
    IOResultLike2[A_co, E_co],
    Contextable["IOResult[A_co, E_co]", "Runtime | None"],
):
    """A description of a program that yields an `A` or fails with an `E` when run. Building it does nothing.

    >>> from fnlamp.effect import Effect, Runtime
    >>> program = Effect.suspend(lambda: 20).map(lambda n: n + 1).bind(lambda n: Effect.from_value(2 * n))
    >>> program.run()
    <IOResult: <Success: 42>>
    """

    __slots__ = ()
    _inner_value: Node

    def __init__(self, node: Node) -> None:
        """Wrap a node; users build with the class methods below."""
        super().__init__(node)

    # ---- build

    @classmethod
    def from_value(cls, inner_value: A) -> Effect[A, Never]:
        """The program that does nothing and yields the value."""
        return Effect(Pure(inner_value))

    @classmethod
    def from_failure(cls, inner_value: E) -> Effect[Never, E]:
        """The program that fails with the value."""
        return Effect(Failed(inner_value))

    @classmethod
    def from_result(cls, inner_value: Result[A, E]) -> Effect[A, E]:
        """The program that yields or fails as the `Result` says."""
        instance("inner_value", inner_value, Result, "a Result, Success(value) or Failure(error)")
        return Effect(Pure(inner_value.unwrap()) if type(inner_value) is Success else Failed(inner_value.failure()))

    @classmethod
    def from_io(cls, inner_value: IO[A]) -> Effect[A, Never]:
        """The program that yields the value in the `IO`."""
        return Effect(Pure(unsafe_perform_io(instance("inner_value", inner_value, IO, "an IO"))))

    @classmethod
    def from_failed_io(cls, inner_value: IO[E]) -> Effect[Never, E]:
        """The program that fails with the value in the `IO`."""
        return Effect(Failed(unsafe_perform_io(instance("inner_value", inner_value, IO, "an IO"))))

    @classmethod
    def from_ioresult(cls, inner_value: IOResult[A, E]) -> Effect[A, E]:
        """The program that yields or fails as the `IOResult` says."""
        return Effect.from_result(instance("inner_value", inner_value, IOResult, "an IOResult")._inner_value)

    @classmethod
    def from_reader(cls, reader: RequiresContextIOResult[A, E, Runtime]) -> Effect[A, E]:
        """The program that calls a reader of the `returns` library with the runtime."""
        checked = function("reader", reader, "a RequiresContextIOResult, which is called with a Runtime")
        return Effect(Call(lambda runtime: checked(runtime)._inner_value))

    @classmethod
    def suspend(cls, thunk: Callable[[], A]) -> Effect[A, Never]:
        """A side effect without expected failures: an exception in it is a bug and propagates."""
        return Effect(Call(Suspended(called("thunk", thunk))))

    @classmethod
    def attempt(cls, thunk: Callable[[], A], catch: type[X] | tuple[type[X], ...], error: Callable[[X], E]) -> Effect[A, E]:
        """A side effect whose exceptions of the given types become failures; others stay bugs.

        >>> Effect.attempt(lambda: int("x"), ValueError, str).run()
        failed: ...
        <IOResult: <Failure: invalid literal for int() with base 10: 'x'>>
        """
        return Effect(Call(Attempted(called("thunk", thunk), caught(catch), called("error", error))))

    @classmethod
    def checked(cls, thunk: Callable[[], A]) -> Effect[A, Any]:
        """A side effect that raises its faults: the fault in a `FaultError` becomes the failure; other exceptions stay bugs.

        >>> def load():
        ...     raise fault.FaultError(fault.FileMissing("rows.csv", "no such file"))
        >>> Effect.checked(load).alt(lambda missing: missing.path).run()
        failed: ...
        <IOResult: <Failure: rows.csv>>
        """
        return Effect(Call(Checked(Suspended(called("thunk", thunk)))))

    @classmethod
    def call(cls, function: Callable[[Runtime], Result[A, E] | Interrupted]) -> Effect[A, E]:
        """A side effect that needs the runtime; a long loop in it polls `runtime.cancel` and returns `Interrupted(state)`.

        As in `checked`, a `FaultError` raised in it becomes its failure.
        """
        return Effect(Call(Checked(called("function", function))))

    @classmethod
    def asks(cls, function: Callable[[Runtime], A]) -> Effect[A, Never]:
        """The program that yields `function(runtime)`."""
        return Effect(Call(Composed(called("function", function), Success)))

    @classmethod
    def access(cls, function: Callable[[Runtime], Effect[A, E]]) -> Effect[A, E]:
        """Run the program `function(runtime)`."""
        return Effect(Access(called("function", function)))

    # ---- compose

    def bind(self: Effect[A, E], function: Callable[[A], Effect[B, E2]]) -> Effect[B, E | E2]:  # type: ignore[override]
        """Run this, then the program `function(value)`; the error type is the union of both."""
        return Effect(Bind(self._inner_value, called("function", function)))

    def map(self: Effect[A, E], function: Callable[[A], B]) -> Effect[B, E]:
        """Apply a plain function to the value."""
        return Effect(Bind(self._inner_value, Composed(called("function", function), Effect.from_value)))

    def tap(self: Effect[A, E], function: Callable[[A], Effect[Any, E2]]) -> Effect[A, E | E2]:
        """Run the program `function(value)`, and keep the value."""
        return Effect(Bind(self._inner_value, Tapped(called("function", function))))

    def then(self: Effect[A, E], other: Effect[B, E2]) -> Effect[B, E | E2]:
        """Run this, then the other, and yield the other's value."""
        return Effect(Bind(self._inner_value, Always(program("other", other))))

    def zip(self: Effect[A, E], other: Effect[B, E2]) -> Effect[tuple[A, B], E | E2]:
        """Run this, then the other, and yield both values."""
        second = program("other", other)
        return self.bind(lambda a: second.map(lambda b: (a, b)))

    def apply(self: Effect[A, E], container: Kind2[Effect[Any, Any], Callable[[A], B], E2]) -> Effect[B, E | E2]:
        """Run this, then the program that yields a function, and apply it."""
        return Effect(Bind(self._inner_value, Applied(program("container", container))))

    def lash(self: Effect[A, E], function: Callable[[E], Effect[B, E2]]) -> Effect[A | B, E2]:  # type: ignore[override]
        """After a failure, run the program `function(error)`; bugs and interruptions pass through."""
        node = self._inner_value
        if getattr(function, "__code__", self) is COLLECT_ALL and isinstance(node, Bind) and isinstance(node.then, Applied):
            return Effect(Bind(node.source, Kept(node.then.container)))
        return Effect(Handle(self._inner_value, Lashed(called("function", function))))

    def alt(self: Effect[A, E], function: Callable[[E], E2]) -> Effect[A, E2]:
        """Apply a plain function to the failure."""
        return Effect(Handle(self._inner_value, Lashed(Composed(called("function", function), Effect.from_failure))))

    def compose_result(self: Effect[A, E], function: Callable[[Result[A, E]], Effect[B, E2]]) -> Effect[B, E2]:  # type: ignore[override]
        """Continue with the program `function(result)`, for success and failure alike."""
        return Effect(Handle(self._inner_value, called("function", function)))

    def attempted(self: Effect[A, E]) -> Effect[Result[A, E], Never]:
        """The outcome as a value: this program cannot fail."""
        return self.compose_result(Effect.from_value)

    def swap(self: Effect[A, E]) -> Effect[E, A]:
        """Exchange success and failure."""
        return self.compose_result(lambda result: Effect.from_result(result.swap()))

    def bind_result(self: Effect[A, E], function: Callable[[A], Result[B, E2]]) -> Effect[B, E | E2]:
        """`bind` for a function that returns a `Result`."""
        return Effect(Bind(self._inner_value, Composed(called("function", function), Effect.from_result)))

    def bind_io(self: Effect[A, E], function: Callable[[A], IO[B]]) -> Effect[B, E]:
        """`bind` for a function that returns an `IO`."""
        return Effect(Bind(self._inner_value, Composed(called("function", function), Effect.from_io)))

    def bind_ioresult(self: Effect[A, E], function: Callable[[A], IOResult[B, E2]]) -> Effect[B, E | E2]:
        """`bind` for a function that returns an `IOResult`."""
        return Effect(Bind(self._inner_value, Composed(called("function", function), Effect.from_ioresult)))

    def retry(
        self: Effect[A, E],
        times: int,
        *,
        delay: Callable[[int], float] = lambda attempt: 0.0,
        when: Callable[[E], bool] = lambda error: True,
    ) -> Effect[A, E]:
        """Run again after a failure for which `when` is true, at most `times` times, `delay(0)`, `delay(1)`, ... seconds later.

        >>> Effect.from_failure("busy").retry(3, delay=lambda attempt: 0.01 * 2.0**attempt).run()
        failed: ...
        <IOResult: <Failure: busy>>
        """
        times, delay, when = whole("times", times, 0), called("delay", delay), called("when", when)

        def attempt(n: int) -> Effect[A, E]:
            def again(error: E) -> Effect[A, E]:
                return sleep(delay(n)).then(attempt(n + 1)) if n < times and when(error) else Effect.from_failure(error)

            return self.lash(again)

        return attempt(0)

    def ensuring(self: Effect[A, E], finalizer: Callable[[Exit[A, E]], Effect[Any, Any]]) -> Effect[A, E]:
        """Run the finalizer on every outcome, interruptions and bugs included; nothing interrupts it."""
        return Effect(Bracket(Pure(None), Always(self), Finalized(called("finalizer", finalizer))))

    def local(self: Effect[A, E], change: Callable[[Runtime], Runtime]) -> Effect[A, E]:
        """Run with a changed runtime."""
        return Effect(Local(self._inner_value, called("change", change)))

    def named(self: Effect[A, E], name: str) -> Effect[A, E]:
        """A name that `explain` shows and that a bug's traceback carries as a note."""
        return Effect(Named(self._inner_value, text("name", name)))

    def outlined(self: Effect[A, E], outline: Callable[[], Outline]) -> Effect[A, E]:
        """Replace what `explain` shows of this program; running it is unchanged."""
        return Effect(Outlined(self._inner_value, called("outline", outline)))

    def salvaged(self: Effect[A, E], state: Callable[[], Any]) -> Effect[A, E]:
        """Keep the last good state: an end that is not a success carries `state()`; no signal interrupts it: keep it short."""
        return Effect(Salvaged(self._inner_value, called("state", state)))

    def __iter__(self: Effect[A, E]) -> Generator[Effect[A, E], Any, A]:
        """`a = yield from effect`, inside a `@do` function."""
        check_delegated()
        return self._yielded()

    def _yielded(self: Effect[A, E]) -> Generator[Effect[A, E], Any, A]:
        return (yield self)  # type: ignore[no-any-return]

    # ---- look, run

    def explain(self, runtime: Runtime | None = None) -> Explanation:
        """The plan of a run by this runtime, as far as it is known without running anything.  Raises: `TypeError`."""
        runtime = Runtime() if runtime is None else instance("explain: runtime", runtime, Runtime, "a Runtime, as Runtime()")
        return explain(self._inner_value, runtime)

    def run(self, runtime: Runtime | None = None) -> IOResult[A_co, E_co | Interrupted]:
        """Run it. A failure is a value, an interruption is `IOFailure(Interrupted(state))`, a bug is raised.

        The runtime logs the failure. In a script that does not check the value, use `run_or_raise`.
        """
        runtime = Runtime() if runtime is None else runtime
        match interpret(self._inner_value, runtime):
            case Defect(cause):
                raise cause
            case (Interrupted() as failure) | Failure(failure):
                pass
            case exit:
                return IOResult.from_result(exit)
        with contextlib.suppress(Exception):  # a closed log must not hide the failure
            runtime.say(line_of(failure))
        return FailedRun(failure)

    def run_or_raise(self, runtime: Runtime | None = None) -> A_co:
        """Run it and return the value; a failure or an interruption is raised, with the last good state as its `state`.

        Raises: `FaultError` with the `fault`; `FailureError` with the `failure`, if that is of another type.

        >>> Effect.suspend(lambda: 42).run_or_raise()
        42
        >>> Effect.from_failure(fault.EmptyEpoch(rows=0, batch_size=2)).run_or_raise()
        Traceback (most recent call last):
        fnlamp.fault.FaultError: EmptyEpoch: expected at least one batch per epoch, got none: ...
        """
        exit, state = outcome(self._inner_value, Runtime() if runtime is None else runtime)
        match exit:
            case Success(value):
                return value  # type: ignore[no-any-return]
            case Defect(cause):
                raise cause
            case Interrupted():
                raise FaultError(exit)
            case _:
                raise exception_of(exit.failure(), state)

    def run_exit(self, runtime: Runtime | None = None) -> Exit[A_co, E_co]:
        """Run it; every outcome is a value: `Success`, `Failure`, `Interrupted` or `Defect`. Nothing is logged."""
        return interpret(self._inner_value, Runtime() if runtime is None else runtime)

    def __call__(self, deps: Runtime | None = None) -> IOResult[A_co, E_co]:
        """`run`, under the name that the laws of the `returns` library use."""
        if not (deps is None or isinstance(deps, Runtime)):
            raise TypeError(f"an Effect is called with a Runtime, got {type(deps).__name__}: {RUN}")
        return self.run(deps)  # type: ignore[return-value]  # the laws' programs are not interrupted

    def to_reader(self: Effect[A, E]) -> RequiresContextIOResult[A, E | Interrupted, Runtime]:
        """The same program as a reader of the `returns` library."""
        return RequiresContextIOResult(self.run)

    def __repr__(self) -> str:
        return f"<Effect: {label_of(self._inner_value)}>"


def ask() -> Effect[Runtime, Never]:
    """The runtime of the current run."""
    return Effect.asks(lambda runtime: runtime)


def sleep(seconds: float) -> Effect[None, Never]:
    """Wait that many seconds on the runtime's clock; Ctrl-C ends the wait."""
    time = number("seconds", seconds, "a number of 0 or more", lambda time: time >= 0)

    def sleep(runtime: Runtime) -> None:  # `explain` shows this name
        runtime.sleep(time)

    return Effect.asks(sleep)
