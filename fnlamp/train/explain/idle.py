"""Arguments of a training program that have no effect, from what is known before it runs; a line for each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import jax
import numpy as np

from fnlamp import tree
from fnlamp.arrays import Tree, is_float, spec_after
from fnlamp.identity import draws
from fnlamp.mode import Train
from fnlamp.optim.schedule import Schedule, Summary
from fnlamp.train.advice import equations
from fnlamp.train.explain.work import used
from fnlamp.train.fold import Fold
from fnlamp.train.plan import Plan
from fnlamp.train.program import Program
from fnlamp.train.start import state_of, weights_of


def first_epoch(program: Program) -> int:
    """The epoch that a run begins with or resumes in."""
    return 1 if program.resume is None else state_of(program.resume).epoch


def epochs_left(program: Program) -> int:
    """How many epochs a run has, the one that it resumes in included."""
    return max(0, program.epochs - first_epoch(program) + 1)


def validations(program: Program) -> int:
    """How many of its epochs end with a validation."""
    if program.validation_batches is None or not epochs_left(program):
        return 0
    return program.epochs // program.validate_every - (first_epoch(program) - 1) // program.validate_every


# ------------------------------------------------------------------------------- known from the arguments alone


def idle(program: Program, plan: Plan) -> tuple[str, ...]:
    """What a run logs: arguments without effect that are found without tracing anything."""
    if not epochs_left(program):
        resumed = program.resume is not None and program.epochs > 0
        return (f"no epoch is left: the run to resume is past epoch {program.epochs}",) if resumed else ()
    return (*_of_validation(program), *_of_folds(program), *_of_optimizer(program, plan))


def _of_validation(program: Program) -> Iterator[str]:
    every = program.validate_every
    if program.validation_batches is None:
        if program.metrics:
            yield f"not computed: {', '.join(program.metrics)}, which need validation_batches"
        if every > 1:
            yield f"no effect: validate_every={every}, which needs validation_batches"
    elif not validations(program):
        yield f"never validated: validate_every={every}, and the last epoch is {program.epochs}"


def _of_folds(program: Program) -> Iterator[str]:
    for name, fold in program.folds.items():
        validated = isinstance(fold.metric, str) and (fold.metric.startswith("validation_") or fold.metric in program.metrics)
        figures = validations(program) if validated else epochs_left(program)
        if validated and not figures:
            why = "is never validated" if program.validation_batches else "has no validation_batches"
            yield f"no effect: the fold {name}, {fold}, reads {fold.metric}, and the run {why}"
        elif program.resume is None and _too_long(fold, program, validated):
            first = (fold.earliest or 1) * (program.validate_every if validated else 1)
            yield f"no effect: the fold {name}, {fold}, decides after epoch {first} at the earliest, of {program.epochs}"
        elif isinstance(fold.metric, str) and program.resume is None and fold.slots > max(figures, 1):
            yield f"never full: the fold {name}, {fold}, has {fold.slots} slots, and the run {figures} figures"
    if program.resume is not None:
        lost = [name for name in state_of(program.resume).folds if name not in program.folds]
        if lost:
            yield f"dropped: what the run to resume has of {', '.join(lost)}, as no fold has that name"


def _too_long(fold: Fold, program: Program, validated: bool) -> bool:
    """Whether the first decision comes after the last epoch, when there is nothing to stop and no rate to change."""
    return fold.earliest is not None and fold.earliest * (program.validate_every if validated else 1) >= program.epochs


def _of_optimizer(program: Program, plan: Plan) -> Iterator[str]:
    tags: list[Any] = tree.leaves(plan.made.tags)
    if tags and all(program.optimizer.frozen(tag) for tag in tags):
        yield f"nothing is learned: {program.optimizer} leaves all parameters frozen"
    found = hyperparameters(plan)
    for rule in dict.fromkeys(path.rpartition("/")[0] for path, numbers in found.items() if not numbers.size):
        yield f"no effect: {rule} of {program.optimizer}, which has none of the parameters"
    for path, numbers in found.items():
        if numbers.size and path.rpartition("/")[2] == "learning_rate" and not numbers.any():
            yield f"{path} of {program.optimizer} is 0 for each of its parameters"


def hyperparameters(plan: Plan) -> dict[str, np.ndarray[Any, Any]]:
    """The optimizer's numbers by name: one for each parameter array."""
    found = plan.optimizer.numbers(plan.made.params, plan.made.tags)
    return {path: np.asarray(leaf) for path, leaf in tree.paths(found).items()}


