"""Evaluating a trained model on a stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar

import numpy as np
from returns.result import Failure, Result, Success

from fnlamp.arrays import Params, State, to_device
from fnlamp.effect import UNKNOWN, Effect, Outline, Resource, Runtime
from fnlamp.effect.node import Named
from fnlamp.fault import EmptyEpoch, FaultError, Interrupted, NoWeight, PlanFault
from fnlamp.loss import Metric
from fnlamp.stream import BatchStream, Reread, items
from fnlamp.train.execute import Fused
from fnlamp.train.execute.body import Bench
from fnlamp.train.plan import check_batch, check_stream, rows_line
from fnlamp.train.state import LoopContext, Trained
from fnlamp.train.step import as_items, evaluation_body
from fnlamp.train.supervised import Supervised

E = TypeVar("E")

Batches: TypeAlias = Callable[[LoopContext], Any]
"""A factory `LoopContext -> BatchStream | Resource[BatchStream, E]`."""


@dataclass(frozen=True)
class Evaluation:
    """Figures over one pass: the mean loss (total / weight), the mean of the batches' means, and each metric's mean."""

    loss: float
    loss_of_batches: float
    metrics: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    batches: int = 0
    samples: int = 0


def evaluate(
    batches: BatchStream | Resource[BatchStream, E] | Callable[[LoopContext], BatchStream | Resource[BatchStream, E]],
    metrics: Mapping[str, Metric] = MappingProxyType({}),
) -> Callable[[Trained], Effect[Evaluation, PlanFault | NoWeight | E]]:
    """The program that evaluates a trained model in `Eval`, curried so that `training.bind(evaluate(batches))` reads in order.

    `batches` is a stream, a resource of one, or a factory of either, called with the last epoch's context.
    Fails: `EmptyEpoch`, `ShapeMismatch`, `LabelOutOfRange`, `NoWeight`, and what the stream fails with.
    """
    return _Evaluate(batches, metrics)


@dataclass(frozen=True, eq=False)
class _Evaluate:
    """A continuation that `explain` can look into."""

    batches: Any
    metrics: Mapping[str, Metric]

    def __call__(self, trained: Trained) -> Effect[Any, Any]:
        context = LoopContext(len(trained.curve), 0)
        factory = (lambda _: self.batches) if isinstance(self.batches, BatchStream | Resource) else self.batches

        def program(stream: BatchStream) -> Effect[Evaluation, Any]:
            def call(runtime: Runtime) -> Result[Evaluation, Any] | Interrupted:
                bench = Bench(runtime.device)
                weights = (trained.params, trained.layer_state)
                return run_evaluation(trained.model, self.metrics, stream, weights, runtime, bench, context.epoch)

            return Effect.call(call)

        node = use_stream(factory, context, program)._inner_value
        return Effect(Named(node, "evaluate", salvage=lambda: trained))  # an interruption does not cost the training

    def outline(self, trained: Any) -> Outline:
        names = ", ".join(["loss", *self.metrics])
        if not isinstance(self.batches, BatchStream):
            return Outline((f"evaluate: {names}, on a stream made when it is run",), UNKNOWN)
        fault = self.batches.why_empty if self.batches.length == 0 else None
        return Outline((f"evaluate: {names}, on {rows_line(self.batches)}",), UNKNOWN, fault)


def use_stream(factory: Batches, context: LoopContext, body: Callable[[BatchStream], Effect[Any, Any]]) -> Effect[Any, Any]:
    """Make the stream, acquire it if it is a resource, and run the body with it."""

    def go(made: Any) -> Effect[Any, Any]:
        return made.use(body) if isinstance(made, Resource) else body(made)

    return Effect.attempt(lambda: make_stream(factory, context), FaultError, lambda error: error.fault).bind(go)


def make_stream(factory: Batches, context: LoopContext) -> Any:
    """What the factory makes: a stream, or a resource of one."""
    made = factory(context)
    if not isinstance(made, BatchStream | Resource):
        raise TypeError(f"a stream factory returned {type(made).__name__}, expected BatchStream or Resource of one")
    return made


def run_evaluation(
    model: Supervised,
    metrics: Mapping[str, Metric],
    stream: BatchStream,
    weights: tuple[Params, State],
    runtime: Runtime,
    bench: Bench,
    epoch: int,
) -> Result[Evaluation, Any] | Interrupted:
    """One pass over the stream, polling for cancellation between dispatches."""
    body = evaluation_body(model, as_items(metrics))
    tally: Any = to_device(np.zeros(5 + 2 * len(metrics), np.float32), runtime.device)
    executor = runtime.executor or Fused()
    try:
        check_stream(model, stream, weights, metrics=metrics)
        for after, _, _ in executor.fold(body, weights, tally, stream, stream.init, bench):
            tally = after
            if runtime.cancel.requested:
                return Interrupted()
        batches, rows, of_batches, total, weight, *rest = np.asarray(tally, np.float64)
        if np.isnan(total) and stream.reread is not Reread.NEVER:  # a label out of range, or the numbers themselves
            for batch in items(stream):
                check_batch(model, weights, batch)
    except FaultError as error:
        return Failure(error.fault)
    if not batches:
        return Failure(EmptyEpoch())
    if not weight:
        return Failure(NoWeight(epoch))
    means = {name: float(t / w) if w else float("nan") for name, t, w in zip(metrics, rest[::2], rest[1::2], strict=True)}
    return Success(
        Evaluation(float(total / weight), float(of_batches / batches), MappingProxyType(means), int(batches), int(rows))
    )
