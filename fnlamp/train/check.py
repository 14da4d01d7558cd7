"""Checks of streams, batches and steps against a model, from shapes and from what is in memory, before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from fnlamp import tree
from fnlamp.arrays import Array, Params, State, Tree, array_spec, first_not_finite, spec_after, spec_of
from fnlamp.fault import ClassesDiffer, FaultError
from fnlamp.identity import draws
from fnlamp.loss import Loss, MetricLike, as_metric
from fnlamp.mode import Eval
from fnlamp.stream import BatchStream, Recipe, Segment
from fnlamp.train.advice import advice
from fnlamp.train.execute import Body
from fnlamp.train.execute.body import form
from fnlamp.train.execute.programs import BODIES
from fnlamp.train.measures import measures, same_sums
from fnlamp.train.predict import predict
from fnlamp.train.state import Carry
from fnlamp.train.supervised import Supervised


def batch_specs(stream: BatchStream[Any]) -> Iterator[Tree]:
    """The specs of all batches, each different one once; of a stream without a view, the one that it declares."""
    if stream.view is None or not stream.view.segments:
        yield stream.spec
        return
    first = {segment.size: segment for segment in reversed(stream.view.segments)}
    for size in dict.fromkeys(segment.size for segment in stream.view.segments):
        yield segment_spec(stream, first[size])


def segment_spec(stream: BatchStream[Any], segment: Segment) -> Tree:
    """The spec of the batches of a segment of the stream's view."""
    rows = {leaf.shape[:1] for leaf in tree.leaves(stream.spec)}
    if len(rows) == 1 and rows <= {(each.size,) for each in stream.view.segments}:  # type: ignore[union-attr]
        return tree.map(lambda leaf: array_spec((segment.size, *leaf.shape[1:]), leaf.dtype), stream.spec)

    def batch(arrays: Tree, numbers: Array, arguments: Any) -> Tree:
        return replace(segment.recipe, arguments=arguments)(arrays, numbers)

    # A function of the batch has made other numbers of rows, such as those of a graph.
    numbers, arguments = array_spec((segment.size,), np.int32), segment.recipe.arguments
    weak = tuple(not hasattr(leaf, "dtype") for leaf in tree.leaves(arguments))  # Python's numbers, which promote less
    wide = jax.config.jax_enable_x64  # type: ignore[attr-defined]
    key = "batch", segment.recipe.identity, segment.size, form((segment.arrays, arguments)), weak, wide
    made = BODIES.get(key, partial(spec_after, batch, spec_of(segment.arrays), numbers, arguments))  # once, and not each epoch
    return tree.map(lambda leaf: array_spec(leaf.shape, leaf.dtype), made)


def recipe_of(stream: BatchStream[Any]) -> Recipe:
    """The recipe of its first batches."""
    return stream.view.segments[0].recipe if stream.view is not None and stream.view.segments else stream.finish


def check_stream(
    model: Supervised,
    stream: BatchStream[Any],
    weights: tuple[Params, State],
    body: Body,
    *,
    metrics: Mapping[str, MetricLike],
) -> Tree:
    """Raise the fault that evaluating the model with these weights (arrays or specs) on this stream is sure to end with.

    `body` is the `evaluation_body` of the model and the metrics.  Returns the specs of the metrics' sums.
    """
    if stream.length == 0:
        raise FaultError(stream.why_empty)

    def forward(params: Tree, state: Tree, batch: Tree) -> tuple[Tree, Tree]:
        _, prediction, _ = model.evaluate(params, state, batch, Eval())
        return prediction, measures(metrics.values(), prediction, batch[1])

    specs = []
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
    found = draws((model.layer.apply, model.loss.apply, recipe_of(stream).functions))
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


def check_training(model: Supervised, stream: BatchStream[Any], body: Body, shared: Any, carry: Carry) -> tuple[str, ...]:
    """What should be known about the step; raises the fault that training on this stream is sure to end with."""
    if stream.length == 0:
        raise FaultError(stream.why_empty)
    programs = [jax.make_jaxpr(body.function)(shared, carry, batch) for batch in batch_specs(stream)]
    features, _ = stream.spec
    prediction = spec_after(lambda p, s, x: model.forward(p, s, x, Eval())[0], carry.params, carry.layer_state, features)
    check_targets((model.loss,), stream, prediction)
    return advice(programs[0])
