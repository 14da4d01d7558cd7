"""Faults of training: before its first step, and while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from fnlamp.fault.array import DtypeMismatch, PredictionMismatch, ShapeMismatch
from fnlamp.fault.base import Fault
from fnlamp.fault.checkpoint import FolderInUse, NotStorable, ProgramDiffers, RunExists, StateMismatch
from fnlamp.fault.extra import ExtraMissing
from fnlamp.fault.file import FileMissing, FileUnwritable
from fnlamp.fault.memory import DeviceOutOfMemory
from fnlamp.fault.scale import MeetingFault


@dataclass(frozen=True)
class BatchTooSmall(Fault):
    """A training batch with a single value per feature, whose variance does not exist.

    >>> print(BatchTooSmall("batch_norm", 1))
    batch_norm needs at least 2 values per feature in a training batch, got 1; choose another batch size, ...
    """

    layer: str
    size: int

    def __str__(self) -> str:
        return self._say(
            f"{self.layer} needs at least 2 values per feature in a training batch, got {self.size}; "
            "choose another batch size, or drop_last=True if it is the short last batch"
        )


@dataclass(frozen=True)
class LabelOutOfRange(Fault):
    """A class label that is not one of 0 ... classes - 1.

    >>> print(LabelOutOfRange(3, classes=3, row=7))
    expected labels from 0 to 2, got 3 in row 7; relabel the classes, widen the last layer, ...
    """

    label: float
    classes: int
    row: int
    hint: str = field(default="", compare=False)

    def __str__(self) -> str:
        hint = self.hint or "relabel the classes, widen the last layer, or name the label as ignored"
        return self._say(f"expected labels from 0 to {self.classes - 1}, got {self.label} in row {self.row}; {hint}")


@dataclass(frozen=True)
class ClassesDiffer(Fault):
    """The labels of a run's two streams stand for different classes; the first label that differs is named.

    >>> print(ClassesDiffer(("cat", "dog"), ("dog",)))
    expected the same classes in training and validation, got label 0 for 'cat' and for 'dog'; number both alike, ...
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]

    def __str__(self) -> str:
        label = next(i for i in range(len(self.train) + 1) if self.train[i : i + 1] != self.validation[i : i + 1])
        first, second = (repr(names[label]) if label < len(names) else "nothing" for names in (self.train, self.validation))
        return self._say(
            f"expected the same classes in training and validation, got label {label} for {first} and for {second}; "
            "number both alike, as image_folder(..., classes=train.classes) does"
        )


@dataclass(frozen=True)
class NotDivisible(Fault):
    """An axis of a parameter that a rule cuts into parts which are not equal.

    >>> print(NotDivisible("out/bias", (10,), 0, 4, "model"))
    expected axis 0 of out/bias to divide into 4 equal parts, one for each device along 'model', got [10]; choose another ...
    """

    parameter: str
    shape: tuple[int, ...]
    axis: int
    parts: int
    over: str

    def __str__(self) -> str:
        return self._say(
            f"expected axis {self.axis} of {self.parameter} to divide into {self.parts} equal parts, one for each device along "
            f"{self.over!r}, got {list(self.shape)}; choose another axis for it in the rule, or None to leave it whole"
        )


@dataclass(frozen=True)
class NotDifferentiable(Fault):
    """A loss whose gradient is zero everywhere by construction: argmax, a comparison, rounding, stop_gradient.

    >>> print(NotDifferentiable("accuracy"))
    the gradient of accuracy is zero everywhere: no parameter reaches it through a differentiable path (argmax, ...
    """

    loss: str

    def __str__(self) -> str:
        return self._say(
            f"the gradient of {self.loss} is zero everywhere: no parameter reaches it through a differentiable path "
            "(argmax, comparisons and rounding cut it); train on a smooth loss and keep this one as a metric"
        )


@dataclass(frozen=True)
class EmptyEpoch(Fault):
    """A stream has no batches.

    >>> print(EmptyEpoch(rows=3, batch_size=8, drop_last=True))
    expected at least one batch per epoch, got none: 3 rows in batches of 8 with drop_last; ...
    """

    rows: int | None = None
    batch_size: int | None = None
    drop_last: bool = False

    def __str__(self) -> str:
        if self.rows is None:
            return self._say("expected at least one batch per epoch, got a stream that ends at once")
        return self._say(
            f"expected at least one batch per epoch, got none: {self.rows:,} rows in batches of {self.batch_size:,}"
            f"{' with drop_last' if self.drop_last else ''}; "
            + ("lower batch_size or keep the last batch" if self.rows else "the data set has no rows")
        )