# ------------------------------------------------------------------------------- known from what is traced


Read: TypeAlias = tuple[frozenset[str], frozenset[str]]
"""The fields that the factories of the training and of the validation stream read of their contexts."""


def idle_when_traced(program: Program, plan: Plan, step: Any, factors: Summary | None, read: Read) -> Iterator[str]:
    """What `explain` adds, from the jaxpr of a step, the factors of the schedule, and what the factories read of contexts."""
    if not epochs_left(program):
        return
    if factors == (0, 0, 0):
        yield "nothing is learned: the schedule's factor is 0 at each step"
    if factors == (1, 1, 1) and not _constant(program.schedule):
        yield "no effect: the schedule, whose factor is 1 at each step"
    yield from _of_seed(program, plan, step, read)
    loss = _loss(plan)
    yield from (*_of_dtype(plan, loss), *_of_parameters(plan, loss))


def _constant(schedule: Schedule) -> bool:
    jaxpr = jax.make_jaxpr(schedule)(np.int32(0)).jaxpr
    return not used(jaxpr, jaxpr.outvars)[1][0]


def _of_seed(program: Program, plan: Plan, step: Any, read: Read) -> Iterator[str]:
    segments = plan.train.view.segments if plan.train.view is not None else ()
    shuffled = bool(segments) and any(segment.order.seed is not None for segment in segments)
    pure = draws((program.train_batches, program.validation_batches)) is None
    if not pure:
        return
    if shuffled and not read[0] and epochs_left(program) > 1:
        yield "the same order in each epoch: train_batches does not read context.seed"
    drawn = program.resume is None and not _weights_given(program, plan)
    if program.seed and not any(read) and not drawn and not used(step.jaxpr, step.jaxpr.outvars)[1][0]:
        yield f"no effect: seed={program.seed}: the weights are given, no step draws numbers, no factory reads context.seed"


def _weights_given(program: Program, plan: Plan) -> bool:
    if program.initial is None:
        return False
    return weights_of(program.initial)[1] is not None or not tree.leaves(plan.made.state)


def _of_dtype(plan: Plan, loss: Any) -> Iterator[str]:
    wanted = np.dtype(plan.model.precision.compute)
    products = [each for each in equations(loss) if each.primitive.name in ("dot_general", "conv_general_dilated")]
    dtypes = {variable.aval.dtype for each in products for variable in each.invars[:2] if is_float(variable.aval)}
    if dtypes and wanted not in dtypes:
        found = ", ".join(sorted(map(str, dtypes)))
        yield f"no effect: {wanted} reaches no product of the model, each of which takes {found}"


def _of_parameters(plan: Plan, loss: Any) -> Iterator[str]:
    reached = used(loss, loss.outvars)[1]  # parameters come first
    unused = [path for path, live in zip(tree.paths(plan.carry.params), reached, strict=False) if not live]
    if unused:
        yield f"no gradient: {', '.join(unused)}, on which the loss does not depend"


def _loss(plan: Plan) -> Any:
    """The jaxpr of the loss of a training step, a function of the parameters and more."""

    def loss(params: Tree, state: Tree, batch: Tree, key: Any) -> Any:
        return plan.model.evaluate(params, state, batch, Train(key))[0].total

    key = spec_after(jax.random.key, 0)
    return jax.make_jaxpr(loss)(plan.carry.params, plan.carry.layer_state, plan.train.spec, key).jaxpr
