"""The pure step of training and of evaluation."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fnlamp import tree
from fnlamp.arrays import Array, Params, State, Tree, is_float, is_integer
from fnlamp.identity import identity
from fnlamp.loss import LossValue, MetricLike, differentiable
from fnlamp.mode import Eval, Train
from fnlamp.optim import Optimizer
from fnlamp.optim.schedule import Schedule
from fnlamp.train import tally
from fnlamp.train.execute import Body
from fnlamp.train.execute.programs import BODIES
from fnlamp.train.measures import measures
from fnlamp.train.state import Carry
from fnlamp.train.supervised import Supervised, rows_of

LOSS_BROKE, PARAMS_BROKE, STATE_BROKE, STEPS_BROKE = 1, 2, 3, 4
"""Why a training step cannot be kept: what is not finite, or a step past the last that 32 bits can count."""


def training_body(
    model: Supervised, optimizer: Optimizer, schedule: Schedule, tags: Tree, bound: float | None, looked: Hashable
) -> Body:
    """One step of training: loss, gradient, update.  `looked` is what the model and its tags are a function of.

    It is broken by a loss that is not finite; by a parameter, or a number of the layers' or the optimizer's state, that is not,
    or a parameter beyond the bound. `shared` is the root of the steps' keys and the hyperparameters' numbers.
    """
    # The numbers of its hyperparameters are arguments, and not part of the program.
    parts = "training", looked, identity((optimizer.update, schedule)), bound
    body: Body = BODIES.get(parts, lambda: _training_body(model, optimizer, schedule, tags, bound))
    return body


def _training_body(model: Supervised, optimizer: Optimizer, schedule: Schedule, tags: Tree, bound: float | None) -> Body:
    def step(shared: tuple[Array, Any], carry: Carry, batch: Tree) -> Carry:
        root, numbers = shared
        mode = Train(jax.random.fold_in(root, carry.step))

        def mean_loss(params: Params) -> tuple[Array, tuple[LossValue, State]]:
            value, prediction, state = model.evaluate(params, carry.layer_state, batch, mode)
            if model.loss.suspects is not None:
                total = jnp.where(model.loss.suspects(prediction), jnp.full_like(value.total, jnp.nan), value.total)
                value = LossValue(total, value.weight)
            return differentiable(value.mean, params, model.loss.name), (value, state)

        (mean, (value, layer_state)), grads = jax.value_and_grad(mean_loss, has_aux=True)(carry.params)
        scale = jnp.asarray(schedule(carry.step))
        params, optimizer_state = optimizer.update(grads, carry.optimizer_state, carry.params, tags, scale, numbers)
        sums = tally.add(carry.tally, rows_of(batch), [mean, value.total, value.weight])
        return Carry(carry.step + 1, params, layer_state, optimizer_state, sums)

    def broken(carry: Carry) -> Array:
        found: Array = jnp.int32(0)
        for holds, code in (  # the last one counts
            (~_finite((carry.layer_state, carry.optimizer_state)), STATE_BROKE),
            (~_finite(carry.params, bound), PARAMS_BROKE),
            (~jnp.isfinite(tally.of_batches(carry.tally)), LOSS_BROKE),
            (_wrapped((carry.step, carry.optimizer_state)), STEPS_BROKE),
        ):
            found = jnp.where(holds, jnp.int32(code), found)
        return found

    return Body(traced_once(step), broken)


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
    """The same function; the plan, and every program that it becomes a part of, trace it once for a shape."""
    return jax.jit(step, inline=True)


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
