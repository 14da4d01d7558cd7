"""What a stream of batches is, and streams from streams."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias, final

from fnlamp.arrays import Tree, describe, spec_after
from fnlamp.fault import EmptyEpoch, FaultError, ShapeMismatch
from fnlamp.stream.view import View


@final
@dataclass(frozen=True, slots=True, eq=False)
class Emit:
    """A batch, and the state after it."""

    item: Tree
    state: Any


@final
@dataclass(frozen=True, slots=True, eq=False)
class Skip:
    """No batch this time; ask again with this state."""

    state: Any


@final
@dataclass(frozen=True, slots=True, eq=False)
class End:
    """No more batches."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Fail:
    """The next batch cannot be had, for an expected reason."""

    fault: Any


Step: TypeAlias = Emit | Skip | End | Fail


@final
@dataclass(frozen=True, eq=False)
class BatchStream:
    """A stream of batches as a description: `step(state)` is the next batch and the state after it; `init` the first state.

    `step` is a plain function that only an interpreter calls; asking twice with one state gives the same batch twice, so a
    stream continues from any state. `spec` describes a batch (shape and dtype, the batch axis first; the last batch may have
    fewer rows), `length` is the number of batches or `None`. `view` is the compiled view where there is one; then the state
    is the position, a plain integer. Make streams with `minibatches`, `full_batch` and `from_items`.

    >>> s = stream.minibatches(np.zeros((5, 2), np.float32), np.arange(5), batch_size=2)
    >>> [y.tolist() for x, y in stream.items(s.every_nth(2))]
    [[0, 1], [4]]
    """

    init: Any
    step: Callable[[Any], Step]
    spec: Tree
    length: int | None
    view: View | None = None
    why_empty: EmptyEpoch = field(default_factory=EmptyEpoch)

    def __repr__(self) -> str:
        count = "" if self.length is None else f"{self.length} batches of "
        return f"<BatchStream: {count}{describe(self.spec)}>"

    @classmethod
    def of_view(cls, view: View, spec: Tree, why_empty: EmptyEpoch) -> BatchStream:
        """The stream of a compiled view; its state is the position."""

        def step(position: int) -> Step:
            return Emit(view.batch(position), position + 1) if position < len(view) else End()

        return cls(0, step, spec, len(view), view, why_empty)

    # ---- streams from streams; each keeps the compiled view

    def map(self, function: Callable[[Any], Any], *, spec: Tree | None = None) -> BatchStream:
        """Every batch through `function`, which must be written in `jax.numpy` to keep the compiled view.

        With `spec` given, the spec of what it returns, it may be any host function (files, NumPy); it is then called batch by
        batch.
        """
        if spec is None:
            try:
                spec = spec_after(function, self.spec)
            except Exception as error:
                error.add_note(
                    "in a function given to BatchStream.map: write it in jax.numpy, or give spec= for a host function"
                )
                raise
            if self.view is not None:
                return BatchStream.of_view(self.view.map(function), spec, self.why_empty)

        def step(state: Any) -> Step:
            came = self.step(state)
            return Emit(function(came.item), came.state) if isinstance(came, Emit) else came

        return BatchStream(self.init, step, spec, self.length, why_empty=self.why_empty)

    def take(self, count: int) -> BatchStream:
        """The first `count` batches, or all if there are fewer."""
        if count < 0:
            raise ValueError(f"take needs a count of 0 or more, got {count}")
        if self.view is not None:
            return BatchStream.of_view(self.view.every(1, 0, count), self.spec, self.why_empty)

        def step(state: tuple[int, Any]) -> Step:
            taken, inner = state
            return End() if taken == count else _paired(self.step(inner), lambda after, new: (taken + new, after))

        length = None if self.length is None else min(count, self.length)
        return BatchStream((0, self.init), step, self.spec, length, why_empty=self.why_empty)

    def concat(self, other: BatchStream) -> BatchStream:
        """All batches of this stream, then all of the other.

        Fails: `ShapeMismatch` if their batches differ in more than the number of rows.
        """
        if _per_row(self.spec) != _per_row(other.spec):
            raise FaultError(ShapeMismatch(describe(self.spec), describe(other.spec), where="concat"))
        if self.view is not None and other.view is not None:
            return BatchStream.of_view(self.view.concat(other.view), self.spec, self.why_empty)

        def step(state: tuple[int, Any]) -> Step:
            which, inner = state
            came = (self, other)[which].step(inner)
            if isinstance(came, End) and which == 0:
                return Skip((1, other.init))
            return _paired(came, lambda after, new: (which, after))

        length = None if self.length is None or other.length is None else self.length + other.length
        return BatchStream((0, self.init), step, self.spec, length, why_empty=self.why_empty)

    def every_nth(self, n: int, offset: int = 0) -> BatchStream:
        """The batches at positions offset, offset + n, ...: one of n disjoint shards that cover the stream."""
        if not 0 <= offset < n:
            raise ValueError(f"every_nth needs 0 <= offset < n, got offset {offset} and n {n}")
        if self.view is not None:
            return BatchStream.of_view(self.view.every(n, offset), self.spec, self.why_empty)

        def step(state: tuple[int, Any]) -> Step:
            phase, inner = state
            came = self.step(inner)
            if isinstance(came, Emit) and phase != offset:
                return Skip(((phase + 1) % n, came.state))
            return _paired(came, lambda after, new: ((phase + new) % n, after))

        length = None if self.length is None else len(range(offset, self.length, n))
        return BatchStream((0, self.init), step, self.spec, length, why_empty=self.why_empty)


def _paired(came: Step, state: Callable[[Any, int], Any]) -> Step:
    """The same step with a state of one's own around the inner one; the second argument is 1 after a batch, 0 after a skip."""
    if isinstance(came, Emit):
        return Emit(came.item, state(came.state, 1))
    return Skip(state(came.state, 0)) if isinstance(came, Skip) else came


def _per_row(spec: Tree) -> Any:
    from fnlamp import tree

    return tree.map(lambda leaf: (tuple(leaf.shape[1:]), str(leaf.dtype)), spec)
