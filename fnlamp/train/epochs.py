"""The training loop as a lazy program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from fnlamp.arrays import Params, State
from fnlamp.effect import Effect, Resource, Runtime
from fnlamp.fault import TrainFault
from fnlamp.given import whole
from fnlamp.layer import Init
from fnlamp.loss import Metric
from fnlamp.optim import Optimizer
from fnlamp.optim.schedule import Schedule, checked, constant
from fnlamp.stream import BatchStream
from fnlamp.stream.view import check_seed
from fnlamp.tag import check_hyper
from fnlamp.train import check
from fnlamp.train.factory import LoopContext
from fnlamp.train.program import Program
from fnlamp.train.run import Run
from fnlamp.train.state import EpochReport, Trained, TrainState
from fnlamp.train.supervised import Supervised

E = TypeVar("E")


def epochs(
    *,
    model: Supervised,
    optimizer: Optimizer,
    train_batches: Callable[[LoopContext], BatchStream[E] | Resource[BatchStream[E], E]],
    validation_batches: Callable[[LoopContext], BatchStream[E] | Resource[BatchStream[E], E]] | None = None,
    epochs: int,
    seed: int = 0,
    initial: Params | tuple[Params, State | None] | Init | Trained | TrainState | None = None,
    resume: Trained | TrainState | None = None,
    schedule: Schedule = constant(1.0),
    metrics: Mapping[str, Metric] = MappingProxyType({}),
    validate_every: int = 1,
    on_epoch: Callable[[EpochReport], Effect[object, E] | None]
    | Callable[[EpochReport, Trained], Effect[object, E] | None]
    | None = None,
    parameter_bound: float | None = None,
) -> Effect[Trained, TrainFault | E]:
    """The program that trains `model` for `epochs` epochs. Building it computes nothing; running it twice gives the same twice.

    `train_batches` and `validation_batches` are factories, called for each epoch with a `LoopContext` (and once for the
    plan); pass its `seed` to `minibatches` to shuffle. `seed` determines everything random: initial parameters, dropout, the
    contexts' seeds.

    `initial` is what to start from with a new optimizer: a `Trained`, a `TrainState`, what a layer's `init`
    made, `(params, layer_state)`, or the parameters of a model without layer state (copied, never donated away). `resume` is a
    `Trained` or a `TrainState` to resume, bit for bit as if it had not stopped.

    `schedule` gives a factor of the learning rate for each step from 0. `metrics` are averaged over validation, which happens
    after every `validate_every`-th epoch. `on_epoch` is called after each epoch with its report, and with the `Trained` so far
    if it takes two arguments; the program that it returns is run. A step that takes a parameter beyond `parameter_bound` counts
    as one that broke, so that the state of a `NonFinite` is sound by a bound of your own.

    Fails: `EmptyEpoch`, `ShapeMismatch`, `DtypeMismatch`, `BatchTooSmall`, `LabelOutOfRange`, `NotDifferentiable` before the
    first step where the stream is in memory; `ResumedElsewhere`; `NonFinite`, `NoWeight` and `StepsExceeded` while running;
    what streams and hooks fail with. From the first step on, a fault holds the last good `Trained` in its `state`.
    Ctrl-C stops between two dispatches; the outcome is `Interrupted(trained)`, which `resume` takes.
    Raises: `TypeError`, `ValueError` at once for what is not an argument of that kind.

    >>> x = np.linspace(-1, 1, 32, dtype=np.float32)[:, None]
    >>> program = epochs(
    ...     model=supervised(nn.linear(1), loss.mse()),
    ...     optimizer=optim.sgdw(learning_rate=0.1),
    ...     train_batches=lambda context: stream.minibatches(x, 3 * x, batch_size=8, seed=context.seed),
    ...     epochs=20,
    ... )
    >>> program.run(Runtime(log=None)).map(lambda trained: trained.curve[-1].train_loss < 1e-3)
    <IOResult: <Success: True>>
    """
    check.check_model(model)
    check.check_optimizer(optimizer)
    check.check_factory("train_batches", train_batches)
    if validation_batches is not None:
        check.check_factory("validation_batches", validation_batches)
    epochs, validate_every = whole("epochs", epochs, None), whole("validate_every", validate_every, None)
    if epochs < 0 or validate_every < 1:
        raise ValueError(f"expected epochs >= 0 and validate_every >= 1, got {epochs} and {validate_every}")
    seed = check_seed(whole("seed", seed, None))
    if initial is not None and resume is not None:
        raise ValueError("give initial parameters or a run to resume, not both")
    check.check_start("initial", initial)
    check.check_start("resume", resume, Trained, TrainState)
    check.check_metrics(metrics)
    if on_epoch is not None:
        check.check_hook(on_epoch)
    if parameter_bound is not None and not check_hyper("parameter_bound", parameter_bound) > 0:
        raise ValueError(f"parameter_bound is above 0, got {parameter_bound}")
    program = Program(
        model=model,
        optimizer=optimizer,
        train_batches=train_batches,
        validation_batches=validation_batches,
        epochs=epochs,
        seed=seed,
        initial=initial,
        resume=resume,
        schedule=checked(schedule),
        metrics=dict(metrics),
        validate_every=validate_every,
        on_epoch=on_epoch,
        bound=parameter_bound,
    )
    name = f"epochs({epochs})"

    def fresh(runtime: Runtime) -> Effect[Trained, Any]:
        run = Run(program, runtime)
        return run.program().salvaged(run.salvage)

    return Effect.access(fresh).named(name).outlined(program.outline)
