"""What optimizers around an optimizer share: the state of the inner one, its projections, and averages of parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from fnlamp.arrays import Array, Params, Tree, wide
from fnlamp.given import instance
from fnlamp.optim.optimizer import Optimizer, unchanged
from fnlamp.tag import Tag

Fields: TypeAlias = dict[str, Any]
"""The state of the outer optimizer, without the inner one's."""
Own: TypeAlias = Callable[[Params, Tree], Fields]
"""Its first state, from the parameters and their tags."""


def optimizer(name: str, inner: Any) -> Optimizer:
    """Raises: `TypeError` for anything but an optimizer."""
    made: Optimizer = instance(f"{name}: inner", inner, Optimizer, "an optimizer, such as optim.adamw()")
    return made


def innermost(name: str, inner: Any) -> Optimizer:
    """The same, for an optimizer outside of which averages go.  Raises: `ValueError` for one that evaluates an average."""
    made = optimizer(name, inner)
    if made.evaluated is not unchanged:
        raise ValueError(f"{name}: inner is {made}, which evaluates an average; averages go outside, as ema({name}(...))")
    return made


def around(inner: Optimizer, name: str, own: Own, update: Callable[..., Any], **projections: Any) -> Optimizer:
    """An optimizer whose state is `{"inner": the inner one's, **own(params, tags)}`.

    It has the inner one's hyperparameters, frozen parameters and projections, except for those given. An `update` reads
    single fields of `inner`: with all of it, the learning rate would be a part of what is compiled.
    """

    def init(params: Params, tags: Tree) -> Tree:
        return {"inner": inner.init(params, tags), **own(params, tags)}

    passed = {field: _inside(getattr(inner, field)) for field in ("at", "evaluated", "skipped", "loss_scale", "rates")}
    return Optimizer(init, update, f"{name}({inner})", inner.numbers, frozen=inner.frozen, **{**passed, **projections})


def _inside(projection: Callable[..., Any] | None) -> Callable[..., Any] | None:
    if projection is None or projection is unchanged:
        return projection
    return lambda state, *params: projection(state["inner"], *params)


def following(
    inner: Optimizer, name: str, own: Own, follow: Callable[..., tuple[Params, Fields]], **projections: Any
) -> Optimizer:
    """An optimizer that follows each step of the inner one: `follow(state, params, after, made, scale) -> (params, fields)`.

    `state` is its own before the step, `params` and `after` are the inner one's parameters and state after it, `made` is false
    if the inner one skipped it, and `fields` are its own state after the step.
    """

    def update(
        grads: Tree, state: Tree, params: Params, tags: Tree, scale: Array | float, numbers: Tree
    ) -> tuple[Params, Tree]:
        params, after = inner.update(grads, state["inner"], params, tags, scale, numbers)
        made = was_made(inner.skipped, state["inner"], after)
        params, fields = follow(state, params, after, made, scale)
        return params, {"inner": after, **fields}

    return around(inner, name, own, update, **projections)


def was_made(skipped: Callable[[Tree], Array] | None, before: Tree, after: Tree) -> Array:
    """Whether an optimizer that counts its skipped steps made the one between these states."""
    return jnp.asarray(True) if skipped is None else skipped(after) == skipped(before)


def guarded(inner: Optimizer, name: str, own: Own, judge: Callable[..., tuple[Array, Fields]], **projections: Any) -> Optimizer:
    """An optimizer that skips steps, and counts them: `judge(state, good) -> (whether to make this step, fields)`.

    `good` says that each gradient is finite. A skipped step leaves the parameters and the inner state as they are.
    """

    def update(
        grads: Tree, state: Tree, params: Params, tags: Tree, scale: Array | float, numbers: Tree
    ) -> tuple[Params, Tree]:
        made, fields = judge(state, finite(grads, tags, inner.frozen))
        # A branch, and not a selection: a rule's decomposition of a matrix with NaN may not end.
        params, after = jax.lax.cond(
            made,
            lambda: inner.update(grads, state["inner"], params, tags, scale, numbers),
            lambda: (params, state["inner"]),
        )
        return params, {"inner": after, **fields, "skipped": state["skipped"] + (~made).astype(jnp.int32)}

    def skipped(state: Tree) -> Array:
        mine: Array = state["skipped"]
        return mine if inner.skipped is None else mine + inner.skipped(state["inner"])

    def counted(params: Params, tags: Tree) -> Fields:
        return {**own(params, tags), "skipped": jnp.zeros((), jnp.int32)}

    return around(inner, name, counted, update, skipped=skipped, **projections)


def finite(grads: Tree, tags: Tree, frozen: Callable[[Tag], bool]) -> Array:
    """Whether each number is finite, of all gradients but those of frozen parameters."""

    def largest_of(grad: Array, tag: Tag) -> Array | None:  # NaN if one number is
        return None if frozen(tag) else jnp.max(jnp.abs(grad), initial=0).astype(wide(grad))

    largest = jax.tree.leaves(jax.tree.map(largest_of, grads, tags))
    return jnp.stack([jnp.isfinite(size) for size in largest]).all() if largest else jnp.asarray(True)


def started(params: Params, tags: Tree, frozen: Callable[[Tag], bool]) -> Tree:
    """A copy of the parameters in at least float32, to be averaged; `None` for frozen ones."""
    return jax.tree.map(lambda param, tag: None if frozen(tag) else jnp.array(param, wide(param)), params, tags)


def towards(average: Tree, params: Params, share: Any) -> Tree:
    """`average + share (params - average)`, exact for a share of 0 or 1, and for parameters that stay."""

    def one(param: Array, x: Array | None) -> Array | None:
        return None if x is None else between(x, param.astype(x.dtype), share)

    return jax.tree.map(one, params, average)


def between(a: Array, b: Array, share: Any) -> Array:
    part = jnp.asarray(share, a.dtype)
    return jnp.where(part == 1, b, a + part * (b - a))


def filled(average: Tree, params: Params, *, cast: bool = True) -> Params:
    """The average in the parameters' dtypes, or in its own without `cast`; and frozen parameters as they are."""

    def one(param: Array, x: Array | None) -> Array:
        return param if x is None else x.astype(param.dtype) if cast else x

    made: Params = jax.tree.map(one, params, average)
    return made
