"""Clipping of gradients, as an optimizer around an optimizer."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp

from fnlamp.arrays import Array, Params, Tree
from fnlamp.given import function, number
from fnlamp.optim.clip import clip_by_global_norm
from fnlamp.optim.optimizer import Optimizer
from fnlamp.optim.wrap import around, optimizer
from fnlamp.tag import Tag


def clipped(
    inner: Optimizer,
    *,
    norm: float | None = None,
    value: float | None = None,
    group: Callable[[Tag], Hashable] | None = None,
) -> Optimizer:
    """An optimizer that bounds the gradient before the inner one sees it: its norm, or each of its numbers.

    - `norm`: `g min(1, norm / |g|)` with the norm of all gradients together (Pascanu et al. 2012, Algorithm 1); with `group`,
      of all parameters whose tags have the same `group(tag)`, each group by itself: `lambda tag: tag.path` for each layer
    - `value`: `min(max(g, -value), value)` number by number

    Gradients of frozen parameters are not in the norm. A norm that overflows float32 is still a norm. No bound hides a number
    that is not finite: it becomes NaN, and with `norm` so does the rest of its group.
    Raises: `TypeError` unless either `norm` or `value` is given; `ValueError` unless it is above 0.

    >>> from fnlamp import optim
    >>> optim.clipped(optim.adamw(1e-3), norm=1.0)
    clipped(adamw)
    """
    inner = optimizer("clipped", inner)
    if (norm is None) == (value is None):
        raise TypeError("clipped: give norm or value, and not both; clipped(clipped(optimizer, value=v), norm=n) has both")
    if group is not None and norm is None:
        raise TypeError("clipped: group is for norm; value bounds each number by itself")
    name, given = ("norm", norm) if value is None else ("value", value)
    bound = number(f"clipped: {name}", given, "a number above 0", lambda n: n > 0)
    grouped = None if group is None else function("clipped: group", group, "a function from a Tag to the name of a group")

    def update(
        grads: Tree, state: Tree, params: Params, tags: Tree, scale: Array | float, numbers: Tree
    ) -> tuple[Params, Tree]:
        if name == "value":
            within = jax.tree.map(lambda g: _bounded(g, bound), grads)
        else:
            within = _in_groups(grads, tags, bound, lambda tag: None if grouped is None else grouped(tag), inner.frozen)
        params, after = inner.update(within, state["inner"], params, tags, scale, numbers)
        return params, {"inner": after}

    return around(inner, "clipped", lambda params, tags: {}, update)


def _bounded(grad: Array, bound: float) -> Array:
    return jnp.where(jnp.isfinite(grad), jnp.clip(grad, -bound, bound), jnp.full_like(grad, jnp.nan))


def _in_groups(grads: Tree, tags: Tree, bound: float, group: Callable[[Tag], Hashable], frozen: Callable[[Tag], bool]) -> Tree:
    structure: Any = jax.tree.structure(grads)
    leaves = jax.tree.leaves(grads)
    groups: dict[Hashable, list[int]] = {}
    for place, tag in enumerate(structure.flatten_up_to(tags)):
        if not frozen(tag):
            groups.setdefault(group(tag), []).append(place)
    for places in groups.values():
        for place, within in zip(places, clip_by_global_norm([leaves[i] for i in places], bound), strict=True):
            leaves[place] = within
    return structure.unflatten(leaves)
