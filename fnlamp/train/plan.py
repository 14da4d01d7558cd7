"""What a training program would do, worked out from shapes alone: nothing is trained, compiled or allocated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from fnlamp import tree
from fnlamp.arrays import Params, State, Tree, array_spec, first_not_finite, spec_after, spec_of
from fnlamp.fault import ClassesDiffer, FaultError
from fnlamp.identity import draws
from fnlamp.layer import Init
from fnlamp.loss import Loss, MetricLike, as_metric
from fnlamp.mode import Eval
from fnlamp.optim import Optimizer
from fnlamp.stream import BatchStream
from fnlamp.train import tally
from fnlamp.train.advice import advice
from fnlamp.train.execute import Body
from fnlamp.train.execute.body import form
from fnlamp.train.execute.programs import BODIES
from fnlamp.train.measures import measures, same_sums
from fnlamp.train.predict import predict
from fnlamp.train.state import Carry
from fnlamp.train.step import evaluation_body, none_of
from fnlamp.train.supervised import Supervised, rows_of


def batch_specs(stream: BatchStream[Any]) -> Iterator[Tree]:
    """The specs of all batches, each different one once; of a stream without a view, the one that it declares."""
    if stream.view is None or not stream.view.segments:
        yield stream.spec
        return
    for size in {segment.size: None for segment in stream.view.segments}:
        yield tree.map(lambda leaf, n=size: array_spec((n, *leaf.shape[1:]), leaf.dtype), stream.spec)


def measured_in_training(made: Init, model: Supervised, metrics: Mapping[str, MetricLike], stream: BatchStream[Any]) -> Tree:
    """The specs of the metrics' sums over training batches."""
    if not metrics:
        return ()

    def sums(batch: Tree) -> Tree:
        return spec_after(partial(none_of, model, tuple(metrics.values())), made.params, made.state, batch)

    return same_sums(metrics, [sums(batch) for batch in batch_specs(stream)])


def check_stream(
    model: Supervised, stream: BatchStream[Any], weights: tuple[Params, State], *, metrics: Mapping[str, MetricLike]
) -> Tree:
    """Raise the fault that evaluating the model with these weights (arrays or specs) on this stream is sure to end with.

    Returns the specs of the metrics' sums.
    """
    if stream.length == 0:
        raise FaultError(stream.why_empty)

    def forward(params: Tree, state: Tree, batch: Tree) -> tuple[Tree, Tree]:
        _, prediction, _ = model.evaluate(params, state, batch, Eval())
        return prediction, measures(metrics.values(), prediction, batch[1])

    body, specs = evaluation_body(model, metrics), []
    for batch in batch_specs(stream):
        key = "prediction", body, form((*weights, batch))  # once, and not each epoch
        prediction, sums = BODIES.get(key, partial(spec_after, forward, *weights, batch))
        check_targets((model.loss, *metrics.values()), stream, prediction)
        specs.append(sums)
    return same_sums(metrics, specs)


def check_classes(train: tuple[str, ...] | None, validation: tuple[str, ...] | None) -> None:
    """Raise the fault of labels that stand for other classes in validation, where both are known."""
    if train is not None and validation is not None and train != validation:
        raise FaultError(ClassesDiffer(train, validation))


def check_targets(losses: tuple[Loss | MetricLike, ...], stream: BatchStream[Any], prediction: Tree) -> None:
    """Check all targets that are in memory as they are; mapped and streamed ones are checked inside the step.

    They are the second of a view's arrays, also if its recipe indexes them differently, as for windows of a corpus.
    """
    for segment in stream.view.segments if stream.view is not None else ():
        if not segment.recipe.functions:
            targets = segment.arrays[1]
            check_target(losses, prediction, targets)


def check_target(losses: tuple[Loss | MetricLike, ...], prediction: Tree, target: Tree) -> None:
    """Raise the fault of a target that one of the losses or metrics cannot take."""
    on_host = tree.map(np.asarray, target)
    for each in losses:
        as_metric(each).check(prediction, on_host)


def not_finite(stream: BatchStream[Any], what: str) -> tuple[str, ...]:
    """A line for a number of a stream in memory that is NaN or infinite: it trains to nothing, or stops the run later."""
    arrays = [segment.arrays for segment in stream.view.segments[:1]] if stream.view is not None else []
    found = first_not_finite(arrays[0]) if arrays else None
    return () if found is None else (f"not finite: {what}, {found}",)


