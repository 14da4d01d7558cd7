"""The pure step of training and of evaluation, and the tallies that they keep on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnlamp.arrays import Array, Params, State, Tree
from fnlamp.loss import LossValue, Metric, differentiable
from fnlamp.mode import Eval, Train
from fnlamp.optim import Optimizer
from fnlamp.optim.schedule import Schedule
from fnlamp.train.execute import Body
from fnlamp.train.state import Carry
from fnlamp.train.supervised import Supervised, measure, pair, rows_of

TOTAL, WEIGHT, OF_BATCHES, BATCHES, ROWS = range(5)
"""What a training tally holds: sums of loss and weight, the sum of the batches' means, and counts."""
LOSS_BROKE, UPDATE_BROKE = 1, 2


def training_body(model: Supervised, optimizer: Optimizer, schedule: Schedule, tags: Tree) -> Body:
    """One step of training: loss, gradient, update; broken is a loss, or else a parameter, that is not finite."""

    def step(step_root: Array, carry: Carry, batch: Tree) -> Carry:
        mode = Train(jax.random.fold_in(step_root, carry.step))

        def mean_loss(params: Params) -> tuple[Array, tuple[LossValue, State]]:
            value, _, state = model.evaluate(params, carry.layer_state, batch, mode)
            return differentiable(value.mean, params, model.loss.name), (value, state)

        (mean, (value, layer_state)), grads = jax.value_and_grad(mean_loss, has_aux=True)(carry.params)
        scale = jnp.asarray(schedule(carry.step), jnp.float32)
        params, optimizer_state = optimizer.update(grads, carry.optimizer_state, carry.params, tags, scale)
        added = jnp.stack([value.total, value.weight, mean, jnp.ones(()), jnp.full((), rows_of(batch))])
        return Carry(carry.step + 1, params, layer_state, optimizer_state, carry.tally + added.astype(jnp.float32))

    def broken(carry: Carry) -> Array:
        whole = jnp.isfinite(carry.tally[OF_BATCHES])
        sound = [jnp.isfinite(p).all() for p in jax.tree.leaves(carry.params)]
        return jnp.where(~whole, LOSS_BROKE, jnp.where(jnp.stack(sound).all() if sound else True, 0, UPDATE_BROKE))

    return Body(traced_once(step), broken)


def traced_once(step: Callable[..., Any]) -> Callable[..., Any]:
    """The same function; the plan, and every program that it becomes a part of, trace it once for a shape."""
    return jax.jit(step, inline=True)


def empty_tally() -> np.ndarray[Any, Any]:
    """A training tally before the first batch."""
    return np.zeros(5, np.float32)


@lru_cache(maxsize=64)
def evaluation_body(model: Supervised, metrics: tuple[tuple[str, Metric], ...]) -> Body:
    """One batch of evaluation, in `Eval` and without a gradient.

    The tally holds batches, rows, the sum of the batches' mean losses, then total and weight of the loss and of each metric.
    """

    def step(shared: tuple[Params, State], tally: Array, batch: Tree) -> Array:
        value, prediction, _ = model.evaluate(*shared, batch, Eval())
        values = [value, *(measure(metric, prediction, pair(batch)[1]) for _, metric in metrics)]
        counts = [jnp.ones(()), jnp.full((), rows_of(batch)), value.mean]
        return tally + jnp.stack([*counts, *(x for v in values for x in (v.total, v.weight))]).astype(jnp.float32)

    return Body(traced_once(step), lambda tally: jnp.zeros((), jnp.int32))


def as_items(metrics: Mapping[str, Metric]) -> tuple[tuple[str, Metric], ...]:
    """The metrics in a form that can be a key."""
    return tuple(metrics.items())
