"""What `explain` shows of a training program: each stage, memory, work, and what folds and schedules will do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from fnlamp import tree
from fnlamp.arrays import describe
from fnlamp.effect import UNKNOWN, Outline, Runtime
from fnlamp.effect.node import name_of
from fnlamp.fault import FaultError
from fnlamp.optim.schedule import Schedule, summary
from fnlamp.stream import BatchStream, Reread
from fnlamp.summary import table as layer_table
from fnlamp.train.arguments import place_of, takes_trained
from fnlamp.train.check import batch_specs
from fnlamp.train.execute import Fused
from fnlamp.train.execute.record import room as room_for
from fnlamp.train.explain.idle import Read, epochs_left, first_epoch, hyperparameters, idle, idle_when_traced, validations
from fnlamp.train.explain.memory import in_a_save, kept_on_host, on_device, table
from fnlamp.train.explain.work import Work, work_of
from fnlamp.train.factory import WatchedContext, make_stream
from fnlamp.train.gradient import plain
from fnlamp.train.indicators.recording import parts_of
from fnlamp.train.plan import Plan, rows_line
from fnlamp.train.program import Program
from fnlamp.train.start import state_of
from fnlamp.train.state import Carry
from fnlamp.train.step import evaluation_body
from fnlamp.train.supervised import rows_of

NAMED = 6
"""Parameters that are named where many lie alike."""


@dataclass(frozen=True, eq=False)
class Explained:
    """The outline of a training program, which other programs can look into."""

    program: Program

    def __call__(self) -> Outline:
        return self.under(Runtime())

    def under(self, runtime: Runtime) -> Outline:
        """The outline of a run by this runtime."""
        title = f"epochs: {self.program.model!r}"
        try:
            planned = plan_of(self.program)
            if planned is None:
                line = f"  train {self.program.epochs} epochs on a stream that is acquired when it is run"
                return Outline((title, line, *_after_epochs(self.program, None)), UNKNOWN)
            return Outline((title, *_lines(self.program, *planned, runtime)), UNKNOWN)
        except FaultError as error:
            return Outline((title,), UNKNOWN, error.fault)


def plan_of(program: Program) -> tuple[Plan, Read] | None:
    """The plan, and what the factories read of their contexts; `None` if the training stream must be acquired.

    Fails: with the fault that a run is sure to end with.
    """
    epoch = first_epoch(program)
    contexts = [WatchedContext.of(program.context(purpose, epoch, (None, None))) for purpose in ("train", "validation")]
    train = make_stream(program.train_batches, contexts[0], "train_batches")
    if not isinstance(train, BatchStream):
        return None
    validation = None
    if program.validation_batches is not None:
        validation = make_stream(program.validation_batches, contexts[1], "validation_batches")
    plan = program.plan(train, validation if isinstance(validation, BatchStream) else None)
    return plan, (contexts[0].read, contexts[1].read)


def _lines(program: Program, plan: Plan, read: Read, runtime: Runtime) -> Iterator[str]:
    step = jax.make_jaxpr(plan.body.function)(plan.shared, plan.carry, plan.train.spec)
    steps = (plan.train.length or 0) * epochs_left(program)
    factors = summary(_schedule_left(program), min(steps, 2**31)) if steps else None
    features, _ = plan.train.spec
    yield f"train {plan.length()}"
    yield f"  batch: {describe(plan.train.spec)}"
    yield from (f"  {line}" for line in layer_table(program.model.layer, features).splitlines())
    yield (
        f"  parameters: {tree.count(plan.made.params):,} ({tree.nbytes(plan.made.params):,} bytes), "
        f"state {tree.nbytes(plan.made.state):,} bytes, {plan.optimizer} {tree.nbytes(plan.carry.optimizer_state):,} bytes"
    )
    yield f"  loss: {program.model.loss}"
    yield f"  optimizer: {', '.join([str(plan.optimizer), *_hyperparameters(plan)])}"
    if program.gradient is not plain:
        yield f"  gradient: {program.gradient}"
    if factors is not None and factors != (1, 1, 1):
        yield f"  schedule: {factors}"
    where = layout_by(plan, runtime)
    yield from _executor(plan, runtime, where)
    yield f"  work: {work_of(step)} per step{_in_all(program, plan)}"
    yield from _memory(plan, runtime, where)
    yield from _indicators(program, plan)
    yield from (f"  {line}" for line in (*_start(program, plan), *plan.advice, *idle(program, plan)))
    yield from (f"  {line}" for line in idle_when_traced(program, plan, step, factors, read))
    yield from _after_epochs(program, plan)


def _schedule_left(program: Program) -> Schedule:
    """The schedule from the first step of the run, which may resume another."""
    begin = 0 if program.resume is None else int(np.asarray(state_of(program.resume).step))
    return program.schedule if not begin else lambda step: program.schedule(step + begin)


def _hyperparameters(plan: Plan) -> Iterator[str]:
    for name, numbers in hyperparameters(plan).items():
        if numbers.size:
            low, high = float(numbers.min()), float(numbers.max())
            yield f"{name} {low:g}" if low == high else f"{name} {low:g} to {high:g}"


def _in_all(program: Program, plan: Plan) -> str:
    """The work of all steps and validations, as far as their number is known."""
    match in_all(program, plan):
        case [total, checked]:
            return f", {total} for training and {checked} for validation in all"
        case [total]:
            return f", {total} in all" + (" without validation" if program.validation_batches is not None else "")
    return ""


def in_all(program: Program, plan: Plan) -> list[Work]:
    """The work of all training and of all validation, as far as their number of batches is known."""
    if not plan.train.length:
        return []
    total = _pass(plan.train, plan.body, plan.shared, plan.carry).times(epochs_left(program))
    if plan.validation is None or not plan.validation.length:
        return [total]
    weights, sums = (plan.carry.params, plan.carry.layer_state), plan.sums
    body = evaluation_body(plan.model, plan.metrics)
    return [total, _pass(plan.validation, body, weights, sums).times(validations(program))]


def _pass(stream: BatchStream[Any], body: Any, shared: Any, carry: Any) -> Work:
    """The work of one pass over a stream."""
    counts = {rows_of(stream.spec): stream.length or 0}
    if stream.view is not None:
        counts = {}
        for segment in stream.view.segments:
            counts[segment.size] = counts.get(segment.size, 0) + len(segment.starts)
    total = Work()
    for spec, count in zip(batch_specs(stream), counts.values(), strict=True):
        total = total.plus(work_of(jax.make_jaxpr(body.function)(shared, carry, spec)).times(count))
    return total


def layout_by(plan: Plan, runtime: Runtime) -> Carry | None:
    """The sharding of each array of the carry, if the runtime's executor has many devices."""
    found: Carry | None = plan.layout(runtime.executor, place_of(runtime))
    return found


def _executor(plan: Plan, runtime: Runtime, where: Carry | None) -> Iterator[str]:
    executor: Any = runtime.executor
    if executor is None:
        yield f"  executor: {Fused().on(plan.train)}, unless the runtime has another"
        return
    yield f"  executor: {executor.on(plan.train) if hasattr(executor, 'on') else executor}"
    if where is not None:
        cut: dict[str, list[str]] = {}
        for path, place in tree.paths(where.params).items():
            axes = ", ".join(f"axis {axis} over {name}" for axis, name in enumerate(place.spec) if name is not None)
            cut.setdefault(axes or "whole on each device", []).append(path)
        for how, paths in cut.items():
            more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
            yield f"    {how}: {', '.join(paths[:NAMED])}{more}"


def _memory(plan: Plan, runtime: Runtime, where: Carry | None) -> Iterator[str]:
    parts = on_device(plan, runtime.executor, where)
    on = "the device" if where is None else "each device"
    yield f"  memory: {sum(parts.values()):,} bytes on {on}, besides what a step needs while it runs"
    yield from table(parts, "    ")


def _start(program: Program, plan: Plan) -> Iterator[str]:
    if program.resume is not None:
        state = state_of(program.resume)
        where = "at its start" if state.stream_state is None else "within it"
        yield f"resume: epoch {state.epoch}, {where}, after {int(np.asarray(state.step)):,} steps"
    elif program.initial is not None:
        yield f"start: from given weights ({type(program.initial).__name__}), the optimizer from its first state"
    if plan.train.reread is not Reread.DIRECT:
        yield f"resuming: the stream {plan.train.reread.value}"


def _indicators(program: Program, plan: Plan) -> Iterator[str]:
    """What is measured in single steps, and the buffers on the device that hold it between two dispatches."""
    if not program.indicators:
        return
    recorder = program.recording(plan.body, plan.made).recorder
    assert recorder is not None
    specs = recorder.specs(plan.shared, plan.carry, plan.train.spec)
    for (every, part), spec in zip(parts_of(program.indicators, program.measure_every).items(), specs, strict=True):
        size, rows = tree.nbytes(spec), room_for(spec)
        steps = "each step" if every == 1 else f"every {every} steps"
        told = ", ".join(f"{name} ({indicator.name})" for name, indicator in part.items())
        yield f"  measured {steps}, if the runtime has observers: {told}; {size:,} bytes, {size * rows:,} for {rows:,} of them"


def _after_epochs(program: Program, plan: Plan | None) -> Iterator[str]:
    """Validation, folds and the hook, in their order."""
    if program.validation_batches is not None:
        every = "" if program.validate_every == 1 else f", after every {program.validate_every} epochs"
        stream = plan.validation if plan is not None else None
        on = rows_line(stream) if stream is not None else "a stream that is acquired when it is run"
        yield f"  validate on {on}: {', '.join(['loss', *program.metrics])}{every}"
    for name, fold in program.folds.items():
        does = fold.decides or "decides"
        size = f", at most {kept_on_host(plan, fold.slots):,} bytes on the host" if plan is not None and fold.slots else ""
        yield f"  after each epoch, the fold {name}: {fold} {does}{size}"
    if program.checkpoints is not None:
        slots = sum(fold.slots for fold in program.folds.values())
        yield f"  {program.checkpoints}" + ("" if plan is None else f", each of at most {in_a_save(plan, slots):,} bytes")
    if program.on_epoch is not None:
        given = "the report and the model so far" if takes_trained(program.on_epoch) else "the report"
        yield f"  after each epoch, on_epoch: {name_of(program.on_epoch)}, with {given}"
