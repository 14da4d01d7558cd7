"""The type of optimizers, and how a rule for one array is lifted to trees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from fnlamp.arrays import Array, Params, Tree, wide
from fnlamp.elsewhere import OPTIMIZER, Elsewhere
from fnlamp.given import function, instance, number, several, text
from fnlamp.optim.clip import clip_by_global_norm
from fnlamp.tag import Hyper, Scheduled, Tag, check_hyper, values_of

Numbers: TypeAlias = dict[str, Any]
"""Hyperparameters by name: a vector with one number per parameter array."""


def unchanged(state: Tree, params: Params) -> Params:
    """The projection of an optimizer that has no other."""
    return params


@dataclass(frozen=True)
class Optimizer(Elsewhere):
    """`init(params, tags) -> state` and `update(grads, state, params, tags, scale, numbers) -> (params, state)`, both pure.

    `tags` is a tree with the structure of `params`; `scale` is the schedule's factor at this step; `numbers` is what
    `numbers(params, tags)` makes of the hyperparameters: an argument, so that one compiled step serves any learning rate.
    `at(state, params)` is where the gradient is taken; `evaluated(state, params)` is what validation and `predict` use.
    `frozen(tag)` says of a parameter that it is never updated. For optimizers around an optimizer: `skipped(state)` counts the
    steps that were skipped; the step multiplies the loss by `loss_scale(state)` and divides the gradient by it.
    `rates(state, numbers, scale)` are the learning rates of the next update, by the name of the rule, `""` if there is one.
    """

    init: Callable[[Params, Tree], Tree]
    update: Callable[[Tree, Tree, Params, Tree, Array | float, Tree], tuple[Params, Tree]]
    name: str = "optimizer"
    numbers: Callable[[Params, Tree], Tree] = lambda params, tags: ()
    at: Callable[[Tree, Params], Params] = unchanged
    evaluated: Callable[[Tree, Params], Params] = unchanged
    frozen: Callable[[Tag], bool] = lambda tag: False
    skipped: Callable[[Tree], Array] | None = None
    loss_scale: Callable[[Tree], Array] | None = None
    rates: Callable[[Tree, Tree, Array], Mapping[str, Array]] = lambda state, numbers, scale: {}

    _elsewhere = OPTIMIZER

    def __post_init__(self) -> None:
        function("Optimizer: init", self.init, "a function (params, tags) -> state")
        function("Optimizer: update", self.update, "a function (grads, state, params, tags, scale, numbers) -> (params, state)")
        text("Optimizer: name", self.name)
        function("Optimizer: numbers", self.numbers, "a function (params, tags) -> hyperparameters")
        for name in ("at", "evaluated"):
            function(f"Optimizer: {name}", getattr(self, name), "a function (state, params) -> params")
        function("Optimizer: frozen", self.frozen, "a function from a Tag to True or False")
        function("Optimizer: rates", self.rates, "a function (state, numbers, scale) -> learning rates by rule")
        for name in ("skipped", "loss_scale"):
            instance(f"Optimizer: {name}", getattr(self, name), Callable | None, "a function from a state to a number, or None")

    def advance(self, grads: Tree, state: Tree, params: Params, tags: Tree, scale: Array | float = 1.0) -> tuple[Params, Tree]:
        """`update` with this optimizer's own hyperparameters, for your own loop; inside `jit` they are compiled in.

        >>> from fnlamp import optim, Role, Tag
        >>> optimizer = optim.sgdw(learning_rate=0.1)
        >>> params, tags = {"weight": jnp.array([1.0])}, {"weight": Tag("own", Role.WEIGHT)}
        >>> optimizer.advance({"weight": jnp.array([2.0])}, optimizer.init(params, tags), params, tags)[0]
        {'weight': Array([0.8], dtype=float32)}
        """
        return self.update(grads, state, params, tags, scale, self.numbers(params, tags))

    def __repr__(self) -> str:
        return self.name


Slots: TypeAlias = dict[str, Any]
"""The state of a rule for one array, by the paper's names: arrays, or trees of arrays, of any shape."""
Rule: TypeAlias = Callable[..., tuple[Array, Slots]]
"""`(gradient, slots, param, step, scale, tag) -> (param, slots)` on one array; the first step is 1.

With `hypers` the rule takes one more argument: their numbers for this array, by name.
"""


