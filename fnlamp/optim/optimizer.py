"""The type of optimizers, and how a rule for one array is lifted to trees."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from fnlamp.arrays import Array, Params, Tree
from fnlamp.elsewhere import OPTIMIZER, Elsewhere
from fnlamp.given import function, instance, several, text
from fnlamp.optim.clip import clip_by_global_norm
from fnlamp.tag import Hyper, Tag, check_hyper, values_of


class Decay(Enum):
    """How weight decay depends on the learning rate."""

    BY_LEARNING_RATE = "by learning rate"
    """`p -= scale * learning_rate * weight_decay * p`: the usual default, as in torch's AdamW."""
    INDEPENDENT = "independent"
    """`p -= scale * weight_decay * p`: Loshchilov & Hutter 2017, Algorithms 1 and 2, and lamp's SGDW."""


def check_decay(name: str, decay: Any) -> Decay:
    """Raises: `TypeError` for anything but a `Decay`."""
    known = "optim.Decay.BY_LEARNING_RATE or optim.Decay.INDEPENDENT"
    made: Decay = instance(f"{name}: decay", decay, Decay, f"{known} (its amount is weight_decay)")
    return made


Numbers: TypeAlias = dict[str, Any]
"""Hyperparameters by name: a vector with one number per parameter array."""


@dataclass(frozen=True)
class Hypers:
    """An update that takes its hyperparameters as arguments: `update(grads, state, params, tags, scale, numbers(tags))`."""

    numbers: Callable[[Tree], Numbers]
    update: Callable[[Tree, Tree, Params, Tree, Array | float, Numbers], tuple[Params, Tree]]


@dataclass(frozen=True)
class Optimizer(Elsewhere):
    """`init(params) -> state` and `update(grads, state, params, tags, scale) -> (params, state)`, both pure.

    `tags` is a tree with the structure of `params`; `scale` is the schedule's factor at this step. `hypers`, if any, is the
    same update with the learning rate as an argument, so that one compiled step serves any learning rate.
    """

    init: Callable[[Params], Tree]
    update: Callable[[Tree, Tree, Params, Tree, Array | float], tuple[Params, Tree]]
    name: str = "optimizer"
    hypers: Hypers | None = None

    _elsewhere = OPTIMIZER

    def __post_init__(self) -> None:
        function("Optimizer: init", self.init, "a function params -> state")
        function("Optimizer: update", self.update, "a function (grads, state, params, tags, scale) -> (params, state)")
        text("Optimizer: name", self.name)
        instance("Optimizer: hypers", self.hypers, Hypers | None, "what optim.lift makes of its hypers")

    def __repr__(self) -> str:
        return self.name


Slots: TypeAlias = dict[str, Array]
"""The state of a rule for one array, by the paper's names."""
Rule: TypeAlias = Callable[..., tuple[Array, Slots]]
"""`(gradient, slots, param, step, scale, tag) -> (param, slots)` on one array; the first step is 1.

With `hypers` the rule takes one more argument: their numbers for this array, by name.
"""


def lift(
    name: str,
    slots: tuple[str, ...],
    rule: Rule,
    clip: float | None = None,
    hypers: Mapping[str, Hyper] = MappingProxyType({}),
) -> Optimizer:
    """An optimizer that applies `rule` to each array; its state is `{"step", slot: tree, ...}`.

    Slots start at zero, with their parameter's shape and at least float32. The rule computes in that dtype, so that
    parameters in half precision are rounded once a step. `clip` bounds the global norm of the gradient before the rule runs.
    `hypers` are hyperparameters that a compiled step takes as arguments: another learning rate does not compile again.
    Raises: `TypeError`, `ValueError` for a hyperparameter that is not a number of 0 or more or a function of a `Tag`.
    """
    if clip is not None and not check_hyper("clip", clip) > 0:
        raise ValueError(f"clip is a norm above 0, got {clip}")
    text("lift: name", name)
    function("lift: rule", rule, "a function (gradient, slots, param, step, scale, tag) -> (param, slots)")
    slots = several("lift: slots", slots)
    for hyper, value in instance("lift: hypers", hypers, Mapping, "a dict of hyperparameters by name").items():
        check_hyper(hyper, value)

    def init(params: Params) -> Tree:
        zeros = {slot: jax.tree.map(lambda p: jnp.zeros(p.shape, _wide(p)), params) for slot in slots}
        return {"step": jnp.zeros((), jnp.int32), **zeros}

    names = tuple(hypers)

    def compiled(
        grads: Tree, state: Tree, params: Params, tags: Tree, scale: Array | float, numbers: Numbers
    ) -> tuple[Params, Tree]:
        if clip is not None:
            grads = clip_by_global_norm(grads, clip)
        step = state["step"] + 1

        def one(index: int, param: Array, grad: Array, tag: Tag, *values: Array) -> tuple[Array, Slots]:
            wide = _wide(param)
            old = dict(zip(slots, values, strict=True))
            own = ({name: jnp.asarray(numbers[name][index], wide) for name in names},) if names else ()
            new, kept = rule(grad.astype(wide), old, param.astype(wide), step, jnp.asarray(scale, wide), tag, *own)
            return new.astype(param.dtype), kept

        leaves: list[Array] = jax.tree.leaves(params)
        structure: Any = jax.tree.structure(params)
        columns = [structure.flatten_up_to(t) for t in (grads, tags, *(state[slot] for slot in slots))]
        pairs = [one(*row) for row in zip(range(len(leaves)), leaves, *columns, strict=True)]
        kept = {slot: structure.unflatten([slot_of[slot] for _, slot_of in pairs]) for slot in slots}
        return structure.unflatten([param for param, _ in pairs]), {"step": step, **kept}

    def numbers(tags: Sequence[Tag]) -> Numbers:
        return {hyper: np.array(values_of(hyper, value, tags)) for hyper, value in hypers.items()}

    def update(grads: Tree, state: Tree, params: Params, tags: Tree, scale: Array | float) -> tuple[Params, Tree]:
        structure: Any = jax.tree.structure(params)
        return compiled(grads, state, params, tags, scale, numbers(structure.flatten_up_to(tags)))

    return Optimizer(init, update, name, Hypers(lambda tags: numbers(jax.tree.leaves(tags)), compiled) if names else None)


def _wide(x: Array) -> Any:
    return jnp.promote_types(x.dtype, jnp.float32)
