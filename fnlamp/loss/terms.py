"""Several losses as one, each on its own part of the prediction and the target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnlamp.arrays import Array, Tree
from fnlamp.given import arguments, number, shown
from fnlamp.loss.value import Loss, LossValue, Term, as_loss


@arguments('it makes a loss of several, as loss.sum({"digit": loss.cross_entropy(), "angle": loss.mse()})')
def sum(terms: Mapping[str, Callable[[Any, Any], Any]], weights: Mapping[str, float] = MappingProxyType({})) -> Loss:
    """The weighted sum of the means of several losses, for a model of several outputs or an output with several aims.

    A term without an entry in `weights` has the weight 1.  If the prediction is a dict, a term is given the entry of its name,
    or all of it if there is none; and so for the target.
    Over a batch the loss is `sum_i w_i mean_i`, each mean over the rows that count for its term, and its weight is the number
    of rows.  Training and evaluation report each term as a metric, such as "digit_loss" for the term "digit"; the loss of an
    epoch is the weighted sum of these means over the epoch, also if different rows are ignored in each batch.
    Fails: as the terms.  Raises: `ValueError` for no terms, or a weight of none of them.

    >>> both = sum({"digit": loss.cross_entropy(), "angle": loss.mse()}, weights={"angle": 0.5})
    >>> prediction = {"digit": jnp.zeros((2, 10)), "angle": jnp.array([1.0, 2.0])}
    >>> both, float(both(prediction, {"digit": jnp.array([3, -100]), "angle": jnp.zeros(2)}).mean)  # ln 10 + 2.5 / 2
    (digit + 0.5 angle, 3.5525...)
    """
    bound = _terms(terms, weights)

    def apply(prediction: Any, target: Any) -> LossValue:
        return of_part(bound, whole_of(bound, prediction, target), prediction, target)

    def check(prediction: Any, target: Any) -> None:
        for term in bound:
            term.loss.check(prediction, target)

    def check_prediction(prediction: Any) -> None:
        for term in bound:
            term.loss.check_prediction(prediction)

    def suspects(prediction: Any) -> Array:
        return jnp.stack([term.loss.suspects(prediction) for term in bound if term.loss.suspects is not None]).any()

    name = " + ".join(term.name if term.weight == 1 else f"{term.weight:g} {term.name}" for term in bound)
    suspicious = any(term.loss.suspects is not None for term in bound)
    return Loss(apply, name, check, check_prediction, suspects if suspicious else None, bound)


class Whole(NamedTuple):
    """What the loss of a part of a batch depends on of the whole: the weight of each term, and the number of rows."""

    weights: tuple[Array, ...]
    rows: int


def whole_of(terms: tuple[Term, ...], prediction: Tree, target: Tree) -> Whole:
    """Of the whole batch."""
    return Whole(tuple(term.loss(prediction, target).weight for term in terms), _rows(prediction, target))


def of_part(terms: tuple[Term, ...], whole: Whole, prediction: Tree, target: Tree) -> LossValue:
    """The loss of a part of a batch, or of all of it: the values of all parts add up to that of the batch."""
    values = [LossValue(term.loss(prediction, target).total, weight) for term, weight in zip(terms, whole.weights, strict=True)]
    mean = jnp.stack([term.weight * value.mean for term, value in zip(terms, values, strict=True)]).sum()
    some = jnp.stack([weight > 0 for weight in whole.weights]).any()
    return LossValue(whole.rows * mean, jnp.where(some, _rows(prediction, target), 0).astype(mean.dtype))


def _rows(*trees: Tree) -> int:
    return next((np.shape(leaf)[0] for leaf in jax.tree.leaves(trees) if np.ndim(leaf)), 1)


def _terms(terms: Any, weights: Any) -> tuple[Term, ...]:
    for argument, given in (("terms", terms), ("weights", weights)):
        if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
            raise TypeError(f"sum: {argument} is a dict by name, got {shown(given)}")
    if not terms:
        raise ValueError("sum: terms is empty, expected at least one loss by name")
    if others := [name for name in weights if name not in terms]:
        raise ValueError(f"sum: weights has {', '.join(others)}, which the terms {', '.join(terms)} have not")
    return tuple(
        Term(
            name,
            number(f"sum: weights[{name!r}]", weights.get(name, 1.0)),
            _on_part(as_loss(of, f"sum: terms[{name!r}]"), name),
        )
        for name, of in terms.items()
    )


def _on_part(of: Loss, name: str) -> Loss:
    """The loss of the entry of that name."""
    suspects = of.suspects
    return Loss(
        lambda prediction, target: of(_part(prediction, name), _part(target, name)),
        of.name,
        lambda prediction, target: of.check(_part(prediction, name), _part(target, name)),
        lambda prediction: of.check_prediction(_part(prediction, name)),
        None if suspects is None else lambda prediction: suspects(_part(prediction, name)),
    )


def _part(whole: Tree, name: str) -> Tree:
    return whole[name] if isinstance(whole, dict) and name in whole else whole
