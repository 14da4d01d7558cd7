"""The pure step of training and of evaluation."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnlamp import tree
from fnlamp.arrays import Array, Params, State, Tree, device_count, is_float, is_integer, spec_after, wide
from fnlamp.identity import identity
from fnlamp.loss import LossValue, MetricLike, differentiable
from fnlamp.mode import Eval, Train
from fnlamp.optim import Optimizer
from fnlamp.optim.schedule import Schedule
from fnlamp.train import tally
from fnlamp.train.execute import Body
from fnlamp.train.execute.programs import BODIES
from fnlamp.train.gradient import Gradient, plain
from fnlamp.train.measures import measures
from fnlamp.train.state import Carry
from fnlamp.train.supervised import Supervised, rows_of

LOSS_BROKE, PARAMS_BROKE, STATE_BROKE, STEPS_BROKE = 1, 2, 3, 4
"""Why a training step cannot be kept: what is not finite, or a step past the last that 32 bits can count."""


class Step(NamedTuple):
    """What a step of training is a function of."""

    model: Supervised
    optimizer: Optimizer
    gradient: Gradient
    schedule: Schedule
    metrics: tuple[MetricLike, ...]
    bound: float | None


def training_body(recipe: Step, tags: Tree, looked: Hashable) -> Body:
    """One step of training: loss, gradient, update.  `looked` is what the model and its tags are a function of.

    It is broken by a loss that is not finite; by a parameter, or a number of the layers' or the optimizer's state, that is not,
    or a parameter beyond the bound. `shared` is the root of the steps' keys, the hyperparameters' numbers, and the factor of
    the learning rate that folds decide.
    """
    # The numbers of its hyperparameters are arguments, and not part of the program.
    rule = recipe.optimizer
    parts = identity((rule.update, rule.at, rule.skipped, rule.loss_scale, recipe.schedule, recipe.gradient, recipe.metrics))
    body: Body = BODIES.get(("training", looked, parts, recipe.bound), lambda: _training_body(recipe, tags))
    return body


def _training_body(recipe: Step, tags: Tree) -> Body:
    model, optimizer = recipe.model, recipe.optimizer

    def taken(shared: tuple[Array, Any, Array], carry: Carry, batch: Tree) -> tuple[Carry, LossValue, Tree]:
        root, numbers, rate = shared
        state = carry.optimizer_state
        amount = None if optimizer.loss_scale is None else optimizer.loss_scale(state)

        def objective(params: Params, before: Tree, batch: Tree, mode: Train) -> tuple[LossValue, Tree]:
            layer_state, sums = before
            value, prediction, layer_state = model.evaluate(params, layer_state, batch, mode, whole)
            total = differentiable(value.total, params, model.loss.name)
            if model.loss.suspects is not None:
                total = jnp.where(model.loss.suspects(prediction), jnp.full_like(total, jnp.nan), total)
            sums = jax.tree.map(jnp.add, sums, measures(recipe.metrics, prediction, batch[1]))
            return LossValue(total if amount is None else total * amount.astype(total.dtype), value.weight), (layer_state, sums)

        mode, at = Train(jax.random.fold_in(root, carry.step)), optimizer.at(state, carry.params)
        whole = None if recipe.gradient is plain else model.whole(at, carry.layer_state, batch, mode)
        start = carry.layer_state, none_of(model, recipe.metrics, at, carry.layer_state, batch)
        value, grads, (layer_state, measured) = recipe.gradient(objective, at, start, batch, mode)
        if amount is not None:
            value, grads = replace(value, total=unscaled(value.total, amount)), unscaled(grads, amount)
        if optimizer.skipped is not None:
            grads = jax.tree.map(lambda g: jnp.where(jnp.isfinite(value.mean), g, jnp.nan), grads)
        scale = jnp.asarray(recipe.schedule(carry.step)) * rate.astype(float)
        params, new = optimizer.update(grads, state, carry.params, tags, scale, numbers)
        sums = tally.add(carry.tally, rows_of(batch), [value.mean, value.total, value.weight, *tree.leaves(measured)])
        if optimizer.skipped is not None:  # a skipped batch leaves no trace in averages: the optimizer counts it
            kept = optimizer.skipped(new) == optimizer.skipped(state)
            before = carry.layer_state, carry.tally
            layer_state, sums = jax.tree.map(lambda a, b: jnp.where(kept, a, b), (layer_state, sums), before)
        return Carry(carry.step + 1, params, layer_state, new, sums), value, grads

    def step(shared: tuple[Array, Any, Array], carry: Carry, batch: Tree) -> Carry:
        return taken(shared, carry, batch)[0]

    return Body(traced_once(step), partial(_broken, recipe.bound), taken)


def _broken(bound: float | None, carry: Carry) -> Array:
    """Why the carry cannot be kept, or 0."""
    found: Array = jnp.int32(0)
    for holds, code in (  # the last one counts
        (~_finite((carry.layer_state, carry.optimizer_state)), STATE_BROKE),
        (~_finite(carry.params, bound), PARAMS_BROKE),
        (~jnp.isfinite(tally.of_batches(carry.tally)), LOSS_BROKE),
        (_wrapped((carry.step, carry.optimizer_state)), STEPS_BROKE),
    ):
        found = jnp.where(holds, jnp.int32(code), found)
    return found


def unscaled(arrays: Tree, amount: Array) -> Tree:
    """The arrays without the loss scale, in at least float32."""
    return jax.tree.map(lambda x: x.astype(wide(x)) / amount.astype(wide(x)), arrays)


def none_of(model: Supervised, metrics: tuple[MetricLike, ...], params: Params, layer_state: State, batch: Tree) -> Tree:
    """The metrics' sums over no rows."""

    def measured(params: Params, layer_state: State, batch: Tree) -> Tree:
        return measures(metrics, model.evaluate(params, layer_state, batch, Eval())[1], batch[1])

    specs = spec_after(measured, params, layer_state, batch) if metrics else ()
    return jax.tree.map(lambda spec: jnp.zeros(spec.shape, spec.dtype), specs)


