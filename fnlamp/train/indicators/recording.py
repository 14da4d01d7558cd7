"""The step of training with the indicators that are measured in some of its steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from fnlamp.arrays import Array, Tree
from fnlamp.effect import StepRow
from fnlamp.identity import identity
from fnlamp.mode import Train
from fnlamp.track import Measured
from fnlamp.train.execute import Body
from fnlamp.train.execute.programs import BODIES
from fnlamp.train.execute.record import Recorder, Rows
from fnlamp.train.indicators.indicator import Indicator
from fnlamp.train.indicators.view import StepView
from fnlamp.train.state import Carry
from fnlamp.train.step import Step

Remembered = Mapping[str, tuple[Any, ...]]
"""The last arrays of each indicator that is of several measurements."""


def parts_of(indicators: Mapping[str, Indicator], every: int) -> dict[int, dict[str, Indicator]]:
    """The indicators by how many steps are from one measurement to the next."""
    found: dict[int, dict[str, Indicator]] = {}
    for name, indicator in indicators.items():
        found.setdefault(every if indicator.every is None else indicator.every, {})[name] = indicator
    return found


def recording(body: Body, recipe: Step, tags: Tree, indicators: Mapping[str, Indicator], every: int) -> Body:
    """The body that measures the indicators as well; the same one for the same indicators."""
    parts = parts_of(indicators, every)
    asked = tuple((steps, tuple((name, each.measure) for name, each in part.items())) for steps, part in parts.items())
    key = "recording", body, identity((asked, recipe.optimizer.rates))
    made: Body = BODIES.get(key, lambda: replace(body, recorder=_recorder(body, recipe, tags, parts)))
    return made


def _recorder(body: Body, recipe: Step, tags: Tree, parts: Mapping[int, Mapping[str, Indicator]]) -> Recorder:
    def measured(shared: tuple[Array, Any, Array], carry: Carry, batch: Tree) -> tuple[Carry, Rows]:
        assert body.inside is not None
        root, numbers, rate = shared
        # A gradient that is read twice may be compiled another way, with other bits. So the step is taken as it always is, in
        # a branch of its own; loss and gradient are computed again if an indicator reads them, or else left out by XLA.
        after: Carry = jax.lax.cond(carry.step >= 0, body.function, lambda _, carry, batch: carry, shared, carry, batch)
        after = _cut(after)
        _, value, grads = body.inside(shared, _cut(carry), batch)
        factor = jnp.asarray(recipe.schedule(carry.step)) * rate.astype(float)
        view = StepView(
            step=after.step,
            loss=value.mean,
            grads=grads,
            params=after.params,
            updates=jax.tree.map(jnp.subtract, after.params, carry.params),
            layer_state=after.layer_state,
            batch=batch,
            tags=tags,
            factor=factor,
            rates=recipe.optimizer.rates(carry.optimizer_state, numbers, factor),
            model=recipe.model,
            before=(recipe.optimizer.at(carry.optimizer_state, carry.params), carry.layer_state),
            mode=Train(jax.random.fold_in(root, carry.step)),
        )

        def row(part: Mapping[str, Indicator]) -> Tree:
            return {name: jax.tree.map(jnp.asarray, indicator.measure(view)) for name, indicator in part.items()}

        return after, tuple(partial(row, part) for part in parts.values())

    return Recorder(tuple(parts), measured, lambda carry: carry.step)


def _cut(arrays: Any) -> Any:
    """The same arrays, over which XLA does not look when it optimizes."""
    return jax.lax.optimization_barrier(arrays)  # type: ignore[no-untyped-call]


def told(
    rows: tuple[StepRow, ...], indicators: Mapping[str, Indicator], every: int, remembered: Remembered, epoch: int
) -> tuple[list[Measured], Remembered]:
    """The events of what a dispatch recorded, one for each step, and what is remembered for later ones."""
    parts = list(parts_of(indicators, every).values())
    found: dict[int, dict[str, Any]] = {}
    kept = dict(remembered)
    for step, part, row in rows:
        for name, indicator in parts[part].items():
            arrays = row[name]
            if indicator.last > 1:
                arrays = kept[name] = (*kept.get(name, ()), arrays)[-indicator.last :]
            found.setdefault(step, {}).update(indicator.told(name, arrays))
    return [Measured(values, step, epoch) for step, values in found.items()], kept
