"""The difference of two training programs, from their descriptions: nothing is run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import zip_longest
from typing import Any

from fnlamp.effect import Effect
from fnlamp.fault import FaultError
from fnlamp.layer import Init
from fnlamp.stream import BatchStream
from fnlamp.train.compare.data import of_data
from fnlamp.train.compare.model import of_arrays, of_model, of_optimizer, of_schedule
from fnlamp.train.compare.words import Differing, differing, named
from fnlamp.train.explain.idle import first_epoch
from fnlamp.train.explain.inside import label_of_step, steps_of
from fnlamp.train.factory import make_stream
from fnlamp.train.program import Program
from fnlamp.train.start import state_of, weights_of


class Difference(tuple[Differing, ...]):
    """The places where two programs differ, each with what the one and the other have there; empty if they are the same.

    `str(difference)` has a line for each.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "\n".join(map(str, self)) or "no difference"

    __str__ = __repr__


def difference(one: Effect[Any, Any], other: Effect[Any, Any]) -> Difference:
    """Where two training programs differ: in arrays, layers, rules and their numbers, schedules, code of functions, data.

    Functions are compared by what they do and read, not by where they were written; arrays by their numbers; schedules by their
    factors at all steps. Programs around `epochs`, as `.bind`, `.map` and `.then` make them, are compared step by step. Each
    stream factory is called once, for the first epoch; nothing is run.
    Raises: `TypeError` for a program in which no call of `epochs` can be seen, as in a `@do` block.

    >>> from fnlamp.train import epochs
    >>> x = np.zeros((4, 2), np.float32)
    >>> def described(learning_rate):
    ...     return epochs(
    ...         model=supervised(nn.linear(2), loss.mse()),
    ...         optimizer=optim.adamw(learning_rate),
    ...         train_batches=lambda context: stream.minibatches(x, x, batch_size=2, seed=context.seed),
    ...         epochs=2,
    ...     )
    >>> difference(described(0.1), described(0.2))
    learning_rate of adamw: 0.1 -> 0.2
    >>> difference(described(0.1), described(0.1))
    no difference
    """
    steps = steps_of("one", one), steps_of("other", other)
    found: list[Differing] = []
    for at, (ours, theirs) in enumerate(zip_longest(*steps)):
        if isinstance(ours, Program) and isinstance(theirs, Program):
            found += _of_programs(_Known(ours), _Known(theirs))
        elif ours is None or theirs is None or isinstance(ours, Program) or isinstance(theirs, Program):
            found.append(Differing(f"step {at + 1} of the program", label_of_step(ours), label_of_step(theirs)))
        else:
            found += differing(f"step {at + 1} of the program, {label_of_step(ours)}", ours, theirs)
    return Difference(found)


# ------------------------------------------------------------------------------- training programs


@dataclass(frozen=True, eq=False)
class _Known:
    """A training program with what shapes say about it; `why` is the fault that keeps it from being described."""

    program: Program

    @cached_property
    def streams(self) -> Mapping[str, BatchStream[Any] | None]:
        """The streams of the first epoch; `None` for one that must be acquired, and for none."""
        return {purpose: self._stream(purpose) for purpose in ("train", "validation")}

    def _stream(self, purpose: str) -> BatchStream[Any] | None:
        factory = getattr(self.program, f"{purpose}_batches")
        if factory is None:
            return None
        context = self.program.context(purpose, first_epoch(self.program), (None, None))
        made = make_stream(factory, context, f"{purpose}_batches")
        return made if isinstance(made, BatchStream) else None

    @cached_property
    def described(self) -> Init | str | None:
        """Specs and tags of the model; the fault if there are none; `None` if the stream must be acquired."""
        try:
            train = self.streams["train"]
            return None if train is None else self.program.describe(train)[0]
        except FaultError as error:
            return f"{type(error.fault).__name__}: {error.fault}"

    @property
    def steps(self) -> int:
        """Steps of the whole run, if their number is known; else 0."""
        try:
            train = self.streams["train"]
        except FaultError:
            return 0
        return 0 if train is None or train.length is None else train.length * self.program.epochs


def _of_programs(ours: _Known, theirs: _Known) -> Iterator[Differing]:
    one, other = ours.program, theirs.program
    made = ours.described, theirs.described
    if isinstance(made[0], str) or isinstance(made[1], str):
        if made[0] != made[1]:
            yield Differing("cannot be described", *(each if isinstance(each, str) else "no fault" for each in made))
        inits: tuple[Init, Init] | None = None
    else:
        inits = None if made[0] is None or made[1] is None else (made[0], made[1])
    yield from of_model((one.model, other.model), inits)
    yield from of_optimizer((one.optimizer, other.optimizer), inits)
    if inits is not None:
        yield from of_arrays((one.optimizer, other.optimizer), inits)
    yield from of_schedule(one.schedule, other.schedule, max(ours.steps, theirs.steps))
    known = {"model", "optimizer", "schedule", "train_batches", "validation_batches", "initial", "resume"}
    for field in fields(Program):
        if field.init and field.name not in known:
            yield from named(field.name, getattr(one, field.name), getattr(other, field.name))
    yield from differing("initial", _weights(one), _weights(other))
    yield from differing("resume", *(None if each.resume is None else vars(state_of(each.resume)) for each in (one, other)))
    for purpose in ("train", "validation"):
        if not (isinstance(made[0], str) or isinstance(made[1], str)):
            streams = ours.streams[purpose], theirs.streams[purpose]
            factories = getattr(one, f"{purpose}_batches"), getattr(other, f"{purpose}_batches")
            yield from of_data(f"{purpose}_batches", factories, streams)


def _weights(program: Program) -> Any:
    return None if program.initial is None else dict(zip(("params", "layer_state"), weights_of(program.initial), strict=True))
