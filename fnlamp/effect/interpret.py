"""The interpreter: one loop with its own stack, so that a chain of effects can have any length."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any, Final

from returns.result import Failure, Success

from fnlamp.arrays import tracing
from fnlamp.effect.node import (
    Access,
    Bind,
    Bracket,
    Call,
    Defect,
    Do,
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
    name_of,
    node_of,
)
from fnlamp.effect.runtime import CancelToken, Runtime, Stopped, polled
from fnlamp.effect.salvage import note, salvaged, shown
from fnlamp.effect.signals import Guard, guarded
from fnlamp.fault import Interrupted


def interpret(root: Node, runtime: Runtime) -> Exit[Any, Any]:
    """Run a description to its end; every acquired resource is released before this returns."""
    return outcome(root, runtime)[0]


def outcome(root: Node, runtime: Runtime) -> tuple[Exit[Any, Any], Any]:
    """`interpret`, and the last good state for a failure that cannot carry it."""
    if not isinstance(runtime, Runtime):
        raise TypeError(f"a program is run with a Runtime, got {type(runtime).__name__}: write program.run(Runtime(...))")
    if tracing():
        raise RuntimeError(
            "an Effect was run inside a JAX transformation (jit, grad, vmap), where it would run once, at trace time; "
            "run it outside"
        )
    with guarded(runtime.signals) as guard:
        shields, running, before = guard.shields, guard.running, polled.cancel
        # A run nested in a release is part of that release: the outer run's shields mask its token too.
        cancel = CancelToken(runtime.cancel, guard.token, masked=guard.shielded)
        machine = _Machine(replace(runtime, cancel=cancel), guard)
        try:
            guard.running = True
            exit = machine.run(root)
        finally:
            guard.shields, guard.running, polled.cancel = shields, running, before
    if type(exit) is Success and cancel.requested:
        # A signal after the last step is not swallowed: the caller's own loop must see it.
        return Interrupted(exit._inner_value), None
    failed, state = machine.reached
    return exit, state if type(exit) is Failure and exit._inner_value is failed else None


# ------------------------------------------------------------------------------- the machine


@dataclass(slots=True, eq=False)
class _Acquired:
    bracket: Bracket


@dataclass(slots=True, eq=False)
class _Release:
    release: Callable[[Any, Any], Any]
    resource: Any


@dataclass(slots=True, eq=False)
class _Released:
    before: Exit[Any, Any]


@dataclass(slots=True, eq=False)
class _Resume:
    generator: Generator[Any, Any, Any]


@dataclass(slots=True, eq=False)
class _Restore:
    runtime: Runtime


def _end_by(caught: BaseException) -> Exit[Any, Any]:
    return Interrupted() if issubclass(type(caught), Stopped) else Defect(caught)


_OUTCOMES: Final = frozenset((Success, Failure, Interrupted))


class _Machine:
    """Descends into nodes, pushing a frame for what to do with each outcome, then pops the frames on the way up.

    On the way down, `node` is the next node; on the way up, `node` is `None` and `exit` is the outcome so far.
    """

    __slots__ = ("exit", "guard", "node", "reached", "runtime", "stack")

    def __init__(self, runtime: Runtime, guard: Guard) -> None:
        self.guard = guard
        self.use(runtime)
        self.stack: list[Any] = []
        self.node: Node | None = None
        self.exit: Exit[Any, Any] = Success(None)
        self.reached: tuple[Any, Any] = self, None  # the last failure that has a state, and that state

    def run(self, root: Node) -> Exit[Any, Any]:
        self.node = root
        caught: BaseException | None = None
        while True:
            try:
                if caught is not None:  # inside the try: a second Ctrl-C may arrive now
                    self.node, self.exit, caught = None, _end_by(caught), None
                while self.node is not None or self.stack:
                    if not self.guard.shields and self.guard.held:
                        self.guard.deliver()
                    if not self.guard.shields and self.runtime.cancel.requested and self._may_stop():
                        self.node, self.exit = None, Interrupted()
                    elif self.node is not None:
                        self._down[type(self.node)](self, self.node)
                    else:
                        frame = self.stack.pop()
                        self._up[type(frame)](self, frame)
                return self.exit
            except BaseException as error:  # a bug or a second Ctrl-C: unwind and run the releases
                caught = error

    def use(self, runtime: Runtime) -> None:
        self.runtime, polled.cancel = runtime, runtime.cancel

    def _interrupts(self) -> bool:
        """Whether the next step would turn this success into an interruption."""
        return type(self.exit) is Success and not self.guard.shields and self.runtime.cancel.requested

    def _may_stop(self) -> bool:
        return self.node is not None or (type(self.exit) is Success and bool(self.stack))

    # ---- down

    def _pure(self, node: Pure) -> None:
        self.node, self.exit = None, Success(node.value)

    def _fail(self, node: Failed) -> None:
        self.node, self.exit = None, Failure(node.error)

    def _call(self, node: Call) -> None:
        self.node = None
        exit: Any = node.function(self.runtime)  # the type checker does not know that a `Result` is a `Success` or a `Failure`
        if type(exit) not in _OUTCOMES:
            raise TypeError(f"{name_of(node.function)} returned {type(exit).__name__}, expected Success or Failure")
        self.exit = exit

    def _enter(self, node: Bind | Handle | Named | Salvaged) -> None:
        self.stack.append(node)
        self.node = node.source

    def _bracket(self, node: Bracket) -> None:
        self.guard.shields += 1
        self.stack.append(_Acquired(node))
        self.node = node.acquire

    def _do(self, node: Do) -> None:
        self.node = None
        self.exit = Success(None)
        self.stack.append(_Resume(node.make()))

    def _access(self, node: Access) -> None:
        self.node = node_of(node.function(self.runtime), node.function)

    def _local(self, node: Local) -> None:
        self.stack.append(_Restore(self.runtime))
        self.use(node.change(self.runtime))
        self.node = node.source

    def _outlined(self, node: Outlined) -> None:
        self.node = node.source

    _down: Final[dict[type, Callable[[Any, Any], None]]] = {
        Pure: _pure,
        Failed: _fail,
        Call: _call,
        Bind: _enter,
        Handle: _enter,
        Bracket: _bracket,
        Do: _do,
        Access: _access,
        Local: _local,
        Named: _enter,
        Outlined: _outlined,
        Salvaged: _enter,
    }

    # ---- up

    def _bound(self, frame: Bind) -> None:
        if type(self.exit) is Success:
            self.node = node_of(frame.then(self.exit._inner_value), frame.then)

    def _handled(self, frame: Handle) -> None:
        if type(self.exit) is Success or type(self.exit) is Failure:
            self.node = node_of(frame.then(self.exit), frame.then)

    def _acquired(self, frame: _Acquired) -> None:
        if type(self.exit) is Success:
            resource = self.exit._inner_value
            self.stack.append(_Release(frame.bracket.release, resource))  # before the shield drops
            self.guard.shields -= 1
            self.node = node_of(frame.bracket.use(resource), frame.bracket.use)
        else:
            self.guard.shields -= 1

    def _release(self, frame: _Release) -> None:
        self.guard.shields += 1
        self.stack.append(_Released(self.exit))
        self.node = node_of(frame.release(frame.resource, self.exit), frame.release)

    def _released(self, frame: _Released) -> None:
        self.guard.shields -= 1
        before = frame.before
        if type(before) is Success and type(self.exit) is not Success:
            return  # only the release failed: its failure is the outcome
        if isinstance(before, Defect) and type(self.exit) is not Success:
            note(before.cause, f"and the release failed too: {shown(self.exit)}")
        self.exit = before  # the first failure wins

    def _resumed(self, frame: _Resume) -> None:
        if type(self.exit) is not Success:
            frame.generator.close()  # its `finally` and `with` blocks run
            return
        try:
            effect = frame.generator.send(self.exit._inner_value)
        except StopIteration as stop:
            self.exit = Success(stop.value)
        else:
            self.stack.append(frame)
            self.node = node_of(effect, frame.generator)

    def _restored(self, frame: _Restore) -> None:
        self.use(frame.runtime)

    def _left(self, frame: Named) -> None:
        if isinstance(self.exit, Defect):
            note(self.exit.cause, f"in effect {frame.name!r}")

    def _salvaged(self, frame: Salvaged) -> None:
        if self._interrupts():
            self.exit = Interrupted()
        if type(self.exit) is Success:
            return
        running = self.guard.running
        self.guard.shields += 1  # of other libraries' signals, which are delivered later
        self.guard.running = False  # another Ctrl-C must not lose the state, however many there are
        try:
            state = frame.state()
            self.exit = salvaged(self.exit, state)
            if type(self.exit) is Failure and self.exit._inner_value is not self.reached[0]:
                self.reached = self.exit._inner_value, state
        except Exception as error:  # the caller must see the original outcome, not this error
            self.runtime.say(f"cannot get the last good state of {label_of(frame.source)}: {shown(error)}")
        finally:
            self.guard.running = running
            self.guard.shields -= 1

    _up: Final[dict[type, Callable[[Any, Any], None]]] = {
        Bind: _bound,
        Handle: _handled,
        _Acquired: _acquired,
        _Release: _release,
        _Released: _released,
        _Resume: _resumed,
        _Restore: _restored,
        Named: _left,
        Salvaged: _salvaged,
    }
