"""Expected failures, as values: frozen dataclasses named as facts. They say what was expected, what came, where, what to do.

The pure wing raises them inside a `FaultError`; `fnlamp.train` turns that into a `Failure`. This room imports nothing of
fnlamp, so every other room may name a fault.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Self


@dataclass(frozen=True)
class Fault:
    """What every fault has: a place (`where`, a path through the model or the program) and a message (`str(fault)`).

    `state` is the last good state of the run that failed, such as a `Trained`; `None` where there is none.
    """

    where: str = field(default="", kw_only=True)
    state: Any = field(default=None, compare=False, kw_only=True, repr=False)  # arrays have no one answer to ==

    def __getstate__(self) -> dict[str, Any]:
        """For pickle: functions cannot be stored, so of a `Trained` its `TrainState` is."""
        return {**vars(self), "state": getattr(self.state, "state", self.state)}

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def inside(self, name: str) -> Self:
        """The same fault, seen from one level further out."""
        return replace(self, where=f"{name}/{self.where}" if self.where else name)

    def _say(self, message: str) -> str:
        return printable(f"{self.where}: {message}" if self.where else message)


def printable(text: str) -> str:
    """The text with escapes for what a terminal cannot show, or obeys: halves of surrogate pairs and control characters.

    File names that are not UTF-8 have the former in Python; both can be in any file.

    >>> print(printable("caf\\udce9 \\x1b[31mred"))
    caf\\udce9 \\x1b[31mred
    """
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class FaultError(Exception):
    """Carries a fault out of a pure function; `epochs` and `evaluate` turn it into a `Failure`."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        self.fault = fault

    @property
    def state(self) -> Any:
        """The last good state of the run that failed, or `None`."""
        return self.fault.state

    def __str__(self) -> str:
        return printable(f"{type(self.fault).__name__}: {self.fault}")


@contextlib.contextmanager
def located(name: str) -> Iterator[None]:
    """Prefix the place of a fault raised inside with `name`."""
    try:
        yield
    except FaultError as error:
        raise FaultError(error.fault.inside(name)) from error.__cause__


# ------------------------------------------------------------------------------- found before the first step


@dataclass(frozen=True)
class _Mismatch(Fault):
    expected: str
    actual: str
    hint: str = ""

    def __str__(self) -> str:
        hint = f"; {self.hint}" if self.hint else ""
        return self._say(f"expected {self.expected}, got {self.actual}{hint}")


@dataclass(frozen=True)
class ShapeMismatch(_Mismatch):
    """An array came in another shape than the one that is needed."""


@dataclass(frozen=True)
class DtypeMismatch(_Mismatch):
    """An array came in a dtype that would have to be converted without being asked."""


@dataclass(frozen=True)
class PredictionMismatch(_Mismatch):
    """A prediction that means something else than the loss takes, as logits where it takes log-probabilities."""


@dataclass(frozen=True)
class BatchTooSmall(Fault):
    """A training batch with a single value per feature, whose variance does not exist."""

    layer: str
    size: int

    def __str__(self) -> str:
        return self._say(
            f"{self.layer} needs at least 2 values per feature in a training batch, got {self.size}; "
            "choose another batch size, or drop_last=True if it is the short last batch"
        )


@dataclass(frozen=True)
class LabelOutOfRange(Fault):
    """A class label that is not one of 0 ... classes - 1."""

    label: float
    classes: int
    row: int
    hint: str = field(default="", compare=False)

    def __str__(self) -> str:
        hint = self.hint or "relabel the classes, widen the last layer, or name the label as ignored"
        return self._say(f"expected labels from 0 to {self.classes - 1}, got {self.label} in row {self.row}; {hint}")


@dataclass(frozen=True)
class ClassesDiffer(Fault):
    """The labels of two streams of one run stand for other classes; the first label that does is named."""

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
class NotDifferentiable(Fault):
    """A loss whose gradient is zero everywhere by construction: argmax, a comparison, rounding, stop_gradient."""

    loss: str

    def __str__(self) -> str:
        return self._say(
            f"the gradient of {self.loss} is zero everywhere: no parameter reaches it through a differentiable path "
            "(argmax, comparisons and rounding cut it); train on a smooth loss and keep this one as a metric"
        )


@dataclass(frozen=True)
class EmptyEpoch(Fault):
    """A stream that gives no batch at all."""

    rows: int | None = None
    batch_size: int | None = None
    drop_last: bool = False

    def __str__(self) -> str:
        if self.rows is None:
            return self._say("expected at least one batch an epoch, got a stream that ends at once")
        return self._say(
            f"expected at least one batch an epoch, got none: {self.rows:,} rows in batches of {self.batch_size:,}"
            f"{' with drop_last' if self.drop_last else ''}; "
            + ("lower batch_size or keep the last batch" if self.rows else "the data set has no rows")
        )


@dataclass(frozen=True)
class NoWeight(Fault):
    """An epoch whose targets were all ignored, so that its mean loss is 0 / 0."""

    epoch: int

    def __str__(self) -> str:
        return self._say(
            f"expected at least one row that counts in epoch {self.epoch}, got none: every target is ignored or has weight 0"
        )


@dataclass(frozen=True)
class ResumedElsewhere(Fault):
    """A run is resumed in the middle of an epoch, and its stream is another one now: rows would be skipped or taken twice."""

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
    """A run has taken as many steps as 32 bits count; the next one would be a negative number for schedules and keys."""

    limit: int = 2**31 - 1

    def __str__(self) -> str:
        return self._say(
            f"expected at most {self.limit:,} steps, and the run has taken them; start a new one from its weights: "
            "epochs(initial=fault.state)"
        )


PlanFault = (
    ShapeMismatch
    | DtypeMismatch
    | PredictionMismatch
    | BatchTooSmall
    | LabelOutOfRange
    | ClassesDiffer
    | NotDifferentiable
    | EmptyEpoch
)
"""What can be found before the first step."""

# ------------------------------------------------------------------------------- found while running


@dataclass(frozen=True, repr=False, init=False)
class NonFinite(Fault):
    """The loss, a parameter, or the state of the optimizer or of a layer became infinite or not a number; the step was undone.

    `step` is the global number of the step that failed (the first is 0); `state` is the `Trained` of the last good step. With a
    `bound` on parameters, one beyond it counts as well.
    """

    what: str
    epoch: int
    step: int
    bound: float | None

    def __init__(
        self, what: str, epoch: int, step: int, state: Any = None, *, bound: float | None = None, where: str = ""
    ) -> None:
        # By hand, because a generated one would keep the base's order and take `state` by name only.
        given = {"what": what, "epoch": epoch, "step": step, "bound": bound, "state": state, "where": where}
        for name, value in given.items():
            object.__setattr__(self, name, value)

    def __str__(self) -> str:
        beyond = "" if self.bound is None else f", or larger than {self.bound:g},"
        return self._say(
            f"the {self.what} became infinite or not a number{beyond} in epoch {self.epoch} at step {self.step:,}; the "
            "parameters before it are in .state; lower the learning rate, clip the gradient, or look for non-finite values in "
            "the data"
        )

    def __repr__(self) -> str:
        return f"NonFinite({self.what}, epoch={self.epoch}, step={self.step})"


@dataclass(frozen=True, repr=False)
class Interrupted(Fault):
    """Ctrl-C, SIGTERM or `Runtime.cancel` stopped the program between two steps; `state` is what was reached, if anything."""

    state: Any = field(default=None, compare=False)

    def __str__(self) -> str:
        return self._say("interrupted" + ("; what was reached is in .state" if self.state is not None else ""))

    def __repr__(self) -> str:
        return f"Interrupted({self.state!r})" if self.state is not None else "Interrupted()"


TrainFault = PlanFault | NoWeight | NonFinite | ResumedElsewhere | StepsExceeded
"""What `epochs` can fail with, besides what the caller's own streams and hooks fail with."""

# ------------------------------------------------------------------------------- files


@dataclass(frozen=True)
class FileMissing(Fault):
    """There is no readable file at `path`."""

    path: str
    reason: str

    def __str__(self) -> str:
        return self._say(f"{self.path}: cannot be read ({self.reason})")


@dataclass(frozen=True)
class FileCorrupt(Fault):
    """The bytes of a file are not what its format says: cut, damaged, or another format."""

    path: str
    expected: str
    actual: str

    def __str__(self) -> str:
        return self._say(f"{self.path}: expected {self.expected}, got {self.actual}")


@dataclass(frozen=True)
class BadCell(Fault):
    """A table has a row of another width, or a cell that is no number. `row` and `column` count from 1, the header included."""

    path: str
    row: int
    column: int | str | None
    expected: str
    actual: str

    def __str__(self) -> str:
        column = "" if self.column is None else f", column {self.column}"
        return self._say(f"{self.path}, row {self.row}{column}: expected {self.expected}, got {self.actual}")


@dataclass(frozen=True)
class TooLarge(Fault):
    """A file declares, or unpacks to, more bytes than the caller's limit admits; nothing of that size was allocated."""

    path: str
    limit: int
    size: int

    def __str__(self) -> str:
        return self._say(
            f"{self.path}: expected at most {self.limit:,} bytes unpacked, got {self.size:,} or more; "
            "raise limit if the file can be trusted"
        )


@dataclass(frozen=True)
class OutOfMemory(Fault):
    """The machine has not enough memory left for what a file holds, though its `limit` admits it."""

    path: str
    size: int | None = None

    def __str__(self) -> str:
        came = "more" if self.size is None else f"an array of {self.size:,} bytes"
        return self._say(
            f"{self.path}: expected no more than the machine's memory holds, got {came}; "
            "free some, read less of it (columns=, rows=, size=), or map it, if it is a plain NPY file"
        )


@dataclass(frozen=True)
class FileUnwritable(Fault):
    """Nothing can be written at `path`; what was there before is as it was."""

    path: str
    reason: str

    def __str__(self) -> str:
        return self._say(f"{self.path}: cannot be written ({self.reason})")


@dataclass(frozen=True)
class UnknownClass(Fault):
    """A class, named by the folder `path` or given as `name`, is not one of the `classes` that have numbers."""

    path: str
    name: str
    classes: tuple[str, ...]

    def __str__(self) -> str:
        first = ", ".join(map(repr, self.classes[:20])) + (", ..." if len(self.classes) > 20 else "")
        return self._say(
            f"{self.path}: expected a folder of one of the {len(self.classes)} classes {first}, got {self.name!r}; "
            "rename it, or read it with the classes of the data that has them all, as classes=train.classes"
        )


FileFault = FileMissing | FileCorrupt | BadCell | TooLarge | OutOfMemory
"""What reading a file can fail with."""

# ------------------------------------------------------------------------------- data sets, loaders and streams


@dataclass(frozen=True)
class SizesMismatch(Fault):
    """The sizes of a split do not add up to the rows that there are, or its fractions to 1."""

    rows: int
    sizes: tuple[float, ...]

    def __str__(self) -> str:
        shown = f"{' + '.join(map(str, self.sizes))} = {sum(self.sizes):,}"
        return self._say(f"expected sizes that add up to {self.rows:,} rows, or fractions to 1, got {shown}")


@dataclass(frozen=True, repr=False)
class ItemFailed(Fault):
    """The data set, a transform or the collation raised an exception for the item at `index`; `error` is its traceback.

    `index` is `None` for an engine that does not tell it.
    """

    index: int | None
    what: str
    error: str = field(default="", compare=False)

    def __str__(self) -> str:
        item = "an item" if self.index is None else f"item {self.index:,}"
        return self._say(f"{item} failed: {self.what}" + (f"\n{self.error}" if self.error else ""))

    def __repr__(self) -> str:
        return f"ItemFailed({self.index}, {self.what!r})"


@dataclass(frozen=True)
class WorkerLost(Fault):
    """A worker process died, killed or crashed, while it loaded the item at `index`."""

    index: int
    exit_code: int | None

    def __str__(self) -> str:
        code = self.exit_code
        how = "ended" if code is None else f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
        why = (
            "a machine that runs out of memory kills workers: use fewer, or smaller batches"
            if code is None or code < 0
            else "what it wrote to standard error says why; a script that starts processes does its own work under "
            'if __name__ == "__main__":'
        )
        return self._say(f"a worker {how} while it loaded item {self.index:,}; {why}")


@dataclass(frozen=True)
class NotPicklable(Fault):
    """Something cannot be sent to a worker process: it was made inside a function, or holds a handle of this process."""

    what: str
    reason: str

    def __str__(self) -> str:
        return self._say(
            f"expected {self.what} that can be sent to a worker process, got: {self.reason}; "
            "write it at the top of a module that can be imported, or use workers=threads(n), which send nothing"
        )


@dataclass(frozen=True)
class HiddenRandomness(Fault):
    """An item of a loader with workers draws random numbers from `source`, which each worker has a copy of, or shares.

    `index` is the first row of the batch.
    """

    index: int
    source: str

    def __str__(self) -> str:
        return self._say(
            f"expected items that are functions of their row, got random numbers drawn from {self.source} in the batch that "
            f"begins with item {self.index:,}; workers would repeat them, or draw them in an order of chance: draw them in "
            "augment=lambda generator, item: ..., whose generator is a function of the seed and the row, or use workers=0"
        )


@dataclass(frozen=True)
class ResourceExhausted(Fault):
    """The system gives this program no more of something: open files, memory, processes."""

    what: str
    reason: str

    def __str__(self) -> str:
        return self._say(
            f"the system gives no more {self.what} ({self.reason}); use fewer workers or loaders at once, or raise the limit"
        )


LoadFault = (
    ResourceExhausted | HiddenRandomness | ItemFailed | WorkerLost | NotPicklable | ShapeMismatch | DtypeMismatch | EmptyEpoch
)
"""What a loader can fail with."""


@dataclass(frozen=True)
class BufferReused(Fault):
    """A producer wrote a batch into the memory of an earlier one that was still waiting to be used."""

    leaf: str = ""

    def __str__(self) -> str:
        leaf = f" ({self.leaf})" if self.leaf else ""
        return self._say(
            f"expected every batch in memory of its own, got one{leaf} that overwrites an earlier one which is still in use; "
            "let the producer hand over a copy"
        )


@dataclass(frozen=True)
class NotRereadable(Fault):
    """A source that can be read only once was asked for a position that it has passed, or has not reached."""

    wanted: Any
    at: Any

    def __str__(self) -> str:
        return self._say(
            f"expected the position {self.at}, where this source stands, got {self.wanted}: it can be read only once and in "
            "order; make the stream of something that can be opened again"
        )


@dataclass(frozen=True)
class UnknownToken(Fault):
    """A text has a character or word that a codec does not know, or an id is none of its `known` ids."""

    token: str | int
    position: int
    known: int

    def __str__(self) -> str:
        if isinstance(self.token, int):
            return self._say(f"expected ids from 0 to {self.known - 1:,}, got {self.token:,} at position {self.position:,}")
        return self._say(
            f"expected one of the {self.known:,} tokens of this codec, got {self.token!r} at position {self.position:,}; "
            "make the codec of a text that has it, or with an unknown token"
        )


@dataclass(frozen=True)
class CodecFailed(Fault):
    """A tokenizer that was read from a file cannot do what it was asked for, as its library says in `reason`."""

    reason: str

    def __str__(self) -> str:
        return self._say(f"expected a tokenizer that works, got {self.reason}; its file is damaged, or lacks an unknown token")


@dataclass(frozen=True)
class DownloadFailed(Fault):
    """No mirror gave the file; `reason` tells of each what came, `path` is where the file is looked for.

    `again` tells whether another try may do better: after a broken connection, not where there is no such file or place.
    """

    url: str
    reason: str
    path: str
    again: bool = True

    def __str__(self) -> str:
        again = "run it again, which goes on where it stopped, or " if self.again else ""
        return self._say(f"{self.url}: cannot be downloaded ({self.reason}); {again}put the file at {self.path} by hand")


@dataclass(frozen=True)
class ChecksumMismatch(Fault):
    """The bytes at `path`, a file or a URL, are damaged or of another file than the one that is meant."""

    path: str
    expected: str
    actual: str

    def __str__(self) -> str:
        hint = "try another mirror" if "://" in self.path else "move it away, and it is downloaded anew"
        return self._say(f"{self.path}: expected the SHA-256 {self.expected}, got {self.actual}; {hint}")


@dataclass(frozen=True)
class NoDisplay(Fault):
    """matplotlib's `backend` cannot open a window."""

    backend: str

    def __str__(self) -> str:
        return self._say(f"expected a display, got matplotlib's backend {self.backend}, without one; give a path to write to")


@dataclass(frozen=True)
class ExtraMissing(Fault):
    """An optional package that this needs is not installed."""

    package: str
    extra: str

    def __str__(self) -> str:
        return self._say(f"expected the package {self.package}, got none: install it with pip install 'fnlamp[{self.extra}]'")
