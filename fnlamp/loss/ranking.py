"""The area under the ROC curve: by bins as a metric, and exactly of arrays on the host."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from fnlamp.arrays import ArrayLike, describe, wide
from fnlamp.fault import DtypeMismatch, FaultError
from fnlamp.given import arguments, shown
from fnlamp.loss.arguments import arrays, nan_unless
from fnlamp.loss.counts import Average, Counts, Figures, average_of
from fnlamp.loss.labels import (
    check_labels,
    check_range,
    check_zeros_and_ones,
    ignored_label,
    labels_of,
    not_nan,
    zeros_and_ones,
)
from fnlamp.loss.value import Metric

NAME = "auroc"


@arguments("it makes a metric, of bins between the edges, such as loss.auroc(np.linspace(0, 1, 1001)) for probabilities")
def auroc(edges: ArrayLike, average: Average = Average.MACRO, *, ignored: int = -100) -> Metric:
    """The area under the ROC curve, where scores in the same bin count as equal: a metric.

    `edges`, increasing numbers on the prediction's scale, are where bins begin; the first and the last bin are unbounded.  The
    area is exact if no bin holds both a positive and a negative row.
    Shapes: prediction and target `(batch,)` or `(batch, ..., labels)` with targets 0 and 1, each label by itself; or prediction
    `(batch, ..., classes)` and integer labels `(batch, ...)`, each class against the rest.  Rows whose target is `ignored` do
    not count; an invalid target or a score of NaN makes it NaN.
    Without a positive or a negative row there is no curve: NaN, as is an average in which it has a weight.
    Fails: as `accuracy` or `binary_accuracy`.  Same as `sklearn.metrics.roc_auc_score` of `np.digitize(prediction, edges)`.

    >>> scores, target = jnp.array([0.1, 0.4, 0.35, 0.8]), jnp.array([0, 0, 1, 1])
    >>> auroc(np.linspace(0, 1, 101))(scores, target), auroc([0.5])(scores, target)
    (0.75, 0.75)
    """
    bins, average, skipped = _edges(edges), average_of(NAME, average), ignored_label(ignored, NAME)

    def sums(prediction: Any, target: Any) -> Counts:
        scores, true, sound, counted = _problems(prediction, target, skipped)
        scores = scores.astype(wide(scores))
        at = jnp.searchsorted(jnp.asarray(bins, scores.dtype), scores, side="right")
        problem = jnp.broadcast_to(jnp.arange(scores.shape[1]), scores.shape)
        rows = jnp.zeros((scores.shape[1], 2, len(bins) + 1), jnp.int32)
        rows = rows.at[problem, true.astype(jnp.int32), at].add(counted.astype(jnp.int32))
        return Counts(rows, nan_unless((sound | ~counted).all(), jnp.zeros(())))

    def result(sums: Counts) -> Figures:
        area: Figures = _area(sums.rows, average) + sums.flaw
        return area

    return Metric(sums, result, NAME, lambda prediction, target: _check(prediction, target, skipped))


@arguments("loss.auroc(edges) makes a metric of it, by bins")
def exact_auroc(
    prediction: ArrayLike, target: ArrayLike, average: Average = Average.MACRO, *, ignored: int = -100
) -> float | np.ndarray[Any, Any]:
    """The area under the ROC curve of all rows, on the host: the share of pairs of a positive and a negative in order.

    A pair of equal scores counts half.  Shapes, ignored rows and averages as in `auroc`.
    Fails: `ShapeMismatch`, `DtypeMismatch`, `LabelOutOfRange`.  Same as `sklearn.metrics.roc_auc_score`.

    >>> exact_auroc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([0, 0, 1, 1]))
    0.875
    """
    average, skipped = average_of(NAME, average), ignored_label(ignored, NAME)
    scores, target = (np.asarray(x) for x in (prediction, target))
    _, true, sound, counted = (np.asarray(x) for x in _problems(scores, target, skipped))
    _check(scores, target, skipped)
    if not (sound | ~counted).all():
        raise FaultError(DtypeMismatch("scores that are numbers", "NaN among them", where="exact_auroc"))
    # Not in float32, which would make scores equal that are not.
    bins = np.unique(scores.reshape(true.shape), return_inverse=True)[1].reshape(true.shape)
    rows = np.zeros((true.shape[1], 2, bins.max(initial=0) + 1))
    np.add.at(rows, (np.broadcast_to(np.arange(true.shape[1]), true.shape), true.astype(int), bins), counted)
    found = np.asarray(_area(rows, average))
    return found if found.ndim else float(found)


def _problems(prediction: Any, target: Any, ignored: int) -> tuple[Any, Any, Any, Any]:
    """Scores, whether they are positive, whether they are sound, whether they count: each (rows, problems)."""
    if _by_class(prediction, target):
        prediction, target = arrays(NAME, prediction, target)
        check_labels(NAME, prediction, target)
        classes = prediction.shape[-1]
        label, counted, known = (x.reshape(-1, 1) for x in labels_of(target, ignored, classes))
        scores = prediction.reshape(-1, classes)
        true = label == jnp.arange(classes, dtype=label.dtype)[None]
        return scores, true, known & not_nan(scores), jnp.broadcast_to(counted, scores.shape)
    prediction, true, sound, counted = zeros_and_ones(NAME, prediction, target, ignored)
    labels = prediction.shape[-1] if prediction.ndim > 1 else 1
    return tuple(x.reshape(-1, labels) for x in (prediction, true, sound, counted))  # type: ignore[return-value]


def _by_class(prediction: Any, target: Any) -> bool:
    """Whether each row has scores of several classes and one label."""
    return np.ndim(prediction) == np.ndim(target) + 1 > 1 and np.shape(prediction)[-1] > 1


def _check(prediction: Any, target: Any, ignored: int) -> None:
    if _by_class(prediction, target):
        check_range(NAME, prediction, target, ignored)
    else:
        check_zeros_and_ones(NAME, target, ignored)


def _area(rows: Figures, average: Average) -> Any:
    """The area of counts `(problems, negatives and positives, bins)`, averaged over the problems."""
    counts = rows.sum(0, keepdims=True) if average is Average.MICRO else rows
    negatives, positives = counts[:, 0], counts[:, 1]
    below = np.cumsum(negatives, axis=-1) - negatives / 2
    pairs = negatives.sum(-1) * positives.sum(-1)
    each = np.where(pairs > 0, (positives * below).sum(-1) / np.where(pairs > 0, pairs, 1), math.nan)
    if average is Average.EACH:
        return each
    weights = positives.sum(-1) if average is Average.WEIGHTED else np.ones(len(each))
    return (np.where(weights > 0, each, 0) * weights).sum() / weights.sum() if weights.any() else math.nan


def _edges(given: ArrayLike) -> Figures:
    try:
        edges = np.array(given)
        numbers = edges.dtype.kind in "fiu"
    except (TypeError, ValueError):
        numbers = False
    if not numbers:
        raise TypeError(f"auroc: edges are increasing numbers, such as np.linspace(0, 1, 1001), got {shown(given)}")
    edges = edges.astype(np.float64)
    if edges.ndim != 1 or not edges.size or not np.isfinite(edges).all() or not (np.diff(edges) > 0).all():
        got = describe(edges) if edges.size > 8 or edges.ndim != 1 else edges.tolist()
        raise ValueError(f"auroc: edges are increasing numbers, such as np.linspace(0, 1, 1001), got {got}")
    return edges
