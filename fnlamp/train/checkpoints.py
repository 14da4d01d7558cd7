"""When a run saves itself, and programs that resume from what was saved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal, TypeVar

from fnlamp.checkpoint import Keep, Loaded, keep_last, latest
from fnlamp.effect import Effect, Outline, Standing
from fnlamp.fault import NoCheckpoint, printable
from fnlamp.given import function, instance, number, path_of, text, whole

A = TypeVar("A")
E = TypeVar("E")


@dataclass(frozen=True)
class Checkpoints:
    """Saves in `folder`: every so many `steps` or `seconds`, after every so many `epochs`, at the end, and when the run stops.

    A save has everything that a resumed run needs, and is written by a thread. Saves by steps and seconds are taken at the end
    of the dispatch in which they are due, and postponed while an earlier one is being written. After an epoch, the save follows
    `on_epoch`: if a run dies between the two, the resumed one calls `on_epoch` again with the same report.
    `keep` says which saves to delete. If a save fails, the run fails too, or with `on_failure="warn"` logs it and continues.
    `grace` is how many seconds an interrupted run may take for its last save.

    `form`: "file", in which process 0 gathers the arrays and writes one file; or "shards", in which each process writes its
    parts into one folder, by Orbax (extra `orbax`). Such a save is whole when all processes have written. A run resumes from
    either on any number of devices and processes.
    Raises: `TypeError`, `ValueError` at once for wrong arguments.
    """

    folder: str | PathLike[str]
    steps: int | None = None
    seconds: float | None = None
    epochs: int | None = 1
    keep: Keep = keep_last(3)  # noqa: RUF009  # a pure function
    on_failure: Literal["stop", "warn"] = "stop"
    grace: float = 30.0
    form: Literal["file", "shards"] = "file"

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", path_of(self.folder, "Checkpoints: folder"))
        for name in ("steps", "epochs"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, whole(f"Checkpoints: {name}", getattr(self, name)))
        for name in ("seconds", "grace"):
            if name == "grace" or self.seconds is not None:
                time = number(f"Checkpoints: {name}", getattr(self, name), "a time above 0", lambda time: time > 0)
                object.__setattr__(self, name, time)
        function("Checkpoints: keep", self.keep, "a function of the saves, as checkpoint.keep_last(3)")
        if text("Checkpoints: on_failure", self.on_failure, '"stop" or "warn"') not in ("stop", "warn"):
            raise ValueError(f'Checkpoints: on_failure is "stop" or "warn", got {self.on_failure!r}')
        if text("Checkpoints: form", self.form, '"file" or "shards"') not in ("file", "shards"):
            raise ValueError(f'Checkpoints: form is "file" or "shards", got {self.form!r}')

    def __str__(self) -> str:
        times = {"step": self.steps, "second": self.seconds, "epoch": self.epochs}
        due = [f"every {name}" if n == 1 else f"every {n:,g} {name}s" for name, n in times.items() if n is not None]
        form = "" if self.form == "file" else " in shards"
        return f"saves{form} in {self.folder}, {', '.join([*due, 'at the end and when the run stops'])}"


@dataclass(frozen=True, eq=False)
class Fork:
    """A save to continue from under other hyperparameters. Later saves name it as their parent."""

    saved: Loaded

    def __post_init__(self) -> None:
        instance("saved", self.saved, Loaded, "what checkpoint.latest or checkpoint.read yields")

    @property
    def path(self) -> str:
        return self.saved.path


def fork(saved: Loaded) -> Fork:
    """Permit a program that differs from the one that was saved, in its rates, schedule, folds or, between epochs, its data.

    The arrays must still fit: the state of the model and of the optimizer is continued. Under the same program the result
    equals that of `resume=saved`, bit for bit.

    >>> import tempfile
    >>> from fnlamp import checkpoint
    >>> from fnlamp.train import epochs
    >>> x = np.linspace(-1, 1, 8, dtype=np.float32)[:, None]
    >>> def program(rate, folder, **start):
    ...     return epochs(
    ...         model=supervised(nn.linear(1), loss.mse()),
    ...         optimizer=optim.sgdw(rate),
    ...         train_batches=lambda context: stream.minibatches(x, 3 * x, batch_size=4, seed=context.seed),
    ...         epochs=4,
    ...         checkpoints=Checkpoints(folder),
    ...         **start,
    ...     )
    >>> quiet, first, second = Runtime(log=None), tempfile.mkdtemp(), tempfile.mkdtemp()
    >>> saves = program(0.1, first).then(checkpoint.saves(first)).run_or_raise(quiet)
    >>> lower = checkpoint.read(saves[0].path).bind(lambda saved: program(0.05, second, resume=fork(saved)))
    >>> lower.map(lambda trained: [report.epoch for report in trained.curve]).run(quiet)
    <IOResult: <Success: [1, 2, 3, 4]>>
    """
    return Fork(saved)


def resumable(folder: str | PathLike[str], program_of: Callable[[Loaded | None], Effect[A, E]]) -> Effect[A, E | Any]:
    """The program `program_of(saved)` with the newest save in `folder`, or `program_of(None)` if there is none yet.

    Written as `resumable(folder, lambda saved: epochs(resume=saved, checkpoints=Checkpoints(folder), ...))`, a run starts,
    continues where it was stopped, or yields its result at once if it is finished.
    Fails: as `checkpoint.latest`, except for a folder without saves; and as the program.

    >>> import tempfile
    >>> from fnlamp.train import epochs
    >>> x, folder = np.linspace(-1, 1, 8, dtype=np.float32)[:, None], tempfile.mkdtemp()
    >>> program = resumable(
    ...     folder,
    ...     lambda saved: epochs(
    ...         model=supervised(nn.linear(1), loss.mse()),
    ...         optimizer=optim.sgdw(0.1),
    ...         train_batches=lambda context: stream.minibatches(x, 3 * x, batch_size=4, seed=context.seed),
    ...         epochs=2,
    ...         resume=saved,
    ...         checkpoints=Checkpoints(folder),
    ...     ),
    ... )
    >>> quiet = Runtime(log=None)
    >>> first, again = program.run_or_raise(quiet), program.run_or_raise(quiet)
    >>> bool((first.params["weight"] == again.params["weight"]).all()), again.curve == first.curve
    (True, True)
    """
    name = path_of(folder, "folder")
    function("program_of", program_of, "a function from a save, or None, to a program")

    def fresh(fault: Any) -> Effect[None, Any]:
        return Effect.from_value(None) if isinstance(fault, NoCheckpoint) else Effect.from_failure(fault)

    # What is saved is unknown before a run; `explain` shows the program of a run that starts.
    outline = Outline((f"the newest save in {printable(name)}; without one:",), Standing(None))
    found: Effect[Any, Any] = latest(name).lash(fresh).outlined(lambda: outline)
    return found.bind(program_of)
