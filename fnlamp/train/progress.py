"""Where a run stands between two dispatches, as a value."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax

from fnlamp import tree
from fnlamp.arrays import Params, State, Tree, to_device
from fnlamp.checkpoint import Record, rebuilt
from fnlamp.fault import FaultError, ShapeMismatch
from fnlamp.stream import BatchStream
from fnlamp.track import Alert
from fnlamp.train import tally
from fnlamp.train.evaluate import Evaluation
from fnlamp.train.events import Timing
from fnlamp.train.fold import Verdict, checked_step
from fnlamp.train.indicators.recording import Remembered
from fnlamp.train.measures import figures, loss_of
from fnlamp.train.program import Program
from fnlamp.train.start import as_in, curve_of, print_of, state_of
from fnlamp.train.state import Carry, EpochReport, Kept, Slot, Trained, TrainState
from fnlamp.train.stored import kinds_in


@dataclass(frozen=True, eq=False)
class Progress:
    """What a run has reached: the running epoch, from 1, the position in its stream (`None`: at its start), and the carry.

    `carry` is `None` before the first stream is known; `shared` is what every step reads. `losses` are those of the
    last and the best validation, `stream` describes the stream of the position, and `classes` are the names of its labels.
    `measured` are the specs of the sums of training metrics, and `features` that of the stream's features. `alerts` are those
    of the folds' last step; `timing`, and what indicators have `remembered` of steps, are for observers alone.
    """

    epoch: int = 1
    position: Any = None
    carry: Any = None
    shared: Any = None
    curve: tuple[EpochReport, ...] = ()
    losses: tuple[float | None, float | None] = (None, None)
    stream: tuple[tuple[str, Any], ...] = ()
    classes: tuple[str, ...] | None = None
    measured: Any = ()
    features: Any = None
    folds: Mapping[str, tuple[Any, Verdict]] = field(default_factory=dict)
    kept: Mapping[str, Mapping[int, Slot]] = field(default_factory=dict)
    alerts: Mapping[str, str | Alert] = field(default_factory=dict)
    timing: Timing = field(default_factory=Timing)
    remembered: Remembered = field(default_factory=dict)

    @property
    def stopped(self) -> tuple[str, ...]:
        """The folds that want the run to end."""
        return tuple(name for name, (_, verdict) in self.folds.items() if verdict.stop)

    @property
    def rate(self) -> float:
        """The factor of the learning rate that the folds want."""
        return math.prod(verdict.rate for _, verdict in self.folds.values())

    def weights(self, program: Program) -> tuple[Params, State]:
        """What validation and `predict` use."""
        return program.optimizer.evaluated(self.carry.optimizer_state, self.carry.params), self.carry.layer_state

    def trained(self, program: Program) -> Trained:
        """The outcome of a run that stops here."""
        c: Carry = self.carry
        stream = () if self.position is None else self.stream
        figures = tuple((name, fold.figure) for name, fold in program.folds.items())
        reached = self.epoch, self.position, stream, self.folds, figures, self.kept
        state = TrainState(c.step, c.params, c.layer_state, c.optimizer_state, c.tally, *reached)
        kept = {name: self._ranked(program, name) for name in self.kept if name in program.folds}
        return Trained(program.model, *self.weights(program), self.curve, state, kept, self.features)

    def _ranked(self, program: Program, name: str) -> Any:
        fold, slots = program.folds[name], self.kept[name]
        order = range(fold.slots) if fold.ranked is None else fold.ranked(self.folds[name][0])
        kept = [slots[at] for at in order if at in slots]
        found = [Kept(program.model, slot.params, slot.layer_state, slot.epoch, self.features) for slot in kept]
        return found[0] if fold.slots == 1 else tuple(found)

    def decided(self, program: Program, report: EpochReport, to_host: Callable[[Tree], Tree]) -> Progress:
        """After the folds' step on the report: with their new accumulators and verdicts, and the weights that they keep."""
        folds, kept, weights, alerts = dict(self.folds), dict(self.kept), None, {}
        for name, fold in program.folds.items():
            acc, verdict = checked_step(name, fold, self.folds[name][0], report)
            folds[name] = acc, verdict._replace(alert=None)
            if verdict.alert is not None:
                alerts[name] = verdict.alert
            if verdict.keep is not None:
                # A copy that no later step writes to, and one for all folds that keep this epoch.
                weights = weights or to_host(self.weights(program))
                kept[name] = {**kept.get(name, {}), verdict.keep: Slot(report.epoch, *weights)}
        return replace(self, folds=folds, kept=kept, alerts=alerts)

    def within(self, stream: BatchStream[Any], seed: int) -> Progress:
        """With a description of the stream that the position is in, or without one if the stream cannot be described."""
        if self.position is not None:
            with contextlib.suppress(FaultError):
                return replace(self, stream=print_of(stream, seed))
        return self

    def after(self, report: EpochReport) -> Progress:
        """At the start of the next epoch, with an empty tally on the device of the last."""
        before = self.carry.tally
        empty = to_device(tally.cleared(before), before.sharding if before.committed else None)
        return replace(
            self,
            epoch=self.epoch + 1,
            position=None,
            carry=replace(self.carry, tally=empty),
            curve=(*self.curve, report),
            losses=_losses(self.losses, report.validation_loss),
            stream=(),
        )

    def resumed(self, position: Any, carry: Carry) -> Progress:
        """At a position of a save, with kept weights of the model's own types; `carry` is that of the program, abstract."""
        kept = {
            name: {
                at: Slot(slot.epoch, as_in(carry.params, slot.params), as_in(carry.layer_state, slot.layer_state))
                for at, slot in slots.items()
            }
            for name, slots in self.kept.items()
        }
        return replace(self, position=position, kept=kept)

    def report(self, program: Program, validation: Evaluation | None, seconds: float) -> EpochReport:
        """The figures of the running epoch, after its last step."""
        sums = tally.sums(self.carry.tally)
        some = bool(sums.steps)  # else each step was skipped, and there is nothing to measure
        measured = figures(program.train_metrics, self.measured, sums.metrics) if some else {}
        return EpochReport(
            epoch=self.epoch,
            epochs=program.epochs,
            steps=int(sums.steps),
            samples=int(sums.rows),
            train_loss=loss_of(program.model.loss, sums, measured) if some else math.nan,
            train_loss_of_batches=float(sums.of_batches / sums.steps) if some else math.nan,
            validation_loss=None if validation is None else validation.loss,
            validation_loss_of_batches=None if validation is None else validation.loss_of_batches,
            validation_metrics={} if validation is None else dict(validation.metrics),
            train_metrics=measured,
            seconds=seconds,
            skipped=0 if program.optimizer.skipped is None else int(program.optimizer.skipped(self.carry.optimizer_state)),
        )


