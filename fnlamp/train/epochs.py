"""The training loop as a lazy program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeVar

from fnlamp.arrays import Params, State
from fnlamp.checkpoint import Loaded
from fnlamp.effect import Effect, Resource
from fnlamp.fault import TrainFault
from fnlamp.layer import Init
from fnlamp.loss import MetricLike
from fnlamp.optim import Optimizer
from fnlamp.optim.schedule import Schedule, constant
from fnlamp.stream import BatchStream
from fnlamp.train.checkpoints import Checkpoints, Fork
from fnlamp.train.explain.explained import Explained
from fnlamp.train.factory import LoopContext
from fnlamp.train.fold import Fold
from fnlamp.train.gradient import Gradient, plain
from fnlamp.train.indicators.indicator import Indicator
from fnlamp.train.loop import run
from fnlamp.train.program import Program
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
    initial: Params | tuple[Params, State | None] | Init | Trained | TrainState | Loaded | None = None,
    resume: Trained | TrainState | Loaded | Fork | None = None,
    schedule: Schedule = constant(1.0),
    gradient: Gradient = plain,
    metrics: Mapping[str, MetricLike] = MappingProxyType({}),
    train_metrics: Mapping[str, MetricLike] = MappingProxyType({}),
    validate_every: int = 1,
    folds: Mapping[str, Fold] = MappingProxyType({}),
    on_epoch: Callable[[EpochReport], Effect[object, E] | None]
    | Callable[[EpochReport, Trained], Effect[object, E] | None]
    | None = None,
    checkpoints: Checkpoints | None = None,
    parameter_bound: float | None = None,
    indicators: Mapping[str, Indicator] = MappingProxyType({}),
    measure_every: int = 50,
) -> Effect[Trained, TrainFault | E]:
    """The program that trains `model` for `epochs` epochs. Building it computes nothing; running it twice gives the same twice.

    `train_batches` and `validation_batches` are factories, called for each epoch with a `LoopContext` (and once for the
    plan); pass its `seed` to `minibatches` to shuffle. `seed` determines everything random: initial parameters, dropout, the
    contexts' seeds.

    `initial` is what to start from with a new optimizer: a `Trained`, a `TrainState`, what a layer's `init`
    made, `(params, layer_state)`, or the parameters of a model without layer state (copied, never donated away). `resume` is a
    `Trained`, a `TrainState` or a save to resume, bit for bit as if it had not stopped: see `resumable` and `fork`.

    `schedule` gives a factor of the learning rate for each step from 0. `gradient` says how it is taken: `plain`,
    `microbatches`, `perturbed`, `adversarial`, `augmented`, `rematerialised`. `metrics` are measured over validation, which
    happens after every `validate_every`-th epoch, and `train_metrics` over the training batches, in `Train` and while the
    parameters move. `folds` decide, by name, over the epochs' reports: `best` and `top_k` keep weights (`Trained.kept`),
    `patience` and `time_budget` stop, `reduce_on_plateau` lowers the rate. `on_epoch` is called after each epoch with its
    report, and with the `Trained` so far if it takes two arguments; the program that it returns is run. `checkpoints` says
    where and when the run saves itself. A step that takes a parameter beyond `parameter_bound` counts as one that broke: the
    state of a `NonFinite` is within the bound. `indicators` are values of single steps, by name, that the observers of the run
    are told: they are measured on the device, after each step whose number `measure_every` divides. Training has the same bits
    with other ones.

    Fails: `EmptyEpoch`, `ShapeMismatch`, `DtypeMismatch`, `BatchTooSmall`, `LabelOutOfRange`, `NotDifferentiable` before the
    first step if the stream is in memory; `ResumedElsewhere`; `NonFinite`, `NoWeight` and `StepsExceeded` while running;
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
    program = Program(**locals())  # the same fields, checked there
    return run(program).named(f"epochs({program.epochs})").outlined(Explained(program))
