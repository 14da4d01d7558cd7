"""The description of a program as plain data, and how a run of it can end. Nothing here runs anything."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from returns.result import Failure, Result, Success

from fnlamp.fault import Interrupted

if TYPE_CHECKING:
    from fnlamp.effect.runtime import Runtime

A = TypeVar("A")
E = TypeVar("E")


@dataclass(frozen=True, eq=False)
class Defect:
    """A run ended by an exception that nobody declared: a bug, or a second Ctrl-C. No handler sees it.

    `state` is the last good state of the run, such as a `Trained`, which the exception has as an attribute too.
    """

    cause: BaseException
    state: Any = field(default=None, repr=False)


Exit: TypeAlias = Success[A] | Failure[E] | Interrupted | Defect
"""What a run ends with; `run_exit` returns it and `release` functions are given it."""


class Node:
    """One step of a description. `Effect` wraps it, the interpreter takes it apart."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, eq=False)
class Pure(Node):
    value: Any


@dataclass(frozen=True, slots=True, eq=False)
class Fail(Node):
    error: Any


@dataclass(frozen=True, slots=True, eq=False)
class Call(Node):
    """A side effect. `Interrupted` as its outcome is how a loop that polls `runtime.cancel` says that it stopped."""

    function: Callable[[Runtime], Result[Any, Any] | Interrupted]


@dataclass(frozen=True, slots=True, eq=False)
class Bind(Node):
    source: Node
    then: Callable[[Any], Any]


@dataclass(frozen=True, slots=True, eq=False)
class Handle(Node):
    """`then` sees the source's `Result`: success and typed failure, never an interruption or a defect."""

    source: Node
    then: Callable[[Result[Any, Any]], Any]


@dataclass(frozen=True, slots=True, eq=False)
class Bracket(Node):
    acquire: Node
    use: Callable[[Any], Any]
    release: Callable[[Any, Any], Any]


@dataclass(frozen=True, slots=True, eq=False)
class Do(Node):
    make: Callable[[], Generator[Any, Any, Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Access(Node):
    function: Callable[[Runtime], Any]


@dataclass(frozen=True, slots=True, eq=False)
class Local(Node):
    source: Node
    change: Callable[[Runtime], Runtime]


@dataclass(frozen=True, slots=True, eq=False)
class Named(Node):
    """A name for tracebacks and plans."""

    source: Node
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Outlined(Node):
    """What `explain` shows instead of looking into the source."""

    source: Node
    outline: Callable[[], Any]


@dataclass(frozen=True, slots=True, eq=False)
class Salvaged(Node):
    """`state` is the last good state, for whatever ends the source before it succeeds: an interruption, a fault, a bug."""

    source: Node
    state: Callable[[], Any]


@dataclass(frozen=True, slots=True, eq=False)
class Always:
    """A continuation that goes on with the same effect whatever came, so that `explain` can look into it."""

    effect: Any

    def __call__(self, value: Any) -> Any:
        return self.effect


def name_of(function: Any) -> str:
    """A function as a person would call it."""
    while hasattr(type(function), "func"):  # functools.partial, and fnlamp's own continuations
        function = function.func
    name = getattr(function, "__qualname__", None) or repr(function)
    return str(name).rsplit("<locals>.", 1)[-1]


def node_of(value: Any, function: Any) -> Node:
    """The node of the effect that `function` returned; anything else is a bug that is told by name."""
    node = value if isinstance(value, Node) else getattr(value, "_inner_value", None)
    if not isinstance(node, Node):
        raise TypeError(
            f"{name_of(function)} returned {type(value).__name__}, expected Effect "
            "(map takes plain functions, bind_result and bind_ioresult take those that return containers)"
        )
    return node
