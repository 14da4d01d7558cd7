"""What a training program is made of, and what shapes alone tell about it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from fnlamp import tree
from fnlamp.arrays import array_spec, describe
from fnlamp.effect import UNKNOWN, Effect, Outline
from fnlamp.fault import FaultError, located
from fnlamp.identity import identity
from fnlamp.layer import Init
from fnlamp.loss import Metric
from fnlamp.optim import Optimizer
from fnlamp.optim.schedule import Schedule
from fnlamp.stream import BatchStream
from fnlamp.train.execute import Body
from fnlamp.train.factory import LoopContext, make_stream
from fnlamp.train.plan import (
    Plan,
    abstract_carry,
    abstract_shared,
    check_classes,
    check_stream,
    check_training,
    drawn_once,
    not_finite,
)
from fnlamp.train.start import check_initial, check_resumed, state_of
from fnlamp.train.state import Trained, TrainState
from fnlamp.train.step import training_body
from fnlamp.train.supervised import Supervised, pair


@dataclass(frozen=True, eq=False)
class Program:
    """The description."""

    model: Supervised
    optimizer: Optimizer
    train_batches: Callable[[LoopContext], Any]
    validation_batches: Callable[[LoopContext], Any] | None
    epochs: int
    seed: int
    initial: Any
    resume: Trained | TrainState | None
    schedule: Schedule
    metrics: Mapping[str, Metric]
    validate_every: int
    on_epoch: Callable[..., Effect[object, Any] | None] | None
    bound: float | None
    described: dict[Hashable, tuple[Init, Hashable]] = field(default_factory=dict, repr=False)

    def context(self, purpose: str, epoch: int, losses: tuple[float | None, float | None]) -> LoopContext:
        """What a factory is given in this epoch; `losses` are the last and the best of earlier validations."""
        words = np.random.SeedSequence([self.seed, zlib.crc32(purpose.encode()), epoch]).generate_state(1, np.uint64)
        return LoopContext(epoch, int(words[0] >> 1), *losses)

    def describe(self, stream: BatchStream[Any]) -> tuple[Init, Body]:
        """Specs and tags of the model for the stream's rows, and the step, by what the functions read now."""
        features, _ = pair(stream.spec)
        model = identity(self.model)
        key = describe(tree.map(lambda leaf: array_spec(leaf.shape[1:], leaf.dtype), features)), model
        if key not in self.described:
            made = self.model.describe(features)
            tags = identity(tree.leaves(made.tags)), str(jax.tree.structure(made.tags))
            self.described.clear()
            self.described[key] = made, (model, tags)
        made, parts = self.described[key]
        return made, training_body(self.model, self.optimizer, self.schedule, made.tags, self.bound, parts)

    def plan(self, train: BatchStream[Any], validation: BatchStream[Any] | None) -> Plan:
        """The figures; raises the fault that a run is sure to end with."""
        if train.length == 0:
            raise FaultError(train.why_empty)
        made, body = self.describe(train)
        carry = abstract_carry(made, self.optimizer)
        if self.initial is not None:
            check_initial(self.initial, carry)
        if self.resume is not None:
            check_resumed(state_of(self.resume), carry)
        shared = abstract_shared(self.optimizer, made)
        advice = check_training(self.model, train, body, shared, carry)
        if validation is not None:
            check_classes(train.classes, validation.classes)
            with located("validation"):
                check_stream(self.model, validation, (carry.params, carry.layer_state), metrics=self.metrics)
        advice = (*advice, *not_finite(train, "the training data"), *drawn_once(self.model, train))
        if validation is not None:
            advice = (*advice, *not_finite(validation, "the validation data"))
        if self.metrics and self.validation_batches is None:
            advice = (*advice, f"not computed: {', '.join(self.metrics)}, which need validation_batches")
        asked = self.metrics, self.epochs, self.schedule
        return Plan(self.model, self.optimizer, made, body, shared, carry, train, validation, *asked, advice)

    def outline(self) -> Outline:
        """What `explain` shows: the plan, or the fault that a run is sure to end with."""
        title = f"epochs: {self.model!r}"
        try:
            train = make_stream(self.train_batches, self.context("train", 1, (None, None)), "train_batches")
            if not isinstance(train, BatchStream):
                return Outline((title, f"  train {self.epochs} epochs on a stream that is acquired when it is run"), UNKNOWN)
            validation = None
            if self.validation_batches is not None:
                context = self.context("validation", 1, (None, None))
                validation = make_stream(self.validation_batches, context, "validation_batches")
            plan = self.plan(train, validation if isinstance(validation, BatchStream) else None)
            return Outline((title, *plan.lines()), UNKNOWN)
        except FaultError as error:
            return Outline((title,), UNKNOWN, error.fault)
