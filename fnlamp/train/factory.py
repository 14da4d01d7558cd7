"""Stream factories: what they are given each epoch, and what may be made of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from fnlamp.effect import Effect, Resource
from fnlamp.stream import BatchStream


@dataclass(frozen=True)
class LoopContext:
    """What a stream factory may depend on: host values only.

    `epoch` counts from 1. `seed` is an integer that differs by epoch, and between training and validation; the losses are
    those of earlier epochs' validations, `None` before the first.
    """

    epoch: int
    seed: int
    last_validation_loss: float | None = None
    best_validation_loss: float | None = None


class WatchedContext(LoopContext):
    """A context that remembers the fields that were read, so that a plan knows what a stream does not depend on."""

    def __getattribute__(self, name: str) -> Any:
        if name in _FIELDS:
            object.__getattribute__(self, "__dict__").setdefault(_READ, set()).add(name)
        return object.__getattribute__(self, name)

    @classmethod
    def of(cls, context: LoopContext) -> WatchedContext:
        """The same context, watched."""
        return cls(*(getattr(context, name) for name in _FIELDS))

    @property
    def read(self) -> frozenset[str]:
        """The fields that were read so far."""
        return frozenset(vars(self).get(_READ, ()))


_FIELDS = tuple(field.name for field in fields(LoopContext))
_READ = "read fields"

Batches: TypeAlias = Callable[[LoopContext], Any]
"""A factory `LoopContext -> BatchStream[E] | Resource[BatchStream[E], E]`."""


def use_stream(
    factory: Batches, context: LoopContext, body: Callable[[BatchStream[Any]], Effect[Any, Any]], name: str
) -> Effect[Any, Any]:
    """Make the stream, acquire it if it is a resource, and run the body with it."""

    def go(made: Any) -> Effect[Any, Any]:
        return made.use(lambda stream: body(check_stream_type(stream, name))) if isinstance(made, Resource) else body(made)

    return Effect.checked(lambda: make_stream(factory, context, name)).bind(go)


def make_stream(factory: Batches, context: LoopContext, name: str) -> Any:
    """What the factory makes: a stream, or a resource of one."""
    made = factory(context)
    return made if isinstance(made, Resource) else check_stream_type(made, name)


def check_stream_type(made: Any, name: str) -> BatchStream[Any]:
    """Raises: `TypeError` if a factory made something that is not a stream."""
    if isinstance(made, BatchStream):
        return made
    hint = "stream.from_items or stream.from_iterable make streams of batches, stream.minibatches of arrays"
    raise TypeError(
        f"a stream factory ({name}) returned {type(made).__name__}, expected BatchStream or Resource of one; {hint}"
    )
