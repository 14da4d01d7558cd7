"""XLA's analysis of the memory of one compiled step of training, and the whole compared with a device."""

from __future__ import annotations

import contextlib
from typing import Any, Final, NamedTuple

import jax

from fnlamp.arrays import Array, Tree, placed_on
from fnlamp.effect import Runtime
from fnlamp.fault import DeviceOutOfMemory, FaultError
from fnlamp.train.execute.exhausted import limit_of, name_of, sharded
from fnlamp.train.explain.memory import on_device
from fnlamp.train.plan import Plan

STEP: Final = "temporaries of a step"


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


def of_step(plan: Plan) -> CompiledMemory:
    """XLA's analysis of one step of a plan for a full batch, on the default device."""

    def step(shared: Tree, carry: Tree, spare: Tree, batch: Tree) -> tuple[Tree, Array]:
        carry = plan.body.function(shared, carry, batch)
        return carry, plan.body.broken(carry)

    compiled = jax.jit(step, donate_argnums=2, keep_unused=True)
    analysis: Any = compiled.lower(plan.shared, plan.carry, plan.carry, plan.train.spec).compile().memory_analysis()
    kinds = "argument", "output", "alias", "temp", "generated_code"
    return CompiledMemory(*(int(getattr(analysis, f"{kind}_size_in_bytes")) for kind in kinds))


def check_memory(plan: Plan, runtime: Runtime, device: Any) -> None:
    """Compare a plan with the memory of one device, before anything is allocated on it.  Fails: `DeviceOutOfMemory`.

    State and data are known from shapes, whatever the device. The temporaries of a step are compared too if the runtime has a
    limit, since that costs a compilation; without one, XLA compares them with what the device has.
    """
    limit = limit_of(device, runtime)
    if limit is None or sharded(runtime):
        return
    parts, name = on_device(plan), name_of(device)
    if sum(parts.values()) <= limit and runtime.memory is not None:
        parts = with_step(plan, runtime, device)
    if sum(parts.values()) > limit:
        raise FaultError(DeviceOutOfMemory(name, tuple(parts.items()), limit))
    within = "with" if STEP in parts else "without"
    runtime.say(f"memory: a plan of {sum(parts.values()):,} of {limit:,} bytes on {name}, {within} the {STEP}")


def with_step(plan: Plan, runtime: Runtime, device: Any) -> dict[str, int]:
    """The parts of a plan, with the temporaries of its compiled step; without them if one device cannot compile it."""
    parts = on_device(plan)
    if sharded(runtime):
        return parts
    with placed_on(device), contextlib.suppress(jax.errors.JaxRuntimeError):  # compiling may need the memory that there is not
        parts[STEP] = of_step(plan).temporaries
    return parts