@dataclass(frozen=True)
class NoWeight(Fault):
    """All targets of an epoch were ignored, so that its mean loss is 0 / 0.

    >>> print(NoWeight(epoch=2))
    expected at least one row that counts in epoch 2, got none: every target is ignored or has weight 0
    """

    epoch: int

    def __str__(self) -> str:
        return self._say(
            f"expected at least one row that counts in epoch {self.epoch}, got none: every target is ignored or has weight 0"
        )


@dataclass(frozen=True)
class ResumedElsewhere(Fault):
    """A run is resumed within an epoch with a different stream: rows would be skipped or taken twice.

    >>> print(ResumedElsewhere("batch size", "8", "4"))
    expected the stream of the run to resume, whose batch size is 8, got 4; give the same stream, ...
    """

    what: str
    expected: str
    actual: str

    def __str__(self) -> str:
        return self._say(
            f"expected the stream of the run to resume, whose {self.what} is {self.expected}, got {self.actual}; give the same "
            "stream, or start a new run from the weights: epochs(initial=...)"
        )


@dataclass(frozen=True)
class StepsExceeded(Fault):
    """A run has taken as many steps as 32 bits can count; the next number would be negative for schedules and keys.

    >>> print(StepsExceeded())
    expected at most 2,147,483,647 steps, and the run has taken them; ...
    """

    limit: int = 2**31 - 1

    def __str__(self) -> str:
        return self._say(
            f"expected at most {self.limit:,} steps, and the run has taken them; start a new one from its weights: "
            "epochs(initial=fault.state)"
        )


class Broken(StrEnum):
    """The quantity that became infinite or not a number."""

    LOSS = "loss"
    UPDATE = "update"
    STATE = "state of the optimizer or of a layer"


@dataclass(frozen=True, repr=False, init=False)
class NonFinite(Fault):
    """The loss, a parameter, or the state of the optimizer or of a layer became infinite or not a number; the step was undone.

    `step` is the global number of the step that failed, from 1 as in events; `state` is the `Trained` of the last good step.
    With a `bound` on parameters, one beyond it counts as well. `train.rerun(fault)` takes the step again and names the arrays
    that break.

    >>> print(NonFinite(Broken.LOSS, epoch=1, step=12))
    the loss became infinite or not a number in epoch 1 at step 12; the parameters before it are in .state; ...
    """

    what: Broken
    epoch: int
    step: int
    bound: float | None
    again: Callable[[], Any] | None = field(compare=False)

    def __init__(
        self,
        what: Broken | str,
        epoch: int,
        step: int,
        state: Any = None,
        *,
        bound: float | None = None,
        again: Callable[[], Any] | None = None,
        where: str = "",
    ) -> None:
        # By hand: a generated one would keep the base's field order and take `state` by name only.
        figures = {"what": Broken(what), "epoch": epoch, "step": step, "bound": bound}
        given = {**figures, "again": again, "state": state, "where": where}
        for name, value in given.items():
            object.__setattr__(self, name, value)

    def __str__(self) -> str:
        beyond = "" if self.bound is None else f", or larger than {self.bound:g},"
        return self._say(
            f"the {self.what} became infinite or not a number{beyond} in epoch {self.epoch} at step {self.step:,}; the "
            "parameters before it are in .state; lower the learning rate, clip the gradient, or look for non-finite values in "
            "the data"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "again": None}  # it holds functions

    def __repr__(self) -> str:
        return f"NonFinite({self.what}, epoch={self.epoch}, step={self.step})"


@dataclass(frozen=True, repr=False)
class Interrupted(Fault):
    """Ctrl-C, SIGTERM or `Runtime.cancel` stopped the program between two steps; `state` is the last good state, if any.

    >>> print(Interrupted())
    interrupted
    """

    state: Any = field(default=None, compare=False)

    def __str__(self) -> str:
        saved = getattr(self.state, "saved", None)
        where = "" if saved is None else f", and saved in {saved}"
        return self._say("interrupted" + (f"; the last good state is in .state{where}" if self.state is not None else ""))

    def __repr__(self) -> str:
        return f"Interrupted({self.state!r})" if self.state is not None else "Interrupted()"


PlanFault = (
    ShapeMismatch
    | DtypeMismatch
    | PredictionMismatch
    | BatchTooSmall
    | LabelOutOfRange
    | ClassesDiffer
    | NotDifferentiable
    | EmptyEpoch
    | StateMismatch
    | ProgramDiffers
    | NotDivisible
    | DeviceOutOfMemory
    | MeetingFault
)
"""Faults that are found before the first step; a `DeviceOutOfMemory` and those of other processes may come later too."""


SaveFault = FolderInUse | RunExists | NotStorable | FileMissing | FileUnwritable | ExtraMissing
"""The faults of a run that saves itself."""

TrainFault = PlanFault | NoWeight | NonFinite | ResumedElsewhere | StepsExceeded | SaveFault
"""The faults of `epochs`, besides those of the caller's own streams and hooks."""
