"""What training carries from step to step, and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax

from fnlamp import tree
from fnlamp.arrays import Array, Params, State, Tree
from fnlamp.elsewhere import TRAINED, Elsewhere
from fnlamp.fault import Fault
from fnlamp.train.measures import same, shown
from fnlamp.train.predict import ROWS, predict
from fnlamp.train.supervised import Supervised


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Carry:
    """The part of the state that lives on the device and goes from step to step.

    `tally` packs the sums of the running epoch, so that one read gives them all: see `fnlamp.train.tally`.
    """

    step: Array
    params: Params
    layer_state: State
    optimizer_state: Tree
    tally: Array


class Slot(NamedTuple):
    """Weights that a fold kept after an epoch: on the host, as validation and `predict` use them."""

    epoch: int
    params: Params
    layer_state: State


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class TrainState:
    """Everything that resuming needs, as one pytree: resuming from it equals never having stopped.

    `epoch` is the running epoch, from 1, and `stream_state` the position in its training stream (`None`: at its start), which
    `stream` identifies: by its seed, its batches, and for a stream in memory its rows and their order. `folds` has the
    accumulator and the last verdict of each fold, and `kept` the weights in its slots.
    """

    step: Array
    params: Params
    layer_state: State
    optimizer_state: Tree
    tally: Array
    epoch: int = field(metadata={"static": True})
    stream_state: Any
    stream: tuple[tuple[str, Any], ...] = field(default=(), metadata={"static": True})
    folds: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    figures: tuple[tuple[str, str], ...] = field(default=(), metadata={"static": True})
    kept: Mapping[str, Mapping[int, Slot]] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<TrainState: step {int(self.step)}, epoch {self.epoch}>"


@dataclass(frozen=True, eq=False)
class EpochReport:
    """The figures of one epoch, as plain data: `dataclasses.asdict(report)` is a row of a table. `str(report)` is logged.

    `train_loss` is the mean over the epoch, total / weight; `train_loss_of_batches` is the mean of the batches' means, in
    which a short last batch counts as much as a full one (what many tutorials print). Both are measured while the parameters
    move. `validation_loss` and its twin are `None` in epochs without validation. `steps` and `samples` are this epoch's,
    without the steps that the optimizer skipped; `skipped` counts those since the start of the run. If each step of
    an epoch was skipped, as the first ones in float16 may be, its training losses are NaN and it has no training metrics.
    """

    epoch: int
    epochs: int
    steps: int
    samples: int
    train_loss: float
    train_loss_of_batches: float
    validation_loss: float | None = None
    validation_loss_of_batches: float | None = None
    validation_metrics: Mapping[str, Any] = field(default_factory=dict)
    train_metrics: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    skipped: int = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EpochReport) and same(vars(self), vars(other))

    def __hash__(self) -> int:
        return hash((self.epoch, self.steps, self.train_loss, self.validation_loss))

    def __str__(self) -> str:
        parts = [f"Epoch {self.epoch}/{self.epochs}", f"Training Loss: {self.train_loss:.4f}"]
        for name, value in self.train_metrics.items():
            parts.append(f"Training {name.replace('_', ' ').title()}: {shown(name, value)}")
        if self.validation_loss is not None:
            parts.append(f"Validation Loss: {self.validation_loss:.4f}")
        for name, value in self.validation_metrics.items():
            parts.append(f"Validation {name.replace('_', ' ').title()}: {shown(name, value)}")
        if self.skipped:
            parts.append(f"Skipped Steps: {self.skipped}")
        return ", ".join(parts)


@dataclass(frozen=True, eq=False)
class Kept(Elsewhere):
    """A model as it was after an epoch: what a fold kept. `epochs(initial=kept)` starts from it, with a new optimizer.

    `features` is as in `Trained`.
    """

    model: Supervised
    params: Params
    layer_state: State
    epoch: int
    features: Tree = None
    _elsewhere = TRAINED

    def predict(self, x: Any, *, batch_size: int | None = ROWS) -> Any:
        """As `Trained.predict`."""
        return predict(self.model, self.params, self.layer_state, x, batch_size)

    def __repr__(self) -> str:
        return f"<Kept: {tree.count(self.params):,} parameters, epoch {self.epoch}>"


@dataclass(frozen=True, eq=False)
class Trained(Elsewhere):
    """A trained model: its parameters, its layer state, the learning curve, and the state to resume from.

    `params` are those that validation uses: with an average as `optim.ema` the averaged ones, where `state.params` are those
    that training continues with. `kept` has what folds kept, by name: a `Kept`, or a tuple of them, best first. `features` is
    the spec of the features that it was trained on, batch axis first, such as `float32[32, 784]`.
    `saved` is the path of the newest finished save, if the run saves itself, and `unsaved` are the faults of saves that failed.
    """

    model: Supervised
    params: Params
    layer_state: State
    curve: tuple[EpochReport, ...]
    state: TrainState
    kept: Mapping[str, Any] = field(default_factory=dict)
    features: Tree = None
    saved: str | None = None
    unsaved: tuple[Fault, ...] = ()
    _elsewhere = TRAINED

    @property
    def last(self) -> Kept:
        """The model after the last epoch."""
        return Kept(self.model, self.params, self.layer_state, self.state.epoch - 1, self.features)

    def predict(self, x: Any, *, batch_size: int | None = ROWS) -> Any:
        """The prediction for features `x` in `Eval`: no dropout, running moments.  Shapes: as the model's layer.

        More than `batch_size` rows are taken in batches, so that memory does not grow with them; `None` takes all at once, for
        a model whose prediction of a row depends on the others.
        Raises: `FaultError` for features of another shape or dtype than the model was trained on.
        """
        return predict(self.model, self.params, self.layer_state, x, batch_size)

    def __repr__(self) -> str:
        last = f", {str(self.curve[-1]).lower()}" if self.curve else ""
        return f"<Trained: {tree.count(self.params):,} parameters, {int(self.state.step):,} steps{last}>"
