"""Evaluating a trained model on a stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar, overload

import numpy as np
from returns.result import Failure, Result, Success

from fnlamp import tree
from fnlamp.arrays import Params, State, placed_on, to_device
from fnlamp.effect import UNKNOWN, Effect, Outline, Resource, Runtime, collect
from fnlamp.fault import EmptyEpoch, Interrupted, NoWeight, PlanFault
from fnlamp.given import shown
from fnlamp.loss import MetricLike
from fnlamp.stream import BatchStream, Reread, items
from fnlamp.track import Advanced, Progress
from fnlamp.train import tally
from fnlamp.train.after import Pass, epoch_of
from fnlamp.train.arguments import check_metrics
from fnlamp.train.check import check_batch, check_stream
from fnlamp.train.execute import Fused
from fnlamp.train.execute.workspace import Workspace
from fnlamp.train.factory import LoopContext
from fnlamp.train.measures import figures, loss_of, same, with_terms
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


Batches: TypeAlias = (
    BatchStream[E] | Resource[BatchStream[E], E] | Callable[[LoopContext], BatchStream[E] | Resource[BatchStream[E], E]]
)
"""A stream, a resource of one, or a factory of either."""


@overload
def evaluate(
    batches: Batches[E], metrics: Mapping[str, MetricLike] = ...
) -> Callable[[Trained | Kept], Effect[Evaluation, PlanFault | NoWeight | E]]: ...
@overload
def evaluate(
    batches: Mapping[str, Batches[E]], metrics: Mapping[str, MetricLike] = ...
) -> Callable[[Trained | Kept], Effect[dict[str, Evaluation], PlanFault | NoWeight | E]]: ...
def evaluate(batches: Any, metrics: Mapping[str, MetricLike] = MappingProxyType({})) -> Callable[..., Effect[Any, Any]]:
    """The program that evaluates a trained model in `Eval`, curried so that `training.bind(evaluate(batches))` reads in order.

    `batches` is a stream, a resource of one, or a factory of either, called with a `LoopContext` of the last epoch and seed 0.
    Of a dict of them, such as `{"validation": ..., "test": ...}`, the program yields a dict of one `Evaluation` each; the first
    failure ends it.  Each term of a `loss.sum` is a metric too.
    Fails: `EmptyEpoch`, `ShapeMismatch`, `LabelOutOfRange`, `NoWeight`, and what the stream fails with.
    """
    check_metrics(metrics)
    if not isinstance(batches, Mapping):
        return _evaluation("batches", batches, dict(metrics), "evaluate")
    if not batches or not all(isinstance(name, str) for name in batches):
        raise TypeError(f'batches is a stream, or a dict by name, as {{"test": stream}}, got {shown(batches)}')
    measured = dict(metrics)
    named = {name: (f"batches[{name!r}]", each, measured, f"evaluate {name}") for name, each in batches.items()}
    return _EvaluateEach({name: _evaluation(*each) for name, each in named.items()})


def _evaluation(argument: str, batches: Any, metrics: Mapping[str, MetricLike], title: str) -> Pass:
    def work(
        trained: Trained | Kept, stream: BatchStream[Any], runtime: Runtime, workspace: Workspace
    ) -> Result[Evaluation, Any] | Interrupted:
        weights = trained.params, trained.layer_state
        step = int(trained.state.step) if isinstance(trained, Trained) else 0
        reached = title, epoch_of(trained), step
        return run_evaluation(trained.model, metrics, stream, weights, runtime, workspace, reached)

    return Pass("evaluate", batches, work, title, ", ".join(["loss", *metrics]), argument)


@dataclass(frozen=True, eq=False)
class _EvaluateEach:
    """Several evaluations, one after the other."""

    each: Mapping[str, Pass]

    def __call__(self, trained: Trained | Kept) -> Effect[dict[str, Evaluation], Any]:
        programs = [evaluate(trained) for evaluate in self.each.values()]
        return collect(programs).map(lambda found: dict(zip(self.each, found, strict=True)))

    def outline(self, trained: Any) -> Outline:
        outlines = [evaluate.outline(trained) for evaluate in self.each.values()]
        lines = tuple(line for outline in outlines for line in outline.lines)
        return Outline(lines, UNKNOWN, next((outline.fault for outline in outlines if outline.fault is not None), None))


def run_evaluation(
    model: Supervised,
    metrics: Mapping[str, MetricLike],
    stream: BatchStream[Any],
    weights: tuple[Params, State],
    runtime: Runtime,
    workspace: Workspace,
    reached: tuple[str, int, int],
) -> Result[Evaluation, Any] | Interrupted:
    """One pass over the stream, polling for cancellation between dispatches.

    `reached` is the name of the pass for observers, and the epoch and the step after which the weights were as they are.
    """
    name, epoch, step = reached
    metrics = with_terms(model.loss, metrics)
    body = evaluation_body(model, metrics)
    executor = runtime.executor or Fused()
    specs = check_stream(model, stream, weights, body, metrics=metrics)
    with placed_on(workspace.device):
        carry: Any = to_device(tally.empty(tree.count(specs)), workspace.device)
        weights = workspace.put(weights)
        for now in executor.fold(body, weights, carry, stream, stream.init, workspace):
            carry = now.carry
            if runtime.observers:
                total = None if stream.length is None else float(stream.length)
                runtime.tell(Advanced(name, Progress(tally.sums(carry).steps, total, "batches"), step, epoch))
            if workspace.cancelled(runtime):
                return Interrupted()
        sums = tally.sums(carry)
        # A label out of range, or the numbers themselves.
        if np.isnan([sums.total, *sums.metrics]).any() and stream.reread is not Reread.NEVER:
            for batch in items(stream):
                check_batch(model, weights, batch, metrics)
    if not sums.steps:
        return Failure(EmptyEpoch())
    if not sums.weight:
        return Failure(NoWeight(epoch))
    found = figures(metrics, specs, sums.metrics)
    means = loss_of(model.loss, sums, found), float(sums.of_batches / sums.steps)
    return Success(Evaluation(*means, found, int(sums.steps), int(sums.rows)))
