"""Where a run stands between two dispatches, as a value."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, replace
from typing import Any

import jax

from fnlamp.fault import FaultError
from fnlamp.stream import BatchStream
from fnlamp.train import tally
from fnlamp.train.evaluate import Evaluation
from fnlamp.train.start import print_of, state_of
from fnlamp.train.state import Carry, EpochReport, Trained, TrainState
from fnlamp.train.supervised import Supervised


@dataclass(frozen=True, eq=False)
class Progress:
    """What a run has reached: the running epoch, from 1, the position in its stream (`None`: at its start), and the carry.

    `carry` is `None` before the first stream is known; `shared` is what every step reads. `losses` are the last and the best
    of validations, `stream` describes the stream of the position, and `classes` are the names of its labels.
    """

    epoch: int = 1
    position: Any = None
    carry: Any = None
    shared: Any = None
    curve: tuple[EpochReport, ...] = ()
    losses: tuple[float | None, float | None] = (None, None)
    stream: tuple[tuple[str, Any], ...] = ()
    classes: tuple[str, ...] | None = None

    def trained(self, model: Supervised) -> Trained:
        """The outcome of a run that stops here."""
        c: Carry = self.carry
        stream = () if self.position is None else self.stream
        state = TrainState(c.step, c.params, c.layer_state, c.optimizer_state, c.tally, self.epoch, self.position, stream)
        return Trained(model, c.params, c.layer_state, self.curve, state)

    def within(self, stream: BatchStream[Any], seed: int) -> Progress:
        """With a description of the stream that the position is in; what cannot be described is left out."""
        if self.position is not None:
            with contextlib.suppress(FaultError):
                return replace(self, stream=print_of(stream, seed))
        return self

    def after(self, report: EpochReport) -> Progress:
        """At the start of the next epoch, with an empty tally on the device of the last."""
        before = self.carry.tally
        empty = jax.device_put(tally.empty(), before.sharding if before.committed else None)
        return replace(
            self,
            epoch=self.epoch + 1,
            position=None,
            carry=replace(self.carry, tally=empty),
            curve=(*self.curve, report),
            losses=_losses(self.losses, report.validation_loss),
            stream=(),
        )

    def report(self, epochs: int, validation: Evaluation | None, seconds: float) -> EpochReport:
        """The figures of the running epoch, whose steps are all taken."""
        sums = tally.sums(self.carry.tally)
        return EpochReport(
            epoch=self.epoch,
            epochs=epochs,
            steps=int(sums.steps),
            samples=int(sums.rows),
            train_loss=float(sums.total / sums.weight),
            train_loss_of_batches=float(sums.of_batches / sums.steps),
            validation_loss=None if validation is None else validation.loss,
            validation_loss_of_batches=None if validation is None else validation.loss_of_batches,
            validation_metrics={} if validation is None else dict(validation.metrics),
            seconds=seconds,
        )


def resumed(start: Trained | TrainState | None) -> Progress:
    """Where a run begins: at the first epoch, or where the run to resume stood. The carry is made when its stream is known."""
    if start is None:
        return Progress()
    state, curve = state_of(start), start.curve if isinstance(start, Trained) else ()
    losses: tuple[float | None, float | None] = (None, None)
    for report in curve:
        losses = _losses(losses, report.validation_loss)
    return Progress(state.epoch, state.stream_state, curve=curve, losses=losses, stream=state.stream)


def _losses(losses: tuple[float | None, float | None], loss: float | None) -> tuple[float | None, float | None]:
    """The last and the best of validations after one more; one that is NaN is never the best."""
    if loss is None:
        return losses
    best = losses[1]
    better = loss if best is None or loss < best else best
    return loss, best if math.isnan(loss) else better
