"""Losses for integer labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from fnlamp.arrays import Array, along_last, wide
from fnlamp.fault import FaultError, PredictionMismatch
from fnlamp.given import arguments, number
from fnlamp.loss.arguments import arrays, makes_a_loss, nan_unless, refuse, weights_of
from fnlamp.loss.labels import check_labels, check_range, count, ignored_label, labels_of
from fnlamp.loss.value import Loss, LossValue

NOT_NORMALISED = 0.1
"""How far the log of a sum of probabilities may be from 0; log-softmax in half precision stays well below."""


@arguments(makes_a_loss("nll"))
def nll(class_weights: ArrayLike | None = None, *, ignored: int = -100) -> Loss:
    """The negative log-likelihood of integer labels under log-probabilities.

    Shapes: prediction `(batch, ..., classes)`, target `(batch, ...)`.  `total = sum w_t (-logp_t)`, `weight = sum w_t`, over
    the targets that are not `ignored`; w is 1 without `class_weights`, a vector of one weight per class.
    Fails: `ShapeMismatch`, `DtypeMismatch`, `LabelOutOfRange`; `PredictionMismatch` for a first batch of logits.
    Raises: `ValueError` for class weights that are negative, not finite, or all 0.  Same mean as `torch.nn.NLLLoss`.

    >>> log_probabilities = jnp.log(jnp.array([[0.5, 0.5], [0.25, 0.75]]))
    >>> float(nll()(log_probabilities, jnp.array([0, 1])).mean)  # (ln 2 + ln 4/3) / 2
    0.4904...
    """
    return _classes(
        "nll", lambda prediction: prediction, class_weights, ignored, 0.0, _log_probabilities_expected, _not_normalised
    )


@arguments(makes_a_loss("cross_entropy"))
def cross_entropy(class_weights: ArrayLike | None = None, *, label_smoothing: float = 0.0, ignored: int = -100) -> Loss:
    """`nll` of the log-softmax of logits: the cross-entropy of integer labels in nats.

    With `label_smoothing` e, the target distribution is `(1 - e) onehot + e / classes` (Szegedy et al. 2015, section 7).
    Shapes and faults as `nll`, but `PredictionMismatch` is for a first batch of probabilities, as after a softmax.
    Same mean as `torch.nn.CrossEntropyLoss`, also with class weights and smoothing together.

    >>> float(cross_entropy()(jnp.zeros((4, 10)), jnp.array([0, 3, 9, 9])).mean)  # ln 10
    2.3025...
    """
    smoothing = number("cross_entropy: label_smoothing", label_smoothing, "a probability", lambda e: 0 <= e <= 1)
    return _classes("cross_entropy", jax.nn.log_softmax, class_weights, ignored, smoothing, _logits_expected)


def _classes(
    name: str,
    log_probabilities: Callable[[Array], Array],
    class_weights: ArrayLike | None,
    ignored: int,
    smoothing: float,
    check_prediction: Callable[[Any], None],
    suspects: Callable[[Any], Array] | None = None,
) -> Loss:
    weights = weights_of(class_weights, f"{name}: class_weights")
    ignored = ignored_label(ignored, name)

    def apply(prediction: Any, target: Any) -> LossValue:
        prediction, target = arrays(name, prediction, target)
        check_labels(name, prediction, target)
        if weights is not None and weights.shape != prediction.shape[-1:]:
            refuse(name, f"class weights of shape {list(prediction.shape[-1:])}", weights)
        logp = log_probabilities(prediction.astype(wide(prediction)))
        label, counted, known = labels_of(target, ignored, logp.shape[-1])
        picked = jnp.take_along_axis(logp, label[..., None], axis=-1)[..., 0]
        each = None if weights is None else jnp.asarray(weights, logp.dtype)
        loss = -picked if each is None else -each[label] * picked
        if smoothing:
            uniform = jnp.mean(logp if each is None else logp * along_last(each, logp.ndim), axis=-1)
            loss = (1 - smoothing) * loss - smoothing * uniform
        # A label that is not a class makes the loss NaN, never a wrong number: training stops before the step.
        total = nan_unless((known | ~counted).all(), jnp.sum(jnp.where(counted, loss, 0)))
        weight = count(counted) if each is None else jnp.sum(jnp.where(counted, each[label], 0))
        return LossValue(total, weight.astype(total.dtype))

    def check(prediction: Any, target: Any) -> None:
        check_range(name, prediction, target, ignored)

    return Loss(apply, name, check, check_prediction, suspects)


# ------------------------------------------------------------------------------- checks of predictions


def _log_probabilities_expected(prediction: Any) -> None:
    x = np.asarray(prediction, np.float64)
    if not _plain(x) or (np.abs(_log_sum_exp(x)) <= NOT_NORMALISED).all():
        return
    if _probabilities(x):
        got, hint = "probabilities", "end the model with nn.log_softmax in place of nn.softmax"
    else:
        got, hint = (
            "numbers whose exponentials do not add up to 1",
            "use loss.cross_entropy, or end the model with nn.log_softmax",
        )
    raise FaultError(PredictionMismatch("log-probabilities", got, hint, where="nll"))


def _not_normalised(prediction: Array) -> Array:
    sums = jax.nn.logsumexp(prediction.astype(wide(prediction)), axis=-1)
    return (jnp.abs(sums) > NOT_NORMALISED).any()


def _logits_expected(prediction: Any) -> None:
    x = np.asarray(prediction, np.float64)
    if _plain(x) and x.size > x.shape[-1] and _probabilities(x):
        hint = "leave out the softmax, which cross_entropy computes, or use nn.log_softmax and loss.nll"
        raise FaultError(PredictionMismatch("logits", "probabilities, which add up to 1", hint, where="cross_entropy"))


def _plain(x: np.ndarray[Any, Any]) -> bool:
    return x.ndim > 0 and x.size > 0 and not (np.isnan(x) | (x == np.inf)).any()


def _probabilities(x: np.ndarray[Any, Any]) -> bool:
    return bool((x >= 0).all() and (np.abs(x.sum(-1) - 1) < 0.01).all())


def _log_sum_exp(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    largest = np.maximum(x.max(-1, keepdims=True), -1e300)
    total: np.ndarray[Any, Any] = np.log(np.maximum(np.exp(x - largest).sum(-1), 1e-300)) + largest[..., 0]
    return total
