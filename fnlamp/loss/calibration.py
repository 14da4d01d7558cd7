"""Metrics of probabilities: the expected calibration error, and perplexity."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnlamp.arrays import Array, wide
from fnlamp.given import arguments, whole
from fnlamp.loss.arguments import arrays
from fnlamp.loss.classes import cross_entropy
from fnlamp.loss.counts import MAKES, predictions
from fnlamp.loss.labels import check_range, ignored_label
from fnlamp.loss.value import Metric, MetricLike, as_loss, as_metric, mean_of


class Bins(NamedTuple):
    """Per bin of confidence the rows, those that are predicted correctly, and the sum of their confidences."""

    rows: Any
    right: Any
    confidence: Any


@arguments(MAKES.format("calibration_error"))
def calibration_error(bins: int = 15, *, ignored: int = -100) -> Metric:
    """The expected calibration error of logits: how far the confidence of predictions is from the share that is correct.

    The confidence of a row is its largest probability, after a softmax.  Bin i of n holds confidences in (i / n, (i + 1) / n];
    `ECE = sum over bins of |correct rows - sum of confidences| / rows`.
    Shapes, ties, ignored rows and faults as in `accuracy`.  A batch of probabilities in place of logits makes it NaN.
    Reference: Guo et al. 2017, "On Calibration of Modern Neural Networks", eq. 3.

    >>> logits = jnp.log(jnp.array([[0.25, 0.75], [0.25, 0.75], [0.25, 0.75], [0.25, 0.75]]))
    >>> calibration_error()(logits, jnp.array([1, 1, 1, 0])), calibration_error()(logits, jnp.array([1, 0, 0, 0]))
    (0.0, 0.5)
    """
    name = "calibration_error"
    count, skipped = whole(f"{name}: bins", bins), ignored_label(ignored, name)
    inner = np.linspace(0, 1, count + 1)[1:-1]

    def sums(prediction: Any, target: Any) -> Bins:
        prediction, target = arrays(name, prediction, target)
        label, predicted, counted, flaw = predictions(name, prediction, target, skipped)
        logits = prediction.astype(wide(prediction))
        confidence = jnp.exp(jnp.max(jax.nn.log_softmax(logits), axis=-1))
        flaw = (flaw + jnp.where(_probabilities(logits), jnp.nan, 0)).astype(confidence.dtype)
        at = jnp.searchsorted(jnp.asarray(inner, confidence.dtype), confidence, side="left")
        none, one = jnp.zeros(count, jnp.int32), counted.astype(jnp.int32)
        total = none.astype(confidence.dtype).at[at].add(jnp.where(counted, confidence, 0))
        return Bins(none.at[at].add(one), none.at[at].add(jnp.where(label == predicted, one, 0)), total + flaw)

    def result(sums: Bins) -> float:
        return float(np.abs(sums.right - sums.confidence).sum() / sums.rows.sum()) if sums.rows.any() else math.nan

    return Metric(sums, result, name, lambda prediction, target: check_range(name, prediction, target, skipped))


@arguments(MAKES.format("perplexity"))
def perplexity(loss: MetricLike | None = None) -> Metric:
    """The exponential of the mean loss in nats: a metric; e^(sum of totals / sum of weights) over all batches.

    The loss is `cross_entropy()` by default, of logits; `nll()` takes log-probabilities, and `cross_entropy(ignored=0)` leaves
    out tokens of padding.  Without a row that counts it is NaN.

    >>> perplexity()(jnp.zeros((4, 10)), jnp.array([0, 3, 9, 9]))
    10.0...
    """
    mean = as_metric(cross_entropy() if loss is None else as_loss(loss, "perplexity: loss"))
    return Metric(mean.sums, lambda sums: _exponential(mean_of(sums)), "perplexity", mean.check)


def _probabilities(x: Array) -> Array:
    """Whether all rows are not negative and add up to 1, as those of logits hardly ever are."""
    rows = (x >= 0).all(-1) & (jnp.abs(x.sum(-1) - 1) < 0.01)
    return rows.all() & (x.size > x.shape[-1])


def _exponential(nats: float) -> float:
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf
