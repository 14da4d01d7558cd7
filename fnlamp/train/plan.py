"""What a training program would do, worked out from shapes alone: nothing is trained, compiled or allocated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from fnlamp import tree
from fnlamp.arrays import Tree, array_spec, spec_after, spec_of
from fnlamp.layer import Init
from fnlamp.loss import MetricLike
from fnlamp.optim import Optimizer
from fnlamp.stream import BatchStream
from fnlamp.train import tally
from fnlamp.train.check import batch_specs, segment_spec
from fnlamp.train.execute import Body
from fnlamp.train.measures import same_sums
from fnlamp.train.state import Carry
from fnlamp.train.step import none_of
from fnlamp.train.supervised import Supervised, rows_of


def measured_in_training(made: Init, model: Supervised, metrics: Mapping[str, MetricLike], stream: BatchStream[Any]) -> Tree:
    """The specs of the metrics' sums over training batches."""
    if not metrics:
        return ()

    def sums(batch: Tree) -> Tree:
        return spec_after(partial(none_of, model, tuple(metrics.values())), made.params, made.state, batch)

    return same_sums(metrics, [sums(batch) for batch in batch_specs(stream)])


def abstract_carry(made: Init, optimizer: Optimizer, measured: Tree) -> Carry:
    """The spec of what training carries; `measured` are the specs of the sums of metrics."""
    step: Any = array_spec((), np.int32)
    sums: Any = array_spec(tally.empty(tree.count(measured)).shape, np.float32)
    return Carry(step, made.params, made.state, spec_after(lambda params: optimizer.init(params, made.tags), made.params), sums)


def abstract_shared(optimizer: Optimizer, made: Init) -> Any:
    """The spec of what every step reads: the root of its keys, and the hyperparameters' numbers."""
    return spec_after(jax.random.key, 0), spec_of(optimizer.numbers(made.params, made.tags)), array_spec((), np.float32)


@dataclass(frozen=True)
class Plan:
    """The figures of a training program; `sums` is the spec of validation's tally.

    `words` describe a program that resumes a save.
    """

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
    words: Mapping[str, str] | None

    def length(self) -> str:
        """How many epochs of how many steps."""
        of = f"{self.epochs} {'epoch' if self.epochs == 1 else 'epochs'} of {rows_line(self.train, 'step', 'steps')}"
        return f"{of}, in order" if in_order(self.train) else of

    def layout(self, executor: Any, device: Any) -> Any:
        """The sharding of each array that goes from step to step, for an executor with many devices; else `None`."""
        return executor.layout(device.mesh, self.carry, self.made.tags) if isinstance(device, NamedSharding) else None

    def summary(self, executor: Any, device: Any) -> str:
        """One line, which a run logs first."""
        on = device.mesh.devices.flat[0] if isinstance(device, NamedSharding) else device
        where = jax.default_backend() if on is None else on.platform
        return (
            f"{tree.count(self.made.params):,} parameters, {self.model.loss}, {self.optimizer}: "
            f"{self.length()}, {executor} on {where}"
        )


def rows_line(stream: BatchStream[Any], one: str = "batch", many: str = "batches") -> str:
    """Batches, rows per batch, and the short last batch of a stream, in words."""
    rows = rows_of(stream.spec)
    if stream.length is None:
        return f"{many} of {rows:,} rows"
    line = f"{stream.length:,} {one if stream.length == 1 else many} of {rows:,} rows"
    if stream.view is not None and stream.view.segments:
        last = rows_of(segment_spec(stream, stream.view.segments[-1]))
        line += f", the last of {last:,}" if last != rows else ""
    return line


def in_order(stream: BatchStream[Any]) -> bool:
    """Whether each epoch takes the same rows one after the other, as `minibatches` without a seed."""
    segments = stream.view.segments if stream.view is not None else ()
    return sum(len(s.starts) for s in segments) > 1 and all(s.order.seed is None and s.order.among is None for s in segments)