def _finite(arrays: Tree, bound: float | None = None) -> Array:
    # The largest of the sizes is NaN if one of them is; XLA finds it in two thirds of the time that `isfinite(x).all()` takes.
    largest = [jnp.max(jnp.abs(x), initial=0) for x in tree.leaves(arrays) if is_float(x)]
    sound = [jnp.isfinite(x) if bound is None else x <= bound for x in largest]
    return jnp.stack(sound).all() if sound else jnp.array(True)


def _wrapped(counters: Tree) -> Array:
    """Whether one of the counters (the integer scalars) has overflowed."""
    counts = [leaf for leaf in tree.leaves(counters) if is_integer(leaf) and leaf.ndim == 0]
    return jnp.stack([count < 0 for count in counts]).any()


def traced_once(step: Callable[..., Any]) -> Callable[..., Any]:
    """The same function; the plan, and every program that it becomes a part of, trace it once for a shape.

    A program for several devices has its own trace, as layers may take another form in it.
    """
    traced = jax.jit(lambda devices, *given: step(*given), static_argnums=0, inline=True)
    return lambda *given: traced(device_count(), *given)


def evaluation_body(model: Supervised, metrics: Mapping[str, MetricLike]) -> Body:
    """One batch of evaluation, in `Eval` and without a gradient; the carry is a tally."""
    functions = tuple(metrics.values())
    body: Body = BODIES.get(("evaluation", identity((model, functions))), lambda: _evaluation_body(model, functions))
    return body


def _evaluation_body(model: Supervised, metrics: tuple[MetricLike, ...]) -> Body:
    def step(shared: tuple[Params, State], sums: Array, batch: Tree) -> Array:
        value, prediction, _ = model.evaluate(*shared, batch, Eval())
        # A batch without a mean, as of a negative weight, would be hidden in the sums.
        total = jnp.where(jnp.isnan(value.mean), jnp.full_like(value.total, jnp.nan), value.total)
        measured = tree.leaves(measures(metrics, prediction, batch[1]))
        return tally.add(sums, rows_of(batch), [value.mean, total, value.weight, *measured])

    return Body(traced_once(step), lambda sums: jnp.zeros((), jnp.int32))
