"""Metrics by name: their sums in a step, where a tally keeps them, and their figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from fnlamp.arrays import Tree, describe
from fnlamp.fault import FaultError, ShapeMismatch
from fnlamp.loss import Loss, MetricLike, as_metric
from fnlamp.train.tally import Sums


def measures(metrics: Iterable[MetricLike], prediction: Tree, target: Tree) -> tuple[Tree, ...]:
    """The sums of each metric over a batch; their leaves are added to a tally."""
    return tuple(as_metric(metric).measure(prediction, target) for metric in metrics)


def same_sums(metrics: Mapping[str, MetricLike], specs: list[Tree]) -> Tree:
    """The specs of the metrics' sums, one for all batches.  Fails: `ShapeMismatch` if they depend on the batch size."""
    first, *others = specs
    for other in others:
        for name, one, two in zip(metrics, first, other, strict=True):
            if jax.tree.flatten(one) != jax.tree.flatten(two):
                raise FaultError(ShapeMismatch(f"sums {_shapes(one)} for a batch of any size", _shapes(two), where=name))
    return first


def with_terms(loss: Loss, metrics: Mapping[str, MetricLike], argument: str = "metrics") -> dict[str, MetricLike]:
    """The terms of a loss as metrics, and the others.  Raises: `ValueError` for another metric with the name of a term."""
    terms = {f"{term.name}_loss": term.loss for term in loss.terms}
    for name, term in terms.items():
        if metrics.get(name, term) is not term:
            raise ValueError(f"{argument}[{name!r}] has the name that a term of the loss {loss} is reported by; rename it")
    return {**terms, **metrics}


def loss_of(loss: Loss, sums: Sums, figures: Mapping[str, Any]) -> float:
    """The loss over all batches: total / weight, or the sum of the means of its terms, 0 for one whose rows are all ignored."""
    if not loss.terms or np.isnan(sums.total):
        return float(sums.total / sums.weight)
    means = [(term.weight, figures[f"{term.name}_loss"]) for term in loss.terms]
    return math.fsum(weight * mean for weight, mean in means if not math.isnan(mean))


def _shapes(sums: Tree) -> str:
    return describe(tuple(jax.tree.leaves(sums)))


def figures(metrics: Mapping[str, MetricLike], specs: Tree, numbers: np.ndarray[Any, Any]) -> dict[str, Any]:
    """The result of each metric, of the numbers that a tally holds for sums of these specs."""
    leaves, structure = jax.tree.flatten(specs)
    ends = np.cumsum([math.prod(leaf.shape) for leaf in leaves])[:-1]
    parts = np.split(numbers, ends) if leaves else []
    sums = jax.tree.unflatten(structure, [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)])
    return {name: as_metric(metric).figure(each) for (name, metric), each in zip(metrics.items(), sums, strict=True)}


def shown(name: str, figure: Any) -> str:
    """A figure in a line of a log: a percentage, a number, a few numbers, or the shape of many.

    >>> shown("accuracy", 0.5), shown("r2", 0.25), shown("recall", np.array([1.0, 0.5])), shown("table", np.zeros((9, 9)))
    ('50.00%', '0.2500', '[1.0000 0.5000]', '9x9 numbers')
    """
    if np.ndim(figure) == 0:
        return f"{100 * figure:.2f}%" if name == "accuracy" else f"{figure:.4f}"
    if np.size(figure) > 12:
        return f"{'x'.join(map(str, np.shape(figure)))} numbers"
    text = np.array2string(np.asarray(figure), max_line_width=1000, formatter={"float_kind": lambda x: f"{x:.4f}"})
    return text.replace("\n", "")


def same(one: Any, other: Any) -> bool:
    """Whether two reports, or figures by name, are equal; some figures may be arrays.

    >>> same({"loss": 1.0, "recall": np.array([1.0, 0.5])}, {"loss": 1.0, "recall": np.array([1.0, 0.5])})
    True
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    return np.array_equal(one, other) if isinstance(one, np.ndarray) else bool(one == other)