def lift(
    name: str,
    slots: tuple[str, ...] | Callable[[Array, Tag], Slots],
    rule: Rule,
    clip: float | None = None,
    hypers: Mapping[str, Hyper] = MappingProxyType({}),
) -> Optimizer:
    """An optimizer that applies `rule` to each array; its state is `{"step", slot: tree, ...}`.

    `slots` are names, for slots that start at zero with the parameter's shape in at least float32; or a function
    `(param, tag) -> {slot: array or tree of arrays}` that makes the first ones, which need not be the same for all parameters.
    The rule computes in at least float32, so that parameters in half precision are rounded once per step. `clip` bounds the
    global norm of the gradient before the rule runs.
    `hypers` are hyperparameters that a compiled step takes as arguments: another learning rate does not compile again.
    Raises: `TypeError`, `ValueError` for a hyperparameter that is not a number of 0 or more, a function of a `Tag`, or
    `scheduled`.
    """
    clip = clip if clip is None else number("clip", clip, "a norm above 0", lambda n: n > 0)
    text("lift: name", name)
    function("lift: rule", rule, "a function (gradient, slots, param, step, scale, tag) -> (param, slots)")
    for hyper, value in instance("lift: hypers", hypers, Mapping, "a dict of hyperparameters by name").items():
        check_hyper(hyper, value)
    first: Any = slots if callable(slots) and not isinstance(slots, type) else zeros(*several("lift: slots", slots))  # type: ignore[arg-type]
    schedules = {hyper: value.schedule if isinstance(value, Scheduled) else None for hyper, value in hypers.items()}

    def init(params: Params, tags: Tree) -> Tree:
        structure: Any = jax.tree.structure(params)
        rows = zip(jax.tree.leaves(params), structure.flatten_up_to(tags), strict=True)
        made = _by_slot(structure, [first(param, tag) for param, tag in rows])
        if "step" in made:
            raise ValueError(f"{name}: step counts the updates, so no slot has that name")
        return {"step": jnp.zeros((), jnp.int32), **made}

    def numbers(params: Params, tags: Tree) -> Numbers:
        structure: Any = jax.tree.structure(params)
        leaves = structure.flatten_up_to(tags)
        return {hyper: np.array(values_of(hyper, value, leaves)) for hyper, value in hypers.items()}

    return Optimizer(init, partial(_update, name, rule, clip, schedules), name, numbers, rates=partial(_rates, schedules))


def _rates(schedules: Mapping[str, Any], state: Tree, numbers: Numbers, scale: Array) -> dict[str, Array]:
    if "learning_rate" not in schedules:
        return {}
    now = _now(numbers["learning_rate"], schedules["learning_rate"], state["step"])
    return {"": jnp.asarray(now, jnp.result_type(scale)) * scale}


def _update(
    name: str,
    rule: Rule,
    clip: float | None,
    schedules: Mapping[str, Callable[[Any], Any] | None],
    grads: Tree,
    state: Tree,
    params: Params,
    tags: Tree,
    scale: Array | float,
    numbers: Numbers,
) -> tuple[Params, Tree]:
    if clip is not None:
        grads = clip_by_global_norm(grads, clip)
    step, own = state["step"] + 1, {hyper: _now(numbers[hyper], by, state["step"]) for hyper, by in schedules.items()}

    def one(index: int, param: Array, grad: Array, tag: Tag, old: Slots) -> tuple[Array, Slots]:
        dtype = wide(param)
        hypers = ({hyper: jnp.asarray(values[index], dtype) for hyper, values in own.items()},) if own else ()
        new, kept = rule(grad.astype(dtype), old, param.astype(dtype), step, jnp.asarray(scale, dtype), tag, *hypers)
        if set(kept) != set(old):
            raise ValueError(f"{name}: the rule returned slots {sorted(kept)}, expected {sorted(old)}, for {tag}")
        return new.astype(param.dtype), kept

    structure: Any = jax.tree.structure(params)
    columns = [structure.flatten_up_to(tree) for tree in (params, grads, tags)]
    pairs = [one(i, *row) for i, row in enumerate(zip(*columns, _by_parameter(structure, state), strict=True))]
    kept = _by_slot(structure, [kept for _, kept in pairs])
    return structure.unflatten([new for new, _ in pairs]), {"step": step, **kept}


def zeros(*names: str) -> Callable[[Array, Tag], Slots]:
    """Slots of the parameter's shape that start at zero, in at least float32."""
    return lambda param, tag: {name: jnp.zeros(param.shape, wide(param)) for name in names}


def _now(numbers: Any, schedule: Callable[[Array], Any] | None, step: Array) -> Any:
    return numbers if schedule is None else numbers * jnp.asarray(schedule(step))


def _by_slot(structure: Any, rows: list[Slots]) -> dict[str, Tree]:
    """A tree for each slot, of the slots of each parameter; `None`, an empty tree, for a parameter without that slot."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: structure.unflatten([row.get(name) for row in rows]) for name in names}


def _by_parameter(structure: Any, state: dict[str, Tree]) -> list[Slots]:
    """The slots of each parameter, of a tree for each slot."""
    columns = {name: structure.flatten_up_to(tree) for name, tree in state.items() if name != "step"}
    return [{name: column[i] for name, column in columns.items() if column[i] is not None} for i in range(structure.num_leaves)]
