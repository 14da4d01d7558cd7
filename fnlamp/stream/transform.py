"""Steps from steps: what each combinator does between two batches, and the state that it keeps.

A state is a small tuple of integers around the states of the inner streams, so a pipeline of any depth can be saved at any
batch. `BatchStream` has these as methods.
"""

from __future__ import annotations

import builtins
import threading
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

import numpy as np

from fnlamp import tree
from fnlamp.arrays import Tree, take_rows
from fnlamp.fault import BufferReused
from fnlamp.stream.memory import Prints, fingerprints, overwritten
from fnlamp.stream.nested import Asks, Last, Nested, Stepper, nested, pulls
from fnlamp.stream.step import Emit, End, Fail, Skip, Step

A = TypeVar("A")
Collected: TypeAlias = tuple[list[Tree], Any, End | Fail]


class Taken(NamedTuple):
    """The number of batches so far."""

    given: int
    inner: Any


class Dropped(NamedTuple):
    """The number of batches that are still to be dropped."""

    left: int
    inner: Any


class Nth(NamedTuple):
    """The position of the next inner batch, modulo n."""

    phase: int
    inner: Any


class Joined(NamedTuple):
    """The number of the stream that is being read."""

    which: int
    inner: Any


class Zipped(NamedTuple):
    """The state of each stream."""

    first: Any
    second: Any


class Interleaved(NamedTuple):
    """The number of the stream that is next, and for each stream a tuple of its state, empty if it has ended."""

    turn: int
    inners: tuple[Any, ...]


class Repeated(NamedTuple):
    """The number of batches so far, in all and since the last start."""

    given: int
    since: int
    inner: Any


class Unchunked(NamedTuple):
    """The next part of the batch at `inner`."""

    part: int
    inner: Any


class Buffered(NamedTuple):
    """The number of the buffer, the position in it, and the state where it begins."""

    buffer: int
    offset: int
    inner: Any


_KINDS = Taken, Dropped, Nth, Joined, Zipped, Interleaved, Repeated, Unchunked, Buffered
POSITIONS: Final = {kind.__name__: kind for kind in _KINDS}
"""The kinds of positions, by name, so that one can be read from a file."""


class Passed(Nested):
    """A step, then functions and predicates: one object for any number of them, so that chains are not nested."""

    def __init__(self, step: Stepper, stages: tuple[tuple[bool, Callable[[Any], Any]], ...]) -> None:
        self.step, self.stages = step, stages

    def asks(self, state: Any) -> Asks[Step]:
        got = yield self.step, state
        if not isinstance(got, Emit):
            return got
        item = got.item
        for keeps, function in self.stages:
            if not keeps:
                item = function(item)
            elif not function(item):
                return Skip(got.state)
        return Emit(item, got.state)


def map(step: Stepper, function: Callable[[Any], Any]) -> Stepper:
    """Apply a function to every batch."""
    return _passed(step, False, function)


def filter(step: Stepper, predicate: Callable[[Any], Any]) -> Stepper:
    """Only the batches for which the predicate holds."""
    return _passed(step, True, predicate)


def _passed(step: Stepper, keeps: bool, function: Callable[[Any], Any]) -> Stepper:
    before, stages = (step.step, step.stages) if isinstance(step, Passed) else (step, ())
    return Passed(before, (*stages, (keeps, function)))


class Reindexed(Nested):
    """The batches of an indexed step at other positions: one object for any number of choices."""

    def __init__(self, step: Stepper, choices: tuple[tuple[int, Callable[[int], int]], ...]) -> None:
        self.step, self.choices = step, choices  # the last choice first

    def asks(self, position: int) -> Asks[Step]:
        at = position
        for length, index in self.choices:
            if at >= length:
                return End()
            at = index(at)
        got = yield self.step, at
        return Emit(got.item, position + 1) if isinstance(got, Emit) else got


def reindexed(step: Stepper, length: int, index: Callable[[int], int]) -> Reindexed:
    """The batches at `index(0)` to `index(length - 1)`."""
    before, choices = (step.step, step.choices) if isinstance(step, Reindexed) else (step, ())
    return Reindexed(before, ((length, index), *choices))


def take(step: Stepper, count: int) -> Stepper:
    """The first `count` batches."""

    @nested
    def taken(state: Taken) -> Asks[Step]:
        if state.given == count:
            return End()
        got = yield from pulls(step, state.inner)
        return Emit(got.item, Taken(state.given + 1, got.state)) if isinstance(got, Emit) else got

    return taken


def drop(step: Stepper) -> Stepper:
    """The batches after the first ones."""

    @nested
    def dropped(state: Dropped) -> Asks[Step]:
        got = yield from pulls(step, state.inner)
        if not isinstance(got, Emit):
            return got
        return Skip(Dropped(state.left - 1, got.state)) if state.left else Emit(got.item, Dropped(0, got.state))

    return dropped


def every_nth(step: Stepper, n: int, offset: int) -> Stepper:
    """The batches at the positions offset, offset + n, ..."""

    @nested
    def nth(state: Nth) -> Asks[Step]:
        got = yield from pulls(step, state.inner)
        if not isinstance(got, Emit):
            return got
        after = Nth((state.phase + 1) % n, got.state)
        return Emit(got.item, after) if state.phase == offset else Skip(after)

    return nth


class Concat(Nested):
    """The batches of several steps, one after the other: one object for any number of them."""

    def __init__(self, parts: tuple[tuple[Stepper, Any], ...]) -> None:
        self.parts = parts  # each with its first state

    def asks(self, state: Joined) -> Asks[Step]:
        got = yield from pulls(self.parts[state.which][0], state.inner)
        if isinstance(got, End) and state.which + 1 < len(self.parts):
            return Skip(Joined(state.which + 1, self.parts[state.which + 1][1]))
        return Emit(got.item, Joined(state.which, got.state)) if isinstance(got, Emit) else got


