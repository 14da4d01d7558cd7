"""The training loop as a lazy program."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from returns.result import Failure, Result, Success

from fnlamp import tree
from fnlamp.arrays import Params, Tree, array_spec, describe
from fnlamp.effect import UNKNOWN, Effect, Outline, Resource, Runtime, do
from fnlamp.effect.node import Named
from fnlamp.fault import DtypeMismatch, FaultError, Interrupted, NonFinite, NotRereadable, NoWeight, ShapeMismatch, TrainFault
from fnlamp.loss import Metric
from fnlamp.mode import name_key, seed_key
from fnlamp.optim import Optimizer
from fnlamp.optim.schedule import Schedule, constant
from fnlamp.stream import BatchStream
from fnlamp.stream.sink import steps
from fnlamp.stream.view import check_seed
from fnlamp.train.evaluate import Evaluation, make_stream, run_evaluation, use_stream
from fnlamp.train.execute import Body, Fused
from fnlamp.train.execute.body import Bench
from fnlamp.train.plan import Plan, abstract_carry, check_batch, check_classes, check_stream, check_training
from fnlamp.train.state import Carry, EpochReport, LoopContext, Trained, TrainState
from fnlamp.train.step import (
    BATCHES,
    LOSS_BROKE,
    OF_BATCHES,
    ROWS,
    TOTAL,
    WEIGHT,
    empty_tally,
    training_body,
)
from fnlamp.train.supervised import Supervised, pair

E = TypeVar("E")


def epochs(
    *,
    model: Supervised,
    optimizer: Optimizer,
    train_batches: Callable[[LoopContext], BatchStream | Resource[BatchStream, E]],
    validation_batches: Callable[[LoopContext], BatchStream | Resource[BatchStream, E]] | None = None,
    epochs: int,
    seed: int = 0,
    initial: Params | None = None,
    resume: Trained | None = None,
    schedule: Schedule = constant(1.0),
    metrics: Mapping[str, Metric] = MappingProxyType({}),
    validate_every: int = 1,
    on_epoch: Callable[[EpochReport], Effect[object, E]] | None = None,
) -> Effect[Trained, TrainFault | E]:
    """The program that trains `model` for `epochs` epochs. Building it computes nothing; running it twice gives the same twice.

    `train_batches` and `validation_batches` are factories, called for each epoch with a `LoopContext` (and once for the
    plan); pass its `seed` to `minibatches` to shuffle. `seed` determines everything random: initial parameters, dropout, the
    contexts' seeds. `initial` are parameters to start from (copied, never donated away); `resume` a `Trained` to go on from,
    bit for bit as if it had not stopped. `schedule` gives a factor of the learning rate for each step from 0. `metrics` are
    averaged over validation, which happens after every `validate_every`-th epoch. `on_epoch` is a program run after each
    epoch.

    Fails: `EmptyEpoch`, `ShapeMismatch`, `DtypeMismatch`, `BatchTooSmall`, `LabelOutOfRange`, `NotDifferentiable` before the
    first step where the stream is in memory; `NonFinite` and `NoWeight` while running; what streams and hooks fail with.
    Ctrl-C stops between two dispatches; the outcome is `Interrupted(trained)`, which `resume` takes.

    >>> x = np.linspace(-1, 1, 32, dtype=np.float32)[:, None]
    >>> program = epochs(
    ...     model=supervised(nn.linear(1), loss.mse()),
    ...     optimizer=optim.sgdw(learning_rate=0.1),
    ...     train_batches=lambda context: stream.minibatches(x, 3 * x, batch_size=8, seed=context.seed),
    ...     epochs=20,
    ... )
    >>> program.run(Runtime(log=None)).map(lambda trained: trained.curve[-1].train_loss < 1e-3)
    <IOResult: <Success: True>>
    """
    if epochs < 0 or validate_every < 1:
        raise ValueError(f"expected epochs >= 0 and validate_every >= 1, got {epochs} and {validate_every}")
    check_seed(seed)
    if initial is not None and resume is not None:
        raise ValueError("give initial parameters or a run to resume, not both")
    return _Program(
        model,
        optimizer,
        train_batches,
        validation_batches,
        epochs,
        seed,
        initial,
        resume,
        schedule,
        metrics,
        validate_every,
        on_epoch,
    ).effect()


@dataclass(frozen=True, eq=False)
class _Program:
    """The description, and the programs that have been compiled for it, by the spec of a row."""

    model: Supervised
    optimizer: Optimizer
    train_batches: Callable[[LoopContext], Any]
    validation_batches: Callable[[LoopContext], Any] | None
    epochs: int
    seed: int
    initial: Params | None
    resume: Trained | None
    schedule: Schedule
    metrics: Mapping[str, Metric]
    validate_every: int
    on_epoch: Callable[[EpochReport], Effect[object, Any]] | None
    compiled: dict[str, tuple[Any, Body, Carry]] = field(default_factory=dict, repr=False)

    def effect(self) -> Effect[Trained, Any]:
        def fresh(runtime: Runtime) -> Effect[Trained, Any]:
            run = _Run(self, runtime)
            return Effect(Named(run.program()._inner_value, f"epochs({self.epochs})", salvage=run.salvage))

        return Effect(Named(Effect.access(fresh)._inner_value, f"epochs({self.epochs})", outline=self.outline))

    def context(self, purpose: str, epoch: int, curve: tuple[EpochReport, ...]) -> LoopContext:
        words = np.random.SeedSequence([self.seed, zlib.crc32(purpose.encode()), epoch]).generate_state(1, np.uint64)
        losses = [report.validation_loss for report in curve if report.validation_loss is not None]
        return LoopContext(epoch, int(words[0] >> 1), losses[-1] if losses else None, min(losses, default=None))

    def compile(self, stream: BatchStream) -> tuple[Any, Body, Carry]:
        """What belongs to a row spec: the abstract `Init`, the step, and the abstract carry."""
        features, _ = pair(stream.spec)
        key = describe(tree.map(lambda leaf: array_spec(leaf.shape[1:], leaf.dtype), features))
        if key not in self.compiled:
            made = self.model.describe(features)
            body = training_body(self.model, self.optimizer, self.schedule, made.tags)
            self.compiled[key] = made, body, abstract_carry(made, self.optimizer)
        return self.compiled[key]

    def plan(self, train: BatchStream, validation: BatchStream | None) -> Plan:
        """The figures; raises the fault that a run is sure to end with."""
        if train.length == 0:
            raise FaultError(train.why_empty)
        made, body, carry = self.compile(train)
        self.check_start(carry)
        advice = check_training(self.model, train, body, carry)
        if validation is not None:
            check_classes(train.classes, validation.classes)
            check_stream(self.model, validation, (carry.params, carry.layer_state), metrics=self.metrics)
        return Plan(self.model, self.optimizer, made, carry, train, validation, self.metrics, self.epochs, advice)

    def check_start(self, carry: Carry) -> None:
        """Raise the fault of a start that does not fit: initial parameters, or anything of the run to resume."""
        pairs: dict[str, tuple[Tree, Tree]] = {}
        if self.initial is not None:
            pairs = {"initial": (carry.params, self.initial)}
        if self.resume is not None:
            parts = ("params", "layer_state", "optimizer_state")
            pairs = {f"resume/{part}": (getattr(carry, part), getattr(self.resume.state, part)) for part in parts}
        for name, trees in pairs.items():
            wanted, came = (tree.paths(t) for t in trees)
            for path in wanted | came:
                both = [leaves.get(path) for leaves in (wanted, came)]
                place, hint = f"{name}/{path}", "it was made with another model or optimizer"
                expected, actual = ("no such array" if leaf is None else str(list(np.shape(leaf))) for leaf in both)
                if expected != actual:
                    raise FaultError(ShapeMismatch(expected, actual, hint, where=place))
                expected, actual = (str(jnp.result_type(leaf)) for leaf in both)
                if self.resume is not None and expected != actual:  # initial parameters are cast
                    raise FaultError(DtypeMismatch(expected, actual, hint, where=place))

    def outline(self) -> Outline:
        """What `explain` shows: the plan, or the fault that a run is sure to end with."""
        title = f"epochs: {self.model!r}"
        try:
            train = make_stream(self.train_batches, self.context("train", 1, ()))
            if not isinstance(train, BatchStream):
                return Outline((title, f"  train {self.epochs} epochs on a stream that is acquired when it is run"), UNKNOWN)
            validation = None
            if self.validation_batches is not None:
                validation = make_stream(self.validation_batches, self.context("validation", 1, ()))
            plan = self.plan(train, validation if isinstance(validation, BatchStream) else None)
            return Outline((title, *plan.lines(self.compile(train)[1])), UNKNOWN)
        except FaultError as error:
            return Outline((title,), UNKNOWN, error.fault)


class _Run:
    """One run of the description: the only place where anything changes."""

    def __init__(self, program: _Program, runtime: Runtime) -> None:
        self.of, self.runtime = program, runtime
        self.bench = Bench(runtime.device)
        self.executor = runtime.executor or Fused()
        self.carry: Any = None
        self.classes: tuple[str, ...] | None = None
        self.curve: tuple[EpochReport, ...] = ()
        self.epoch, self.position = 1, None  # position None: at the start of the epoch's stream
        self.recipes: set[Any] = set()

    # ---- what comes out

    def trained(self) -> Trained:
        c = self.carry
        state = TrainState(c.step, c.params, c.layer_state, c.optimizer_state, c.tally, self.epoch, self.position)
        return Trained(self.of.model, c.params, c.layer_state, self.curve, state)

    def salvage(self) -> Trained | None:
        return None if self.carry is None else self.trained()

    # ---- the program

    def program(self) -> Effect[Trained, Any]:
        @do
        def train() -> Generator[Effect[Any, Any], Any, Trained]:
            if self.of.resume is not None:
                self.curve = self.of.resume.curve
                self.epoch, self.position = self.of.resume.state.epoch, self.of.resume.state.stream_state
            while self.epoch <= self.of.epochs or self.carry is None:
                started = self.runtime.clock.now()
                context = self.of.context("train", self.epoch, self.curve)
                yield from use_stream(self.of.train_batches, context, self.train_epoch)
                if self.epoch > self.of.epochs:
                    break
                validation = None
                if self.of.validation_batches is not None and self.epoch % self.of.validate_every == 0:
                    context = self.of.context("validation", self.epoch, self.curve)
                    validation = yield from use_stream(self.of.validation_batches, context, self.validate)
                report = self.report(validation, self.runtime.clock.now() - started)
                self.curve = (*self.curve, report)
                self.epoch, self.position = self.epoch + 1, None
                self.carry = replace(self.carry, tally=jax.device_put(empty_tally(), self.runtime.device))
                self.runtime.say(str(report))
                if self.of.on_epoch is not None:
                    yield from self.of.on_epoch(report)
            return self.trained()

        return train()

    def train_epoch(self, stream: BatchStream) -> Effect[None, Any]:
        def call(runtime: Runtime) -> Result[None, Any] | Interrupted:
            try:
                self.classes = stream.classes
                if self.carry is None:
                    self.begin(stream)
                if self.epoch > self.of.epochs:
                    return Success(None)
                return self.run_steps(stream, runtime)
            except FaultError as error:
                return Failure(error.fault)

        return Effect.call(call)

    def validate(self, stream: BatchStream) -> Effect[Evaluation, Any]:
        weights = (self.carry.params, self.carry.layer_state)

        def call(runtime: Runtime) -> Result[Evaluation, Any] | Interrupted:
            try:
                check_classes(self.classes, stream.classes)
            except FaultError as error:
                return Failure(error.fault)
            return run_evaluation(self.of.model, self.of.metrics, stream, weights, runtime, self.bench, self.epoch)

        return Effect.call(call)

    # ---- its steps

    def begin(self, stream: BatchStream) -> None:
        """Check everything that shapes tell, then make or copy the first state."""
        runtime, of = self.runtime, self.of
        validation = None
        if of.validation_batches is not None:
            validation = make_stream(of.validation_batches, of.context("validation", self.epoch, self.curve))
        plan = of.plan(stream, validation if isinstance(validation, BatchStream) else None)
        for line in (plan.summary(self.executor, runtime.device), *plan.advice):
            runtime.say(line)
        with jax.default_device(runtime.device):
            if of.resume is not None:
                state = tree.copy(of.resume.state, runtime.device)
                self.carry = Carry(state.step, state.params, state.layer_state, state.optimizer_state, state.tally)
                return
            # Not as one program: XLA would compile the same initialiser again for each layer, half a minute for 200 of them.
            features, _ = pair(stream.spec)
            params, layer_state = of.model.init(name_key(seed_key(of.seed), "init"), features)
            if of.initial is not None:
                given = jax.tree.map(lambda like, x: jnp.asarray(x, like.dtype), params, of.initial)
                params = tree.copy(given, runtime.device)
            params, layer_state, slots = tree.copy((params, layer_state, of.optimizer.init(params)), runtime.device)
            self.carry = Carry(jnp.zeros((), jnp.int32), params, layer_state, slots, jnp.asarray(empty_tally()))

    def run_steps(self, stream: BatchStream, runtime: Runtime) -> Result[None, Any] | Interrupted:
        """The steps of one epoch from the current position, looking at the tally and the cancel token between dispatches."""
        self.note_recipes(stream)
        _, body, _ = self.of.compile(stream)
        begin = stream.init if self.position is None else self.position
        root = name_key(seed_key(self.of.seed), "step")
        with jax.default_device(runtime.device):
            for carry, position, broken in self.executor.fold(body, root, self.carry, stream, begin, self.bench):
                self.carry, self.position = carry, position
                if broken:
                    return Failure(self.non_finite(stream, broken))
                if runtime.cancel.requested:
                    return Interrupted(self.trained())
        tally = np.asarray(self.carry.tally)
        if not tally[BATCHES]:
            return Failure(stream.why_empty)
        return Success(None) if tally[WEIGHT] else Failure(NoWeight(self.epoch))

    def non_finite(self, stream: BatchStream, broken: int) -> Any:
        """Why the next step breaks: a label out of range if its batch has one, else the numbers themselves."""
        weights = (self.carry.params, self.carry.layer_state)
        try:
            check_batch(self.of.model, weights, batch_at(stream, self.position))
        except FaultError as error:
            if not isinstance(error.fault, NotRereadable):
                return error.fault
        what = "loss" if broken == LOSS_BROKE else "update"
        return NonFinite(what, self.epoch, int(self.carry.step), self.trained())

    def note_recipes(self, stream: BatchStream) -> None:
        """Say which function makes a program compile again: one that captured something new since the last epoch."""
        view = stream.view
        recipes = {segment.recipe for segment in view.segments} if view is not None else {stream.compiled[1]}
        for new in recipes - self.recipes if self.recipes else ():
            self.runtime.say(f"compiling again: {next(iter(self.recipes)).difference(new)} in map captured new values")
        self.recipes = recipes or self.recipes

    def report(self, validation: Evaluation | None, seconds: float) -> EpochReport:
        tally = np.asarray(self.carry.tally, np.float64)
        return EpochReport(
            epoch=self.epoch,
            epochs=self.of.epochs,
            steps=int(tally[BATCHES]),
            samples=int(tally[ROWS]),
            train_loss=float(tally[TOTAL] / tally[WEIGHT]),
            train_loss_of_batches=float(tally[OF_BATCHES] / tally[BATCHES]),
            validation_loss=None if validation is None else validation.loss,
            validation_loss_of_batches=None if validation is None else validation.loss_of_batches,
            validation_metrics=MappingProxyType({}) if validation is None else validation.metrics,
            seconds=seconds,
        )


def batch_at(stream: BatchStream, position: Any) -> Tree:
    """The batch that comes at this position."""
    return stream.view.batch(position) if stream.view is not None else next(steps(stream, position))[0]
