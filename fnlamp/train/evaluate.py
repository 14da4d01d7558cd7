"""Evaluating a trained model on a stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from returns.result import Failure, Result, Success

from fnlamp import tree
from fnlamp.arrays import Params, State, placed_on, to_device
from fnlamp.effect import UNKNOWN, Effect, Outline, Resource, Runtime
from fnlamp.fault import EmptyEpoch, Interrupted, NoWeight, PlanFault
from fnlamp.given import shown
from fnlamp.loss import MetricLike
from fnlamp.stream import BatchStream, Reread, items
from fnlamp.train import tally
from fnlamp.train.check import check_executor, check_factory, check_metrics, check_start, device_of
from fnlamp.train.execute import Fused
from fnlamp.train.execute.workspace import Workspace
from fnlamp.train.factory import LoopContext, use_stream
from fnlamp.train.measures import figures, same
from fnlamp.train.plan import check_batch, check_stream, rows_line
from fnlamp.train.state import Kept, Trained
from fnlamp.train.step import evaluation_body
from fnlamp.train.supervised import Supervised

E = TypeVar("E")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Figures over one pass: the mean loss (total / weight), the mean of the batches' means, and the result of each metric."""

    loss: float
    loss_of_batches: float
    metrics: Mapping[str, Any] = field(default_factory=dict)
    batches: int = 0
    samples: int = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Evaluation) and same(vars(self), vars(other))

    __hash__ = None  # type: ignore[assignment]


def evaluate(
    batches: BatchStream[E]
    | Resource[BatchStream[E], E]
    | Callable[[LoopContext], BatchStream[E] | Resource[BatchStream[E], E]],
    metrics: Mapping[str, MetricLike] = MappingProxyType({}),
) -> Callable[[Trained | Kept], Effect[Evaluation, PlanFault | NoWeight | E]]:
    """The program that evaluates a trained model in `Eval`, curried so that `training.bind(evaluate(batches))` reads in order.

    `batches` is a stream, a resource of one, or a factory of either, called with a `LoopContext` of the last epoch and seed 0.
    Fails: `EmptyEpoch`, `ShapeMismatch`, `LabelOutOfRange`, `NoWeight`, and what the stream fails with.
    """
    if not isinstance(batches, BatchStream | Resource):
        check_factory("batches", batches)
    check_metrics(metrics)
    return _Evaluate(batches, dict(metrics))


@dataclass(frozen=True, eq=False)
class _Evaluate:
    """A continuation that `explain` can look into."""

    batches: Any
    metrics: Mapping[str, MetricLike]

    def __call__(self, trained: Trained | Kept) -> Effect[Any, Any]:
        check_start("evaluate: trained", trained)
        if not isinstance(trained, Trained | Kept):
            got = shown(trained)
            raise TypeError(f"evaluate: trained is what epochs gave, got {got}; write training.bind(evaluate(batches))")
        context = LoopContext(trained.last.epoch if isinstance(trained, Trained) else trained.epoch, 0)
        factory = (lambda _: self.batches) if isinstance(self.batches, BatchStream | Resource) else self.batches

        def program(stream: BatchStream[Any]) -> Effect[Evaluation, Any]:
            def call(runtime: Runtime) -> Result[Evaluation, Any] | Interrupted:
                check_executor(runtime.executor)
                workspace = Workspace(device_of(runtime.device))
                weights = (trained.params, trained.layer_state)
                return run_evaluation(trained.model, self.metrics, stream, weights, runtime, workspace, context.epoch)

            return Effect.call(call)

        evaluation = use_stream(factory, context, program, "batches").named("evaluate")
        return evaluation.salvaged(lambda: trained)  # an interruption does not cost the training

    def outline(self, trained: Any) -> Outline:
        names = ", ".join(["loss", *self.metrics])
        if not isinstance(self.batches, BatchStream):
            return Outline((f"evaluate: {names}, on a stream made when it is run",), UNKNOWN)
        fault = self.batches.why_empty if self.batches.length == 0 else None
        return Outline((f"evaluate: {names}, on {rows_line(self.batches)}",), UNKNOWN, fault)


def run_evaluation(
    model: Supervised,
    metrics: Mapping[str, MetricLike],
    stream: BatchStream[Any],
    weights: tuple[Params, State],
    runtime: Runtime,
    workspace: Workspace,
    epoch: int,
) -> Result[Evaluation, Any] | Interrupted:
    """One pass over the stream, polling for cancellation between dispatches."""
    body = evaluation_body(model, metrics)
    executor = runtime.executor or Fused()
    specs = check_stream(model, stream, weights, metrics=metrics)
    with placed_on(workspace.device):
        carry: Any = to_device(tally.empty(tree.count(specs)), workspace.device)
        for reached in executor.fold(body, weights, carry, stream, stream.init, workspace):
            carry = reached.carry
            if runtime.cancel.requested:
                return Interrupted()
        steps, rows, of_batches, total, weight, numbers = tally.sums(carry)
        # A label out of range, or the numbers themselves.
        if np.isnan([total, *numbers]).any() and stream.reread is not Reread.NEVER:
            for batch in items(stream):
                check_batch(model, weights, batch, metrics)
    if not steps:
        return Failure(EmptyEpoch())
    if not weight:
        return Failure(NoWeight(epoch))
    found = figures(metrics, specs, numbers)
    return Success(Evaluation(float(total / weight), float(of_batches / steps), found, int(steps), int(rows)))