def concat(first: Stepper, first_init: Any, second: Stepper, second_init: Any) -> Concat:
    """All batches of the first, then all of the second."""
    return Concat((*_joined(first, first_init), *_joined(second, second_init)))


def _joined(step: Stepper, init: Any) -> tuple[tuple[Stepper, Any], ...]:
    return step.parts if isinstance(step, Concat) and init == Joined(0, step.parts[0][1]) else ((step, init),)


def zip(first: Stepper, second: Stepper) -> Stepper:
    """Pairs, until one of the streams ends."""

    @nested
    def zipped(state: Zipped) -> Asks[Step]:
        if not isinstance(a := (yield from pulls(first, state.first)), Emit):
            return a
        if not isinstance(b := (yield from pulls(second, state.second)), Emit):
            return b
        return Emit((a.item, b.item), Zipped(a.state, b.state))

    return zipped


def interleave(steps: tuple[Stepper, ...]) -> Stepper:
    """One batch of each stream in turn; a stream that has ended is left out."""

    @nested
    def interleaved(state: Interleaved) -> Asks[Step]:
        turn, inners = state
        if not any(inners):
            return End()
        after = (turn + 1) % len(inners)
        if not inners[turn]:
            return Skip(Interleaved(after, inners))
        got = yield from pulls(steps[turn], inners[turn][0])
        if isinstance(got, Fail):
            return got
        left = () if isinstance(got, End) else (got.state,)
        next_state = Interleaved(after, (*inners[:turn], left, *inners[turn + 1 :]))
        return Skip(next_state) if isinstance(got, End) else Emit(got.item, next_state)

    return interleaved


def repeat_or_take(step: Stepper, count: int, init: Any) -> Stepper:
    """`count` batches, starting over whenever the stream ends; none from an empty stream."""

    @nested
    def repeated(state: Repeated) -> Asks[Step]:
        if state.given == count:
            return End()
        got = yield from pulls(step, state.inner)
        if isinstance(got, End) and state.since:
            return Skip(Repeated(state.given, 0, init))
        if not isinstance(got, Emit):
            return got
        return Emit(got.item, Repeated(state.given + 1, state.since + 1, got.state))

    return repeated


def chunk(step: Stepper, count: int) -> Stepper:
    """Every `count` batches joined into one; the state is the inner one."""

    @nested
    def chunked(state: Any) -> Asks[Step]:
        batches, after, ended = yield from collect(step, state, count)
        if not batches:
            return ended  # otherwise the collected batches are first, and the next step ends the same way
        return Emit(tree.map(lambda *leaves: np.concatenate(leaves), *batches), after)

    return chunked


def collect(step: Stepper, state: Any, count: int) -> Asks[Collected]:
    """Up to `count` batches, the state after them, and why there are no more; none if one overwrote another."""
    batches: list[Tree] = []
    prints: list[Prints] = []
    ended: End | Fail = End()
    while len(batches) < count:
        got = yield from pulls(step, state)
        if not isinstance(got, Emit):
            ended = got
            break
        batches.append(got.item)
        prints.append(fingerprints(got.item))
        state = got.state
    for batch, before in builtins.zip(batches, prints, strict=True):
        if (path := overwritten(batch, before)) is not None:
            return [], state, Fail(BufferReused(path))
    return batches, state, ended


def unchunk(step: Stepper, size: int) -> Stepper:
    """Each batch cut into batches of `size` rows, the last of each has the remaining rows."""
    last: Last[Emit | End | Fail] = Last()

    @nested
    def unchunked(state: Unchunked) -> Asks[Step]:
        got = last.of(state.inner) or last.keep(state.inner, (yield from pulls(step, state.inner)))
        if not isinstance(got, Emit):
            return got
        start, rows = state.part * size, len(tree.leaves(got.item)[0])
        part = tree.map(lambda leaf: take_rows(leaf, slice(start, start + size)), got.item)
        return Emit(part, Unchunked(state.part + 1, state.inner) if start + size < rows else Unchunked(0, got.state))

    return unchunked


def shuffle_buffer(step: Stepper, size: int, seed: int) -> Stepper:
    """Buffers of `size` batches, each shuffled by itself; resuming reads at most one buffer again."""

    last: Last[Collected] = Last()

    @nested
    def shuffled(state: Buffered) -> Asks[Step]:
        kept = last.of(state.inner) or last.keep(state.inner, (yield from collect(step, state.inner, size)))
        batches, after, ended = kept
        if not batches:
            return ended
        batch = batches[buffer_order(seed, state.buffer, len(batches))[state.offset]]
        at_end = state.offset + 1 == len(batches)
        return Emit(batch, Buffered(state.buffer + 1, 0, after) if at_end else state._replace(offset=state.offset + 1))

    return shuffled


def buffer_order(seed: int, buffer: int, count: int) -> np.ndarray[Any, Any]:
    """The order of the `count` batches in one buffer: a function of the seed and the buffer's number."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(buffer,))).permutation(count)


def remembered(function: Callable[[Any], A]) -> Callable[[Any], A]:
    """The function, with its last result kept for repeated calls with the same state."""
    last: list[tuple[Any, A]] = []
    lock = threading.Lock()

    def ask(state: Any) -> A:
        with lock:
            if not (last and (last[0][0] is state or tree.equal(last[0][0], state))):
                last[:] = [(state, function(state))]
            return last[0][1]

    return ask
