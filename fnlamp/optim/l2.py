"""The L2 penalty, as an optimizer around an optimizer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnlamp.arrays import Array, Params, Tree, wide
from fnlamp.optim.optimizer import Optimizer
from fnlamp.optim.wrap import around, optimizer
from fnlamp.tag import Hyper, Scheduled, check_hyper, values_of


def l2(inner: Optimizer, weight_decay: Hyper) -> Optimizer:
    """An optimizer that adds the gradient of the penalty `weight_decay / 2 |p|^2` before the inner one sees it: `g + w p`.

    This is what torch's `Adam` and `SGD` call weight_decay; with moments it is not decoupled weight decay, which the rules
    themselves have.  The loss that is reported is without the penalty.  A bound on gradients inside bounds the penalty too.
    Raises: `TypeError`, `ValueError` for anything but a number of 0 or more, or a function from a tag to one.
    Reference: Loshchilov & Hutter 2019, section 2, compares both.

    >>> from fnlamp import optim
    >>> optim.l2(optim.adamw(1e-3), 5e-4)
    l2(adamw)
    """
    inner = optimizer("l2", inner)
    if isinstance(weight_decay, Scheduled):
        raise TypeError("l2: weight_decay is a number, or a function from a Tag to a number; a schedule is for rules")
    check_hyper("weight_decay", weight_decay)

    own_numbers, own_update, own_rates = inner.numbers, inner.update, inner.rates

    def numbers(params: Params, tags: Tree) -> Tree:
        structure: Any = jax.tree.structure(params)
        decays = np.array(values_of("weight_decay", weight_decay, structure.flatten_up_to(tags)))
        return {"inner": own_numbers(params, tags), "weight_decay": decays}

    def update(
        grads: Tree, state: Tree, params: Params, tags: Tree, scale: Array | float, numbers: Tree
    ) -> tuple[Params, Tree]:
        structure: Any = jax.tree.structure(params)
        decays = structure.unflatten(list(jnp.asarray(numbers["weight_decay"])))

        def penalised(g: Array, p: Array, w: Array) -> Array:
            return (g.astype(wide(g)) + w.astype(wide(g)) * p.astype(wide(g))).astype(g.dtype)

        grads = jax.tree.map(penalised, grads, params, decays)
        params, after = own_update(grads, state["inner"], params, tags, scale, numbers["inner"])
        return params, {"inner": after}

    def rates(state: Tree, numbers: Tree, scale: Array) -> Any:
        return own_rates(state["inner"], numbers["inner"], scale)

    return replace(around(inner, "l2", lambda params, tags: {}, update), numbers=numbers, rates=rates)