def drawn_once(model: Supervised, stream: BatchStream[Any]) -> tuple[str, ...]:
    """A line for random numbers that compiled functions draw outside JAX: once, while they are traced, for all steps."""
    recipe = stream.view.segments[0].recipe if stream.view is not None and stream.view.segments else stream.finish
    found = draws((model.layer.apply, model.loss.apply, recipe.functions))
    hint = "draw with jax.random and a key, or give map a host function with spec="
    return () if found is None else (f"drawn once for all steps: {found} in a function that is compiled; {hint}",)


def check_batch(
    model: Supervised, weights: tuple[Params, State], batch: Tree, metrics: Mapping[str, MetricLike] = MappingProxyType({})
) -> None:
    """Raise the fault of a batch that the loss cannot take: labels out of range, a prediction of another kind."""
    features, target = batch
    prediction = spec_after(lambda x: model.forward(*weights, x, Eval())[0], spec_of(features))
    check_target((model.loss, *metrics.values()), prediction, target)
    if model.loss.suspects is not None:
        model.loss.check_prediction(predict(model, *weights, features, None))


def abstract_carry(made: Init, optimizer: Optimizer, measured: Tree) -> Carry:
    """The spec of what training carries; `measured` are the specs of the sums of metrics."""
    step: Any = array_spec((), np.int32)
    sums: Any = array_spec(tally.empty(tree.count(measured)).shape, np.float32)
    return Carry(step, made.params, made.state, spec_after(lambda params: optimizer.init(params, made.tags), made.params), sums)


def abstract_shared(optimizer: Optimizer, made: Init) -> Any:
    """The spec of what every step reads: the root of its keys, and the hyperparameters' numbers."""
    return spec_after(jax.random.key, 0), spec_of(optimizer.numbers(made.params, made.tags)), array_spec((), np.float32)


def check_training(model: Supervised, stream: BatchStream[Any], body: Body, shared: Any, carry: Carry) -> tuple[str, ...]:
    """What should be known about the step; raises the fault that training on this stream is sure to end with."""
    if stream.length == 0:
        raise FaultError(stream.why_empty)
    programs = [jax.make_jaxpr(body.function)(shared, carry, batch) for batch in batch_specs(stream)]
    features, _ = stream.spec
    prediction = spec_after(lambda p, s, x: model.forward(p, s, x, Eval())[0], carry.params, carry.layer_state, features)
    check_targets((model.loss,), stream, prediction)
    return advice(programs[0])


@dataclass(frozen=True)
class Plan:
    """The figures of a training program; `sums` is the spec of validation's tally."""

    model: Supervised
    optimizer: Optimizer
    made: Init
    body: Body
    shared: Any
    carry: Carry
    train: BatchStream[Any]
    validation: BatchStream[Any] | None
    metrics: Mapping[str, MetricLike]
    measured: Tree
    epochs: int
    sums: Any
    advice: tuple[str, ...]

    def length(self) -> str:
        """How many epochs of how many steps."""
        of = f"{self.epochs} {'epoch' if self.epochs == 1 else 'epochs'} of {rows_line(self.train, 'step', 'steps')}"
        return f"{of}, in order" if in_order(self.train) else of

    def summary(self, executor: Any, device: Any) -> str:
        """One line, which a run logs first."""
        where = device.platform if device is not None else jax.default_backend()
        return (
            f"{tree.count(self.made.params):,} parameters, {self.model.loss}, {self.optimizer}: "
            f"{self.length()}, {executor} on {where}"
        )


def rows_line(stream: BatchStream[Any], one: str = "batch", many: str = "batches") -> str:
    """Batches, rows a batch, and the short last batch of a stream, in words."""
    rows = rows_of(stream.spec)
    if stream.length is None:
        return f"{many} of {rows:,} rows"
    line = f"{stream.length:,} {one if stream.length == 1 else many} of {rows:,} rows"
    if stream.view is not None and stream.view.segments and stream.view.segments[-1].size != rows:
        line += f", the last of {stream.view.segments[-1].size:,}"
    return line


def in_order(stream: BatchStream[Any]) -> bool:
    """Whether each epoch takes the same rows one after the other, as `minibatches` without a seed."""
    segments = stream.view.segments if stream.view is not None else ()
    return sum(len(s.starts) for s in segments) > 1 and all(s.order.seed is None and s.order.among is None for s in segments)
