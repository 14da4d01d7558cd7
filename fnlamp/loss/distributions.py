"""Losses of predicted distributions: of classes, of normal numbers, of counts."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnlamp.arrays import Array
from fnlamp.fault import DtypeMismatch, FaultError
from fnlamp.given import arguments, flag, number
from fnlamp.loss.arguments import makes_a_loss, nan_unless, refuse
from fnlamp.loss.classes import expects_log_probabilities, not_normalised
from fnlamp.loss.elementwise import counting, elementwise, ignored_number, pairs, row_mean
from fnlamp.loss.soft import are_distributions, check_distributions
from fnlamp.loss.value import Loss, LossValue


@arguments(makes_a_loss("kl_divergence"))
def kl_divergence(*, ignored: float | None = None) -> Loss:
    """The Kullback-Leibler divergence from predicted log-probabilities to target probabilities, in nats per row.

    `sum_c t_c (log t_c - logp_c)`, 0 for t_c = 0; the mean is over rows.  A row with a target of `ignored`, or of NaN if it is
    NaN, does not count.
    Shapes: prediction and target `(batch, ..., classes)`.  Fails: `ShapeMismatch`, `DtypeMismatch`; `LabelOutOfRange` for
    targets that are not probabilities; `PredictionMismatch` for a first batch of logits.
    Same mean as `torch.nn.KLDivLoss(reduction="batchmean")` of two axes.

    >>> logp, target = jnp.log(jnp.array([[0.5, 0.5], [0.25, 0.75]])), jnp.array([[1.0, 0.0], [0.25, 0.75]])
    >>> float(kl_divergence()(logp, target).mean)  # (ln 2 + 0) / 2
    0.3465...
    """
    name = "kl_divergence"
    skipped = ignored_number(name, ignored)

    def apply(prediction: Any, target: Any) -> LossValue:
        logp, t = pairs(name, prediction, target)
        counted = jnp.full(t.shape[:-1], True) if skipped is None else counting(t, skipped).all(-1)
        t = jnp.where(counted[..., None], t, 0)
        some = t > 0
        each = jnp.where(some, t * (jnp.log(jnp.where(some, t, 1)) - jnp.where(some, logp, 0)), 0)
        sound = are_distributions(t) | ~counted
        return row_mean(nan_unless(sound.all(), jnp.sum(each, axis=-1)), counted)

    def check(prediction: Any, target: Any) -> None:
        rows = np.asarray(target, np.float64).reshape(-1, np.shape(target)[-1])
        check_distributions(name, target, True if skipped is None else counting(rows, skipped).all(-1))

    return Loss(apply, name, check, expects_log_probabilities(name), not_normalised)


@arguments(makes_a_loss("gaussian_nll"))
def gaussian_nll(*, full: bool = False, eps: float = 1e-6, ignored: float | None = None) -> Loss:
    """The negative log-likelihood of numbers under predicted means and variances: `(log v + (m - y)^2 / v) / 2`.

    With `full`, also the constant `log(2 pi) / 2`.  A variance below `eps` counts as `eps`, but has a gradient; a negative one
    makes the loss NaN.  Targets of `ignored` do not count, those of NaN if it is NaN; the mean is over all other numbers.
    Shapes: the prediction is a tuple (mean, variance), as of `nn.branch`, both of the target's shape; the variance may have a
    last axis of 1.  Fails: `ShapeMismatch`, `DtypeMismatch`.
    Reference: Nix and Weigend 1994, eq. 3; same mean as `torch.nn.GaussianNLLLoss`.

    >>> mean, variance = jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])
    >>> float(gaussian_nll()((mean, variance), jnp.array([0.0, 4.0])).mean)  # ((0 + 1) / 2 + (ln 4 + 1) / 2) / 2
    0.8465...
    """
    name, constant = "gaussian_nll", 0.5 * math.log(2 * math.pi) if flag("gaussian_nll: full", full) else 0.0
    least, skipped = number(f"{name}: eps", eps, "a number with eps > 0", lambda e: e > 0), ignored_number(name, ignored)

    def apply(prediction: Any, target: Any) -> LossValue:
        if not isinstance(prediction, tuple | list) or len(prediction) != 2:
            hint = "make them with nn.branch(nn.linear(1), nn.linear(1) >> nn.softplus)"
            refuse(name, "a tuple (mean, variance) as the prediction", prediction, hint)
        mean, y = pairs(name, prediction[0], target)
        variance = prediction[1]
        if y.ndim and np.shape(variance) == (*y.shape[:-1], 1):
            variance = jnp.broadcast_to(variance, y.shape)
        variance, _ = pairs(f"{name}: variance", variance, y)
        counted = jnp.full(y.shape, True) if skipped is None else counting(y, skipped)
        mean, y, variance = (jnp.where(counted, x, other) for x, other in ((mean, 0), (y, 0), (variance, 1)))
        v = variance + jax.lax.stop_gradient(jnp.maximum(variance, least) - variance)
        each = 0.5 * (jnp.log(v) + jnp.square(mean - y) / v) + constant
        return row_mean(nan_unless((variance >= 0).all(), each), counted)

    return Loss(apply, name)


@arguments(makes_a_loss("poisson_nll"))
def poisson_nll(*, log_input: bool = True, full: bool = False, eps: float = 1e-8, ignored: float | None = None) -> Loss:
    """The negative log-likelihood of counts under predicted rates, without `log y!`: `exp(x) - y x`, x the logarithm of a rate.

    With `log_input=False`, x is the rate: `x - y log(x + eps)`.  `full` adds `log y!`, by Stirling's formula, for y > 1.
    Shapes, ignored targets and faults as `mse`; `DtypeMismatch` for negative targets.  Same mean as `torch.nn.PoissonNLLLoss`.

    >>> float(poisson_nll()(jnp.log(jnp.array([1.0, 2.0])), jnp.array([0.0, 2.0])).mean)  # (1 + 2 - 2 ln 2) / 2
    0.8068...
    """
    name = "poisson_nll"
    logarithm, stirling = flag(f"{name}: log_input", log_input), flag(f"{name}: full", full)
    least = number(f"{name}: eps", eps, "a number with eps > 0", lambda e: e > 0)

    def one(x: Array, y: Array) -> Array:
        loss = jnp.exp(x) - y * x if logarithm else x - y * jnp.log(x + least)
        if stirling:
            some = jnp.where(y > 1, y, 1)
            loss = loss + jnp.where(y > 1, some * jnp.log(some) - some + 0.5 * jnp.log(2 * jnp.pi * some), 0)
        return nan_unless((y >= 0).all(), loss)

    def check(prediction: Any, target: Any) -> None:
        bad = np.argwhere(~(target >= 0))
        if len(bad):
            got = f"{target[tuple(bad[0])]} in row {bad[0][0] if len(bad[0]) else 0}"
            raise FaultError(DtypeMismatch("counts of 0 or more as the target", got, where=name))

    return elementwise(name, one, ignored, check)
