"""The memory of one compiled step of training, as XLA has it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from fnlamp.arrays import Array, Tree
from fnlamp.effect import Effect
from fnlamp.train.explain.explained import plan_of
from fnlamp.train.explain.inside import programs_of


class CompiledMemory(NamedTuple):
    """Bytes of one compiled step of training, as XLA's own analysis has them.

    `arguments` are the batch, what every step reads, and what goes from step to step, twice: the outputs are written into the
    second copy. `temporaries` are the rest: activations, gradients, and what the kernels need.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    code: int

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {size:,}" for name, size in self._asdict().items())
        return f"one compiled step, in bytes: {parts}"


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
    plan, _ = planned

    def step(shared: Tree, carry: Tree, spare: Tree, batch: Tree) -> tuple[Tree, Array]:
        carry = plan.body.function(shared, carry, batch)
        return carry, plan.body.broken(carry)

    compiled = jax.jit(step, donate_argnums=2, keep_unused=True)
    analysis: Any = compiled.lower(plan.shared, plan.carry, plan.carry, plan.train.spec).compile().memory_analysis()
    kinds = "argument", "output", "alias", "temp", "generated_code"
    return CompiledMemory(*(int(getattr(analysis, f"{kind}_size_in_bytes")) for kind in kinds))
