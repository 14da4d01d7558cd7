"""The description of a training program, and what follows from shapes alone."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from fnlamp import tree
from fnlamp.arrays import array_spec, describe, to_device
from fnlamp.checkpoint import Loaded
from fnlamp.checkpoint.unread import read_all
from fnlamp.effect import Effect
from fnlamp.fault import FaultError, located
from fnlamp.given import shown, whole
from fnlamp.identity import identity
from fnlamp.layer import Init
from fnlamp.loss import MetricLike
from fnlamp.mode import name_key, seed_key
from fnlamp.optim import Optimizer, loss_scaled
from fnlamp.optim.schedule import Schedule, checked
from fnlamp.stream import BatchStream
from fnlamp.stream.view import check_seed
from fnlamp.tag import check_hyper
from fnlamp.train import arguments, tally
from fnlamp.train.check import check_classes, check_stream, check_training, drawn_once, not_finite
from fnlamp.train.checkpoints import Checkpoints, Fork
from fnlamp.train.execute import Body
from fnlamp.train.factory import LoopContext, WatchedContext, make_stream
from fnlamp.train.fold import Fold
from fnlamp.train.gradient import Gradient
from fnlamp.train.indicators.indicator import Indicator
from fnlamp.train.indicators.recording import recording
from fnlamp.train.measures import with_terms
from fnlamp.train.plan import Plan, abstract_carry, abstract_shared, measured_in_training
from fnlamp.train.start import (
    Resumed,
    check_initial,
    check_resumed,
    check_same_program,
    check_same_stream,
    filled,
    print_of,
    resumed_carry,
    state_of,
    weights_of,
)
from fnlamp.train.state import Carry, Trained, TrainState
from fnlamp.train.step import Step, evaluation_body, training_body
from fnlamp.train.stored import coded, in_words
from fnlamp.train.supervised import Supervised, pair

A = TypeVar("A")


@dataclass(frozen=True, eq=False)
class Program:
    """The description: the arguments of `epochs`, and what follows from their shapes.

    Raises: `TypeError`, `ValueError` at once for anything but an argument of its kind.
    """

    model: Supervised
    optimizer: Optimizer
    train_batches: Callable[[LoopContext], Any]
    validation_batches: Callable[[LoopContext], Any] | None
    epochs: int
    seed: int
    initial: Any
    resume: Resumed | None
    schedule: Schedule
    gradient: Gradient
    metrics: Mapping[str, MetricLike]
    train_metrics: Mapping[str, MetricLike]
    validate_every: int
    folds: Mapping[str, Fold]
    on_epoch: Callable[..., Effect[object, Any] | None] | None
    checkpoints: Checkpoints | None
    parameter_bound: float | None
    indicators: Mapping[str, Indicator] = field(default_factory=dict)
    measure_every: int = 50
    described: dict[Hashable, tuple[Init, Hashable]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        arguments.check_model(self.model)
        arguments.check_optimizer(self.optimizer)
        arguments.check_factory("train_batches", self.train_batches)
        if self.validation_batches is not None:
            arguments.check_factory("validation_batches", self.validation_batches)
        unscaled = self.model.precision.scaled and self.optimizer.loss_scale is None
        optimizer = loss_scaled(self.optimizer) if unscaled else self.optimizer
        epochs, every = whole("epochs", self.epochs, None), whole("validate_every", self.validate_every, None)
        if epochs < 0 or every < 1:
            raise ValueError(f"expected epochs >= 0 and validate_every >= 1, got {epochs} and {every}")
        seed = check_seed(whole("seed", self.seed, None))
        if self.initial is not None and self.resume is not None:
            raise ValueError("give initial parameters or a run to resume, not both")
        arguments.check_start("initial", self.initial)
        arguments.check_start("resume", self.resume, Trained, TrainState, Loaded, Fork)
        if not isinstance(self.checkpoints, Checkpoints | None):
            raise TypeError(f'checkpoints is a train.Checkpoints("folder"), got {shown(self.checkpoints)}')
        arguments.check_metrics(self.metrics)
        arguments.check_metrics(self.train_metrics, "train_metrics")
        metrics = dict(self.metrics) if self.validation_batches is None else with_terms(self.model.loss, self.metrics)
        seen = with_terms(self.model.loss, self.train_metrics, "train_metrics")
        arguments.check_gradient(self.gradient)
        arguments.check_folds(self.folds, (*metrics, *(f"train_{name}" for name in seen)))
        if self.on_epoch is not None:
            arguments.check_hook(self.on_epoch)
        if self.parameter_bound is not None and not check_hyper("parameter_bound", self.parameter_bound) > 0:
            raise ValueError(f"parameter_bound is above 0, got {self.parameter_bound}")
        arguments.check_indicators(self.indicators, metrics, seen)
        sound = {"optimizer": optimizer, "epochs": epochs, "validate_every": every, "seed": seed}
        sound |= {"indicators": dict(self.indicators), "measure_every": whole("measure_every", self.measure_every)}
        for name, value in {
            **sound,
            "schedule": checked(self.schedule),
            "metrics": metrics,
            "train_metrics": seen,
            "folds": dict(self.folds),
        }.items():
            object.__setattr__(self, name, value)

    def context(self, purpose: str, epoch: int, losses: tuple[float | None, float | None]) -> LoopContext:
        """What a factory is given in this epoch; `losses` are the last and the best of earlier validations."""
        words = np.random.SeedSequence([self.seed, zlib.crc32(purpose.encode()), epoch]).generate_state(1, np.uint64)
        return LoopContext(epoch, int(words[0] >> 1), *losses)

    @property
    def step(self) -> Step:
        """What a step is a function of."""
        seen = tuple(self.train_metrics.values())
        return Step(self.model, self.optimizer, self.gradient, self.schedule, seen, self.parameter_bound)

    def validation(self, epoch: int, losses: tuple[float | None, float | None]) -> BatchStream[Any] | None:
        """The validation stream as far as a plan can know it: one that must be acquired is unknown until it is run."""
        if self.validation_batches is None:
            return None
        made = make_stream(self.validation_batches, self.context("validation", epoch, losses), "validation_batches")
        return made if isinstance(made, BatchStream) else None

    def in_words(self, made: Init, stream: BatchStream[Any]) -> dict[str, str]:
        """What must be the same in a program that resumes this one from a file."""
        data = self._data(stream)
        model = {"model": self.model.layer, "loss": self.model.loss, "precision": self.model.precision}
        asked = {name: getattr(self, name) for name in ("gradient", "validate_every", "parameter_bound")}
        folds = {f"fold {name}": fold for name, fold in self.folds.items()}
        functions = {name: getattr(self, name) for name in ("model", "schedule", "gradient", "train_metrics", "folds")}
        code = coded({**functions, "optimizer": self.optimizer.update})
        return {**in_words({**model, **asked, **folds, **data}, self.optimizer, made, self.schedule), **code}

    def _data(self, stream: BatchStream[Any]) -> dict[str, Any]:
        """The properties of the first epoch's stream: later ones may depend on losses or have other rows.

        A stream that must be acquired is known for the running epoch alone: its rows do not count, and nothing does if the
        factory reads more than the seed.
        """
        context = WatchedContext.of(self.context("train", 1, (None, None)))
        first = make_stream(self.train_batches, context, "train_batches")
        acquired = not isinstance(first, BatchStream)
        found = dict(print_of(stream if acquired else first, self.seed))
        if acquired and not context.read <= {"seed"}:
            return {"seed": self.seed}
        left_out = {"order of rows", "data"} if acquired else {"order of rows"}
        return {name: value for name, value in found.items() if name not in left_out}

    def describe(self, stream: BatchStream[Any]) -> tuple[Init, Body]:
        """Specs and tags of the model for the stream's rows, and the step, by what the functions read now."""
        features, _ = pair(stream.spec)
        model = identity(self.model)
        key = describe(tree.map(lambda leaf: array_spec(leaf.shape[1:], leaf.dtype), features)), model
        found = self.described.get(key)
        if found is None:
            made = self.model.describe(features)
            tags = identity(tree.leaves(made.tags)), str(jax.tree.structure(made.tags))
            found = made, (model, tags)
            self.described.clear()  # by any thread that runs the program: nothing is read from it after this
            self.described[key] = found
        made, parts = found
        return made, training_body(self.step, made.tags, parts)

    def recording(self, body: Body, made: Init) -> Body:
        """The step that measures the indicators as well."""
        return recording(body, self.step, made.tags, self.indicators, self.measure_every) if self.indicators else body

    def shared(self, made: Init, device: Any) -> Any:
        """What every step reads: the root of the steps' keys, and the hyperparameters' numbers."""
        numbers = self.optimizer.numbers(made.params, made.tags)
        root = name_key(seed_key(self.seed), "step")
        return root, jax.tree.map(lambda x: to_device(x, device), numbers)

    def carry(self, plan: Plan, stream: BatchStream[Any], device: Any, where: Any = None) -> Carry:
        """What the first step is given: fresh parameters, given ones, or the state of the run to resume.

        On many devices, `where` has the sharding of each array.
        """
        empty: Any = jnp.asarray(tally.empty(tree.count(plan.measured)))
        if self.resume is not None:
            check_same_stream(state_of(self.resume), stream, self.seed)
            state = state_of(self.resume)
            sums = empty if state.stream_state is None else state.tally
            return copied(resumed_carry(state, plan.carry, sums), device, where)
        # Not as one program: XLA would compile the same initialiser again for each layer, half a minute for 200 of them.
        features, _ = stream.spec
        key = name_key(seed_key(self.seed), "init")
        if where is None:
            params, layer_state = self.model.init(key, features)
        else:  # one program after all, in which no device makes more than its part
            places = where.params, where.layer_state
            params, layer_state = jax.jit(lambda key: self.model.init(key, features), out_shardings=places)(key)
        if self.initial is not None:
            given, state_given = weights_of(self.initial)
            params = filled(params, given)
            layer_state = layer_state if state_given is None else filled(layer_state, state_given)

        if where is not None and self.initial is not None:  # which may lie on other devices
            params, layer_state = copied((params, layer_state), device, (where.params, where.layer_state))

        def first(params: Any) -> Any:
            return self.optimizer.init(params, plan.made.tags)

        slots = first(params) if where is None else jax.jit(first, out_shardings=where.optimizer_state)(params)
        return copied(Carry(jnp.zeros((), jnp.int32), params, layer_state, slots, empty), device, where)

    def plan(self, train: BatchStream[Any], validation: BatchStream[Any] | None) -> Plan:
        """The figures; raises the fault that a run is sure to end with."""
        if train.length == 0:
            raise FaultError(train.why_empty)
        made, body = self.describe(train)
        measured = measured_in_training(made, self.model, self.train_metrics, train)
        carry = abstract_carry(made, self.optimizer, measured)
        if self.initial is not None:
            check_initial(self.initial, carry)
        if self.resume is not None:
            check_resumed(state_of(self.resume), carry)
        words = None
        if isinstance(self.resume, Loaded):
            words = self.in_words(made, train)
            check_same_program(self.resume, words)
        shared = abstract_shared(self.optimizer, made)
        advice = check_training(self.model, train, body, shared, carry)
        validated: Any = ()
        if validation is not None:
            check_classes(train.classes, validation.classes)
            with located("validation"):
                measured_by, weights = evaluation_body(self.model, self.metrics), (carry.params, carry.layer_state)
                validated = check_stream(self.model, validation, weights, measured_by, metrics=self.metrics)
        advice = (*advice, *not_finite(train, "the training data"), *drawn_once(self.model, train))
        if validation is not None:
            advice = (*advice, *not_finite(validation, "the validation data"))
        asked = self.metrics, measured, self.epochs, array_spec(tally.empty(tree.count(validated)).shape, np.float32)
        return Plan(self.model, self.optimizer, made, body, shared, carry, train, validation, *asked, advice, words)


def copied(arrays: A, device: Any, where: Any) -> A:
    """New buffers of a tree of arrays, on the device or, leaf by leaf, where they belong on a mesh.

    Of an unread array, each process reads the parts that belong to its devices.  Fails: as `checkpoint.Unread`.
    """
    leaves, structure = jax.tree.flatten(arrays)
    places = [device] * len(leaves) if where is None else jax.tree.leaves(where)
    found = read_all(leaves, places)

    def one(x: Any, place: Any) -> Any:
        # Between two sets of devices JAX shares memory where it can, whatever it is told: such an array goes over the host.
        several = isinstance(x, jax.Array) and len(x.sharding.device_set) > 1
        there = place.device_set if isinstance(place, NamedSharding) else None
        return tree.copy(np.asarray(x) if several and x.sharding.device_set != there else x, place)

    # What was read onto a mesh is new already.
    ready = {at: x for at, x in found.items() if isinstance(x, jax.Array)}
    made = [ready[at] if at in ready else one(found.get(at, x), places[at]) for at, x in enumerate(leaves)]
    result: A = jax.tree.unflatten(structure, made)
    return result
