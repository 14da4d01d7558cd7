"""The type of indicators, and those that are a number or a few: loss, learning rate, gradient norm, losses of examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnlamp import tree
from fnlamp.arrays import Array, Tree, wide
from fnlamp.given import function, instance, text, whole
from fnlamp.track import Histogram, Indexed
from fnlamp.train.events import value_of
from fnlamp.train.indicators.summary import NORM, by_path, summaries
from fnlamp.train.indicators.view import StepView


@dataclass(frozen=True)
class Indicator:
    """A value of single steps: `measure(view)` on the device, a tree of arrays; `values(arrays)` on the host.

    `measure` is pure and is compiled into the step; the shapes of its arrays do not depend on their numbers. `values` is given
    them as NumPy arrays, and makes a value, such as a float or a `track.Histogram`, or several by name. Without it, a number is
    a number, and other arrays are a `track.Indexed`.
    `every` is the steps from one measurement to the next; `None` is `measure_every` of `epochs`. With `last` above 1, `values`
    is given a tuple: the arrays of the last so many measurements, or fewer, the newest last.

    >>> Indicator(lambda view: view.params["bias"].max(), name="largest bias")
    largest bias
    """

    measure: Callable[[StepView], Tree]
    values: Callable[[Any], Any] | None = None
    name: str = "own"
    every: int | None = None
    last: int = 1

    def __post_init__(self) -> None:
        function("Indicator: measure", self.measure, "a function from a StepView to arrays")
        if self.values is not None:
            function("Indicator: values", self.values, "a function from arrays to a value, or several by name")
        text("Indicator: name", self.name)
        if self.every is not None:
            object.__setattr__(self, "every", whole("Indicator: every", self.every))
        object.__setattr__(self, "last", whole("Indicator: last", self.last))

    def told(self, name: str, arrays: Tree) -> dict[str, Any]:
        """The values of a measurement by name; the name `""` of several stands for the indicator's own."""
        found = _plain(arrays) if self.values is None else self.values(arrays)
        if not isinstance(found, Mapping):
            return {name: found}
        return {f"{name}.{part}" if part else name: value for part, value in found.items()}

    def __repr__(self) -> str:
        return self.name if self.every is None else f"{self.name} every {self.every}"


def _plain(arrays: Tree) -> Any:
    found = {path.replace("/", "."): value_of(np.asarray(leaf, np.float64)) for path, leaf in tree.paths(arrays).items()}
    return found[""] if found.keys() == {""} else found


def every(steps: int, indicator: Indicator) -> Indicator:
    """The indicator after each step whose number `steps` divides.

    >>> every(10, step_loss())
    loss every 10
    """
    return replace(_indicator("every", indicator), every=whole("every: steps", steps))


def step_loss() -> Indicator:
    """The mean loss of the step's batch, before the step."""
    return Indicator(lambda view: view.loss, name="loss")


def gradient_norm() -> Indicator:
    """The Euclidean norm of all gradients together, before the optimizer clips them."""

    def measure(view: StepView) -> Array:
        # In the terms of `statistics`, so that both are computed once.
        return tree.global_norm([row[NORM] for row in summaries(by_path(view.grads)).values()])

    return Indicator(measure, name="gradient norm")


def learning_rate() -> Indicator:
    """The learning rate, with the factors of the schedule and of the folds.

    If parameters have different ones, the `lowest` and the `highest`; of several rules, by the rule's name. Of an optimizer
    without `rates`, as one of your own, the factor alone: `factor`.
    """

    def values(rates: Mapping[str, Any]) -> dict[str, float]:
        rules = {rule: numbers for rule, numbers in rates.items() if numbers.size}
        if rates.keys() == {"factor"}:
            return {"factor": float(rates["factor"])}
        found: dict[str, float] = {}
        for rule, numbers in rules.items():
            if rule != "factor":
                low, high = float(numbers.min()), float(numbers.max())
                ends = {"": low} if low == high or np.isnan(low) else {"lowest": low, "highest": high}
                found |= {".".join(filter(None, (rule, end))): rate for end, rate in ends.items()}
        return found

    return Indicator(lambda view: {"factor": view.factor, **view.rates}, values, "learning rate")


def indexed(index: Callable[[Any], Any], measure: Callable[[StepView], Array] = StepView.losses) -> Indicator:
    """A number for each example of the batch, its loss by default, under the number that `index` finds in the batch.

    `index(batch)` gives whole numbers, one for each row, as `lambda batch: batch[0]["row"]` of features with such an array,
    which the model leaves aside. The loss of each example needs one more forward pass in measured steps.
    """
    function("indexed: index", index, "a function from a batch to a whole number for each row")
    function("indexed: measure", measure, "a function from a StepView to a number for each row")

    def both(view: StepView) -> dict[str, Array]:
        indices, values = jnp.asarray(index(view.batch)), measure(view)
        if not jnp.issubdtype(indices.dtype, jnp.integer) or indices.shape != values.shape or values.ndim != 1:
            expected = "index gives whole numbers and measure numbers, one for each row of the batch"
            raise TypeError(f"indexed: {expected}, got {indices.dtype}{indices.shape} and {values.dtype}{values.shape}")
        return {"indices": indices, "values": values.astype(wide(values))}

    return Indicator(both, lambda found: Indexed(found["indices"], found["values"]), "indexed")


def queue(indicator: Indicator, size: int, *, bins: int = 20) -> Indicator:
    """The last `size` measurements of an indicator as a histogram, over epochs too; empty at first in a resumed run.

    >>> every(10, queue(step_loss(), 100))
    queue(loss, 100) every 10
    """
    inner, count = _indicator("queue", indicator), whole("queue: bins", bins)

    def values(arrays: Any) -> Histogram:
        numbers = np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(arrays)])
        return counted(numbers, count)

    return replace(inner, values=values, last=whole("queue: size", size), name=f"queue({inner.name}, {size})")


def counted(numbers: np.ndarray[Any, Any], bins: int) -> Histogram:
    """The numbers in equal bins from the least to the largest.

    >>> counted(np.array([1.0, 2.0, 5.0, np.nan]), 2)
    Histogram(edges=array([1., 3., 5.]), counts=array([2, 1]), not_finite=1)
    """
    finite = numbers[np.isfinite(numbers)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if low == high:
        low, high = low - max(0.5, abs(low) * 1e-9), high + max(0.5, abs(high) * 1e-9)
    # Not `np.histogram`, which refuses a range that is narrow for its numbers.
    edges = np.linspace(low, high, bins + 1)
    at = np.clip(np.searchsorted(edges, finite, side="right") - 1, 0, bins - 1)
    return Histogram(edges, np.bincount(at, minlength=bins), int(numbers.size - finite.size))


def _indicator(name: str, given: Any) -> Indicator:
    made: Indicator = instance(f"{name}: indicator", given, Indicator, "an indicator, such as train.step_loss()")
    return made