def begin(program: Program) -> Progress:
    """Where a run begins: at the first epoch, or where the run to resume stood. The carry is made when its stream is known."""
    start, fresh = program.resume, {name: (fold.init, Verdict()) for name, fold in program.folds.items()}
    if start is None:
        return Progress(folds=fresh)
    state, curve = state_of(start), curve_of(start)
    losses: tuple[float | None, float | None] = (None, None)
    for report in curve:
        losses = _losses(losses, report.validation_loss)
    figures = dict(state.figures)
    for name, fold in program.folds.items():
        if figures.get(name, fold.figure) != fold.figure:
            hint = "give a fold of another figure another name"
            raise FaultError(ShapeMismatch(fold.figure, figures[name], hint, where=f"resume/folds/{name}"))
    folds = {name: _resumed(name, now, state.folds.get(name, now)) for name, now in fresh.items()}
    kept = {name: slots for name, slots in state.kept.items() if name in folds}
    return Progress(state.epoch, state.stream_state, curve=curve, losses=losses, stream=state.stream, folds=folds, kept=kept)


def _resumed(name: str, fresh: tuple[Any, Verdict], saved: tuple[Any, Verdict]) -> tuple[Any, Verdict]:
    """The saved accumulator and verdict, if they are of a fold of the same kind."""
    accumulator = rebuilt(saved[0], kinds_in(fresh[0]))
    recorded = any(map(_is_record, jax.tree.leaves(accumulator, is_leaf=_is_record)))
    if recorded and tree.paths(accumulator).keys() == tree.paths(fresh[0]).keys():
        accumulator = as_in(fresh[0], accumulator)
    expected, actual = str(jax.tree.structure(fresh[0])), str(jax.tree.structure(accumulator))
    if expected != actual:
        hint = "give a fold of another kind another name"
        raise FaultError(ShapeMismatch(expected, actual, hint, where=f"resume/folds/{name}"))
    return accumulator, Verdict(*saved[1])


def _is_record(node: Any) -> bool:
    return isinstance(node, Record)


def _losses(losses: tuple[float | None, float | None], loss: float | None) -> tuple[float | None, float | None]:
    """The last and the best of validations after one more; one that is NaN is never the best."""
    if loss is None:
        return losses
    best = losses[1]
    better = loss if best is None or loss < best else best
    return loss, best if math.isnan(loss) else better
