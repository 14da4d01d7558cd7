"""The memory of one compiled step of training, as XLA has it."""

from __future__ import annotations

from typing import Any

from fnlamp.effect import Effect
from fnlamp.train.explain.analysis import CompiledMemory, of_step
from fnlamp.train.explain.explained import plan_of
from fnlamp.train.explain.inside import programs_of


def compiled_memory(program: Effect[Any, Any]) -> CompiledMemory:
    """Compile one step of a training program for a full batch, and read XLA's analysis of its memory; nothing is run.

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
    found = programs_of("program", program)
    if len(found) > 1:
        raise TypeError(f"program has one train.epochs(...) in it, got {len(found)}: give one of them")
    planned = plan_of(found[0])
    if planned is None:
        raise ValueError("compiled_memory needs the shape of a batch, and the training stream is acquired when it is run")
    return of_step(planned[0])
