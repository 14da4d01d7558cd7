"""The training programs inside a program, and the functions around them."""

from __future__ import annotations

from typing import Any

from fnlamp.effect import UNKNOWN, Effect, Outline
from fnlamp.effect.explain import walk
from fnlamp.effect.node import Always, Bind, Bracket, Handle, Node, Outlined, label_of, name_of
from fnlamp.given import shown
from fnlamp.train.explain.explained import Explained
from fnlamp.train.program import Program


def programs_of(name: str, effect: Any) -> list[Program]:
    """The training programs that a program has, as far as it can be looked into.  Raises: `TypeError` if it has none."""
    return [step for step in steps_of(name, effect) if isinstance(step, Program)]


def steps_of(name: str, effect: Any) -> list[Any]:
    """What a program does, in its order: the descriptions of its trainings, and the functions and values of other steps."""
    if not isinstance(effect, Effect):
        raise TypeError(f"{name} is a program, as train.epochs(...) returns, got {shown(effect)}")

    def look(outline: Any) -> Outline:
        return Outline((), UNKNOWN) if isinstance(outline, Explained) else outline()

    root = effect._inner_value
    steps = [_step(node) for node, _ in walk(root, look) if node is not None]
    if not any(isinstance(step, Program) for step in steps):
        raise TypeError(
            f"{name} is a program with train.epochs(...) in it, got {label_of(root)}, in which none can be seen; "
            "give the program that train.epochs returned, without what is around it"
        )
    return [step for step in steps if not isinstance(step, Always)]


def _step(node: Node) -> Any:
    match node:
        case Outlined(_, outline):
            return outline.program if isinstance(outline, Explained) else node
        case Bind(_, then) | Handle(_, then):
            return then
        case Bracket():
            return node.use, node.release
        case _:
            return node


def label_of_step(step: Any) -> str:
    """A step in a few words."""
    if isinstance(step, Program):
        return "a training program"
    if step is None:
        return "nothing"
    if isinstance(step, Node):
        return label_of(step)
    name = getattr(step, "name", None)  # evaluate, predict_batches and the like have one
    return name if isinstance(name, str) else name_of(step)
