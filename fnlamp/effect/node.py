"""The description of a program as plain data, and how a run can end. Nothing here runs anything."""

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
    """A run ended by an undeclared exception: a bug, or a second Ctrl-C. No handler sees it.

    `state` is the last good state of the run, such as a `Trained`; the exception has it as an attribute too.
    """

    cause: BaseException
    state: Any = field(default=None, repr=False)


Exit: TypeAlias = Success[A] | Failure[E] | Interrupted | Defect
"""The outcome of a run; `run_exit` returns it, and `release` functions receive it."""


class Node:
    """One step of a description. `Effect` wraps it; the interpreter runs it."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, eq=False)
class Pure(Node):
    value: Any


@dataclass(frozen=True, slots=True, eq=False)
class Failed(Node):
    error: Any


@dataclass(frozen=True, slots=True, eq=False)
class Call(Node):
    """A side effect. A loop that polls `runtime.cancel` returns `Interrupted` when it stops."""

    function: Callable[[Runtime], Result[Any, Any] | Interrupted]


@dataclass(frozen=True, slots=True, eq=False)
class Bind(Node):
    source: Node
    then: Callable[[Any], Any]


@dataclass(frozen=True, slots=True, eq=False)
class Handle(Node):
    """`then` receives the source's `Result`: success or typed failure, never an interruption or a defect."""

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
    """The `outline` that `explain` shows instead of looking into the source."""

    source: Node
    outline: Callable[[], Any]


@dataclass(frozen=True, slots=True, eq=False)
class Salvaged(Node):
    """`state` gives the last good state to an interruption, a fault or a bug that ends the source."""

    source: Node
    state: Callable[[], Any]


@dataclass(frozen=True, slots=True, eq=False)
class Always:
    """A continuation that ignores its value and continues with a fixed effect, so that `explain` can look into it."""

    effect: Any

    def __call__(self, value: Any) -> Any:
        return self.effect


def name_of(function: Any) -> str:
    """The name of a function, for messages."""
    while hasattr(type(function), "func"):  # functools.partial, and fnlamp's own continuations
        function = function.func
    name = getattr(function, "__qualname__", None) or repr(function)
    return str(name).rsplit("<locals>.", 1)[-1]


def node_of(value: Any, function: Any) -> Node:
    """The node of the effect that `function` returned.  Raises: `TypeError`, which names the function, for anything else."""
    node = value if isinstance(value, Node) else getattr(value, "_inner_value", None)
    if not isinstance(node, Node):
        raise TypeError(
            f"{name_of(function)} returned {type(value).__name__}, expected Effect "
            "(map takes plain functions, bind_result and bind_ioresult take those that return containers)"
        )
    return node


def label_of(node: Node) -> str:
    """A program in a word: the name or kind of its first step, and the number of continuations after it."""
    depth = 0
    while isinstance(node, Bind | Handle | Outlined | Salvaged) and depth < 100:
        node, depth = node.source, depth + isinstance(node, Bind | Handle)
    label = node.name if isinstance(node, Named) else type(node).__name__.lower()
    return f"{label} and {depth} more" if depth else label
