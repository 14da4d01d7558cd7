"""The loop of a training program: `iterate` over `Progress`, one epoch after the other."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np
from returns.result import Failure, Result, Success

from fnlamp.arrays import Tree, placed_on, to_device
from fnlamp.checkpoint import Writer, writer
from fnlamp.effect import Effect, Reached, Runtime, do, iterate
from fnlamp.extra import need
from fnlamp.fault import Broken, FaultError, Interrupted, NonFinite, NotRereadable, NoWeight, StepsExceeded
from fnlamp.scale import Cluster
from fnlamp.stream import BatchStream
from fnlamp.stream.sink import steps
from fnlamp.track import Alert, Alerted, Started
from fnlamp.train import tally
from fnlamp.train.arguments import quiet, takes_trained, workspace_of
from fnlamp.train.check import check_batch, check_classes, recipe_of
from fnlamp.train.evaluate import Evaluation, run_evaluation
from fnlamp.train.events import Timing, alerted, counted, measured
from fnlamp.train.execute import Body, Fused, Sharded
from fnlamp.train.execute.exhausted import exhaustion
from fnlamp.train.execute.workspace import Workspace
from fnlamp.train.explain.analysis import check_memory, held, with_step
from fnlamp.train.explain.idle import idle
from fnlamp.train.explain.memory import of_pass
from fnlamp.train.factory import use_stream
from fnlamp.train.indicators.recording import told
from fnlamp.train.program import Program
from fnlamp.train.progress import Progress, begin
from fnlamp.train.rerun import looked_into
from fnlamp.train.saver import Saver
from fnlamp.train.start import state_of
from fnlamp.train.state import EpochReport, Trained
from fnlamp.train.step import LOSS_BROKE, PARAMS_BROKE, STEPS_BROKE
from fnlamp.train.stored import position_in
from fnlamp.train.supervised import pair


@dataclass(frozen=True, eq=False)
class Loop:
    """One run of a program. Each method takes a `Progress` and gives the next; only the workspace and the saver change."""

    of: Program
    workspace: Workspace
    saver: Saver | None = None

    def program(self) -> Effect[Trained, Any]:
        program: Effect[Trained, Any] = Effect.checked(lambda: begin(self.of)).bind(lambda start: iterate(start, self.epoch))
        if self.saver is not None:
            program = program.ensuring(self.saver.last)
        return program.salvaged(self.last_good).map(self.signed)

    def last_good(self) -> Trained | None:
        progress: Progress | None = self.workspace.reached
        return None if progress is None else self.signed(progress.trained(self.of))

    def signed(self, trained: Trained) -> Trained:
        """With where it is saved."""
        return trained if self.saver is None else self.saver.signed(trained)

    def epoch(self, start: Progress) -> Effect[Result[Progress, Trained], Any]:
        """One epoch: `Success` with the progress after it, or `Failure` with the outcome if no epoch is left."""
        of = self.of

        def context(purpose: str) -> Any:
            return of.context(purpose, start.epoch, start.losses)

        @do
        def epoch() -> Generator[Effect[Any, Any], Any, Result[Progress, Trained]]:
            ended = start.epoch > of.epochs or start.stopped
            if ended and start.carry is not None:
                return Failure(start.trained(of))
            runtime: Runtime = yield from Effect.asks(lambda runtime: runtime)
            started = runtime.clock.now()
            train = partial(self.train, start)
            progress = yield from use_stream(of.train_batches, context("train"), train, "train_batches")
            if ended:
                self.say_stopped(progress, runtime)
                return Failure(progress.trained(of))
            validation = None
            if of.validation_batches is not None and start.epoch % of.validate_every == 0:
                validate = partial(self.validate, progress)
                made = use_stream(of.validation_batches, context("validation"), validate, "validation_batches")
                validation = yield from made
            taken = self.workspace.same(f"the end of epoch {start.epoch}", runtime.clock.now() - started)
            report = progress.report(of, validation, taken)
            progress = self.reach(progress.decided(of, report, self.workspace.to_host).after(report))
            runtime.say(str(report))
            self.tell_epoch(progress, report, runtime)
            self.say_stopped(progress, runtime)
            if of.on_epoch is not None:
                progress = yield from self.hook(progress, report)
            if self.saver is not None:
                yield from Effect.checked(partial(self.saver.ended, progress))
            return Success(progress)

        return epoch()

    def reach(self, progress: Progress) -> Progress:
        """The same progress, which a fault carries from now on."""
        self.workspace.reached = progress
        return progress

    def say_stopped(self, progress: Progress, runtime: Runtime) -> None:
        for name in progress.stopped:
            line = f"stopped after epoch {progress.epoch - 1} by {name}: {self.of.folds[name]}"
            runtime.say(line)
            if runtime.observers:
                runtime.tell(Alerted(name, Alert(line, "info"), int(progress.carry.step), progress.epoch - 1))

    def tell_epoch(self, progress: Progress, report: EpochReport, runtime: Runtime) -> None:
        """Tell the observers the figures of an epoch, and what folds have to say."""
        if runtime.observers:
            step = int(progress.carry.step)
            runtime.tell(counted(report, step))
            runtime.tell(measured(report, progress.timing, step, progress.classes))
            for event in alerted(progress.alerts, step, report.epoch):
                runtime.tell(event)

    # ---- the parts of an epoch

    def train(self, start: Progress, stream: BatchStream[Any]) -> Effect[Progress, Any]:
        def call(runtime: Runtime) -> Result[Progress, Any] | Interrupted:
            progress = replace(start, classes=stream.classes)
            with exhaustion(lambda: self.needed(stream, runtime), runtime, self.workspace.device):
                if progress.carry is None:
                    progress = self.reach(self.begin(progress, stream, runtime))
                    if runtime.observers:
                        runtime.tell(Started(int(progress.carry.step)))
                ended = progress.epoch > self.of.epochs or progress.stopped
                return Success(progress) if ended else self.steps(progress, stream, runtime)

        return Effect.call(call)

    def needed(self, stream: BatchStream[Any], runtime: Runtime) -> dict[str, int]:
        """The bytes that training on the stream takes, by part."""
        plan = self.of.plan(stream, None)
        if self.workspace.cluster is not None:  # compiling may wait for the other processes
            return held(plan, runtime, self.workspace.device)
        return with_step(plan, runtime, self.workspace.device)

    def begin(self, progress: Progress, stream: BatchStream[Any], runtime: Runtime) -> Progress:
        """Check everything that follows from shapes, then make or copy the first carry."""
        of, device = self.of, self.workspace.device
        validation = of.validation(progress.epoch, progress.losses)
        with placed_on(device):
            plan = of.plan(stream, validation)
            check_memory(plan, runtime, device)
            reading = runtime.executor.reading(stream) if isinstance(runtime.executor, Sharded) else ()
            for line in (plan.summary(runtime.executor or Fused(), device), *reading, *plan.advice, *idle(of, plan)):
                runtime.say(line)
            words = plan.words
            if words is None and (self.saver is not None or self.workspace.cluster is not None):
                words = of.in_words(plan.made, stream)  # which reads all data in memory
            if self.saver is not None and words is not None:
                self.saver.words = words
            if of.resume is not None:
                progress = progress.resumed(position_in(state_of(of.resume), stream), plan.carry)
            where = plan.layout(runtime.executor, device)
            progress = replace(progress, measured=plan.measured, features=pair(stream.spec)[0])
            carry = of.carry(plan, stream, device, where)
            if self.workspace.cluster is not None and words is not None:
                told = "with observers" if runtime.observers else "without observers"
                at = f"after {int(carry.step)} steps, in epoch {progress.epoch} at {progress.position}, {told}"
                self.workspace.begun(words, at)
            return replace(progress, shared=of.shared(plan.made, device), carry=carry)

    def steps(self, progress: Progress, stream: BatchStream[Any], runtime: Runtime) -> Result[Progress, Any] | Interrupted:
        """The steps of one epoch from its position; it stops between dispatches if the carry is broken or the run cancelled."""
        executor, of = runtime.executor or Fused(), self.of
        with placed_on(self.workspace.device):
            body = self.body(stream, runtime)
            begin = stream.init if progress.position is None else progress.position
            shared = *progress.shared, to_device(np.float32(progress.rate), self.workspace.device)
            progress = replace(progress, timing=Timing.of(progress.carry)) if runtime.observers else progress
            try:
                for reached in executor.fold(body, shared, progress.carry, stream, begin, self.workspace):
                    progress = self.reach(replace(progress, carry=reached.carry, position=reached.position))
                    if runtime.observers:
                        progress = self.tell_dispatch(progress, reached, stream, runtime)
                    if reached.broken:
                        progress = self.reach(progress.within(stream, of.seed))
                        return Failure(self.broke(progress, stream, reached.broken, runtime))
                    if self.saver is not None:
                        self.saver.reached(progress, stream)
                    if self.workspace.cancelled(runtime):
                        self.reach(progress.within(stream, of.seed))
                        return Interrupted()
            except (FaultError, jax.errors.JaxRuntimeError):
                self.reach(progress.within(stream, of.seed))
                raise
        sums = tally.sums(progress.carry.tally)
        if not sums.steps and progress.position is None:
            return Failure(stream.why_empty)
        if not sums.steps:  # each was skipped: a fault, unless to lower the loss scale, at whose end no step is skipped
            searching = of.optimizer.loss_scale is not None
            broke = NonFinite(Broken.LOSS, progress.epoch, int(progress.carry.step), progress.trained(of))
            return Success(progress) if searching else Failure(broke)
        if not sums.weight:
            self.reach(progress.within(stream, of.seed))
            return Failure(NoWeight(progress.epoch))
        return Success(progress)

    def tell_dispatch(self, progress: Progress, reached: Reached, stream: BatchStream[Any], runtime: Runtime) -> Progress:
        """Tell the observers what the steps recorded, and how far the epoch is."""
        of = self.of
        events, kept = told(reached.recorded, of.indicators, of.measure_every, progress.remembered, progress.epoch)
        progress = replace(progress, timing=progress.timing.after(reached.waited), remembered=kept)
        for event in events:
            runtime.tell(event)
        runtime.tell(progress.timing.advanced(int(reached.carry.step), stream.length, progress.epoch))
        return progress

    def body(self, stream: BatchStream[Any], runtime: Runtime) -> Body:
        """The step as its functions read now; says what makes it compile again."""
        made, body = self.of.describe(stream)
        recipe = recipe_of(stream)
        now = recipe.identity
        before, recipe_before = self.workspace.steps_of or (body, now)
        if body is not before:
            runtime.say("compiling again: the model, loss, optimizer or schedule reads a value that has changed")
            self.workspace.clear()
        if now != recipe_before:
            runtime.say(
                f"compiling again: {recipe.changed(recipe_before)} in map captured new values; given as arguments, "
                "map(function, value), they would not compile again"
            )
        self.workspace.steps_of = body, now
        return self.of.recording(body, made) if runtime.observers else body

    def broke(self, progress: Progress, stream: BatchStream[Any], code: int, runtime: Runtime) -> Any:
        """Why the next step breaks, which the observers are told too."""
        fault = self.why_broken(progress, stream, code)
        if runtime.observers:
            alert = Alert(f"{type(fault).__name__}: {fault}", "error")
            runtime.tell(Alerted("fault", alert, int(progress.carry.step) + 1, progress.epoch))
        return fault

    def why_broken(self, progress: Progress, stream: BatchStream[Any], code: int) -> Any:
        """A label out of range if the batch of the step has one, else a number that is not finite."""
        if code == STEPS_BROKE:
            return StepsExceeded()
        carry, of, batch = progress.carry, self.of, None
        try:
            batch = batch_at(stream, progress.position)
            check_batch(of.model, (carry.params, carry.layer_state), batch)
        except FaultError as error:
            if not isinstance(error.fault, NotRereadable):
                return error.fault
        what = Broken.LOSS if code == LOSS_BROKE else Broken.UPDATE if code == PARAMS_BROKE else Broken.STATE
        bound = of.parameter_bound if code == PARAMS_BROKE else None
        _, body = of.describe(stream)
        shared = *progress.shared, to_device(np.float32(progress.rate), self.workspace.device)
        again = None if batch is None else partial(looked_into, body, shared, carry, batch)
        return NonFinite(what, progress.epoch, int(carry.step) + 1, progress.trained(of), bound=bound, again=again)

    def validate(self, progress: Progress, stream: BatchStream[Any]) -> Effect[Evaluation, Any]:
        weights = progress.weights(self.of)

        def call(runtime: Runtime) -> Result[Evaluation, Any] | Interrupted:
            check_classes(progress.classes, stream.classes)
            reached = "validation", progress.epoch, int(progress.carry.step)
            with exhaustion(lambda: of_pass(weights, stream), runtime, self.workspace.device):
                return run_evaluation(self.of.model, self.of.metrics, stream, weights, runtime, self.workspace, reached)

        return Effect.call(call)

    def hook(self, progress: Progress, report: EpochReport) -> Effect[Progress, Any]:
        """Run what `on_epoch` makes of the report: a program, or nothing if it is a plain function such as `print`."""
        function: Any = self.of.on_epoch
        if takes_trained(function):
            trained = progress.trained(self.of)
            # The next steps overwrite the buffers of their carry; the hook may keep its own.
            progress = self.reach(replace(progress, carry=self.workspace.copy(progress.carry)))
            made = function(report, trained)
        else:
            made = function(report)
        if made is None:
            return Effect.from_value(progress)
        if not isinstance(made, Effect):
            hint = "an Effect, as Effect.suspend(lambda: ...), or None"
            raise TypeError(f"on_epoch returned {type(made).__name__}, expected {hint}")
        return made.map(lambda _: progress)


def run(program: Program) -> Effect[Trained, Any]:
    """The effect that runs the program, each time from the start."""

    def fresh(runtime: Runtime) -> Effect[Trained, Any]:
        workspace, policy = workspace_of(runtime), program.checkpoints
        cluster = workspace.cluster
        if policy is None:
            return alone(Loop(program, workspace).program(), cluster)

        def saving(writer: Writer | None) -> Effect[Trained, Any]:
            made = Effect.checked(lambda: Saver(program, policy, writer, runtime, workspace)).bind(
                lambda saver: Loop(program, workspace, saver).program()
            )
            return alone(made, cluster)

        leads, shards = cluster is None or not cluster.process, policy.form == "shards"
        if not leads and not shards:
            return saving(None)
        ready = Effect.checked(lambda: need("orbax.checkpoint", "orbax") if shards else None)
        return ready.then(writer(policy.folder, keep=policy.keep, leads=leads).use(saving))

    return Effect.access(fresh)


def alone(program: Effect[Trained, Any], cluster: Cluster | None) -> Effect[Trained, Any]:
    """The program of which, in a cluster, process 0 alone logs and tells observers."""
    return program if cluster is None else program.local(lambda runtime: quiet(runtime, cluster))


def batch_at(stream: BatchStream[Any], position: Any) -> Tree:
    """The batch at this position."""
    return stream.view.batch(position) if stream.view is not None else next(steps(stream, position))[0]
