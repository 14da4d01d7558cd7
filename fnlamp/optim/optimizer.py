"""What an optimizer is, and how a rule on one array becomes one on trees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from fnlamp.arrays import Array, Params, Tree
from fnlamp.optim.clip import clip_by_global_norm
from fnlamp.tag import Tag


class Decay(Enum):
    """How weight decay depends on the learning rate."""

    BY_LEARNING_RATE = "by learning rate"
    """`p -= scale * learning_rate * weight_decay * p`: the field's default, as torch's AdamW."""
    INDEPENDENT = "independent"
    """`p -= scale * weight_decay * p`: Loshchilov & Hutter 2017, Algorithms 1 and 2, and lamp's SGDW."""


@dataclass(frozen=True)
class Optimizer:
    """`init(params) -> state` and `update(grads, state, params, tags, scale) -> (params, state)`, both pure.

    `tags` is a tree shaped like `params`; `scale` is the schedule's factor at this step.
    """

    init: Callable[[Params], Tree]
    update: Callable[[Tree, Tree, Params, Tree, Array | float], tuple[Params, Tree]]
    name: str = "optimizer"

    def __repr__(self) -> str:
        return self.name


Slots: TypeAlias = dict[str, Array]
"""What a rule remembers of one array, by the paper's names."""
Rule: TypeAlias = Callable[[Array, Slots, Array, Array, Array, Tag], tuple[Array, Slots]]
"""`(gradient, slots, param, step, scale, tag) -> (param, slots)` on one array; the first step is 1."""


def lift(name: str, slots: tuple[str, ...], rule: Rule, clip: float | None = None) -> Optimizer:
    """An optimizer that applies `rule` to every array by itself; its state is `{"step", slot: tree, ...}`.

    Slots start at zero, have their parameter's shape and at least float32, in which the rule computes too, so that
    parameters in half precision are rounded once a step. `clip` bounds the global norm of the gradient before the rule sees it.
    """
    if clip is not None and clip <= 0:
        raise ValueError(f"clip is a norm above 0, got {clip}")

    def init(params: Params) -> Tree:
        zeros = {slot: jax.tree.map(lambda p: jnp.zeros(p.shape, _wide(p)), params) for slot in slots}
        return {"step": jnp.zeros((), jnp.int32), **zeros}

    def update(grads: Tree, state: Tree, params: Params, tags: Tree, scale: Array | float) -> tuple[Params, Tree]:
        if clip is not None:
            grads = clip_by_global_norm(grads, clip)
        step = state["step"] + 1

        def one(param: Array, grad: Array, tag: Tag, *values: Array) -> tuple[Array, Slots]:
            wide = _wide(param)
            old = dict(zip(slots, values, strict=True))
            new, kept = rule(grad.astype(wide), old, param.astype(wide), step, jnp.asarray(scale, wide), tag)
            return new.astype(param.dtype), kept

        leaves: list[Array] = jax.tree.leaves(params)
        structure: Any = jax.tree.structure(params)
        columns = [structure.flatten_up_to(t) for t in (grads, tags, *(state[slot] for slot in slots))]
        pairs = [one(*row) for row in zip(leaves, *columns, strict=True)]
        kept = {slot: structure.unflatten([slot_of[slot] for _, slot_of in pairs]) for slot in slots}
        return structure.unflatten([param for param, _ in pairs]), {"step": step, **kept}

    return Optimizer(init, update, name)


def _wide(x: Array) -> Any:
    return jnp.promote_types(x.dtype, jnp.float32)
