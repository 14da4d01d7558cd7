"""One run of a training program: the only place where anything changes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from returns.result import Failure, Result, Success

from fnlamp import tree
from fnlamp.arrays import Tree, placed_on
from fnlamp.effect import Effect, Runtime, do
from fnlamp.fault import Broken, FaultError, Interrupted, NonFinite, NotRereadable, NoWeight, StepsExceeded
from fnlamp.mode import name_key, seed_key
from fnlamp.stream import BatchStream
from fnlamp.stream.sink import steps
from fnlamp.train import tally
from fnlamp.train.check import check_executor, device_of, takes_trained
from fnlamp.train.evaluate import Evaluation, run_evaluation
from fnlamp.train.execute import Body, Fused
from fnlamp.train.execute.workspace import Workspace
from fnlamp.train.factory import make_stream, use_stream
from fnlamp.train.plan import check_batch, check_classes
from fnlamp.train.program import Program
from fnlamp.train.start import check_same_stream, filled, print_of, state_of, weights_of
from fnlamp.train.state import Carry, EpochReport, Trained, TrainState
from fnlamp.train.step import LOSS_BROKE, PARAMS_BROKE, STEPS_BROKE
from fnlamp.train.supervised import pair


class Run:
    """What a run holds between two dispatches."""

    def __init__(self, program: Program, runtime: Runtime) -> None:
        check_executor(runtime.executor)
        self.of, self.runtime, self.device = program, runtime, device_of(runtime.device)
        self.workspace = Workspace(self.device)
        self.executor = runtime.executor or Fused()
        self.carry: Any = None
        self.shared: Any = None
        self.curve: list[EpochReport] = []
        self.losses: tuple[float | None, float | None] = (None, None)  # the last and the best of validations
        self.epoch, self.position = 1, None  # position None: at the start of the epoch's stream
        self.print: tuple[tuple[str, Any], ...] = ()
        self.classes: tuple[str, ...] | None = None
        self.body: Body | None = None
        self.recipe: tuple[Any, ...] | None = None  # identity of the functions of the stream's map
        self.hook_keeps = program.on_epoch is not None and takes_trained(program.on_epoch)

    # ---- what comes out

    def trained(self) -> Trained:
        c = self.carry
        stream = () if self.position is None else self.print
        state = TrainState(c.step, c.params, c.layer_state, c.optimizer_state, c.tally, self.epoch, self.position, stream)
        return Trained(self.of.model, c.params, c.layer_state, tuple(self.curve), state)

    def salvage(self) -> Trained | None:
        return None if self.carry is None else self.trained()

    # ---- the program

    def program(self) -> Effect[Trained, Any]:
        @do
        def train() -> Generator[Effect[Any, Any], Any, Trained]:
            of = self.of
            if of.resume is not None:
                self.resume()
            while self.epoch <= of.epochs or self.carry is None:
                started = self.runtime.clock.now()
                context = of.context("train", self.epoch, self.losses)
                yield from use_stream(of.train_batches, context, self.train_epoch, "train_batches")
                if self.epoch > of.epochs:
                    break
                validation = None
                if of.validation_batches is not None and self.epoch % of.validate_every == 0:
                    context = of.context("validation", self.epoch, self.losses)
                    validation = yield from use_stream(of.validation_batches, context, self.validate, "validation_batches")
                report = self.report(validation, self.runtime.clock.now() - started)
                self.end_epoch(report)
                self.runtime.say(str(report))
                if of.on_epoch is not None:
                    yield from self.hook(report)
            return self.trained()

        return train()

    def resume(self) -> None:
        """Where the run to resume stood."""
        start = self.of.resume
        assert start is not None
        for report in start.curve if isinstance(start, Trained) else ():
            self.curve.append(report)
            self.note_loss(report.validation_loss)
        state = state_of(start)
        self.epoch, self.position, self.print = state.epoch, state.stream_state, state.stream

    def train_epoch(self, stream: BatchStream[Any]) -> Effect[None, Any]:
        def call(runtime: Runtime) -> Result[None, Any] | Interrupted:
            try:
                self.classes = stream.classes
                if self.carry is None:
                    self.begin(stream)
                if self.epoch > self.of.epochs:
                    return Success(None)
                return self.run_steps(stream, runtime)
            except FaultError:
                self.print_stream(stream)
                raise

        return Effect.call(call)

    def validate(self, stream: BatchStream[Any]) -> Effect[Evaluation, Any]:
        weights = (self.carry.params, self.carry.layer_state)

        def call(runtime: Runtime) -> Result[Evaluation, Any] | Interrupted:
            check_classes(self.classes, stream.classes)
            return run_evaluation(self.of.model, self.of.metrics, stream, weights, runtime, self.workspace, self.epoch)

        return Effect.call(call)

    def hook(self, report: EpochReport) -> Effect[Any, Any]:
        """What `on_epoch` makes of the report: a program, or nothing if it is a plain function as `print`."""
        function: Any = self.of.on_epoch
        if self.hook_keeps:
            trained = self.trained()
            self.carry = self.workspace.copy(self.carry)  # the next steps overwrite theirs; the hook may keep its own
            made = function(report, trained)
        else:
            made = function(report)
        if made is None:
            return Effect.from_value(None)
        if not isinstance(made, Effect):
            hint = "an Effect, as Effect.suspend(lambda: ...), or None"
            raise TypeError(f"on_epoch returned {type(made).__name__}, expected {hint}")
        return made

    # ---- its steps

    def begin(self, stream: BatchStream[Any]) -> None:
        """Check everything that shapes tell, then make or copy the first state."""
        runtime, of = self.runtime, self.of
        validation = None
        if of.validation_batches is not None:
            context = of.context("validation", self.epoch, self.losses)
            validation = make_stream(of.validation_batches, context, "validation_batches")
        with placed_on(self.device):
            plan = of.plan(stream, validation if isinstance(validation, BatchStream) else None)
            for line in (plan.summary(self.executor, self.device), *plan.advice):
                runtime.say(line)
            root = name_key(seed_key(of.seed), "step")
            numbers = of.optimizer.numbers(plan.made.params, plan.made.tags)
            self.shared = root, jax.tree.map(lambda x: jax.device_put(x, self.device), numbers)
            if of.resume is not None:
                check_same_stream(state_of(of.resume), stream, of.seed)
                state = tree.copy(state_of(of.resume), self.device)
                self.carry = Carry(state.step, state.params, state.layer_state, state.optimizer_state, state.tally)
                return
            # Not as one program: XLA would compile the same initialiser again for each layer, half a minute for 200 of them.
            features, _ = pair(stream.spec)
            params, layer_state = of.model.init(name_key(seed_key(of.seed), "init"), features)
            if of.initial is not None:
                given, state_given = weights_of(of.initial)
                params = filled(params, given)
                layer_state = layer_state if state_given is None else filled(layer_state, state_given)
            params, layer_state, slots = tree.copy(
                (params, layer_state, of.optimizer.init(params, plan.made.tags)), self.device
            )
            self.carry = Carry(jnp.zeros((), jnp.int32), params, layer_state, slots, jnp.asarray(tally.empty()))

    def run_steps(self, stream: BatchStream[Any], runtime: Runtime) -> Result[None, Any] | Interrupted:
        """The steps of one epoch from the current position, looking at the tally and the cancel token between dispatches."""
        with placed_on(self.device):
            body = self.note_programs(stream)
            begin = stream.init if self.position is None else self.position
            for reached in self.executor.fold(body, self.shared, self.carry, stream, begin, self.workspace):
                self.carry, self.position = reached.carry, reached.position
                if reached.broken:
                    self.print_stream(stream)
                    return Failure(self.broke(stream, reached.broken))
                if runtime.cancel.requested:
                    self.print_stream(stream)
                    return Interrupted(self.trained())
        sums = tally.sums(self.carry.tally)
        if not sums.steps:
            return Failure(stream.why_empty)
        if not sums.weight:
            self.print_stream(stream)
            return Failure(NoWeight(self.epoch))
        return Success(None)

    def print_stream(self, stream: BatchStream[Any]) -> None:
        """Note which stream the position is one of; what it cannot be told from does not matter by now."""
        if self.position is not None:
            with contextlib.suppress(FaultError):
                self.print = print_of(stream, self.of.seed)

    def broke(self, stream: BatchStream[Any], code: int) -> Any:
        """Why the next step breaks: a label out of range if its batch has one, else the numbers themselves."""
        if code == STEPS_BROKE:
            return StepsExceeded()
        weights = (self.carry.params, self.carry.layer_state)
        try:
            check_batch(self.of.model, weights, batch_at(stream, self.position))
        except FaultError as error:
            if not isinstance(error.fault, NotRereadable):
                return error.fault
        what = Broken.LOSS if code == LOSS_BROKE else Broken.UPDATE if code == PARAMS_BROKE else Broken.STATE
        bound = self.of.bound if code == PARAMS_BROKE else None
        return NonFinite(what, self.epoch, int(self.carry.step), self.trained(), bound=bound)

    def note_programs(self, stream: BatchStream[Any]) -> Body:
        """The step as its functions read now; says what makes it compile again."""
        _, body = self.of.describe(stream)
        if self.body is not None and body is not self.body:
            self.runtime.say("compiling again: the model, loss, optimizer or schedule reads a value that has changed")
            self.workspace = Workspace(self.device)
        view = stream.view
        recipe = view.segments[0].recipe if view is not None and view.segments else stream.finish
        if self.recipe is not None and (changed := recipe.changed(self.recipe)):
            self.runtime.say(
                f"compiling again: {changed} in map captured new values; given as arguments, map(function, value), "
                "they would not compile again"
            )
        self.body, self.recipe = body, recipe.identity
        return body

    def end_epoch(self, report: EpochReport) -> None:
        self.curve.append(report)
        self.note_loss(report.validation_loss)
        self.epoch, self.position, self.print = self.epoch + 1, None, ()
        before = self.carry.tally  # where the steps were computed, the next ones are too
        self.carry = replace(self.carry, tally=jax.device_put(tally.empty(), before.sharding if before.committed else None))

    def note_loss(self, loss: float | None) -> None:
        """The last and the best of validations; one that is not a number is not the best of any."""
        if loss is not None:
            best = self.losses[1]
            better = loss if best is None or loss < best else best
            self.losses = loss, best if math.isnan(loss) else better

    def report(self, validation: Evaluation | None, seconds: float) -> EpochReport:
        sums = tally.sums(self.carry.tally)
        return EpochReport(
            epoch=self.epoch,
            epochs=self.of.epochs,
            steps=int(sums.steps),
            samples=int(sums.rows),
            train_loss=float(sums.total / sums.weight),
            train_loss_of_batches=float(sums.of_batches / sums.steps),
            validation_loss=None if validation is None else validation.loss,
            validation_loss_of_batches=None if validation is None else validation.loss_of_batches,
            validation_metrics={} if validation is None else dict(validation.metrics),
            seconds=seconds,
        )


def batch_at(stream: BatchStream[Any], position: Any) -> Tree:
    """The batch that comes at this position."""
    return stream.view.batch(position) if stream.view is not None else next(steps(stream, position))[0]
