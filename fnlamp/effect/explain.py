"""The plan of a program, as far as it is known without running it.

Nodes and continuations of fnlamp carry an abstract meaning, an `outline`. A user's function is shown by name only; neither it
nor anything that depends on its result is inspected. No `Call` is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from fnlamp.effect.node import (
    Access,
    Always,
    Bind,
    Bracket,
    Call,
    Do,
    Failed,
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
    """An abstract value that only a run determines; `why` says what it depends on, for the lines that follow."""

    why: str = ""

    def __repr__(self) -> str:
        return "unknown"


UNKNOWN: Final = Unknown()
"""The abstract value of anything that only a run determines."""


@dataclass(frozen=True)
class Standing:
    """An abstract value with the shapes and dtypes that a run will have; functions that build programs can take it."""

    value: Any


@dataclass(frozen=True)
class Outline:
    """An abstract meaning: the lines to show, the abstract result, and the fault with which every run would end."""

    lines: tuple[str, ...]
    value: Any = UNKNOWN
    fault: Fault | None = None


@dataclass(frozen=True)
class Around:
    """The outline of a program that runs another one: these lines, then the other's outline and value."""

    inside: Node
    lines: tuple[str, ...] = ()

    def __call__(self) -> Outline:
        return Outline(self.lines)


class Explanation(str):
    """The text of a plan; `fault` is the failure with which every run would end, or `None`."""

    __slots__ = ("fault",)
    fault: Fault | None

    def __new__(cls, text: str, fault: Fault | None = None) -> Explanation:
        self = super().__new__(cls, text)
        self.fault = fault
        return self

    def __repr__(self) -> str:  # a notebook and a prompt show the plan, not an escaped string
        return str(self)


def explain(root: Node, runtime: Any) -> Explanation:
    """Walk the description in program order and join its outlines, of which some depend on the runtime."""

    def look(outline: Any) -> Outline:
        by: Callable[[Any], Outline] | None = getattr(outline, "under", None)
        return outline() if by is None else by(runtime)

    lines: list[str] = []
    fault: Fault | None = None
    for _, outline in walk(root, look):
        lines += outline.lines
        fault = outline.fault
    if fault is not None:
        lines.append(f"this run would fail: {type(fault).__name__}: {fault}")
    return Explanation("\n".join(lines), fault)


def walk(root: Node, look: Callable[[Callable[[], Outline]], Outline]) -> Iterator[tuple[Node | None, Outline]]:
    """The nodes of a description in program order, without recursion, each with what it adds to the outline.

    A node is met after its source; `None` stands for one that is looked into. `look` gives the outline of a program that brings
    its own.
    """
    pending: list[Any] = []
    node: Node | None = root
    so_far: Outline = Outline(())
    while node is not None or pending:
        met: Any = pending.pop() if node is None else node
        node, so_far = _up(met, so_far) if node is None else _down(node, pending, look)
        yield met if node is None else None, so_far
        so_far = replace(so_far, lines=())


def _down(node: Node, pending: list[Any], look: Callable[[Any], Outline]) -> tuple[Node | None, Outline]:
    match node:
        case Outlined(_, Around(inside, lines)):
            return inside, Outline(lines)
        case Outlined(_, outline):
            return None, look(outline)
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
        case Failed(error):
            lines = () if isinstance(error, Fault) else (f"fails with {error!r}",)
            return None, Outline(lines, fault=error if isinstance(error, Fault) else None)
        case Call(function) | Access(function):
            return None, Outline((name_of(function),))
        case _:
            return None, Outline((type(node).__name__.lower(),))


def _up(frame: Bind | Handle | Bracket, so_far: Outline) -> tuple[Node | None, Outline]:
    if isinstance(frame, Handle):
        # A handler may turn the failure into anything, so the result is unknown.
        return None, Outline((f"on its outcome: {name_of(frame.then)}",))
    if isinstance(frame, Bracket):
        if isinstance(frame.use, Always):
            return None, replace(so_far, lines=(f"whatever the outcome: {name_of(frame.release)}",))
        return None, Outline((f"use: {name_of(frame.use)}", f"release: {name_of(frame.release)}"), fault=so_far.fault)
    if so_far.fault is not None:
        return None, so_far
    if isinstance(frame.then, Always):
        return node_of(frame.then.effect, frame.then), Outline(())
    outline: Callable[[Any], Outline] | None = getattr(frame.then, "outline", None)
    if outline is not None:
        return None, outline(so_far.value)
    name = name_of(frame.then)
    if isinstance(so_far.value, Unknown) and so_far.value.why:
        return None, Outline((f"then {name}, not looked into: {so_far.value.why}",))
    if not isinstance(so_far.value, Standing):
        return None, Outline((f"then {name}",))
    if hasattr(type(frame.then), "func"):  # `map` and the like: a function of values may be slow
        return None, Outline((f"then {name}, not looked into: a function of the value itself",))
    try:
        return node_of(frame.then(so_far.value.value), frame.then), Outline((f"then {name}:",))
    except Exception as error:  # the user's function may need the values, which do not exist yet
        return None, Outline((f"then {name}, not looked into: applied to the shapes alone, it raises {type(error).__name__}",))
