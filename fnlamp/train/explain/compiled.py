"""The memory of one compiled step of training, and its collectives on many devices, as XLA has them."""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

from fnlamp.effect import Effect, Runtime
from fnlamp.given import instance
from fnlamp.train.explain.analysis import CompiledMemory, compiled_step, memory_of
from fnlamp.train.explain.explained import plan_of
from fnlamp.train.explain.inside import programs_of

RUNTIME = "a Runtime, as Runtime(executor=train.Sharded())"


class Collective(NamedTuple):
    """The collectives of one kind in a compiled step: how many there are, and the bytes of their results on one device.

    One inside a loop, such as that of a recurrent layer over time, is counted once.
    """

    kind: str
    uses: int
    nbytes: int

    def __str__(self) -> str:
        return f"{self.uses:,} {self.kind}, {self.nbytes:,} bytes"


def compiled_memory(program: Effect[Any, Any], runtime: Runtime | None = None) -> CompiledMemory:
    """Compile one step of a training program for a full batch, and read XLA's analysis of its memory; nothing is run.

    With a runtime whose executor is `Sharded`, these are the bytes on each device.

    This is what `explain` cannot say of shapes alone: activations. The functions of a stream's `map` are not part of it.
    Raises: `TypeError` for anything but a program with one `epochs` in it; `ValueError` if its stream must be acquired first;
    `FaultError` with the fault that a run is sure to end with.

    >>> from fnlamp import train
    >>> x = np.zeros((64, 256), np.float32)
    >>> def memory(gradient):
    ...     program = train.epochs(
    ...         model=supervised(nn.mlp(hidden=(256, 256), out=256), loss.mse()),
    ...         optimizer=optim.sgdw(0.1),
    ...         train_batches=lambda context: stream.full_batch(x, x),
    ...         epochs=1,
    ...         gradient=gradient,
    ...     )
    ...     return compiled_memory(program)
    >>> memory(train.microbatches(8)).temporaries < memory(train.plain).temporaries
    True
    """
    return memory_of(_compiled(program, runtime))


def collectives(program: Effect[Any, Any], runtime: Runtime) -> tuple[Collective, ...]:
    """Compile one step of a training program for a full batch, and list what devices exchange in it; nothing is run.

    Raises: as `compiled_memory`.

    >>> from fnlamp import train
    >>> x = np.zeros((64, 8), np.float32)
    >>> program = train.epochs(
    ...     model=supervised(nn.linear(8), loss.mse()),
    ...     optimizer=optim.sgdw(0.1),
    ...     train_batches=lambda context: stream.full_batch(x, x),
    ...     epochs=1,
    ... )
    >>> collectives(program, Runtime(executor=train.Sharded(jax.make_mesh((1,), ("data",)))))
    ()
    """
    runtime, found = instance("runtime", runtime, Runtime, RUNTIME), dict[str, list[int]]()
    for shapes, kind in _COLLECTIVE.findall(_compiled(program, runtime).as_text()):
        size = sum(_width(dtype) * math.prod(map(int, filter(None, dims.split(",")))) for dtype, dims in _ARRAY.findall(shapes))
        found.setdefault(kind, []).append(size)
    return tuple(Collective(kind, len(sizes), sum(sizes)) for kind, sizes in sorted(found.items()))


_COLLECTIVE = re.compile(r" = (.+?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")
_ARRAY = re.compile(r"([a-z]+[0-9a-z]*)\[([0-9,]*)\]")


def _width(dtype: str) -> int:
    """The bytes of a number of XLA's dtype."""
    bits = re.search(r"\d+", dtype)
    return 1 if bits is None else max(int(bits[0]) // 8, 1)


def _compiled(program: Effect[Any, Any], runtime: Runtime | None) -> Any:
    runtime = instance("runtime", Runtime() if runtime is None else runtime, Runtime, RUNTIME)
    found = programs_of("program", program)
    if len(found) > 1:
        raise TypeError(f"program has one train.epochs(...) in it, got {len(found)}: give one of them")
    planned = plan_of(found[0])
    if planned is None:
        raise ValueError("compiled_memory needs the shape of a batch, and the training stream is acquired when it is run")
    return compiled_step(planned[0], runtime)
