"""What a program would do, as far as that can be known without running it.

Nodes and continuations that fnlamp provides carry an abstract meaning, an `outline`; a user's own function is shown by its name
and not looked into, nor is what depends on its result. No `Call` is run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from fnlamp.effect.node import (
    Access,
    Always,
    Bind,
    Bracket,
    Call,
    Do,
    Fail,
    Handle,
    Local,
    Named,
    Node,
    Outlined,
    Pure,
    Salvaged,
    name_of,
    node_of,
)
from fnlamp.fault import Fault


@dataclass(frozen=True)
class Unknown:
    """An abstract value that is known when the program is run; `why` tells what it depends on, for what follows to say."""

    why: str = ""

    def __repr__(self) -> str:
        return "unknown"


UNKNOWN: Final = Unknown()
"""The abstract value of what only a run can tell."""


@dataclass(frozen=True)
class Standing:
    """An abstract value of the shapes and types that a run will give; functions that build programs can be applied to it."""

    value: Any


@dataclass(frozen=True)
class Outline:
    """An abstract meaning: the lines to show, the abstract value that comes out, the fault that a run is sure to end with."""

    lines: tuple[str, ...]
    value: Any = UNKNOWN
    fault: Fault | None = None


class Explanation(str):
    """The text of a plan; `fault` is the failure that a run is sure to end with, or `None`."""

    __slots__ = ("fault",)
    fault: Fault | None

    def __new__(cls, text: str, fault: Fault | None = None) -> Explanation:
        self = super().__new__(cls, text)
        self.fault = fault
        return self

    def __repr__(self) -> str:  # a notebook and a prompt show the plan, not an escaped string
        return str(self)


def explain(root: Node) -> Explanation:
    """Walk the description, in program order and without recursion, and put its outlines together."""
    lines: list[str] = []
    pending: list[Any] = []
    node: Node | None = root
    came: Outline = Outline(())
    while node is not None or pending:
        if node is not None:
            node, came = _down(node, pending)
        else:
            node, came = _up(pending.pop(), came)
        lines += came.lines
        came = replace(came, lines=())
    if came.fault is not None:
        lines.append(f"this run would fail: {type(came.fault).__name__}: {came.fault}")
    return Explanation("\n".join(lines), came.fault)


def _down(node: Node, pending: list[Any]) -> tuple[Node | None, Outline]:
    match node:
        case Outlined(_, outline):
            return None, outline()
        case Named(source, name):
            if isinstance(source, Do):
                return None, Outline((f"{name}: a do block, not looked into",))
            return source, Outline((f"{name}:",))
        case Bind(source) | Handle(source):
            pending.append(node)
            return source, Outline(())
        case Local(source) | Salvaged(source):
            return source, Outline(())
        case Bracket(Pure(), Always(effect)):  # `ensuring`
            pending.append(node)
            return node_of(effect, node.use), Outline(())
        case Bracket(acquire):
            pending.append(node)
            return acquire, Outline(("acquire",))
        case Pure(value):
            return None, Outline((), value)
        case Fail(error):
            lines = () if isinstance(error, Fault) else (f"fails with {error!r}",)
            return None, Outline(lines, fault=error if isinstance(error, Fault) else None)
        case Call(function) | Access(function):
            return None, Outline((name_of(function),))
        case _:
            return None, Outline((type(node).__name__.lower(),))


def _up(frame: Bind | Handle | Bracket, came: Outline) -> tuple[Node | None, Outline]:
    if isinstance(frame, Handle):
        # A handler may turn the failure into anything, so what comes out is unknown.
        return None, Outline((f"on its outcome: {name_of(frame.then)}",))
    if isinstance(frame, Bracket):
        if isinstance(frame.use, Always):
            return None, replace(came, lines=(f"whatever the outcome: {name_of(frame.release)}",))
        return None, Outline((f"use: {name_of(frame.use)}", f"release: {name_of(frame.release)}"), fault=came.fault)
    if came.fault is not None:
        return None, came
    if isinstance(frame.then, Always):
        return node_of(frame.then.effect, frame.then), Outline(())
    outline: Callable[[Any], Outline] | None = getattr(frame.then, "outline", None)
    if outline is not None:
        return None, outline(came.value)
    name = name_of(frame.then)
    if isinstance(came.value, Unknown) and came.value.why:
        return None, Outline((f"then {name}, not looked into: {came.value.why}",))
    if not isinstance(came.value, Standing):
        return None, Outline((f"then {name}",))
    if hasattr(type(frame.then), "func"):  # of `map` and the like: a function of values, which may take long
        return None, Outline((f"then {name}, not looked into: a function of the value itself",))
    try:
        return node_of(frame.then(came.value.value), frame.then), Outline((f"then {name}:",))
    except Exception as error:  # it reads more of the value than there is before a run
        return None, Outline((f"then {name}, not looked into: applied to the shapes alone, it raises {type(error).__name__}",))
