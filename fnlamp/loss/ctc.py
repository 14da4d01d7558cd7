"""Connectionist temporal classification: labels of a sequence whose times are not known."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnlamp.arrays import Array, describe, is_integer, wide
from fnlamp.fault import DtypeMismatch, FaultError, LabelOutOfRange, ShapeMismatch
from fnlamp.given import arguments, flag, whole
from fnlamp.loss.arguments import arrays, makes_a_loss, nan_unless, refuse
from fnlamp.loss.classes import expects_log_probabilities, not_normalised
from fnlamp.loss.elementwise import row_mean
from fnlamp.loss.labels import narrow
from fnlamp.loss.value import Loss, LossValue

NEVER = -1e30
"""The logarithm of a probability of 0, finite so that its gradient is 0 and not NaN."""
PARTS = ("labels", "label_lengths", "lengths")


@arguments(makes_a_loss("ctc"))
def ctc(*, blank: int = 0, skip_impossible: bool = False) -> Loss:
    """The negative log-likelihood, in nats per row, of labels under log-probabilities, over all alignments in time.

    An alignment gives each time step a label or the `blank`; equal neighbours are one label unless a blank is between them. The
    forward probabilities are computed in log space.  The mean is over rows, also of labels of different lengths.
    Shapes: prediction `(batch, time, classes)`; the target is a dict of `labels` `(batch, longest)`, of which the first
    `label_lengths` `(batch,)` count, and of `lengths` `(batch,)`, the time steps that count.
    A row with too few time steps, one per label and one more between equal labels, is impossible: its loss is infinite, with a
    gradient of 0; with `skip_impossible` such rows do not count.
    Fails: `ShapeMismatch` (also for impossible rows), `DtypeMismatch`, `LabelOutOfRange`, `PredictionMismatch`.
    Reference: Graves et al. 2006, eqs. 6 to 8; same as `torch.nn.CTCLoss(reduction="sum")` per row.  (As a function of
    log-probabilities, its gradient is not torch's, which has that of the log-softmax in it.)

    >>> logp = jnp.log(jnp.full((1, 2, 2), 0.5))  # of the four paths, "a", "a-" and "-a" say a
    >>> target = {"labels": jnp.array([[1]]), "label_lengths": jnp.array([1]), "lengths": jnp.array([2])}
    >>> float(jnp.exp(-ctc()(logp, target).mean))
    0.75
    """
    none, skip = whole("ctc: blank", blank, least=0), flag("ctc: skip_impossible", skip_impossible)

    def apply(prediction: Any, target: Any) -> LossValue:
        logp, labels, label_lengths, lengths = _parts(prediction, target, none)
        sound, possible = _sound(logp.shape, labels, label_lengths, lengths, none), _needed(labels, label_lengths) <= lengths
        likelihood = log_likelihood(
            logp, jnp.where(labels < logp.shape[-1], jnp.maximum(labels, 0), 0), label_lengths, lengths, none
        )
        possible = possible & (likelihood > NEVER / 2)  # nor if a probability is 0
        each = jnp.where(possible, -likelihood, 0 if skip else jnp.inf)
        return row_mean(nan_unless(sound.all(), each), possible if skip else jnp.full(each.shape, True))

    def check(prediction: Any, target: Any) -> None:
        labels, label_lengths, lengths = (np.asarray(target[part]) for part in PARTS)
        _check(prediction.shape, labels, label_lengths, lengths, none, skip)

    return Loss(apply, "ctc", check, expects_log_probabilities("ctc"), not_normalised)


def log_likelihood(logp: Array, labels: Array, label_lengths: Array, lengths: Array, blank: int) -> Array:
    """The logarithm of the probability of all alignments, one for each row; `NEVER` or less if there is none.

    The states are the labels with blanks around and between them.
    """
    batch, time, _ = logp.shape
    states = jnp.full((batch, 2 * labels.shape[1] + 1), blank, labels.dtype).at[:, 1::2].set(labels)
    # From the state before the last one, where the last one is a blank between different labels.
    skips = (states != blank) & (states != _shifted(states, 2, blank))
    emitted = jnp.maximum(jnp.take_along_axis(logp, states[:, None, :], axis=2), NEVER)
    start = jnp.full(states.shape, NEVER, logp.dtype).at[:, 0].set(0)

    def step(alpha: Array, at: tuple[Array, Array]) -> tuple[Array, None]:
        t, here = at
        skipped = jnp.where(skips, _shifted(alpha, 2, NEVER), NEVER)
        sums = jax.nn.logsumexp(jnp.stack([alpha, _shifted(alpha, 1, NEVER), skipped]), axis=0)
        return jnp.where((t < lengths)[:, None], sums + here, alpha), None

    alpha, _ = jax.lax.scan(step, start, (jnp.arange(time, dtype=lengths.dtype), jnp.moveaxis(emitted, 1, 0)))
    last = 2 * jnp.clip(label_lengths, 0, labels.shape[1])[:, None]
    ends = jnp.take_along_axis(alpha, jnp.concatenate([last, jnp.maximum(last - 1, 0)], axis=1), axis=1)
    return jnp.logaddexp(ends[:, 0], jnp.where(last[:, 0] > 0, ends[:, 1], NEVER))


def _shifted(x: Array, by: int, fill: Any) -> Array:
    """What the states before have."""
    return jnp.concatenate([jnp.full((len(x), by), fill, x.dtype), x], axis=1)[:, : x.shape[1]]


def _needed(labels: Any, label_lengths: Any) -> Any:
    """The fewest time steps of each row: one per label, and one more between equal labels."""
    place = np.arange(1, labels.shape[1], dtype=np.int32)[None]
    repeats = ((labels[:, 1:] == labels[:, :-1]) & (place < label_lengths[:, None])).sum(-1, dtype=np.int32)
    return label_lengths + repeats


def _sound(shape: tuple[int, ...], labels: Any, label_lengths: Any, lengths: Any, blank: int) -> Any:
    """Which rows have labels that are classes and not blank, and lengths within the arrays."""
    counted = np.arange(labels.shape[1], dtype=np.int32)[None] < label_lengths[:, None]
    known = (labels >= 0) & (labels < shape[-1]) & (labels != blank)
    there = (lengths >= 0) & (lengths <= shape[1]) & (label_lengths >= 0) & (label_lengths <= labels.shape[1])
    return (known | ~counted).all(-1) & there


def _parts(prediction: Any, target: Any, blank: int) -> tuple[Array, Array, Array, Array]:
    if not isinstance(target, dict) or set(target) != set(PARTS):
        got = "{" + ", ".join(map(str, target)) + "}" if isinstance(target, dict) else describe(target)
        raise FaultError(ShapeMismatch(f"a dict of {', '.join(PARTS)} as the target", got, where="ctc"))
    logp, labels = arrays("ctc", prediction, target["labels"])
    rows = [arrays("ctc", prediction, target[part])[1] for part in PARTS[1:]]
    if logp.ndim != 3 or logp.shape[-1] <= blank:
        refuse("ctc", f"log-probabilities (batch, time, classes), of more than {blank} classes", logp)
    if labels.ndim != 2 or len(labels) != len(logp):
        refuse("ctc", f"labels of shape [{len(logp)}, longest] for a prediction {describe(logp)}", labels)
    for part, given in zip(PARTS, (labels, *rows), strict=True):
        if not is_integer(given):
            raise FaultError(DtypeMismatch(f"integers as the {part}", describe(given), where="ctc"))
        if given is not labels and given.shape != logp.shape[:1]:
            refuse("ctc", f"{part} of shape [{len(logp)}]", given)
    return logp.astype(wide(logp)), narrow(labels), narrow(rows[0]), narrow(rows[1])


def _check(shape: tuple[int, ...], labels: Any, label_lengths: Any, lengths: Any, blank: int, skip: bool) -> None:
    """Fails: `LabelOutOfRange`, `ShapeMismatch` for what a first batch would break at."""
    bad = ~_sound(shape, labels, label_lengths, lengths, blank)
    if bad.any():
        row = int(bad.argmax())
        if not 0 <= lengths[row] <= shape[1] or not 0 <= label_lengths[row] <= labels.shape[1]:
            expected = f"up to {shape[1]} time steps and {labels.shape[1]} labels"
            got = f"lengths {lengths[row]} and label_lengths {label_lengths[row]} in row {row}"
            raise FaultError(ShapeMismatch(expected, got, where="ctc"))
        mine = labels[row, : label_lengths[row]]
        wrong = mine[(mine < 0) | (mine >= shape[-1]) | (mine == blank)][0]
        hint = f"{blank} is the blank, which is not a label" if wrong == blank else ""
        raise FaultError(LabelOutOfRange(int(wrong), shape[-1], row, hint, where="ctc"))
    needed = _needed(labels, label_lengths)
    if not skip and (needed > lengths).any():
        row = int((needed > lengths).argmax())
        expected = f"at least {needed[row]} time steps for the {label_lengths[row]} labels of row {row}"
        hint = "one per label, one more between equal ones; ctc(skip_impossible=True) leaves out such rows"
        raise FaultError(ShapeMismatch(expected, str(lengths[row]), hint, where="ctc"))
